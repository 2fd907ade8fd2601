from __future__ import annotations

import json

import pytest

from headrace.cli import main as cli
from headrace.serve.audit import AuditLog
from headrace.serve.tokens import TokenBook


def run(*words: object) -> int:
    return cli.main(["tokens", *map(str, words)])


def test_a_token_is_made_shown_once_and_withdrawn(tmp_path, capsys) -> None:
    path = tmp_path / "secrets" / "tokens"
    assert run(path, "add", "web") == 0
    printed = capsys.readouterr()
    secret = printed.out.strip()
    assert "\n" not in secret
    assert secret not in printed.err
    assert secret not in path.read_text()
    token = TokenBook(path=path).find(secret)
    assert token is not None
    assert (token.name, set(token.scopes), token.expires) == ("web", {"read", "feedback"}, None)

    assert run(path, "add", "ops", "--scopes", "admin", "--days", "30", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["name"], made["scopes"]) == ("ops", ["admin"])
    assert TokenBook(path=path).find(made["token"]).expires is not None

    assert run(path, "--json") == 0
    listed = json.loads(capsys.readouterr().out)["tokens"]
    assert [one["name"] for one in listed] == ["web", "ops"]
    assert made["token"] not in json.dumps(listed)

    assert run(path, "remove", "web") == 0
    assert TokenBook(path=path).find(secret) is None
    assert run(path) == 0
    assert "web" not in capsys.readouterr().out

    audit = AuditLog(tmp_path / "secrets" / "tokens.audit.jsonl")
    done = [(line["what"], line["details"]["name"]) for line in audit.lines() if line["state"] == "begun"]
    assert done == [("tokens add", "web"), ("tokens add", "ops"), ("tokens remove", "web")]
    assert audit.check() == 6
    assert secret not in audit.path.read_text()


@pytest.mark.parametrize(
    "words", [["add"], ["add", "a/b"], ["add", "web"], ["add", "x", "--scopes", "write"], ["remove", "nobody"],
              ["add", "x", "--days", "-1"]]
)  # fmt: skip
def test_mistakes_are_told_and_leave_the_file_as_it_was(tmp_path, capsys, words: list[str]) -> None:
    path = tmp_path / "tokens"
    run(path, "add", "web")
    before = path.read_bytes()
    assert run(path, *words) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("headrace: ")
    assert path.read_bytes() == before


def test_a_file_that_is_not_there_is_told(tmp_path, capsys) -> None:
    assert run(tmp_path / "none") == 2
    assert "add NAME" in capsys.readouterr().err
