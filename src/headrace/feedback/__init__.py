"""Feedback: whoever answers a prediction. Here: simulated users of a world whose truth is known."""

from headrace.feedback.simulate import World
from headrace.feedback.world_config import (
    FEATURES,
    REFERENCE_POSITION,
    SECONDS_TO_HOURS,
    DelayPart,
    FeatureDescription,
    Place,
    WorldConfig,
)

__all__ = [
    "FEATURES",
    "REFERENCE_POSITION",
    "SECONDS_TO_HOURS",
    "DelayPart",
    "FeatureDescription",
    "Place",
    "World",
    "WorldConfig",
]
