"""The publisher that works behind the learner, put through the contract of `Publisher`."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.learn import PublishBehind
from headrace.testing import DictPublisher, check_publisher
from headrace.testing.publish_checks import toy_changes


def publishers() -> Iterator[tuple]:
    def behind(_) -> object:
        opened: dict[int, DictPublisher] = {}

        def make(kept: DictPublisher | None = None) -> PublishBehind:
            inner = kept or DictPublisher()
            publisher = PublishBehind(inner)
            opened[id(publisher)] = inner
            return publisher

        def reopen(one: PublishBehind) -> PublishBehind:
            one.wait()
            return make(DictPublisher(opened[id(one)].kept))

        return check_publisher(make, changes=toy_changes(6), reopen=reopen)

    yield "Publisher", PublishBehind, behind


CASES = [publishers]
