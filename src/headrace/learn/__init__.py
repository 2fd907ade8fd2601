"""Learning: the learner that owns a model's training state, and the checkpoints that keep it."""

from __future__ import annotations

from headrace.learn.checkpoint import CheckpointEntry, ManifestCheckpoint
from headrace.learn.committee import CommitteeConfig, CommitteeLearner, Lesson, first_affinity, lesson
from headrace.learn.dense_only import dense_learner
from headrace.learn.evolve import evolve
from headrace.learn.language_fit import LanguageFit, fit_language, likelihood_of
from headrace.learn.learner import RankLearner
from headrace.learn.learner_config import LearnerConfig
from headrace.learn.ledger import LEDGER, ledger_config, open_ledger, times_learned
from headrace.learn.pipeline import Pipeline, PipelineConfig, try_micro_batches
from headrace.learn.policy_config import CriticCredit, GroupCredit, KLControl, PolicyConfig
from headrace.learn.policy_learner import PolicyLearner
from headrace.learn.preference_learner import PreferenceConfig, PreferenceLearner
from headrace.learn.read_ahead import ReadAhead
from headrace.learn.stages import StageTimes
from headrace.learn.staleness import BoundedStaleness
from headrace.learn.stream_ahead import PublishBehind, StreamAhead
from headrace.learn.together import gathered

__all__ = [
    "LEDGER",
    "BoundedStaleness",
    "CheckpointEntry",
    "CommitteeConfig",
    "CommitteeLearner",
    "CriticCredit",
    "GroupCredit",
    "KLControl",
    "LanguageFit",
    "LearnerConfig",
    "Lesson",
    "ManifestCheckpoint",
    "Pipeline",
    "PipelineConfig",
    "PolicyConfig",
    "PolicyLearner",
    "PreferenceConfig",
    "PreferenceLearner",
    "PublishBehind",
    "RankLearner",
    "ReadAhead",
    "StageTimes",
    "StreamAhead",
    "dense_learner",
    "evolve",
    "first_affinity",
    "fit_language",
    "gathered",
    "ledger_config",
    "lesson",
    "likelihood_of",
    "open_ledger",
    "times_learned",
    "try_micro_batches",
]
