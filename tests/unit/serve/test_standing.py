from __future__ import annotations

from pathlib import Path

from headrace.data.log import EmbeddedLog
from headrace.publish import ChangeReader, LogPublisher, Replica, Sluice, place
from headrace.serve.follow import Follower
from headrace.serve.standing import standing_facts, standing_gauges
from headrace.types import Change, Version


def test_what_is_held_back_is_told(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "changes.db", durability="process")
    sluice = Sluice(LogPublisher(log, tmp_path / "s"))
    reader = ChangeReader(EmbeddedLog(log.path, durability="process"), tmp_path / "s")
    sluice.publish(Change(version=Version(0), full=True))
    assert standing_facts(reader) == {}
    place(log, "hold", reason="night")
    sluice.publish(Change(version=Version(1, 0)))
    assert standing_facts(reader) == {
        "held_back": {"hold": "night", "pending_changes": 1, "refused": 0, "verdict": None}}  # fmt: skip
    gauges = {name: values[0][1] for name, _, values in standing_gauges(reader)}
    assert gauges == {"headrace_versions_held": 1.0, "headrace_pending_changes": 1.0, "headrace_refused_versions": 0.0}
    follower = Follower(Replica({}), reader)
    assert "held_back" in follower.health()
    assert "headrace_versions_held" in {name for name, _, _ in follower.gauges()}


def test_a_source_that_does_not_know_tells_nothing() -> None:
    assert standing_facts(object()) == {}  # type: ignore[arg-type]
    assert list(standing_gauges(object())) == []  # type: ignore[arg-type]
