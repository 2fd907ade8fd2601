from __future__ import annotations

import logging

import pytest

from headrace.store import fallbacks
from headrace.store.notices import note_once


def test_a_fallback_is_logged_once_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="headrace.store"):
        note_once("topic of this test", "a plain sentence")
        note_once("topic of this test", "another sentence")
    assert [record.getMessage() for record in caplog.records] == ["a plain sentence"]
    assert fallbacks().count("a plain sentence") == 1
    assert "another sentence" not in fallbacks()
