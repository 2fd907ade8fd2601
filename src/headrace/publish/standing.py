"""How a publisher stands beside its versions: what waits and why, what was refused, what is being erased."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from headrace.data.log import EmbeddedLog
from headrace.errors import CorruptSnapshot
from headrace.types import NO_VERSION

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why learned changes wait although nothing is wrong with them, and since when (wall-clock µs)."""

    reason: str
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Ids that are being erased: the learner's changes up to `through` may still put them (None: not known yet)."""

    tables: dict[str, list[int]]
    through: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the publisher stands beside its versions.

    Attributes:
        following: Number of the learner's change that comes next; all before it are published or pending.
        published: The newest version when this was written.
        checked_from: The learner's number from which on checksums are kept here; those before it are the versions'.
        pending_from: Offset of the first pending piece in its topic.
        pending_changes: How many of the learner's changes are not in the newest version; those that a rollback took
            back are among them.
        orders: The next order to be carried out.
        hold: Set while learned changes wait for a release.
        refused: How many candidates were refused ever.
        verdict: What was said of the newest candidate, if it was refused and nothing was published since.
        cuts: Erasures that the learner has not taken notice of yet.
        erasures: How many erasures there were ever.
    """

    following: int
    published: int = NO_VERSION
    checked_from: int = 0
    pending_from: int = 0
    pending_changes: int = 0
    orders: int = 0
    hold: Hold | None = None
    refused: int = 0
    verdict: dict[str, object] | None = None
    cuts: tuple[Cut, ...] = ()
    erasures: int = 0

    @staticmethod
    def plain(last: int) -> Standing:
        """Return how a publisher stands that has published all of the learner's changes, one by one."""
        return Standing(following=last + 1, published=last, checked_from=last + 1)

    def to_bytes(self) -> bytes:
        """Return the standing as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Standing:
        """Read what `to_bytes` wrote.

        Raises:
            CorruptSnapshot: If it is something else.
        """
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            hold, cuts = values.pop("hold"), tuple(Cut(**cut) for cut in values.pop("cuts"))
            return Standing(hold=None if hold is None else Hold(**hold), cuts=cuts, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptSnapshot("Standing of the publisher", got=str(error), expected="what this release wrote",
                                  do="Use the release that wrote it, or restore the log.") from error  # fmt: skip


def standing_name(topic: str) -> str:
    """Return the name of the state that holds the standing of a versions' topic."""
    return f"{topic}-standing"


def read_standing(log: EmbeddedLog, topic: str = "changes") -> Standing:
    """Return how the publisher of a log stands; of one that never held anything back, what follows from the log."""
    raw = log.state(standing_name(topic))
    return Standing.plain(log.end(topic) - 1) if raw is None else Standing.from_bytes(raw)
