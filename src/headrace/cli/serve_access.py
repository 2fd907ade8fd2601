"""The options of `headrace serve` that say who may reach the server, and how much it takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.config import require
from headrace.serve import AccessConfig, TokenBook
from headrace.serve.tokens import VARIABLE


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("access")
    group.add_argument("--tokens", type=Path, metavar="FILE", help="who may do what; made by `headrace tokens`. "
                       f"Without it {VARIABLE} holds the lines of such a file")  # fmt: skip
    group.add_argument("--tls-certificate", type=Path, metavar="PEM", help="encrypt connections with it")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="the certificate's key")
    group.add_argument("--tls-clients", type=Path, metavar="PEM", help="ask clients for a certificate signed by it")
    group.add_argument("--open-to-all", action="store_true", help="listen on --host without tokens: everybody who "
                       "reaches it can do everything")  # fmt: skip
    group.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name by which a loopback "
                       "server without tokens may be called, besides localhost")  # fmt: skip
    group.add_argument("--trust-proxy", action="append", default=[], metavar="ADDRESS", help="believe "
                       "X-Forwarded-For from there")  # fmt: skip
    group = parser.add_argument_group("limits")
    group.add_argument("--requests-per-s", type=float, metavar="N", help="per token, or per address without tokens; "
                       "more get 429")  # fmt: skip
    group.add_argument("--burst", type=int, default=100, metavar="N", help="requests at once within that (100)")
    group.add_argument("--max-body-mb", type=float, default=8.0, metavar="MB", help="largest body; longer get 413 (8)")
    group.add_argument("--max-backlog-rows", type=int, metavar="N", help="logged rows that may wait to be learned; "
                       "beyond, feedback gets 503 and Retry-After")  # fmt: skip
    group.add_argument("--min-free-mb", type=float, default=64.0, metavar="MB", help="room that stays free on the "
                       "log's disk; below, feedback gets 503 and Retry-After (64)")  # fmt: skip


def access_of(arguments: argparse.Namespace) -> AccessConfig:
    """Return the settings of the options.

    Raises:
        ConfigError: If a file is absent, or two options contradict each other.
    """
    tokens = TokenBook(path=arguments.tokens) if arguments.tokens is not None else TokenBook.from_environment()
    require(tokens is None or not arguments.open_to_all, "--open-to-all", got="tokens as well", expected="one of them")
    return AccessConfig(
        tokens=tokens, certificate=arguments.tls_certificate, private_key=arguments.tls_key,
        client_authority=arguments.tls_clients, open_to_all=arguments.open_to_all, hosts=tuple(arguments.allow_host),
        trusted_proxies=tuple(arguments.trust_proxy), requests_per_s=arguments.requests_per_s, burst=arguments.burst,
    )  # fmt: skip


def limits_of(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the fields of `ServeConfig` that the options set."""
    return {
        "max_body_bytes": int(arguments.max_body_mb * (1 << 20)), "max_backlog_rows": arguments.max_backlog_rows,
        "min_free_bytes": int(arguments.min_free_mb * (1 << 20)),
    }  # fmt: skip
