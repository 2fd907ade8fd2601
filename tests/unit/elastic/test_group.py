"""Where workers meet, and what is kept of groups that were given up."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import torch

from headrace.elastic import group
from headrace.elastic.group import MeetingPoint
from headrace.errors import ConfigError


def test_workers_meet_on_their_own_address_only() -> None:
    point = MeetingPoint()
    host, port = point.address.split(":")
    socket.create_connection((host, int(port)), 5.0).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), 5.0)


def test_other_machines_are_let_in_on_purpose_only() -> None:
    with pytest.raises(ConfigError, match="loopback"):
        MeetingPoint("0.0.0.0")
    assert MeetingPoint("0.0.0.0", remote=True).address.startswith("0.0.0.0:")


def test_a_group_is_kept_until_its_call_has_ended(monkeypatch) -> None:
    monkeypatch.setattr(group, "_ASIDE", [])
    calls = [SimpleNamespace(is_completed=lambda done=done: done) for done in (True, False, True)]
    for number, call in enumerate(calls):
        group._put_aside(number, call, torch.zeros(1))
    assert [one[0] for one in group._ASIDE] == [1, 2]  # the last one is looked at when the next comes
