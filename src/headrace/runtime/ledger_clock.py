"""When leases end, and which of them has most left: two heaps whose stale entries are put right as they are met."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace

from headrace.runtime.ledger_parts import Held


class LeaseClock:
    """Deadlines and sizes of the living leases; all of it can be made anew, nothing is kept on disk.

    Args:
        held: The ledger's leases by fence, as they are at any time.
        deadline: When those that are there end.

    Cost: O(log n) per lease started or ended; `renew` is O(1).
    """

    def __init__(self, held: dict[int, Held], deadline: float) -> None:
        self._held = held
        self.deadlines = dict.fromkeys(held, deadline)
        self._ends = [(deadline, fence) for fence in held]
        self._largest = sorted((-one.part.ranges.rows, fence) for fence, one in held.items())

    def start(self, fence: int, deadline: float) -> None:
        """Start the clock of a lease."""
        self.deadlines[fence] = deadline
        heappush(self._ends, (deadline, fence))
        heappush(self._largest, (-self._held[fence].part.ranges.rows, fence))

    def renew(self, fence: int, deadline: float) -> None:
        """Put the end of a lease off."""
        self.deadlines[fence] = max(deadline, self.deadlines[fence])

    def stop(self, fence: int) -> None:
        """Forget a lease that ended."""
        self.deadlines.pop(fence, None)

    def over(self, now: float) -> Iterator[int]:
        """Yield the leases that ended before `now`."""
        while self._ends and self._ends[0][0] < now:
            fence = self._ends[0][1]
            deadline = self.deadlines.get(fence)
            if deadline is not None and deadline >= now:
                heapreplace(self._ends, (deadline, fence))
                continue
            heappop(self._ends)
            if deadline is not None:
                yield fence

    def largest(self, least: int, but: str) -> Held | None:
        """Return the lease with most rows left, if it has `least` or more, that is not held by worker `but`."""
        own, found = list[tuple[int, int]](), None
        while found is None and self._largest and -self._largest[0][0] >= least:
            rows, fence = self._largest[0]
            held = self._held.get(fence)
            if held is None:
                heappop(self._largest)
            elif held.part.ranges.rows != -rows:
                heapreplace(self._largest, (-held.part.ranges.rows, fence))
            elif held.worker == but:
                own.append(heappop(self._largest))
            else:
                found = held
        for item in own:
            heappush(self._largest, item)
        return found
