"""Choices between two answers: only pairs that differ in the last answer are taken."""

from __future__ import annotations

import json

import pytest

from headrace.data.datasets.dialogues import FILE, harmless_pairs
from headrace.errors import DataError


def test_pairs_are_cut_at_their_last_answer(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    head = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how are you?"
    rows = [
        {"chosen": f"{head}\n\nAssistant: fine", "rejected": f"{head}\n\nAssistant: go away"},
        {"chosen": f"{head}\n\nAssistant: fine", "rejected": "\n\nHuman: other\n\nAssistant: no"},
        {"chosen": f"{head}\n\nAssistant: ", "rejected": f"{head}\n\nAssistant: no"},
        {"chosen": f"{head}\n\nAssistant: same", "rejected": f"{head}\n\nAssistant: same"},
    ]
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert harmless_pairs() == [("how are you?", "fine", "go away")]


def test_a_missing_file_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=FILE):
        harmless_pairs()
