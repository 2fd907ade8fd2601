"""Contract checks: put any part, ours or yours, through the contract of its role.

Every role of `headrace.protocols` has numbered clauses (`clauses("Table")` lists them) and one function here that tries
them on fresh parts and raises `ContractViolation`, naming the clause and what the part did instead. A part that passes
can take its place in the loop. The functions return a `Verdict`, which also names the clauses that could not be tried
with what they were given.

Example:
    >>> from headrace.testing.fakes import DictPublisher
    >>> check_publisher(DictPublisher)
    Verdict(role='Publisher', held=(1, 2, 3, 4, 5), untried=(6,))
    >>> class Forgetful(DictPublisher):
    ...     def publish(self, change):
    ...         self.kept[change.version.number] = change
    ...         return change
    >>> check_publisher(Forgetful)
    Traceback (most recent call last):
    headrace.testing.contract.ContractViolation: Publisher, clause 3: a number that is not the next one is refused ...
"""

from __future__ import annotations

from headrace.testing.contract import ContractViolation, Verdict, clauses
from headrace.testing.joiner_checks import Chunk, check_joiner
from headrace.testing.learner_checks import check_learner, check_objective
from headrace.testing.publish_checks import check_checkpoint, check_predictor, check_publisher
from headrace.testing.source_checks import check_feedback, check_source, check_work_queue
from headrace.testing.state_checks import check_cadence, check_metric, check_resumable
from headrace.testing.table_checks import check_table

__all__ = [
    "Chunk",
    "ContractViolation",
    "Verdict",
    "check_cadence",
    "check_checkpoint",
    "check_feedback",
    "check_joiner",
    "check_learner",
    "check_metric",
    "check_objective",
    "check_predictor",
    "check_publisher",
    "check_resumable",
    "check_source",
    "check_table",
    "check_work_queue",
    "clauses",
]
