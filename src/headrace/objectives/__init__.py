"""Objectives: a method's loss, stateless, as a frozen dataclass that is called with (model, batch)."""

from __future__ import annotations

from headrace.objectives.sampling import (
    SamplingCorrection,
    Where,
    check_applied_once,
    correct_logit,
    correct_probability,
)
from headrace.objectives.supervised import LogLoss

__all__ = [
    "LogLoss",
    "SamplingCorrection",
    "Where",
    "check_applied_once",
    "correct_logit",
    "correct_probability",
]
