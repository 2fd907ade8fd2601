"""Bearer tokens: who may do what. Files hold hashes only; a token itself is shown once, when it is made.

A token is 32 random bytes, so one round of SHA-256 is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from headrace.config import known_name, require
from headrace.errors import ConfigError, HeadraceError, nearest

_log = logging.getLogger(__name__)
READ, FEEDBACK, ADMIN = "read", "feedback", "admin"
SCOPES = (READ, FEEDBACK, ADMIN)
PREFIX = "headrace_"
"""Every token begins so; scanners of repositories can look for it."""
VARIABLE = "HEADRACE_TOKENS"
LOOK_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LINE = "NAME SCOPE,SCOPE sha256:DIGEST [EXPIRES]"


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token.

    Attributes:
        name: For people, logs and audit lines.
        scopes: What its bearer may do: `read`, `feedback`, `admin`. None of them contains another one.
        digest: SHA-256 of the token.
        expires: When it ends to be taken, in seconds since the epoch; None: never.

    Raises:
        ConfigError: If the name or a scope is none.
    """

    name: str
    scopes: frozenset[str]
    digest: bytes
    expires: float | None = None

    def __post_init__(self) -> None:
        require(_NAME.fullmatch(self.name) is not None, "Token, name", got=self.name,
                expected="1 to 64 letters, digits, dots, dashes and underscores")  # fmt: skip
        require(bool(self.scopes), f"Token '{self.name}', scopes", got="none", expected=f"some of {', '.join(SCOPES)}")
        for scope in self.scopes:
            known_name(f"Token '{self.name}', scope", scope, SCOPES)

    def line(self) -> str:
        """Return the line of a token file."""
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        ends = "" if self.expires is None else f" {datetime.fromtimestamp(self.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return f"{self.name} {scopes} sha256:{self.digest.hex()}{ends}"


def make_token(name: str, scopes: Sequence[str], *, expires: float | None = None) -> tuple[str, Token]:
    """Return a new token and what may be kept of it.

    Example:
        >>> secret, token = make_token("web", ["read", "feedback"])
        >>> TokenBook([token]).find(secret).name
        'web'
        >>> secret in token.line()
        False
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Token(name, frozenset(scopes), hashlib.sha256(secret.encode()).digest(), expires)


def read_tokens(text: str, where: str) -> list[Token]:
    """Read lines of `NAME SCOPE,SCOPE sha256:DIGEST [EXPIRES]`; empty lines and those with `#` first are left out.

    Raises:
        ConfigError: If a line is anything else, or a name stands twice; names the line, never what is in it.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        what = f"{where}, line {number}"
        digest = _DIGEST.fullmatch(words[2]) if len(words) in (3, 4) else None
        if digest is None:  # whoever put the token itself here must not find it in a log as well
            raise ConfigError(what, got=f"{len(words)} words", expected=_LINE,
                              do="`headrace tokens FILE add NAME` writes such lines.")  # fmt: skip
        if words[0] in tokens:
            raise ConfigError(what, got=f"'{words[0]}' again", expected="every name once")
        expires = _time(words[3], what) if len(words) == 4 else None
        tokens[words[0]] = Token(words[0], frozenset(words[1].split(",")), bytes.fromhex(digest[1]), expires)
    return list(tokens.values())


def _time(text: str, what: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{what}, end", got=repr(text[:40]), expected="a time as 2031-12-24T00:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class TokenBook:
    """The tokens of a server.

    A file is read again when it has changed, at most once a second, so that tokens are made and withdrawn without a
    restart. If what it says cannot be read, the tokens before stand, and the log says so.

    Args:
        tokens: Who may enter; in place of a file.
        path: A file of token lines.
        now: The wall clock in seconds.

    Raises:
        ConfigError: If the file is absent, can be written by everybody, has a line that is none, or has no token.

    Thread-safety: may be used from several threads.
    """

    def __init__(
        self, tokens: Sequence[Token] = (), *, path: Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.path, self._now, self._lock = path, now, threading.Lock()
        self._tokens, self._seen, self._looked = list(tokens), _signature(path), now()
        if path is not None:
            self._tokens = read_tokens(_text(path), f"Token file {path}")
        require(bool(self._tokens), "Tokens" if path is None else f"Token file {path}", got="no token",
                expected="at least one", do="`headrace tokens FILE add NAME` makes one.")  # fmt: skip

    @staticmethod
    def from_environment(variable: str = VARIABLE) -> TokenBook | None:
        """Return the tokens that an environment variable holds, as lines of a token file; None if it is not set.

        Raises:
            ConfigError: If it holds anything else.
        """
        text = os.environ.get(variable, "")
        return TokenBook(read_tokens(text.replace(";", "\n"), variable)) if text.strip() else None

    @property
    def tokens(self) -> list[Token]:
        """All that are known now, also those that have ended."""
        with self._lock:
            self._look()
            return list(self._tokens)

    def find(self, secret: str) -> Token | None:
        """Return the token, or None if it is unknown or has ended.

        Cost: one SHA-256 and one comparison in constant time per known token, whether or not one of them fits.
        """
        digest, found = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest(), None
        for token in self.tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return None if found is None or (found.expires is not None and found.expires <= self._now()) else found

    def _look(self) -> None:
        now = self._now()
        if self.path is None or abs(now - self._looked) < LOOK_S:
            return
        self._looked, signature = now, _signature(self.path)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._tokens = read_tokens(_text(self.path), f"Token file {self.path}")
            _log.warning("token file %s was read again: %d tokens", self.path, len(self._tokens))
        except HeadraceError as error:
            _log.error("the tokens that were known before stand: %s", error)


def _signature(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _text(path: Path) -> str:
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(f"Token file {path}", got="a file that everybody may write", expected="one of your own",
                              do=f"chmod 600 {path}")  # fmt: skip
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Token file {path}", got=str(error), expected="a text file",
                          do="`headrace tokens FILE add NAME` makes one.") from error  # fmt: skip


def write_tokens(path: Path, tokens: Sequence[Token]) -> None:
    """Replace a token file at once; only its owner may read it.

    Raises:
        ConfigError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    first = "# headrace: NAME SCOPES HASH [END]. Hashes only; a token itself is kept nowhere."
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write("\n".join([first, *(token.line() for token in tokens)]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"Token file {path}", got=str(error), expected="a file that can be written") from error


def token_named(tokens: Sequence[Token], name: str) -> Token:
    """Return the token of a name.

    Raises:
        ConfigError: If there is none; lists the nearest names.
    """
    for token in tokens:
        if token.name == name:
            return token
    raise ConfigError("Token", got=repr(name), expected=nearest(name, [token.name for token in tokens]))
