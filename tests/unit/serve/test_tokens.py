from __future__ import annotations

import logging
import os
import time

import pytest

from headrace.errors import ConfigError
from headrace.serve.tokens import PREFIX, Token, TokenBook, make_token, read_tokens, token_named, write_tokens


def test_a_token_is_found_and_another_is_not() -> None:
    secret, token = make_token("web", ["read", "feedback"])
    book = TokenBook([make_token("other", ["admin"])[1], token])
    assert book.find(secret) == token
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), "ü" * 40, "\udcff"):
        assert book.find(wrong) is None


def test_tokens_are_long_random_and_marked() -> None:
    secrets = {make_token("a", ["read"])[0] for _ in range(50)}
    assert len(secrets) == 50
    assert all(one.startswith(PREFIX) and len(one) >= len(PREFIX) + 43 for one in secrets)


def test_a_file_holds_no_token(tmp_path) -> None:
    secret, token = make_token("web", ["read"])
    path = tmp_path / "tokens"
    write_tokens(path, [token])
    assert secret not in path.read_text()
    assert secret.removeprefix(PREFIX) not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens"]
    assert TokenBook(path=path).find(secret) == token


def test_lines_come_back_as_they_were_written() -> None:
    tokens = [make_token("a", ["read"])[1], make_token("b", ["admin", "read"], expires=4e9)[1]]
    text = "# a comment\n\n" + "\n".join(token.line() for token in tokens)
    assert read_tokens(text, "here") == tokens


GOOD = "sha256:" + "a" * 64
WRONG = {
    "too few words": "web read",
    "the token itself": "web read headrace_secretsecret",
    "a short hash": "web read sha256:abc",
    "an upper-case hash": f"web read sha256:{'A' * 64}",
    "an unknown scope": f"web write {GOOD}",
    "no scope": f"web , {GOOD}",
    "a name twice": f"web read {GOOD}\nweb read {GOOD}",
    "a name with a slash": f"a/b read {GOOD}",
    "an end that is no time": f"web read {GOOD} tomorrow",
    "too many words": f"web read {GOOD} 2031-01-01T00:00:00Z x",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_tokens(WRONG[name], "file")
    assert "secretsecret" not in str(caught.value)


def test_a_token_ends() -> None:
    now = 1000.0
    secret, token = make_token("web", ["read"], expires=1010.0)
    book = TokenBook([token], now=lambda: now)
    assert book.find(secret) is not None
    now = 1010.0
    assert book.find(secret) is None


def test_changes_of_the_file_count_without_a_restart(tmp_path, caplog) -> None:
    path, now = tmp_path / "tokens", time.time()
    (first, kept), (second, added) = make_token("a", ["read"]), make_token("b", ["read"])
    write_tokens(path, [kept])
    book = TokenBook(path=path, now=lambda: now)
    write_tokens(path, [added])
    assert book.find(second) is None  # it looks once a second
    now += 1.1
    assert (book.find(first), book.find(second)) == (None, added)
    path.write_text("nonsense\n")
    now += 1.1
    with caplog.at_level(logging.ERROR):
        assert book.find(second) == added
    assert "stand" in caplog.text
    write_tokens(path, [])
    now += 1.1
    assert book.find(second) is None


def test_a_file_that_everybody_may_write_is_refused(tmp_path) -> None:
    path = tmp_path / "tokens"
    write_tokens(path, [make_token("a", ["read"])[1]])
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="everybody may write"):
        TokenBook(path=path)


@pytest.mark.parametrize("content", [None, "", "# nothing\n"])
def test_no_token_is_no_way_to_start(tmp_path, content: str | None) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError):
        TokenBook(path=path)
    with pytest.raises(ConfigError, match="no token"):
        TokenBook([])


def test_the_environment_may_hold_them(monkeypatch) -> None:
    (first, one), (second, other) = make_token("a", ["read"]), make_token("b", ["admin"])
    monkeypatch.setenv("HEADRACE_TOKENS", f"{one.line()};{other.line()}")
    book = TokenBook.from_environment()
    assert book is not None
    assert (book.find(first), book.find(second)) == (one, other)
    monkeypatch.delenv("HEADRACE_TOKENS")
    assert TokenBook.from_environment() is None


def test_a_name_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'web'"):
        token_named([Token("web", frozenset({"read"}), b"x")], "wbe")


def test_a_folder_that_cannot_be_written_is_told(tmp_path) -> None:
    if os.getuid() == 0:
        target = tmp_path / "none" / "tokens"
    else:
        tmp_path.chmod(0o500)
        target = tmp_path / "tokens"
    with pytest.raises(ConfigError, match="can be written"):
        write_tokens(target, [])
