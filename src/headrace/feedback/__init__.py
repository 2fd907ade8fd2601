"""Feedback: whoever answers. Here: simulated users of a world whose truth is known, and crowds of annotators."""

from headrace.feedback.annotators import METHODS, LabelConfig, Labels, aggregate, groups_test
from headrace.feedback.annotators_permutation import GroupTest
from headrace.feedback.annotators_rates import Rates
from headrace.feedback.annotators_stream import LabelStream
from headrace.feedback.crowd import Answers, Attribute
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
    "METHODS",
    "REFERENCE_POSITION",
    "SECONDS_TO_HOURS",
    "Answers",
    "Attribute",
    "DelayPart",
    "FeatureDescription",
    "GroupTest",
    "LabelConfig",
    "LabelStream",
    "Labels",
    "Place",
    "Rates",
    "World",
    "WorldConfig",
    "aggregate",
    "groups_test",
]
