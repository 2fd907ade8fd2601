"""The contracts of `Publisher`, `Predictor` and `Checkpoint`, as checks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from headrace.errors import GapError
from headrace.protocols import Checkpoint, Predictor, Publisher
from headrace.testing.contract import CONTRACTS, Contract, Verdict
from headrace.testing.equivalence import Tolerance, first_difference
from headrace.testing.plain import copied_state
from headrace.types import Change, Events, RowChange, State, Version

CONTRACTS["Publisher"] = {
    1: "last is version -1 when nothing was published",
    2: "publish returns the same content under the same number, and last is that version",
    3: "a number that is not the next one is refused with GapError, and last stays",
    4: "a repeated change is recognised, the last one and earlier ones, and last stays",
    5: "other content under a published number is refused with GapError, and last stays",
    6: "what was published is durable: a publisher opened again has the same last version and refuses the same",
}
CONTRACTS["Predictor"] = {
    1: "predict returns one row per request row, in order, of kind `prediction`, with the request's key, time and item",
    2: "scores are finite float32 numbers from 0 to 1, and version is the version held",
    3: "predicting changes nothing: the same requests get the same answers",
    4: "the answer to a row does not depend on the other rows asked with it",
    5: "apply moves to the change's version; a repeated one, or one already passed, changes nothing",
    6: "a change whose parent is not the version held is refused with GapError, and nothing is changed",
    7: "two predictors that got the same changes, one of them some twice, give the same answers",
    8: "an answer given while a change is applied is of one version, whole",
    9: "a full change at a version gives the same answers as the changes up to it",
}
CONTRACTS["Checkpoint"] = {
    1: "load gives None before anything was saved",
    2: "load gives back exactly what was saved last",
    3: "a state loaded or saved is a copy: changing it changes nothing that was saved",
    4: "what was saved is durable: a checkpoint opened again loads it",
}


def toy_changes(count: int = 4) -> list[Change]:
    """Return consecutive changes, the first one full, of one small table and one dense tensor."""
    changes = []
    for number in range(count):
        ids = torch.arange(number, number + 3)
        rows = torch.sin(torch.arange(6).float() + number).reshape(3, 2)
        removed = torch.arange(number - 1, number) if number else torch.zeros(0, dtype=torch.int64)
        changes.append(
            Change(
                version=Version(number, number - 1), tables={"toy": RowChange(ids, rows, removed)},
                dense={"bias": torch.full((2,), float(number))}, spec={"toy": "dim 2"}, full=number == 0,
            )
        )  # fmt: skip
    return changes


def check_publisher(
    make: Callable[[], Publisher], *, changes: Sequence[Change] | None = None,
    reopen: Callable[[Publisher], Publisher] | None = None,
) -> Verdict:  # fmt: skip
    """Put a publisher through the contract of `Publisher`.

    Args:
        make: Returns a fresh publisher that has published nothing.
        changes: At least three consecutive changes from version 0 on; None: small ones are made.
        reopen: Opens anew what the given publisher wrote, as another process would after a crash.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.testing.fakes import DictPublisher
        >>> check_publisher(DictPublisher, reopen=lambda one: DictPublisher(one.kept)).untried
        ()
    """
    contract, publisher = Contract("Publisher"), make()
    given = list(changes or toy_changes())
    contract.require(1, publisher.last().number == -1, f"last is {publisher.last()}")
    contract.refuses(3, lambda: publisher.publish(given[1]), "version 1 as the first one", GapError)
    contract.require(3, publisher.last().number == -1, "last moved after a refused first version")
    for number, change in enumerate(given[:-1]):
        _published(contract, publisher, change)
        skipped = replace(change, version=Version(number + 2, number + 1))
        contract.refuses(3, partial(publisher.publish, skipped), f"{number + 2} after {number}", GapError)
        contract.require(3, publisher.last().number == number, "last moved after a refused gap")
    top = len(given) - 2
    _repeats(contract, 4, 5, publisher, given[: top + 1])
    if reopen is not None:
        again = reopen(publisher)
        contract.require(6, again.last().number == top, f"opened again, last is {again.last()}, expected {top}")
        _repeats(contract, 6, 6, again, given[: top + 1])
        _published(contract, again, given[-1])
        contract.require(6, reopen(again).last().number == top + 1, "what was published after reopening is not there")
    else:
        _published(contract, publisher, given[-1])
    return contract.verdict()


def _published(contract: Contract, publisher: Publisher, change: Change) -> None:
    returned = publisher.publish(change)
    number = change.version.number
    contract.require(2, returned.version.number == number, f"version {number} came back as {returned.version.number}")
    contract.require(2, returned.checksum() == change.checksum(), f"version {number} came back with other content")
    contract.require(2, publisher.last().number == number, f"last is {publisher.last()} after version {number}")


def _repeats(contract: Contract, same: int, other: int, publisher: Publisher, given: Sequence[Change]) -> None:
    top = given[-1].version.number
    for change in reversed(given):
        number = change.version.number
        try:
            returned = publisher.publish(change)
        except GapError as error:
            contract.fail(same, f"version {number} repeated was refused: {error}")
        else:
            unchanged = returned.checksum() == change.checksum()
            contract.require(same, unchanged, f"version {number} repeated came back with other content")
        altered = replace(change, dense={**change.dense, "stranger": torch.ones(1)})
        contract.refuses(other, partial(publisher.publish, altered), f"a different version {number}", GapError)
        for clause in (same, other):
            contract.require(clause, publisher.last().number == top, f"last moved to {publisher.last()}")


def check_predictor(
    make: Callable[[], Predictor], requests: Events, changes: Sequence[Change], *, full: Change | None = None,
    absolute: float = 1e-6,
) -> Verdict:  # fmt: skip
    """Put a predictor through the contract of `Predictor`.

    Args:
        make: Returns a fresh predictor without a version, every time with the same configuration.
        requests: At least four request rows.
        changes: At least three consecutive changes; a fresh predictor can take the first.
        full: The version of the last change as one full change.
        absolute: How far scores may be apart when the same row is asked with other rows (matrix products of other
            shapes round differently); everything else is compared to the bit.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.
    """
    contract, predictor = Contract("Predictor"), make()
    _gap_at_first(contract, predictor, changes)
    answers: list[Events] = []
    for number, change in enumerate(changes):
        predictor.apply(change)
        answers.append(predictor.predict(requests))
        _answers(contract, requests, answers[-1], change.version.number)
        contract.same(3, first_difference(answers[-1], predictor.predict(requests)), "asked twice")
        for passed in [*changes[:number], change]:
            predictor.apply(passed)
            same = first_difference(answers[-1], predictor.predict(requests))
            contract.same(5, same, f"after version {passed.version.number} again at version {change.version.number}")
        beyond = number + 2
        if beyond < len(changes):
            contract.refuses(6, partial(predictor.apply, changes[beyond]), f"version {beyond} at {number}", GapError)
            contract.same(6, first_difference(answers[-1], predictor.predict(requests)), "after a refused gap")
    plain = make()
    for number, change in enumerate(changes):
        plain.apply(change)
        contract.same(7, first_difference(answers[number], plain.predict(requests)), f"at version {number}")
    _rows_alone(contract, predictor, requests, answers[-1], absolute)
    _while_applying(contract, make(), requests, changes, answers)
    if full is not None:
        jumped = make()
        jumped.apply(full)
        contract.same(9, first_difference(answers[-1], jumped.predict(requests)), "after one full change")
    return contract.verdict()


def _gap_at_first(contract: Contract, predictor: Predictor, changes: Sequence[Change]) -> None:
    contract.refuses(6, lambda: predictor.apply(changes[2]), "version 2 on a fresh predictor", GapError)


def _answers(contract: Contract, requests: Events, answers: Events, number: int) -> None:
    contract.require(1, len(answers) == len(requests), lambda: f"{len(answers)} answers to {len(requests)} rows")
    for name in ("key", "event_time", "item"):
        same = first_difference(requests.column(name).to_pylist(), answers.column(name).to_pylist(), path=name)
        contract.same(1, same, "the answers' columns")
    kinds = set(answers.column("kind").to_pylist())
    contract.require(1, kinds == {"prediction"}, f"kinds are {sorted(kinds)}")
    kind = str(answers.column("score").type)
    contract.require(2, kind == "float", f"score is a column of {kind}")
    scores = np.asarray(answers.column("score").to_numpy(zero_copy_only=False), dtype=np.float64)
    good = bool(np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all())
    contract.require(2, good, lambda: f"scores run from {np.min(scores)} to {np.max(scores)}")
    versions = set(answers.column("version").to_pylist())
    contract.require(2, versions == {number}, f"versions are {sorted(versions)} at version {number}")


def _rows_alone(contract: Contract, predictor: Predictor, requests: Events, answers: Events, absolute: float) -> None:
    for start in range(0, len(requests), 3):
        piece = predictor.predict(requests.slice(start, 3))
        same = first_difference(answers.slice(start, 3), piece, Tolerance(absolute))
        contract.same(4, same, f"rows {start} to {start + 2} asked alone")
    twice = predictor.predict(Events.concat([requests, requests])).slice(len(requests), len(requests))
    contract.same(4, first_difference(answers, twice, Tolerance(absolute)), "asked behind the same rows")


def _while_applying(
    contract: Contract, predictor: Predictor, requests: Events, changes: Sequence[Change], answers: Sequence[Events]
) -> None:
    """Predict in two threads while another one applies the changes; every answer has to be one of the known ones."""
    predictor.apply(changes[0])
    seen: list[Events] = []
    wrong: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                seen.append(predictor.predict(requests))
        except Exception as error:  # noqa: BLE001  whatever comes is the finding
            wrong.append(f"predict raised {type(error).__name__} while a change was applied: {error}")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for change in changes[1:]:
            reached = len(seen) + 2
            while len(seen) < reached and not wrong:
                stop.wait(0.001)
            predictor.apply(change)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    known = {events.column("version").to_pylist()[0]: events for events in answers}
    for answer in seen:
        versions = answer.column("version").to_pylist()
        contract.require(8, len(set(versions)) == 1, f"one answer names the versions {sorted(set(versions))}")
        contract.require(8, versions[0] in known, f"an answer names version {versions[0]}, which was not applied")
        contract.same(8, first_difference(known[versions[0]], answer), "an answer given while a change was applied")
    contract.require(8, not wrong, lambda: wrong[0])


def check_checkpoint(
    make: Callable[[], Checkpoint], *, reopen: Callable[[Checkpoint], Checkpoint] | None = None
) -> Verdict:
    """Put a checkpoint through its contract.

    Args:
        make: Returns a fresh checkpoint in which nothing was saved.
        reopen: Opens anew what the given checkpoint wrote, as another process would after a crash.

    Returns:
        Which clauses held and which could not be tried.

    Raises:
        ContractViolation: At the first clause that does not hold.

    Example:
        >>> from headrace.testing.fakes import MemoryCheckpoint
        >>> check_checkpoint(MemoryCheckpoint, reopen=lambda one: one).untried
        ()
    """
    contract, checkpoint = Contract("Checkpoint"), make()
    contract.require(1, checkpoint.load() is None, "load gave a state before anything was saved")
    for turn in range(4):
        state: State = {
            "turn": turn, "name": "ü\n", "none": None, "flag": True, "rate": float("inf"), "bytes": b"\x00\xff",
            "nothing": {}, "list": [1, "two", {"three": [3.0, None]}], "big": 2**63 - 1,
            "deep": {"tensor": torch.arange(6).reshape(2, 3) + turn, "empty": torch.zeros(0, 4)},
            "numbers": {"f32": torch.tensor([0.1, float("nan"), -0.0]), "i64": torch.tensor([-(2**63), 2**63 - 1])},
            "kinds": {"bool": torch.tensor([True, False]), "f64": torch.tensor(0.1, dtype=torch.float64)},
        }  # fmt: skip
        frozen = copied_state(state)
        checkpoint.save(state)
        contract.same(2, first_difference(frozen, checkpoint.load()), f"after save {turn}")
        deep = state["deep"]
        assert isinstance(deep, dict)
        assert isinstance(deep["tensor"], torch.Tensor)
        deep["tensor"].zero_()
        loaded = checkpoint.load()
        contract.same(3, first_difference(frozen, loaded), "after changing the state that had been saved")
        if loaded is not None:
            loaded.clear()
        contract.same(3, first_difference(frozen, checkpoint.load()), "after changing the state that had been loaded")
        if reopen is not None:
            contract.same(4, first_difference(frozen, reopen(checkpoint).load()), f"opened again after save {turn}")
    return contract.verdict()
