"""The publisher's process: takes what the learner staged and lets it through."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.data.log import EmbeddedLog
from headrace.errors import StaleError
from headrace.publish.change_log import ChangeLog
from headrace.publish.guard import Guard
from headrace.publish.publisher import LogPublisher
from headrace.publish.sluice import Sluice
from headrace.types import Version

IDLE_S = 0.005
TRIM_EVERY = 16


def relay(
    staged: EmbeddedLog, publisher: LogPublisher | Sluice, *, topic: str = "staged",
    stop: Callable[[], bool] = lambda: False, idle_s: float = IDLE_S,
    on_progress: Callable[[Version], None] | None = None, guard: Guard | None = None,
) -> int:  # fmt: skip
    """Take what the learner staged, in order and each change once, until the topic is closed and drained.

    Orders (`headrace.publish.orders`) are carried out in between. The publisher's log says where to go on, so the
    process may be killed at any instant: a change that was taken and not yet removed here is recognised by its number.
    Staged entries are removed once they are taken; their checksums stay for the learner.

    Args:
        staged: The log that a `StagingPublisher` writes.
        publisher: Who publishes.
        topic: The staged topic.
        stop: Asked before every change and while idle; True ends the loop, and nothing is lost.
        idle_s: Pause when nothing is staged.
        on_progress: Called with the newest version after every change that was taken.
        guard: Judges candidates, where `publisher` is not a `Sluice` yet.

    Returns:
        How many of the changes that were staged have gone through.

    Raises:
        StaleError: If changes that the publisher lacks were removed here: its log was lost.
    """
    sluice = publisher if isinstance(publisher, Sluice) else Sluice(publisher, guard=guard)
    source = ChangeLog(staged, topic)
    first, following = source.first(), sluice.standing.following
    if first > following:
        raise StaleError(
            f"Published log {sluice.durable.log.path}", got=f"the learner's change {following - 1} as the newest one",
            expected=f"at least {first - 1}, because older staged changes were removed after they were published",
            do="The published log was lost or replaced; restore it from a copy, or begin a new run.",
        )  # fmt: skip
    passed = following - first
    sluice.retry()
    while not stop():
        before = following
        obeyed = sluice.obey()
        sluice.published.clear()  # replicas find them in the log
        for change in source.read_since(following - 1):
            sluice.publish(change)
            following, passed = change.version.number + 1, passed + 1
            if on_progress is not None:
                on_progress(sluice.publisher.last())
            if following % TRIM_EVERY == 0:
                source.trim(following)
            sluice.published.clear()
            if stop():
                break
        if following > source.first():
            source.trim(following)
        if following == before:
            if obeyed and on_progress is not None:
                on_progress(sluice.publisher.last())
            if staged.is_closed(topic) and following > source.last().number:
                break
            time.sleep(idle_s)
    return passed
