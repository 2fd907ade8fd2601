"""How often somebody may ask: one token bucket per bearer or address, in bounded memory."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from headrace.config import require

MOST = 65_536


class Buckets:
    """Token buckets: each refills at `rate` a second up to `burst`, and every request takes one.

    The least recently used bucket is forgotten when there are more than `most`; whoever it was begins again with a
    full one. So memory is bounded whatever addresses are made up.

    Args:
        rate: Requests per second that may go on for ever.
        burst: Requests that may come at once.
        most: Buckets that are kept.
        now: A clock in seconds that never goes back.

    Raises:
        ConfigError: If a number is not positive.

    Thread-safety: may be used from several threads.

    Example:
        >>> clock = iter([0.0, 0.0, 0.0, 0.5])
        >>> buckets = Buckets(2.0, 2, now=lambda: next(clock))
        >>> [buckets.take("a") for _ in range(4)]
        [0.0, 0.0, 0.5, 0.0]
    """

    def __init__(
        self, rate: float, burst: float, *, most: int = MOST, now: Callable[[], float] = time.monotonic
    ) -> None:
        require(rate > 0, "rate", got=rate, expected="a positive number of requests per second")
        require(burst >= 1, "burst", got=burst, expected="at least 1 request")
        require(most >= 1, "most", got=most, expected="a positive integer")
        self.rate, self.burst, self.most, self._now = rate, burst, most, now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, who: str) -> float:
        """Take one, and return 0; if there is none, return in how many seconds there will be."""
        with self._lock:
            left = self._level(who)
            if left < 1:
                return (1 - left) / self.rate
            self._buckets[who] = (left - 1, self._buckets[who][1])
            return 0.0

    def _level(self, who: str) -> float:
        now = self._now()
        level, since = self._buckets.get(who, (self.burst, now))
        level = min(level + max(now - since, 0.0) * self.rate, self.burst)
        self._buckets[who] = (level, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > self.most:
            self._buckets.popitem(last=False)
        return level


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return what one client is counted by: its IPv4 address, or the /64 that an IPv6 client may choose from.

    Example:
        >>> network_of("192.0.2.7"), network_of("2001:db8:1:2:3:4:5:6"), network_of("::ffff:192.0.2.7")
        ('192.0.2.7', '2001:db8:1:2::/64', '192.0.2.7')
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
