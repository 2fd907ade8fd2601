"""The head of an asynchronous run: as that of a synchronous one, with pushes in the place of steps that all take."""

from __future__ import annotations

from typing import Any

from headrace.elastic.async_commits import AsyncCommits
from headrace.elastic.head import Head
from headrace.elastic.transactions import Transaction
from headrace.runtime.frames import Request
from headrace.runtime.work_queue import Contribution

OWN = ("push", "work")
UNUSED = ("add", "hand_over", "handed", "plans", "save", "saves", "vote")


class AsyncHead(Head):
    """The head of an asynchronous run; arguments as for `Head`."""

    def conduct(self) -> Any:
        """Return what decides about rows and pushes."""
        config = self.config
        return AsyncCommits(self.queue, self.members, self.controller, self.servers, begin_with=config.workers,
                            max_staleness=config.max_staleness, on_commit=self._committed)  # fmt: skip

    def methods(self) -> dict[str, Any]:
        """Return what is answered, by name."""
        known = super().methods()
        return {name: call for name, call in known.items() if name not in UNUSED} | {
            name: getattr(self, f"_answer_{name}") for name in OWN
        }

    def status(self) -> dict[str, Any]:
        """Return what people may want to see of the run, with how old the parameters were that pushes came from."""
        with self.conductor.turn:
            staleness = {str(steps): count for steps, count in sorted(self.conductor.staleness.items())}
        return super().status() | {"staleness": staleness}

    def _answer_work(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = self.conductor.work(str(request.fields["worker"]), int(request.fields["epoch"]))
        return found

    def _answer_push(self, request: Request) -> dict[str, Any]:
        fields = request.fields
        contributions = [Contribution(str(shard), int(fence), int(start), int(stop))
                         for shard, fence, start, stop in fields["contributions"]]  # fmt: skip
        found: dict[str, Any] = self.conductor.push(
            Transaction.parse(fields["transaction"]), contributions, int(fields["pulled"]), float(fields["seconds"]),
            int(fields["newest"]))  # fmt: skip
        return found
