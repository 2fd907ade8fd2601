"""What a head is asked: names of its calls."""

from __future__ import annotations

__all__ = ["METHODS"]

METHODS = (
    "add", "bad", "beat", "buckets", "enter", "farewell", "hand_over", "handed", "ordered", "orders", "plans", "push",
    "result", "save", "saves", "set_server", "status", "vote", "work",
)  # fmt: skip
