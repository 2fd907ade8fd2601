"""The data: MNIST at half its size, and Shakespeare in small letters."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.data.datasets.recorded import find_in, missing
from headrace.data.files import chunks
from headrace.errors import DataError

MNIST_ADDRESS = "github.com/rasbt/mnist-pngs, as IDX files; or any mirror of the original ones"
TEXT, TEXT_ADDRESS = "tinyshakespeare.txt", "github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt)"
PIXELS = 14 * 14
ALPHABET = " abcdefghijklmnopqrstuvwxyz"
HELD_OUT = 0.1
"""Share of the text, its end, that is never learned."""

Bytes = npt.NDArray[np.uint8]


def idx_file(name: str, magic: int) -> Bytes:
    """Return the array of an IDX file of bytes; DataError if it is missing or is none."""
    names = (f"mnist_{name}", name, name.replace("test", "t10k"))
    path = find_in(names)
    if path is None:
        raise missing("MNIST", names, MNIST_ADDRESS)
    content = b"".join(chunks(path))
    count = magic % 256 + 1
    sizes = [int.from_bytes(content[4 * place : 4 * place + 4], "big") for place in range(count)]
    if sizes[0] != magic or len(content) != 4 * count + math.prod(sizes[1:]):
        raise DataError(f"File {path}", got=f"magic {sizes[0]}, {len(content)} bytes",
                        expected=f"an IDX file of magic {magic}, whole")  # fmt: skip
    return np.frombuffer(content, np.uint8, offset=4 * count).reshape(sizes[1:])


def digits(part: str) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return images of the part `train` or `test`, (N, 196) in [-1, 1], 2 x 2 pixels to one, and their labels (N,)."""
    images, labels = idx_file(f"{part}-images-idx3-ubyte", 2051), idx_file(f"{part}-labels-idx1-ubyte", 2049)
    small = images.reshape(-1, 14, 2, 14, 2).mean((2, 4), dtype=np.float32).reshape(-1, PIXELS)
    return torch.from_numpy(small / 127.5 - 1.0), labels.astype(np.int64)


def text() -> tuple[str, str]:
    """Return Shakespeare in small letters and single blanks: what is learned, and what is held out."""
    path = find_in((TEXT,))
    if path is None:
        raise missing("tiny Shakespeare", (TEXT,), TEXT_ADDRESS)
    plain = re.sub("[^a-z]+", " ", b"".join(chunks(path)).decode().lower().replace("'", ""))
    cut = int(len(plain) * (1.0 - HELD_OUT))
    return plain[:cut], plain[cut:]


def codes(plain: str) -> Tensor:
    """Return the classes of a text's characters, (N,) int64."""
    return torch.tensor([ALPHABET.index(character) for character in plain])
