"""What a server tells of the versions that it is not given: on hold, pending, refused."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.publish.guard import describe
from headrace.publish.replica import ChangeSource
from headrace.publish.standing import Standing
from headrace.serve.metrics import Reading


def standing_of(source: ChangeSource) -> Standing | None:
    """Return how the publisher stands, where the source of versions knows it: in the run's own folder."""
    standing = getattr(source, "standing", None)
    found = standing() if callable(standing) else None
    return found if isinstance(found, Standing) else None


def standing_facts(source: ChangeSource) -> dict[str, object]:
    """Return it as plain values; empty where it is not known or nothing is held back."""
    standing = standing_of(source)
    if standing is None or not (standing.hold or standing.pending_changes or standing.refused):
        return {}
    return {"held_back": {
        "hold": None if standing.hold is None else standing.hold.reason, "pending_changes": standing.pending_changes,
        "refused": standing.refused, "verdict": describe(standing.verdict) or None,
    }}  # fmt: skip


def standing_gauges(source: ChangeSource) -> Iterator[Reading]:
    """Yield it for Prometheus."""
    standing = standing_of(source)
    if standing is None:
        return
    yield "headrace_versions_held", "Whether versions are on hold.", [({}, float(standing.hold is not None))]
    yield ("headrace_pending_changes", "Changes of the learner that are in no version yet.",
           [({}, float(standing.pending_changes))])  # fmt: skip
    yield "headrace_refused_versions", "Candidates that the guard refused ever.", [({}, float(standing.refused))]
