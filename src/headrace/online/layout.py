"""The folder of one run: which file belongs to which hand-over, and small status files for people to watch."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

ROLES = ("joiner", "learner", "publisher", "server")
EVENTS, EXAMPLES, STAGED, CHANGES = "events", "examples", "staged", "changes"
ITEMS = "items"
"""The item catalogue, of servers that recommend."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run. Every hand-over between processes is one durable log; nothing else is shared.

    events.db (server → joiner), examples.db (joiner → learner, with the joiner's own state), staged.db
    (learner → publisher), changes.db and snapshots/ (publisher → replicas), acknowledgements/ (replicas → publisher),
    readers/ (further readers of the events → joiner), checkpoint/ (the learner's manifest), statistics.preparation
    (what rows are prepared with, if they are), feed/ (where a played log stands), status/ (progress, for views; losing
    it loses nothing).
    """

    root: Path

    def log(self, name: str) -> Path:
        """Return the path of the log called `name`."""
        return self.root / f"{name}.db"

    @property
    def checkpoint(self) -> Path:
        """The learner's manifests."""
        return self.root / "checkpoint"

    @property
    def snapshots(self) -> Path:
        """Full snapshots of published versions."""
        return self.root / "snapshots"

    @property
    def acknowledgements(self) -> Path:
        """What each replica says it holds, one small file per replica."""
        return self.root / "acknowledgements"

    @property
    def preparation(self) -> Path:
        """The statistics that rows are prepared with; not there for models of raw rows."""
        return self.root / "statistics.preparation"

    @property
    def erasures(self) -> Path:
        """Who is to be forgotten, and who was; the key of its hashes lies beside it."""
        return self.root / "erasures.db"

    @property
    def feed(self) -> Path:
        """Where the player of a recorded log stands."""
        return self.root / "feed"

    @property
    def report(self) -> Path:
        """Where the report is written."""
        return self.root / "report"

    def write_status(self, role: str, values: dict[str, object]) -> None:
        """Replace a role's status file atomically; no fsync, because it is only for watching."""
        folder = self.root / "status"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{role}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({"time": time.time(), "pid": os.getpid(), **values}))
        os.replace(temporary, folder / f"{role}.json")

    def read_status(self, role: str) -> dict[str, object]:
        """Return the newest status of a role; empty when there is none."""
        try:
            values = json.loads((self.root / "status" / f"{role}.json").read_text())
        except (OSError, json.JSONDecodeError):
            return {}
        return values if isinstance(values, dict) else {}
