"""Feedback: whoever answers. Here: users of simulated worlds, crowds of annotators, and what to ask them."""

from headrace.feedback.annotators import METHODS, LabelConfig, Labels, aggregate, groups_test
from headrace.feedback.annotators_permutation import GroupTest
from headrace.feedback.annotators_rates import Rates
from headrace.feedback.annotators_stream import LabelStream
from headrace.feedback.crowd import Answers, Attribute
from headrace.feedback.query import (
    Always,
    CommitteeMargin,
    Opinion,
    OwnMargin,
    PeerMargin,
    QueryBudget,
    QueryRule,
    choose,
)
from headrace.feedback.reward import ModelReward, RewardFeedback, SumOfRewards, TextReward, best_of
from headrace.feedback.reward_server import ServerReward
from headrace.feedback.simulate import World
from headrace.feedback.text_judge import TextJudge, broken
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
    "Always",
    "Answers",
    "Attribute",
    "CommitteeMargin",
    "DelayPart",
    "FeatureDescription",
    "GroupTest",
    "LabelConfig",
    "LabelStream",
    "Labels",
    "ModelReward",
    "Opinion",
    "OwnMargin",
    "PeerMargin",
    "Place",
    "QueryBudget",
    "QueryRule",
    "Rates",
    "RewardFeedback",
    "ServerReward",
    "SumOfRewards",
    "TextJudge",
    "TextReward",
    "World",
    "WorldConfig",
    "aggregate",
    "best_of",
    "broken",
    "choose",
    "groups_test",
]
