"""Who comes in: tokens and their scopes, limits per bearer, and the settings of an encrypted connection."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from headrace.config import require
from headrace.errors import DataError
from headrace.serve.limits import Buckets, network_of
from headrace.serve.refusals import Refusal, again_after
from headrace.serve.tokens import SCOPES, TokenBook

CHALLENGE = {"www-authenticate": 'Bearer realm="headrace"'}


@dataclass(frozen=True, kw_only=True)
class AccessConfig:
    """Who may reach a server, and how.

    Attributes:
        tokens: Who may do what. None: everybody who reaches the server may do everything, so it listens on loopback
            only, unless `open_to_all`.
        certificate: PEM file of the server's certificate and those that it hangs on; with it, connections are
            encrypted (TLS 1.2 or newer).
        private_key: PEM file of its key; nobody but its owner and group may read it. None: it is in `certificate`.
        client_authority: PEM file of who signs certificates of clients; then every client has to show one.
        open_to_all: Listen on any address without tokens. For networks that somebody else guards.
        hosts: Names by which a loopback server without tokens may be called, besides `localhost` and addresses. A web
            page that calls it by another name is refused (DNS rebinding).
        trusted_proxies: Addresses whose `X-Forwarded-For` is believed.
        requests_per_s: Requests per second that one bearer (or, without tokens, one address) may make for long; more
            get 429. None: any number.
        burst: Requests that one bearer may make at once.
        failures_per_s: Wrong tokens per second from one address; more get 429.
        failures_burst: Wrong tokens that one address may show at once.

    Raises:
        ConfigError: If a file is absent, a key can be read by everybody, or a value cannot work.
    """

    tokens: TokenBook | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    client_authority: Path | None = None
    open_to_all: bool = False
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    requests_per_s: float | None = None
    burst: int = 100
    failures_per_s: float = 1.0
    failures_burst: int = 20

    def __post_init__(self) -> None:
        for name in ("certificate", "private_key", "client_authority"):
            path = getattr(self, name)
            require(path is None or path.is_file(), name, got=str(path), expected="a PEM file")
        key = self.private_key or self.certificate
        require(key is None or not key.stat().st_mode & stat.S_IROTH, "private_key", got=f"{key}, which everybody may "
                "read", expected="a file of your own", do=f"chmod 600 {key}")  # fmt: skip
        for name in ("private_key", "client_authority"):
            require(getattr(self, name) is None or self.certificate is not None, name,
                    got=f"{getattr(self, name)} without `certificate`", expected="both")  # fmt: skip
        if self.requests_per_s is not None:
            Buckets(self.requests_per_s, self.burst)  # refuses what is none
        Buckets(self.failures_per_s, self.failures_burst)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks.

    Attributes:
        name: The token's name; `anyone` where there are no tokens.
        address: Where the request comes from.
        scopes: What they may do.
    """

    name: str
    address: str
    scopes: frozenset[str]


class Doorkeeper:
    """Admits requests or refuses them, by token and by how often they come.

    Args:
        config: The rules.

    Thread-safety: may be used from several threads.
    """

    def __init__(self, config: AccessConfig) -> None:
        self.config = config
        rate = config.requests_per_s
        self._asked = None if rate is None else Buckets(rate, config.burst)
        self._failed = Buckets(config.failures_per_s, config.failures_burst)

    @property
    def guarded(self) -> bool:
        """Whether a token is asked for."""
        return self.config.tokens is not None

    def admit(self, authorization: str | None, address: str, scope: str | None) -> Visitor:
        """Return who asks.

        Args:
            authorization: The `Authorization` header, `Bearer TOKEN`.
            address: Where the request comes from.
            scope: What has to be allowed; None: nothing.

        Raises:
            Refusal: 401 without a token that is known, 403 if it lacks the scope, 429 if it comes too often.
        """
        where = network_of(address)
        if scope is None:
            visitor = Visitor("anyone", address, frozenset())
        elif self.config.tokens is None:
            visitor = Visitor("anyone", address, frozenset(SCOPES))
        else:
            visitor = self._known(authorization, address, where, self.config.tokens)
        if self._asked is not None:
            wait = self._asked.take(f"token {visitor.name}" if visitor.name != "anyone" else where)
            if wait:
                raise _too_often(f"more than {self.config.requests_per_s:g} requests per second", wait)
        if scope is not None and scope not in visitor.scopes:
            granted = ", ".join(sorted(visitor.scopes))
            raise Refusal(403, DataError("Token, scope", got=f"'{visitor.name}' with {granted}", expected=scope,
                                         do="Ask with another token."))  # fmt: skip
        return visitor

    def _known(self, authorization: str | None, address: str, where: str, tokens: TokenBook) -> Visitor:
        kind, _, secret = (authorization or "").strip().partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            got = "no token" if not authorization else "another kind of credentials"
            raise Refusal(401, DataError("Authorization", got=got, expected="Bearer TOKEN",
                                         do="Ask the operator of this server for a token."), CHALLENGE)  # fmt: skip
        token = tokens.find(secret.strip())
        if token is None:
            # Nobody guesses 32 random bytes; this only keeps logs quiet. A right token from there still enters, so
            # that nobody is shut out by others behind the same address.
            if wait := self._failed.take(where):
                raise _too_often("too many wrong tokens", wait)
            headers = {"www-authenticate": CHALLENGE["www-authenticate"] + ', error="invalid_token"'}
            raise Refusal(401, DataError("Authorization", got="a token that is not known here, or has ended",
                                         expected="one that the server's operator made"), headers)  # fmt: skip
        return Visitor(token.name, address, token.scopes)


def _too_often(got: str, wait: float) -> Refusal:
    return Refusal(429, DataError("Requests", got=got, expected="fewer", do=f"Come again in {wait:.1f} s."),
                   again_after(wait))  # fmt: skip
