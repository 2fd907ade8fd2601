"""How a contract is written down and how a part fails it: numbered clauses, and one error that names the clause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from headrace.errors import HeadraceError


class ContractViolation(AssertionError):
    """A part does not keep a clause of its role's contract.

    Args:
        role: The role, `Table`.
        clause: The clause's number in `clauses(role)`.
        text: The clause.
        why: What the part did instead.

    Example:
        >>> str(ContractViolation("Table", 3, "lookup has no side effects", "mark moved from 0 to 1"))
        'Table, clause 3: lookup has no side effects. Here: mark moved from 0 to 1.'
    """

    def __init__(self, role: str, clause: int, text: str, why: str) -> None:
        self.role, self.clause, self.text, self.why = role, clause, text, why
        super().__init__(f"{role}, clause {clause}: {text.rstrip('.')}. Here: {why.rstrip('.')}.")

    def __reduce__(self) -> tuple[type[ContractViolation], tuple[str, int, str, str]]:
        """Rebuild from the four parts, so that the error crosses process borders whole."""
        return (ContractViolation, (self.role, self.clause, self.text, self.why))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: the clauses that were tried and held, and those that it could not try with what it was given.

    Attributes:
        role: The role.
        held: Numbers of the clauses that held.
        untried: Numbers of the clauses for which the caller gave no means (no other configuration, no way to reopen).
    """

    role: str
    held: tuple[int, ...]
    untried: tuple[int, ...]


CONTRACTS: dict[str, dict[int, str]] = {}
"""Role -> number -> clause; filled by the modules that hold the checks."""


def clauses(role: str) -> Mapping[int, str]:
    """Return the numbered clauses of a role's contract.

    Example:
        >>> from headrace.testing import checks
        >>> clauses("WorkQueue")[1]
        'a lease goes to one worker at a time; None when no shard is free'
    """
    return dict(CONTRACTS[role])


@dataclass(slots=True)
class Contract:
    """The clauses of one role while one part is put through them."""

    role: str
    held: list[int] = field(default_factory=list)

    def require(self, clause: int, condition: bool, why: str | Callable[[], str]) -> None:
        """Raise ContractViolation unless the condition holds; `why` may be computed only when needed."""
        if not condition:
            self.fail(clause, why if isinstance(why, str) else why())
        if clause not in self.held:
            self.held.append(clause)

    def same(self, clause: int, difference: str | None, what: str) -> None:
        """Raise ContractViolation when there is a difference (as `equivalence.first_difference` words it)."""
        self.require(clause, difference is None, f"{what}: {difference}")

    def refuses(self, clause: int, call: Callable[[], object], what: str, *errors: type[Exception]) -> None:
        """Require that the call raises one of `errors` (any HeadraceError when none is named)."""
        expected = errors or (HeadraceError,)
        wanted = " or ".join(error.__name__ for error in expected)
        try:
            call()
        except expected:
            self.require(clause, True, "")
            return
        except Exception as error:  # noqa: BLE001  whatever else comes is the finding
            self.fail(clause, f"{what} raised {type(error).__name__} ({error}), expected {wanted}")
        self.fail(clause, f"{what} was accepted, expected {wanted}")

    def fail(self, clause: int, why: str) -> None:
        """Raise ContractViolation."""
        raise ContractViolation(self.role, clause, CONTRACTS[self.role][clause], why)

    def verdict(self) -> Verdict:
        """Return what was tried."""
        untried = tuple(number for number in CONTRACTS[self.role] if number not in self.held)
        return Verdict(self.role, tuple(sorted(self.held)), untried)
