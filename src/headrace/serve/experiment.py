"""Which share of traffic each arm gets: settled once, changed while serving, the same after a restart.

The file of an experiment lies in the run's folder. Every server process on the folder reads it, and looks again when it
has changed; what a process used is logged with every impression, so the log is right also while some are behind.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.config import require
from headrace.errors import ConfigError, StoreError, nearest

_log = logging.getLogger(__name__)
FILE = "experiment.json"
MAIN = "main"
KEY = "key"
LOOK_S = 0.2
HISTORY = 1000
"""Changes of shares that the file keeps."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """How traffic is split.

    Attributes:
        shares: Arm to its share of traffic; they add up to 1. A share of 0 loads and follows an arm without traffic.
        split_by: What is assigned to an arm: `key` (each request by itself), or a column of requests such as `user`
            (a user stays with one arm; requests without a value are split by their key).
        salt: Another salt, another split: two experiments with different salts know nothing of each other. Empty: one
            is drawn when the experiment begins, and kept in its file.
        path: The file; None keeps shares in memory alone.
        window_s: How long after an impression an action counts, for those who read the experiment.
        kinds: Kinds of actions that it is about, the one that decides first.

    Raises:
        ConfigError: If the shares are none.
    """

    shares: Mapping[str, float]
    split_by: str = KEY
    salt: str = ""
    path: Path | None = None
    window_s: float | None = None
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.window_s is None or self.window_s >= 0, "window_s", got=self.window_s, expected="0 or more")
        require(bool(self.split_by), "split_by", got=self.split_by, expected="`key` or a column")
        checked_shares(self.shares, list(self.shares))


def checked_shares(shares: Mapping[str, object], names: list[str]) -> dict[str, float]:
    """Return shares as numbers, in the order of the arms.

    Raises:
        ConfigError: If an arm is missing or unknown, or the shares are no shares, or do not add up to 1.

    Example:
        >>> checked_shares({"main": 0.9, "new": 0.1}, ["main", "new"])
        {'main': 0.9, 'new': 0.1}
    """
    for name in shares:
        if name not in names:
            raise ConfigError(f"Arm '{name[:100]}'", got="no such arm", expected=nearest(name, names))
    found = {}
    for name in names:
        value = shares.get(name)
        usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
        if not usable:
            raise ConfigError(f"Share of arm '{name}'", got=value if name in shares else "none",
                              expected="a number from 0 to 1", do="Give the share of every arm.")  # fmt: skip
        found[name] = float(value)  # type: ignore[arg-type]  # `usable` says so
    total = math.fsum(found.values())
    if abs(total - 1) > 1e-6:
        raise ConfigError("Shares", got=f"a sum of {total:g}", expected="1", do="Give the share of every arm.")
    return found


class ShareBook:
    """The shares that hold now, and those that held before.

    What was changed while serving holds again after a restart, unless the server is started with other shares, arms,
    split or salt than the time before: then these hold.

    Args:
        config: What the server was started with.
        now: The wall clock in µs.

    Raises:
        StoreError: If the file cannot be read or written.

    Thread-safety: may be used from any thread, and from several processes on one file.
    """

    def __init__(self, config: ExperimentConfig, *, now: Callable[[], int] | None = None) -> None:
        self.config, self._now = config, now or (lambda: time.time_ns() // 1000)
        self.names = list(config.shares)
        self._given: dict[str, Any] = {"shares": checked_shares(config.shares, self.names),
                                       "split_by": config.split_by, "salt": config.salt}  # fmt: skip
        self._lock, self._looked, self._stamp = threading.Lock(), 0.0, (0, 0)
        self._content: dict[str, Any] = {}
        self._open()

    @property
    def salt(self) -> str:
        """What the split is made with."""
        return str(self._content["salt"])

    def shares(self) -> dict[str, float]:
        """Return arm to share; looks at the file a few times a second."""
        if self.config.path is not None and time.monotonic() - self._looked > LOOK_S:
            self._look()
        return dict(self._content["shares"])

    def history(self) -> list[dict[str, Any]]:
        """Return `{"time", "shares", "salt"}` of every change, oldest first."""
        return list(self._content["history"])

    def change(self, shares: Mapping[str, object]) -> dict[str, float]:
        """Let other shares hold from now on, durably.

        Raises:
            ConfigError: If they are no shares of these arms.
            StoreError: If they cannot be made durable; the old ones hold.
        """
        wanted = checked_shares(shares, self.names)
        with self._lock, self._alone():
            content = self._with(self._read() or self._content, wanted)
            self._write(content)
            self._content = content
        return wanted

    def _open(self) -> None:
        with self._lock, self._alone():
            before = self._read()
            if before is not None and before.get("given") == self._given:
                self._content = before
                return
            salt = self.config.salt or (str(before["salt"]) if before and self._same_arms(before) else "")
            content = {"given": self._given, "split_by": self.config.split_by, "salt": salt or secrets.token_hex(8),
                       "history": [] if before is None else before["history"],
                       "window_s": self.config.window_s, "kinds": list(self.config.kinds)}  # fmt: skip
            content = self._with(content, self._given["shares"])
            self._write(content)
            self._content = content

    def _same_arms(self, before: Mapping[str, Any]) -> bool:
        return set(before["shares"]) == set(self.names) and before["split_by"] == self.config.split_by

    def _with(self, content: Mapping[str, Any], shares: Mapping[str, float]) -> dict[str, Any]:
        entry = {"time": self._now(), "shares": dict(shares), "salt": content["salt"]}
        return {**content, "shares": dict(shares), "history": [*content["history"], entry][-HISTORY:]}

    def _look(self) -> None:
        with self._lock:
            self._looked = time.monotonic()
            try:
                content = self._read(changed=True)
            except StoreError as error:
                _log.error("the shares of arms stay as they are: %s", error)
                return
            if content is not None and set(content["shares"]) == set(self.names):
                self._content = content

    def _read(self, *, changed: bool = False) -> dict[str, Any] | None:
        """Return what the file has; None if there is none, or if it has not changed and only a change is wanted."""
        path = self.config.path
        if path is None:
            return None
        try:
            found = path.stat()
            stamp = found.st_mtime_ns, found.st_ino
            if changed and stamp == self._stamp:
                return None
            content = json.loads(path.read_bytes())
            checked_shares(content["shares"], list(content["shares"]))
            whole = isinstance(content["salt"], str) and isinstance(content["history"], list) and content["split_by"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise _damaged(path, error) from error
        if not whole:
            raise _damaged(path, "fields of other types")
        self._stamp = stamp
        return dict(content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from changing the file between a look at it and a change of it."""
        path = self.config.path
        if path is None:
            yield
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, content: Mapping[str, Any]) -> None:
        path = self.config.path
        if path is None:
            return
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with temporary.open("w") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"Experiment {path}", got=str(error), expected="a file that can be written")


def _damaged(path: Path, why: object) -> StoreError:
    return StoreError(f"Experiment {path}", got=str(why)[:200], expected="a file that Headrace wrote",
                      do="Restore it; without it users would be split anew.")  # fmt: skip
