"""Every public part of the package keeps the contract of its role, and none is forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import headrace
from headrace.protocols import (
    Cadence,
    Checkpoint,
    Feedback,
    Joiner,
    Learner,
    Metric,
    Predictor,
    Publisher,
    Resumable,
    Source,
    Table,
    WorkQueue,
)
from headrace.testing import clauses

ROLES = (Cadence, Checkpoint, Feedback, Joiner, Learner, Metric, Predictor, Publisher, Source, Table, WorkQueue)
RESTORED_BY_ITS_ROLE = {"Cadence", "Joiner", "Learner", "Metric", "Table"}
"""Roles whose own contract has a clause on restore: their parts need no second check as Resumable."""


def methods(protocol: type) -> set[str]:
    """Names of the methods that a role asks for, those of its parents included."""
    return {name for one in protocol.__mro__ if getattr(one, "_is_protocol", False) for name in vars(one)
            if not name.startswith("_") and callable(getattr(one, name))}  # fmt: skip


def fills(part: type, protocol: type) -> bool:
    return all(callable(getattr(part, name, None)) for name in methods(protocol))


def is_objective(part: type) -> bool:
    call = part.__dict__.get("__call__")
    return call is not None and list(inspect.signature(call).parameters) == ["self", "model", "batch"]


def public_parts() -> set[tuple[str, type]]:
    """Every (role, public concrete class) of the package, found by looking."""
    found = set()
    for module in pkgutil.walk_packages(headrace.__path__, "headrace."):
        if module.name.endswith("__main__"):
            continue
        for name, part in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(part) and part.__module__ == module.name and not name.startswith("_")
            if not own or inspect.isabstract(part) or getattr(part, "_is_protocol", False):
                continue
            roles = {role.__name__ for role in ROLES if fills(part, role)}
            roles |= {"Objective"} if is_objective(part) else set()
            if fills(part, Resumable) and not roles & RESTORED_BY_ITS_ROLE:
                roles.add("Resumable")
            found |= {(role, part) for role in roles}
    return found


def test_a_part_keeps_the_contract_of_its_role(case, tmp_path) -> None:
    verdict = case.run(tmp_path)
    assert verdict.role == case.role
    assert verdict.untried == case.untried


def test_no_public_part_is_forgotten(cases) -> None:
    covered = {(case.role, case.part) for case in cases}
    missing = sorted(f"{role}: {part.__module__}.{part.__name__}" for role, part in public_parts() - covered)
    assert missing == []


def test_no_case_is_of_a_part_that_does_not_fill_the_role(cases) -> None:
    parts = public_parts() | {(case.role, case.part) for case in cases if case.role == "Resumable"}
    strangers = sorted(case.id for case in cases if (case.role, case.part) not in parts)
    assert strangers == []


def test_every_clause_of_every_contract_is_tried_on_some_part(cases) -> None:
    for role in {case.role for case in cases}:
        untried = [set(case.untried) for case in cases if case.role == role]
        assert set.intersection(*untried) == set(), f"{role} of {len(clauses(role))} clauses"


def test_looking_finds_what_is_there() -> None:
    parts = {(role, part.__name__) for role, part in public_parts()}
    assert {("Table", "NativeTable"), ("Source", "World"), ("Feedback", "World"), ("Objective", "LogLoss")} <= parts
