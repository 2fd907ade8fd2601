"""Calls between the processes of a run: frames of a JSON header and raw arrays over TCP, under a shared secret.

A frame is `HRW1`, the length of the header (4 bytes), the length of the body (8 bytes), the header (JSON: what is asked
or answered, and name, dtype and shape of every array) and the arrays one after another. Nothing is ever unpickled, and
nothing is read before both sides have proved that they know the secret, which itself never travels.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace import errors
from headrace.config import require
from headrace.errors import ClusterError, HeadraceError, WorkerLost

Array = npt.NDArray[Any]
MAGIC = b"HRW1"
HEAD = struct.Struct("!4sIQ")
NONCE = 32
MAX_HEADER = 16 << 20
MAX_BODY = 4 << 30
MAX_ARRAYS = 4096
PIECES = 512
"""Buffers given to one system call; the kernel takes no more than 1024."""
DTYPES = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
                    "float16", "float32", "float64"})  # fmt: skip
SECRET_VARIABLE = "HEADRACE_SECRET"
LEAST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: plain values, and arrays that may be written to."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, and who asks.

    Attributes:
        method: Name of the call.
        fields: Plain values.
        arrays: Arrays; they may be written to.
        session: One dictionary per connection, for what the handlers of a server want to remember of it.
    """

    method: str
    fields: Mapping[str, Any]
    arrays: Mapping[str, Array]
    session: dict[str, Any]


def secret_of(folder: Path, *, create: bool = False) -> bytes:
    """Return the secret of a run: from `HEADRACE_SECRET`, or from the file `secret` of its folder.

    Args:
        folder: The run's folder.
        create: Write a random one, readable by its owner only, where there is none.

    Raises:
        ConfigError: If there is none, it is shorter than 16 bytes, or others than its owner may read the file.
    """
    given = os.environ.get(SECRET_VARIABLE, "").encode()
    path = folder / "secret"
    if not given:
        if create and not path.exists():
            _make_secret(path)
        require(path.is_file(), f"Secret of {folder}", got="none", expected=f"the file 'secret' or {SECRET_VARIABLE}",
                do=f"Name the folder of the run, or set {SECRET_VARIABLE}.")  # fmt: skip
        mode = path.stat().st_mode & 0o077
        require(not mode, f"Secret {path}", got=f"permissions for others ({mode:o})", expected="0600",
                do="chmod 600 it; make another one if it may have been read.")  # fmt: skip
        given = path.read_text().strip().encode()
    require(len(given) >= LEAST_SECRET, "Secret", got=f"{len(given)} bytes", expected=f"at least {LEAST_SECRET}")
    return given


def _make_secret(path: Path) -> None:
    """Write a random secret, whole or not at all; where another process was first, its own stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(os.urandom(32).hex())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links: whole, but the last one wins
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`."""
    host, _, port = address.rpartition(":")
    require(bool(host) and port.isdigit(), "Address", got=address, expected="host:port")
    return host.strip("[]"), int(port)


def check_loopback(host: str, allowed: bool) -> None:
    """Refuse a host that other machines can reach, unless that is wanted."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    require(local or allowed, "Address to listen on", got=host, expected="a loopback address",
            do="Ask for other machines on purpose (remote=True), inside a network that you trust.")  # fmt: skip


def prove(socket_: socket.socket, secret: bytes, *, server: bool) -> None:
    """Let both sides show that they know the secret; each answers a random number of the other.

    Raises:
        ClusterError: If the other side does not know it.
        OSError: If the connection ends. A server says nothing to a client with another secret, so to the client that
            looks like a server that died.
    """
    own = os.urandom(NONCE)
    socket_.sendall(MAGIC + own)
    greeting = read_exactly(socket_, len(MAGIC) + NONCE)
    other = bytes(greeting[len(MAGIC) :])
    roles = (b"server", b"client") if server else (b"client", b"server")
    if bytes(greeting[: len(MAGIC)]) == MAGIC:
        if server:  # the client shows it first: a stranger learns nothing from a server
            right = _same(read_exactly(socket_, NONCE), _proof(secret, roles[1], own, other))
            if right:
                socket_.sendall(_proof(secret, roles[0], other, own))
        else:
            socket_.sendall(_proof(secret, roles[0], other, own))
            try:
                right = _same(read_exactly(socket_, NONCE), _proof(secret, roles[1], own, other))
            except ConnectionError as error:
                raise ConnectionResetError(
                    "the connection ended while secrets were compared: the other side died, or it has another secret"
                ) from error
        if right:
            return
    raise ClusterError("Connection", got="another secret", expected="the secret of this run",
                       do="Give both processes the same run folder or HEADRACE_SECRET.")  # fmt: skip


def _proof(secret: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(secret, role + first + second, "sha256")


def _same(got: bytearray, expected: bytes) -> bool:
    return hmac.compare_digest(bytes(got), expected)


def write_frame(socket_: socket.socket, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Send one frame.

    Raises:
        ClusterError: If an array has a dtype that cannot travel; nothing was sent.
        OSError: If the connection ends.
    """
    described, pieces = [], []
    for name, given in arrays.items():
        array = np.ascontiguousarray(given)
        kind = str(array.dtype)
        if kind not in DTYPES:
            raise ClusterError(f"Array '{name}'", got=kind, expected="numbers or truth values in this machine's order")
        described.append([name, kind, list(given.shape)])
        if array.nbytes:
            pieces.append(array.data.cast("B"))
    text = json.dumps({**header, "arrays": described}, separators=(",", ":")).encode()
    body = sum(len(piece) for piece in pieces)
    if len(text) > MAX_HEADER or body > MAX_BODY:
        raise ClusterError("Frame", got=f"{len(text)} + {body} bytes", expected=f"at most {MAX_HEADER} + {MAX_BODY}")
    _send(socket_, [memoryview(HEAD.pack(MAGIC, len(text), body) + text), *pieces])


def _send(socket_: socket.socket, pieces: list[memoryview]) -> None:
    while pieces:
        sent = socket_.sendmsg(pieces[:PIECES])
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.pop(0))
        if sent:
            pieces[0] = pieces[0][sent:]


def read_exactly(socket_: socket.socket, size: int) -> bytearray:
    """Return so many bytes.

    Raises:
        ConnectionError: If the connection ends before.
    """
    data = bytearray(size)
    view, place = memoryview(data), 0
    while place < size:
        got = socket_.recv_into(view[place:])
        if not got:
            raise ConnectionResetError("the other side closed the connection")
        place += got
    return data


def read_frame(socket_: socket.socket, max_bytes: int = MAX_BODY) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return header and arrays of the next frame.

    Raises:
        ClusterError: If it is not a frame, or larger than allowed. The connection cannot be used any more.
        OSError: If the connection ends.
    """
    magic, length, size = HEAD.unpack(read_exactly(socket_, HEAD.size))
    if magic != MAGIC or length > MAX_HEADER or size > max_bytes:
        raise ClusterError("Frame", got=f"{magic!r}, {length} + {size} bytes",
                           expected=f"{MAGIC!r}, at most {MAX_HEADER} + {max_bytes} bytes")  # fmt: skip
    try:
        header = json.loads(read_exactly(socket_, length))
        described = [(str(name), str(kind), [int(n) for n in shape]) for name, kind, shape in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ClusterError("Frame, header", got=str(error), expected="a JSON object") from error
    return header, _arrays(socket_, described, size)


def _arrays(socket_: socket.socket, described: list[tuple[str, str, list[int]]], size: int) -> dict[str, Array]:
    sizes = []
    for name, kind, shape in described:
        if kind not in DTYPES or any(n < 0 for n in shape) or len(shape) > 16:
            raise ClusterError(f"Frame, array '{name}'", got=f"{kind} {shape}", expected="a known dtype and a shape")
        sizes.append(math.prod(shape) * np.dtype(kind).itemsize)
    if sum(sizes) != size or len(sizes) > MAX_ARRAYS:
        raise ClusterError("Frame, arrays", got=f"{len(sizes)} of {sum(sizes)} bytes", expected=f"{size} bytes")
    found = {}
    for (name, kind, shape), length in zip(described, sizes, strict=True):
        found[name] = np.frombuffer(read_exactly(socket_, length), np.dtype(kind)).reshape(shape)
    return found


def error_fields(error: BaseException) -> dict[str, str]:
    """Return an error as plain text by part, to be raised again elsewhere."""
    if isinstance(error, HeadraceError):
        return {"kind": type(error).__name__, "what": error.what, "got": error.got, "expected": error.expected,
                "do": error.do}  # fmt: skip
    return {"kind": "ClusterError", "what": "Call", "got": f"{type(error).__name__}: {error}", "expected": "", "do": ""}


def error_of(told: Mapping[str, Any]) -> HeadraceError:
    """Return the error that `error_fields` described, of the class of that name."""
    kind = getattr(errors, str(told.get("kind")), ClusterError)
    if not (isinstance(kind, type) and issubclass(kind, HeadraceError)):
        kind = ClusterError
    what, got, expected, do = (str(told.get(name, "")) for name in ("what", "got", "expected", "do"))
    return kind(what, got=got, expected=expected, do=do)


def lost(who: str, got: str) -> WorkerLost:
    """Return the error for a process that died or fell silent."""
    return WorkerLost(who, got=got, expected="an answer", do="Its work is done again elsewhere; see the head's log.")
