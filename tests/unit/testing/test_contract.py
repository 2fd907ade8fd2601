from __future__ import annotations

import copy

import pytest

from headrace.errors import GapError, StoreError
from headrace.testing import ContractViolation, checks, clauses
from headrace.testing.contract import CONTRACTS, Contract

ROLES = ["Cadence", "Checkpoint", "Feedback", "Joiner", "Learner", "Metric", "Objective", "Predictor", "Publisher",
         "Resumable", "Source", "Table", "WorkQueue"]  # fmt: skip


def test_there_is_a_contract_for_every_role() -> None:
    assert sorted(CONTRACTS) == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_there_is_a_check_for_every_contract(role) -> None:
    name = "check_" + "".join(f"_{c.lower()}" if c.isupper() else c for c in role).lstrip("_")
    assert callable(getattr(checks, name))


@pytest.mark.parametrize("role", ROLES)
def test_clauses_are_numbered_from_one_and_say_something(role) -> None:
    texts = clauses(role)
    assert list(texts) == list(range(1, len(texts) + 1))
    assert all(len(text) > 15 for text in texts.values())
    assert len(set(texts.values())) == len(texts)


def test_the_clauses_given_out_are_a_copy() -> None:
    texts = clauses("Table")
    texts.clear()  # type: ignore[attr-defined]
    assert clauses("Table")


def test_a_violation_is_an_assertion_error_with_its_parts() -> None:
    with pytest.raises(AssertionError) as caught:
        Contract("Table").require(3, False, "mark moved")
    error = caught.value
    assert isinstance(error, ContractViolation)
    assert (error.role, error.clause, error.why) == ("Table", 3, "mark moved")
    assert str(error) == "Table, clause 3: lookup has no side effects. Here: mark moved."


def test_a_violation_can_be_copied() -> None:
    error = ContractViolation("Table", 3, "text", "why")
    assert str(copy.copy(error)) == str(error)


def test_a_reason_is_made_only_when_it_is_needed() -> None:
    Contract("Table").require(1, True, lambda: 1 / 0)  # type: ignore[arg-type,return-value]


def test_a_verdict_names_what_held_and_what_was_not_tried() -> None:
    contract = Contract("Cadence")
    contract.require(2, True, "")
    contract.require(2, True, "")
    assert (contract.verdict().held, contract.verdict().untried) == ((2,), (1, 3))


def raises(error: Exception):
    def call() -> None:
        raise error

    return call


def test_a_refusal_of_the_named_kind_holds() -> None:
    contract = Contract("Publisher")
    contract.refuses(3, raises(GapError("gap")), "a gap", GapError)
    assert contract.held == [3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (raises(StoreError("full")), "raised StoreError"),
        (raises(KeyError("x")), "raised KeyError"),
        (lambda: None, "was accepted, expected GapError"),
    ],
)
def test_another_error_or_none_is_a_violation(call, words) -> None:
    with pytest.raises(ContractViolation, match=words):
        Contract("Publisher").refuses(3, call, "a gap", GapError)


def test_any_error_of_ours_will_do_when_none_is_named() -> None:
    contract = Contract("Table")
    contract.refuses(22, raises(StoreError("shape")), "a shape")
    with pytest.raises(ContractViolation, match="raised ValueError"):
        contract.refuses(22, raises(ValueError("shape")), "a shape")
