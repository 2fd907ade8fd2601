"""Passages: pieces of texts of one length that begin where a sentence begins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.config import require
from headrace.data.completions import CHOSEN, REJECTED
from headrace.data.text import TextCodec
from headrace.data.token_columns import COMPLETION, PROMPT, token_column
from headrace.errors import DataError
from headrace.types import Events, Jagged

_ENDS = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(]?[A-Z0-9])")
CHARACTERS = 7
"""Characters of text that are enough for a token, nearly always; a passage that turns out short is left out."""
FIRST = 400
"""Sentences of a text beyond so many are not looked at, except in long texts, where a place is drawn first."""
WINDOW = 40_000
DOMAIN = "domain"
SECOND_US = 1_000_000


def passages(
    texts: Sequence[str], codec: TextCodec, length: int, *, per_text: int = 1, seed: int = 0
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return passages of exactly `length` tokens from the beginnings of sentences, and which text each is from.

    Of every text up to `per_text` beginnings are drawn; texts that are too short give none.

    Args:
        texts: Texts.
        codec: Turns them to tokens.
        length: Tokens of a passage, the begin token not counted.
        per_text: Most passages of a text.
        seed: Draws the beginnings.

    Returns:
        Tokens (B, length + 1) with the begin token first, in the order of the texts, and owners (B,).

    Raises:
        ConfigError: If the codec has no begin token, or a number is not positive.
        DataError: If no text is long enough.
    """
    require(codec.begin is not None, "passages, codec", got="no begin token", expected="one with a begin token")
    require(min(length, per_text) >= 1, "passages", got=(length, per_text), expected="positive numbers")
    draw, pieces, owners = np.random.default_rng(seed), list[str](), list[int]()
    for row, text in enumerate(texts):
        for start, whole in _starts(text, per_text, draw):
            pieces.append(whole[start : start + length * CHARACTERS])
            owners.append(row)
    tokens = codec.encode(pieces, begin=True)
    long = np.flatnonzero(tokens.offsets.diff().numpy() > length)
    if not len(long):
        raise DataError("Passages", got=f"{len(texts)} texts, none long enough", expected=f"{length} tokens of one",
                        do="Give longer texts, or ask for shorter passages.")  # fmt: skip
    places = tokens.offsets[:-1][torch.from_numpy(long)].unsqueeze(1) + torch.arange(length + 1)
    return tokens.values[places], np.array(owners, np.int64)[long]


def _starts(text: str, count: int, draw: np.random.Generator) -> list[tuple[int, str]]:
    """Return some beginnings of sentences, with the text that they are places in."""
    if len(text) > WINDOW:
        found = []
        for _ in range(count):
            at = int(draw.integers(0, len(text) - WINDOW))
            found += _starts(text[at + 1 : at + WINDOW], 1, draw)
        return found
    starts = [match.end() for match in _ENDS.finditer(text)][:FIRST]
    starts = starts or [0]
    picked = draw.choice(len(starts), min(count, len(starts)), replace=False)
    return [(starts[place], text) for place in sorted(picked.tolist())]


def rows_of_tokens(tokens_BT: Tensor) -> Jagged:
    """Return rows of equal length as sequences.

    Example:
        >>> rows_of_tokens(torch.tensor([[1, 2], [3, 4]])).offsets.tolist()
        [0, 2, 4]
    """
    rows, length = tokens_BT.shape
    return Jagged(tokens_BT.reshape(-1), torch.arange(rows + 1) * length)


def demonstrations(tokens_BT: Tensor, prompt: int, *, name: str = "shown") -> Events:
    """Return passages as rows for `completion_batch`: the first `prompt` tokens are asked, the others answered.

    Args:
        tokens_BT: Passages.
        prompt: Tokens of a prompt, the begin token counted.
        name: Begins every key.

    Raises:
        ConfigError: If nothing is left to answer, or nothing asked.
    """
    length = tokens_BT.shape[1]
    require(1 <= prompt < length, "demonstrations, prompt", got=prompt, expected=f"1 to {length - 1}")
    return _rows(name, {PROMPT: tokens_BT[:, :prompt], COMPLETION: tokens_BT[:, prompt:]})


def preferences(better_BT: Tensor, worse_BT: Tensor, *, prompt: int = 1, name: str = "pair") -> Events:
    """Return passages as rows for `preference_batch`: of each two the first is the better one.

    What is asked is the first `prompt` tokens, which both have in common: the begin token alone, where the two are of
    different texts.

    Raises:
        ConfigError: If there are not as many of both, or they do not begin alike.
    """
    require(len(better_BT) == len(worse_BT), "preferences", got=(len(better_BT), len(worse_BT)), expected="pairs")
    alike = torch.equal(better_BT[:, :prompt], worse_BT[:, :prompt])
    require(alike, "preferences, prompt", got="pairs that begin differently", expected="one prompt for both",
            do="Ask for fewer tokens: only what both begin with can be the prompt.")  # fmt: skip
    columns = {PROMPT: better_BT[:, :prompt], CHOSEN: better_BT[:, prompt:], REJECTED: worse_BT[:, prompt:]}
    return _rows(name, columns)


def prompts(tokens_BT: Tensor, *, domains: Sequence[str] | None = None, name: str = "asked") -> Events:
    """Return prompts as requests, a second apart, each under a key of its own.

    Args:
        tokens_BT: The prompts.
        domains: What each is about; a column `domain` that nobody reads but those who watch.
        name: Begins every key.
    """
    rows = _rows(name, {PROMPT: tokens_BT}, kind="impression")
    return rows if domains is None else rows.with_columns({DOMAIN: list(domains)})


def _rows(name: str, columns: Mapping[str, Tensor], kind: str = "example") -> Events:
    count = len(next(iter(columns.values())))
    return Events.from_columns({
        "key": [f"{name}/{row}" for row in range(count)], "kind": [kind] * count,
        "event_time": [row * SECOND_US for row in range(count)], "item": ["0"] * count,
        **{column: token_column(rows_of_tokens(values)) for column, values in columns.items()},
    })  # fmt: skip
