from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.serve.access import AccessConfig, Doorkeeper, Visitor
from headrace.serve.refusals import Refusal
from headrace.serve.tokens import TokenBook, make_token

HERE = "192.0.2.7"


def keeper(*scopes: str, **settings: object) -> tuple[Doorkeeper, str]:
    secret, token = make_token("web", scopes or ["read"])
    return Doorkeeper(AccessConfig(tokens=TokenBook([token]), **settings)), f"Bearer {secret}"


def status(door: Doorkeeper, header: str | None, scope: str | None = "read", address: str = HERE) -> int:
    try:
        door.admit(header, address, scope)
    except Refusal as caught:
        refusal = caught
    else:
        return 200
    assert (refusal.status == 401) == ("www-authenticate" in refusal.headers)
    assert (refusal.status == 429) == ("retry-after" in refusal.headers)
    return refusal.status


def test_without_tokens_everybody_may_do_everything() -> None:
    door = Doorkeeper(AccessConfig())
    assert not door.guarded
    assert [status(door, header, scope) for header in (None, "Bearer x") for scope in ("read", "admin", None)] == [
        200
    ] * 6


def test_a_token_opens_its_scopes_only() -> None:
    door, header = keeper("read", "feedback")
    assert door.admit(header, HERE, "read") == Visitor("web", HERE, frozenset({"read", "feedback"}))
    assert [status(door, header, scope) for scope in ("read", "feedback", "admin", None)] == [200, 200, 403, 200]


def test_an_admin_is_no_reader() -> None:
    door, header = keeper("admin")
    assert (status(door, header, "admin"), status(door, header, "read")) == (200, 403)


WRONG = [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer x", "Bearer headrace_" + "a" * 43, "bearer\tx", "x" * 9000]


@pytest.mark.parametrize("header", WRONG)
def test_whoever_is_not_known_stays_outside(header: str | None) -> None:
    assert status(keeper()[0], header) == 401


@pytest.mark.parametrize("form", ["bearer {}", "BEARER {}", "Bearer   {}", " Bearer {} "])
def test_the_scheme_may_be_written_as_one_likes(form: str) -> None:
    door, header = keeper()
    assert status(door, form.format(header.removeprefix("Bearer "))) == 200


def test_what_is_open_needs_no_token_even_a_wrong_one() -> None:
    assert status(keeper()[0], "Bearer nonsense", None) == 200


def test_a_refusal_does_not_repeat_what_was_shown() -> None:
    door, header = keeper()
    for wrong in ("Bearer secretvalue", f"{header}x"):
        with pytest.raises(Refusal) as caught:
            door.admit(wrong, HERE, "read")
        assert wrong.removeprefix("Bearer ") not in str(caught.value)
    assert header not in repr(door.config)


def test_guessing_is_slowed_down_by_address() -> None:
    door, header = keeper(failures_burst=5, failures_per_s=0.001)
    assert [status(door, "Bearer wrong") for _ in range(7)] == [401] * 5 + [429] * 2
    assert status(door, "Bearer wrong", address="192.0.2.8") == 401
    assert status(door, None) == 401  # no token at all is no guess
    assert status(door, header) == 200  # a neighbour who guesses shuts nobody out


def test_a_bearer_may_ask_so_often_wherever_from() -> None:
    door, header = keeper(requests_per_s=0.001, burst=3)
    assert [status(door, header, address=f"192.0.2.{n}") for n in range(5)] == [200] * 3 + [429] * 2


def test_without_tokens_an_address_may_ask_so_often() -> None:
    door = Doorkeeper(AccessConfig(requests_per_s=0.001, burst=2))
    assert [status(door, None) for _ in range(3)] == [200, 200, 429]
    assert status(door, None, address="192.0.2.9") == 200


def test_a_key_that_everybody_may_read_is_refused(tmp_path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_text("")
    key.write_text("")
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody may read"):
        AccessConfig(certificate=certificate, private_key=key)
    key.chmod(0o640)
    AccessConfig(certificate=certificate, private_key=key)
    with pytest.raises(ConfigError, match="without `certificate`"):
        AccessConfig(private_key=key)
    with pytest.raises(ConfigError, match="a PEM file"):
        AccessConfig(certificate=tmp_path / "none.pem")


@pytest.mark.parametrize("wrong", [{"requests_per_s": 0}, {"requests_per_s": 1, "burst": 0}, {"failures_per_s": -1}])
def test_limits_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        AccessConfig(**wrong)
