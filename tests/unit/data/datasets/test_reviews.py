"""Reviews and books: read from the folder, cleaned, and cut so that no film is in two parts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headrace.data.datasets.reviews import BOOKS, REVIEWS, Texts, books, reviews
from headrace.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    rows = [{"label": row % 2, "rating": 9 if row % 2 else 2, "title_id": f"tt{row // 4}",
             "text": f"Review {row}.<br /><br />More   of it."} for row in range(200)]  # fmt: skip
    (tmp_path / REVIEWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    pages = [{"author": "A", "title": f"T{row}", "text": f"# Book\n\nIt was {row}."} for row in range(5)]
    (tmp_path / BOOKS).write_text("".join(json.dumps(page) + "\n" for page in pages))
    return tmp_path


def test_reviews_are_read_without_their_markup(folder) -> None:
    found = reviews()
    assert len(found) == 200
    assert found.texts[0] == "Review 0. More of it."
    assert found.ratings[:2].tolist() == [2, 9]


def test_books_are_read_as_many_as_asked(folder) -> None:
    assert books(3).owners == ("A: T0", "A: T1", "A: T2")
    assert books().texts[4] == "# Book It was 4."


def test_no_film_is_in_two_parts(folder) -> None:
    parts = reviews().parts({"one": 0.5, "two": 0.3, "three": 0.2})
    owners = [set(part.owners) for part in parts.values()]
    assert sum(len(part) for part in parts.values()) == 200
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]


def test_shares_beyond_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="shares"):
        Texts(("a",), ("b",), np.zeros(1, np.int64)).parts({"one": 0.8, "two": 0.4})


@pytest.mark.parametrize("read", [reviews, books])
def test_missing_files_are_named(tmp_path, monkeypatch, read) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="jsonl"):
        read()
