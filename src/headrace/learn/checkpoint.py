"""Atomic checkpoints: one manifest names every file of a state with its checksum; all of it counts or none of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from headrace.config import require
from headrace.errors import CorruptSnapshot, StoreError
from headrace.learn.encoding import decode_state, encode_state
from headrace.types import State

LOG = logging.getLogger(__name__)
FORMAT = 1
CURRENT, MANIFEST, TENSORS = "CURRENT", "manifest.json", "tensors.safetensors"
NUMBERED = re.compile(r"\d{8,}")
UNFINISHED = ".unfinished"
LOAD_TRIES = 5
_HEAD, _TAIL = '{"sha256":"%s","manifest":', "}\n"


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One checkpoint on disk: its number, and the size of its tensors in bytes."""

    number: int
    tensor_bytes: int


class ManifestCheckpoint:
    """Keeps states in a folder, atomically; implements the role `Checkpoint`.

    Layout: `<folder>/00000012/manifest.json` (the state's tree, and size and SHA-256 of every file, itself included),
    `<folder>/00000012/tensors.safetensors`, and `<folder>/CURRENT` with the number that counts. A save writes into a
    folder with another name, syncs files and folder, renames it, and only then replaces `CURRENT`; whatever a crash
    leaves behind is not looked at by `load` and removed by the next save.

    One process at a time saves into a folder; any number may load from it.

    Args:
        folder: Where to keep them; created at the first save.
        keep: How many checkpoints to keep, so that a damaged one has a predecessor.

    Raises:
        ConfigError: If `keep` is below 1.

    Example:
        >>> import tempfile
        >>> checkpoint = ManifestCheckpoint(Path(tempfile.mkdtemp()))
        >>> checkpoint.load() is None
        True
        >>> checkpoint.save({"step": 3})
        >>> checkpoint.load()
        {'step': 3}
    """

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        require(keep >= 1, "keep", got=keep, expected="at least 1")
        self.folder, self.keep = Path(folder), keep
        self._damaged: set[int] = set()

    def save(self, state: State) -> None:
        """Make the state durable.

        Cost: one copy of tensors that share memory or are not contiguous; all bytes written once and read once for
        the checksum.

        Raises:
            StoreError: If the state holds something that cannot be kept, or the disk refuses (full, read-only): the
                earlier checkpoint counts as before.
        """
        tree, tensors = encode_state(state)
        unfinished: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = max([*self._numbers(), -1]) + 1
            unfinished = self.folder / f"{number:08d}{UNFINISHED}"
            self._remove_leftovers()
            unfinished.mkdir()
            _write_files(unfinished, number, tree, tensors)
            os.rename(unfinished, self._path(number))
            _sync(self.folder)
            self._point_at(number)
        except (OSError, SafetensorError) as error:
            if unfinished is not None:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise StoreError(
                f"Checkpoint folder {self.folder}", got=str(error), expected="a folder that can be written to",
                do="Free disk space or choose another folder; the earlier checkpoint is intact.",
            ) from error  # fmt: skip
        self._prune(number)

    def load(self) -> State | None:
        """Return the newest whole state, or None where nothing was ever saved.

        A damaged checkpoint is passed over with one logged warning and the next older one is taken.

        Raises:
            CorruptSnapshot: If there are checkpoints but none is whole.
        """
        current = self._current()
        number, state, problems = self._newest_whole(current)
        for _ in range(LOAD_TRIES):
            if not problems or self._current() == current:
                break
            current = self._current()  # another process saved, and removed what we were reading
            number, state, problems = self._newest_whole(current)
        if state is None and problems:
            raise CorruptSnapshot(
                f"Checkpoint folder {self.folder}", got="; ".join(problems), expected="one whole checkpoint",
                do="Restore the folder from a copy, or empty it to start again from the beginning of the stream.",
            )  # fmt: skip
        if problems:
            LOG.warning("Went back to checkpoint %d in %s: %s", number, self.folder, "; ".join(problems))
        return state

    def _newest_whole(self, current: int | None) -> tuple[int, State | None, list[str]]:
        """Return number and state of the newest whole checkpoint, or None, and what is wrong with newer ones."""
        candidates, problems = self._candidates(current)
        for number in candidates:
            try:
                return number, _read_files(self._path(number), number), problems
            except CorruptSnapshot as error:
                self._damaged.add(number)
                problems.append(str(error))
        return -1, None, problems

    def entries(self) -> list[CheckpointEntry]:
        """Return what is on disk, oldest first, without verifying it."""
        found = []
        for number in sorted(self._numbers()):
            tensors = self._path(number) / TENSORS
            found.append(CheckpointEntry(number, tensors.stat().st_size if tensors.is_file() else 0))
        return found

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}"

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if NUMBERED.fullmatch(path.name) and path.is_dir()]

    def _current(self) -> int | None:
        """Return the number in CURRENT; None when there is no such file or it does not hold a number."""
        try:
            text = (self.folder / CURRENT).read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return int(text) if NUMBERED.fullmatch(text) else None

    def _candidates(self, current: int | None) -> tuple[list[int], list[str]]:
        """Return the numbers to try, newest first, and what is already known to be wrong."""
        numbers = sorted(self._numbers(), reverse=True)
        if current is None:
            # A crash before the very first CURRENT leaves a whole checkpoint that may count as well as not.
            damaged = (self.folder / CURRENT).exists()
            return numbers, ([f"{CURRENT} does not name a checkpoint"] if damaged else [])
        if current not in numbers:
            return numbers, [f"checkpoint {current}, which {CURRENT} names, is missing"]
        # Anything newer was not committed: CURRENT is replaced last.
        return [number for number in numbers if number <= current], []

    def _point_at(self, number: int) -> None:
        temporary = self.folder / f"{CURRENT}{UNFINISHED}"
        _write_text(temporary, f"{number:08d}\n")
        os.replace(temporary, self.folder / CURRENT)
        _sync(self.folder)

    def _remove_leftovers(self) -> None:
        """Remove what crashed saves left: unfinished folders, and finished ones that CURRENT never came to name."""
        for path in self.folder.glob(f"*{UNFINISHED}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        current = self._current()
        for number in self._numbers():
            if current is not None and number > current:
                shutil.rmtree(self._path(number))

    def _prune(self, newest: int) -> None:
        """Keep `newest` and the `keep - 1` before it that are not known to be damaged."""
        whole = sorted((n for n in self._numbers() if n not in self._damaged), reverse=True)
        for number in self._numbers():
            if number != newest and number not in whole[: self.keep]:
                shutil.rmtree(self._path(number), ignore_errors=True)


def _write_files(folder: Path, number: int, tree: object, tensors: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file(_apart(tensors), str(folder / TENSORS))
    _sync(folder / TENSORS)
    size, digest = _measure(folder / TENSORS)
    manifest = {"format": FORMAT, "number": number, "files": {TENSORS: {"bytes": size, "sha256": digest}},
                "state": tree}  # fmt: skip
    body = json.dumps(manifest, separators=(",", ":"))
    _write_text(folder / MANIFEST, _HEAD % _digest(body) + body + _TAIL)
    _sync(folder)


def _read_files(folder: Path, number: int) -> State:
    """Read and verify one checkpoint; CorruptSnapshot says what is wrong with it."""
    what = f"Checkpoint {number}"
    try:
        text = (folder / MANIFEST).read_text(encoding="ascii")
        body = text[len(_HEAD % _digest("")) : -len(_TAIL)]
        if text != _HEAD % _digest(body) + body + _TAIL:
            raise CorruptSnapshot(f"{what}, {MANIFEST}", got="another checksum than recorded", expected="a whole file")
        manifest = json.loads(body)
        if manifest["format"] != FORMAT:
            raise CorruptSnapshot(f"{what}, format", got=manifest["format"], expected=str(FORMAT),
                                  do="It was written by another version of the library.")  # fmt: skip
        for name, recorded in manifest["files"].items():
            if _measure(folder / name) != (recorded["bytes"], recorded["sha256"]):
                raise CorruptSnapshot(f"{what}, {name}", got="another checksum than recorded", expected="a whole file")
        return decode_state(manifest["state"], safetensors.torch.load_file(str(folder / TENSORS)))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptSnapshot(what, got=f"{type(error).__name__}: {error}", expected="a whole checkpoint") from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that are contiguous and each in memory of its own, as the file format wants them."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        apart[name] = value
    return apart


def _write_text(path: Path, text: str) -> None:
    """Write a small file and flush it to disk."""
    with path.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
