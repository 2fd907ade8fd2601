"""The book: durable, idempotent, and without the name once it is finished."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from headrace.data.erasure_book import ErasureBook
from headrace.errors import ConfigError, DataError

NAME = "grace.hopper@example.org"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "erasures.db"


def test_a_finished_erasure_leaves_a_keyed_hash_and_nothing_else(path: Path) -> None:
    book = ErasureBook(path)
    one = book.request(NAME)
    assert book.request(NAME).number == one.number
    assert NAME.encode() in path.read_bytes() + path.with_name("erasures.db-wal").read_bytes()
    book.mark(one.number, "joiner", 3)
    assert [item.marks for item in book.unfinished()] == [{"joiner": 3}]
    book.finish(one.number)
    assert book.unfinished() == []
    for file in path.parent.iterdir():
        assert NAME.encode() not in file.read_bytes(), file
    found = book.erasure(one.number)
    assert found is not None
    assert (found.name, bool(found.finished)) == (None, True)
    assert book.blocked() == {book.subject(NAME)}
    assert book.request(NAME).number == one.number, "there is nothing to be done again"
    assert book.request(NAME, again=True).number == one.number + 1, "but it can be, after a backup was restored"


def test_consent_lifts_every_erasure_of_a_user(path: Path) -> None:
    book = ErasureBook(path)
    assert book.consent(NAME) is None
    one = book.request(NAME)
    with pytest.raises(ConfigError, match="under way"):
        book.consent(NAME)
    book.finish(one.number)
    two = book.request(NAME, again=True)
    book.finish(two.number)
    lifted = book.consent(NAME)
    assert lifted is not None
    assert lifted.consented
    assert book.blocked() == frozenset()
    assert [item.number for item in book.lifted()] == [one.number, two.number]
    assert book.consent(NAME) is None
    assert book.request(NAME).number == two.number + 1


def test_processes_share_a_book_and_its_key(path: Path) -> None:
    first, second = ErasureBook(path), ErasureBook(path)
    before = second.generation()
    first.request(NAME)
    assert second.generation() > before
    assert second.blocked() == {second.subject(NAME)}
    assert stat.S_IMODE(path.with_suffix(".key").stat().st_mode) == 0o600


def test_a_lost_key_is_noticed(path: Path) -> None:
    ErasureBook(path).close()
    path.with_suffix(".key").write_bytes(b"x" * 32)
    with pytest.raises(ConfigError, match="another key"):
        ErasureBook(path)
    path.with_suffix(".key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        ErasureBook(path)


@pytest.mark.parametrize("name", ["", "x" * 1025])
def test_names_that_are_none(path: Path, name: str) -> None:
    with pytest.raises(DataError):
        ErasureBook(path).request(name)
