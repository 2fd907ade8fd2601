"""How much of what was taken waits to be learned: what a server looks at before it takes more."""

from __future__ import annotations

from headrace.data import EmbeddedLog
from headrace.data.join_log import JoinProgress
from headrace.errors import HeadraceError
from headrace.online.language_config import RunConfig
from headrace.online.layout import EVENTS, EXAMPLES, RunFolder

JOINER = "joiner"


class Backlog:
    """Rows that a run has taken and not yet learned: events that are not joined, examples that are not learned.

    Args:
        config: The run.
        folder: Its folder.
        events: Its event log, as the server has it open.

    Example of use: `create_app(..., backlog=Backlog(config, folder, events))`.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, events: EmbeddedLog) -> None:
        self.config, self.folder, self.events = config, folder, events
        self._examples: EmbeddedLog | None = None

    def __call__(self) -> int | None:
        """Return how many rows wait; None if that cannot be read now."""
        try:
            taken = self.events.rows(EVENTS)
            if self._examples is None:
                path = self.folder.log(EXAMPLES)
                if not path.exists():  # nobody has joined anything yet, or somebody does it elsewhere
                    return taken
                self._examples = EmbeddedLog(path, durability=self.config.durability)
            joined = JoinProgress.from_bytes(self._examples.state(f"{JOINER}/progress")).rows
            learned = self.folder.read_status("learner").get("examples")
            waiting = self._examples.rows(EXAMPLES) - learned if isinstance(learned, int) else 0
        except HeadraceError:
            return None
        return max(taken - joined, 0) + max(waiting, 0)
