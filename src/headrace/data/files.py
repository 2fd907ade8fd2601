"""Files of bytes: opened plain, gzip or zstd, named by format, hashed for run records, found under several names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from headrace.errors import DataError, nearest

Format = Literal["csv", "tsv", "jsonl", "libfm", "parquet", "arrow"]
CODECS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".inter": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".libfm": "libfm", ".svm": "libfm", ".libsvm": "libfm", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a run record keeps of a file."""

    name: str
    size_bytes: int
    sha256: str


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as they lie on disk.

    Raises:
        DataError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def describe(path: Path) -> FileFacts:
    """Return name, size and SHA-256 of a file, for `write_run_record`."""
    return FileFacts(path.name, path.stat().st_size if path.exists() else 0, sha256(path))


def codec_of(path: Path) -> str | None:
    """Return the codec that the last suffix names, or None for a plain file."""
    return CODECS.get(path.suffix.lower())


def format_of(path: Path) -> Format:
    """Return the format that the file's name tells, compression aside.

    Raises:
        DataError: If the suffix is not known.
    """
    suffix = (path.with_suffix("") if codec_of(path) else path).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"File {path.name}", got=f"suffix {suffix!r}", expected=nearest(suffix, SUFFIXES),
                        do=f"Name the format in the layout: one of {', '.join(get_args(Format))}.")  # fmt: skip
    return SUFFIXES[suffix]


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that cannot be opened or read."""
    return DataError(f"File {path}", got=error.strerror or str(error), expected="a readable file",
                     do="Check the path and its permissions.")  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[pa.NativeFile]:
    """Open a file for reading bytes; `.gz` and `.zst` are decompressed as they are read.

    Raises:
        DataError: If the file cannot be opened.
    """
    try:
        raw = pa.OSFile(str(path), "rb")
    except OSError as error:
        raise unreadable(path, error) from error
    codec = codec_of(path)
    with raw, pa.CompressedInputStream(raw, codec) if codec else raw as stream:
        yield stream


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's decompressed bytes in pieces.

    Raises:
        DataError: If the file cannot be read, or is cut short or damaged inside its compression.
    """
    with opened(path) as stream:
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except OSError as error:
                raise DataError(f"File {path}", got=str(error), expected=f"a whole {codec_of(path) or 'plain'} file",
                                do="It is damaged or was cut short; fetch it again.") from error  # fmt: skip
            if not chunk:
                return
            yield chunk


def find_file(folders: Iterable[Path | None], names: Iterable[str]) -> Path | None:
    """Return the first file that exists under one of the names, plain or with a compression suffix.

    Args:
        folders: Where to look; a None is left out.
        names: Paths inside a folder, best first.
    """
    places = [folder for folder in folders if folder is not None]
    for name in names:
        for folder in places:
            for suffix in ("", *CODECS):
                path = folder / f"{name}{suffix}"
                if path.is_file():
                    return path
    return None
