"""A request that is answered with an error, before any web framework is involved."""

from __future__ import annotations

import math

from headrace.errors import HeadraceError


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        error: What is wrong, in four parts.
        headers: Further headers of the answer.
        more: Further fields of the answer.
    """

    def __init__(
        self, status: int, error: HeadraceError, headers: dict[str, str] | None = None, *,
        more: dict[str, object] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(str(error))
        self.status, self.error, self.headers, self.more = status, error, headers or {}, more or {}


def again_after(seconds: float) -> dict[str, str]:
    """Return the header that says when to come again, in whole seconds.

    Example:
        >>> again_after(0.2)
        {'retry-after': '1'}
    """
    return {"retry-after": str(max(math.ceil(seconds), 1))}
