"""Configuration: frozen dataclasses that check themselves, and the record of what a run was made of."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import ConfigError, nearest

DATA_VARIABLE = "HEADRACE_DATA"


def require(condition: bool, what: str, *, got: object, expected: str, do: str = "") -> None:
    """Raise ConfigError unless the condition holds; made for `__post_init__`.

    Example:
        >>> require(1 > 0, "batch_size", got=1, expected="a positive integer")
    """
    if not condition:
        raise ConfigError(what, got=repr(got), expected=expected, do=do)


def known_name(what: str, name: str, known: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """Return `name` if it is known; else raise ConfigError that lists the three nearest names."""
    if name not in known:
        raise ConfigError(what, got=repr(name), expected=nearest(name, known), do="Check the spelling.")
    return name


def tree(value: object) -> object:
    """Return a configuration as plain JSON values: dataclasses become objects, functions and classes their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        return {"type": _name(type(value)), **{name: tree(getattr(value, name)) for name in names}}
    if isinstance(value, Mapping):
        return {str(key): tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [tree(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    return _name(value) if callable(value) else repr(value)


def _name(value: object) -> str:
    module = getattr(value, "__module__", "")
    return f"{module}:{getattr(value, '__qualname__', type(value).__qualname__)}"


def fingerprint(value: object) -> str:
    """Return 16 hex digits that are equal exactly when `tree(value)` is."""
    return hashlib.sha256(json.dumps(tree(value), sort_keys=True).encode()).hexdigest()[:16]


def git_commit(folder: Path | None = None) -> str:
    """Return the commit of the source tree, with `+changes` when it is dirty; `unknown` outside a checkout."""
    where = folder or Path(__file__).parent
    try:
        run = ["git", "-C", str(where)]
        commit = subprocess.run([*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        if commit.returncode:
            return "unknown"
        dirty = subprocess.run([*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def machine_kind() -> str:
    """Return what kind of machine this is, without its name: system, architecture, cores."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def write_run_record(folder: Path, config: object, *, seed: int, data: Mapping[str, str]) -> Path:
    """Write `run.json` beside a run's outputs: resolved configuration, commit, machine, seed, hashes of the data.

    Args:
        folder: The run's folder; created if absent.
        config: Any configuration; stored as `tree(config)`.
        seed: The run's seed.
        data: File name to SHA-256 of every data file read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": tree(config), "fingerprint": fingerprint(config), "commit": git_commit(), "seed": seed,
        "machine": machine_kind(), "data": dict(data),
    }  # fmt: skip
    path = folder / "run.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(record, indent=2, sort_keys=True))
    os.replace(temporary, path)
    return path


def data_folder() -> Path | None:
    """Return the folder that `HEADRACE_DATA` names, or None when it is unset or empty.

    Raises:
        ConfigError: If the variable names something that is not a folder.
    """
    value = os.environ.get(DATA_VARIABLE, "")
    if not value:
        return None
    folder = Path(value)
    require(folder.is_dir(), DATA_VARIABLE, got=value, expected="an existing folder", do="Unset it to use the cache.")
    return folder
