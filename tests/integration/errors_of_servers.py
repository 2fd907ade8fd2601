"""The provokers of the errors of servers in docs/how-to/errors.md; see test_errors_table.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.online import RunFolder
from headrace.online.backup import back_up
from headrace.serve.access import AccessConfig, Doorkeeper
from headrace.serve.audit import AuditLog
from headrace.serve.client import Client
from headrace.serve.pressure import Pressure
from headrace.serve.refusals import Refusal
from headrace.serve.server import check_exposure
from headrace.serve.tokens import TokenBook, make_token


def caught(act: Callable[[], object]) -> HeadraceError:
    """Return the error of an action that has to fail."""
    with pytest.raises(HeadraceError) as found:
        act()
    return found.value


def refused(status: int, act: Callable[[], object]) -> HeadraceError:
    """Return the error of a refusal with a status."""
    with pytest.raises(Refusal) as found:
        act()
    assert found.value.status == status
    return found.value.error


def error_42(folder: Path) -> HeadraceError:
    """A server that others reach, without tokens."""
    return caught(lambda: check_exposure("0.0.0.0", AccessConfig()))


def error_43(folder: Path) -> HeadraceError:
    """A token that nobody made."""
    door = Doorkeeper(AccessConfig(tokens=TokenBook([make_token("web", ["read"])[1]])))
    return refused(401, lambda: door.admit("Bearer wrong", "192.0.2.7", "read"))


def error_44(folder: Path) -> HeadraceError:
    """A token without the scope."""
    secret, token = make_token("web", ["read", "feedback"])
    door = Doorkeeper(AccessConfig(tokens=TokenBook([token])))
    return refused(403, lambda: door.admit(f"Bearer {secret}", "192.0.2.7", "admin"))


def error_45(folder: Path) -> HeadraceError:
    """More requests than were allowed."""
    door = Doorkeeper(AccessConfig(requests_per_s=50, burst=1))
    door.admit(None, "192.0.2.7", "read")
    return refused(429, lambda: door.admit(None, "192.0.2.7", "read"))


def error_46(folder: Path) -> HeadraceError:
    """A disk with too little room."""
    return caught(Pressure(folder, min_free_bytes=1 << 60).check)


def error_47(folder: Path) -> HeadraceError:
    """A learner that is too far behind."""
    pressure = Pressure(folder, min_free_bytes=0, max_backlog_rows=1000)
    pressure.backlog = lambda: 1200
    return caught(pressure.check)


def error_48(folder: Path) -> HeadraceError:
    """An action that cannot be written down."""
    (folder / "file").write_text("")
    return caught(lambda: AuditLog(folder / "file" / "audit.jsonl").begin("ops", "anything"))


def error_49(folder: Path) -> HeadraceError:
    """A token that would go over an open line."""
    return caught(lambda: Client("http://shop.example", token="secret"))


def error_50(folder: Path) -> HeadraceError:
    """A backup where something is already."""
    run = RunFolder(folder / "run")
    run.root.mkdir()
    run.log("events").write_bytes(b"")
    (folder / "copy").mkdir()
    return caught(lambda: back_up(run, folder / "copy"))
