"""`headrace tokens FILE [list | add NAME | remove NAME]`: who may do what on a server.

The file holds hashes only. A token is printed once, when it is made; keep it where the client finds it (the variable
HEADRACE_TOKEN, a secret store), never in a repository. A running server sees changes of the file within a second.
What was added and removed is written to FILE.audit.jsonl.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from headrace.cli.output import console, print_json, say_error
from headrace.config import require
from headrace.errors import ConfigError
from headrace.serve.audit import AuditLog
from headrace.serve.tokens import SCOPES, Token, make_token, read_tokens, token_named, write_tokens

NAME = "tokens"
HELP = "make, list and withdraw the tokens of a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("file", type=Path, help="the token file of `headrace serve --tokens`")
    parser.add_argument("action", nargs="?", default="list", choices=("list", "add", "remove"))
    parser.add_argument("name", nargs="?", help="of the token, for logs and audit lines")
    parser.add_argument(
        "--scopes", default="read,feedback", help="some of read,feedback,admin (default: read,feedback)"
    )
    parser.add_argument("--days", type=float, help="how long it is taken (default: until it is removed)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    path: Path = arguments.file
    exists = path.exists() or arguments.action != "add"
    try:
        tokens = read_tokens(path.read_text("utf-8"), f"Token file {path}") if exists else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Token file {path}", got=str(error), expected="a token file",
                          do="`headrace tokens FILE add NAME` makes one.") from error  # fmt: skip
    if arguments.action == "list":
        return _list(tokens, arguments.json)
    require(arguments.name is not None, arguments.action, got="no name", expected="the name of a token")
    if arguments.action == "remove":
        gone = token_named(tokens, arguments.name)
        _write(path, [token for token in tokens if token is not gone], "remove", gone)
        say_error(f"token '{gone.name}' is withdrawn; running servers refuse it within a second")
        return 0
    return _add(path, tokens, arguments)


def _add(path: Path, tokens: list[Token], arguments: argparse.Namespace) -> int:
    require(all(token.name != arguments.name for token in tokens), "Token", got=f"'{arguments.name}' again",
            expected="another name", do="Remove the old one first, or let both live while clients change.")  # fmt: skip
    require(arguments.days is None or arguments.days > 0, "--days", got=arguments.days, expected="a positive number")
    expires = None if arguments.days is None else float(int(time.time() + arguments.days * 86_400))
    secret, token = make_token(arguments.name, arguments.scopes.split(","), expires=expires)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, [*tokens, token], "add", token)
    if arguments.json:
        print_json({**_plain(token), "token": secret})
        return 0
    say_error(f"token '{token.name}' ({arguments.scopes}), shown this once:")
    print(secret)
    return 0


def _write(path: Path, tokens: list[Token], what: str, token: Token) -> None:
    audit = AuditLog(path.with_name(f"{path.name}.audit.jsonl"))
    action = audit.begin("command line", f"tokens {what}", _plain(token))
    state = "failed"
    try:
        write_tokens(path, tokens)
        state = "done"
    finally:
        audit.end(action, state)


def _list(tokens: list[Token], as_json: bool) -> int:
    if as_json:
        print_json({"tokens": [_plain(token) for token in tokens]})
        return 0
    table = Table("name", *SCOPES, "until")
    for token in tokens:
        ends = _plain(token)["expires"] or "withdrawn"
        over = token.expires is not None and token.expires <= time.time()
        table.add_row(token.name, *("yes" if scope in token.scopes else "" for scope in SCOPES),
                      f"{ends} (ended)" if over else str(ends))  # fmt: skip
    console().print(table)
    return 0


def _plain(token: Token) -> dict[str, object]:
    ends = None if token.expires is None else datetime.fromtimestamp(token.expires, UTC).isoformat()
    return {"name": token.name, "scopes": [scope for scope in SCOPES if scope in token.scopes], "expires": ends}
