"""Learning: the learner that owns a model's training state, and the checkpoints that keep it."""

from __future__ import annotations

from headrace.learn.checkpoint import CheckpointEntry, ManifestCheckpoint
from headrace.learn.committee import CommitteeConfig, CommitteeLearner, Lesson, first_affinity, lesson
from headrace.learn.evolve import evolve
from headrace.learn.learner import RankLearner
from headrace.learn.learner_config import LearnerConfig
from headrace.learn.ledger import LEDGER, ledger_config, open_ledger, times_learned
from headrace.learn.pipeline import Pipeline, PipelineConfig, try_micro_batches
from headrace.learn.read_ahead import ReadAhead
from headrace.learn.stages import StageTimes
from headrace.learn.stream_ahead import PublishBehind, StreamAhead
from headrace.learn.together import gathered

__all__ = [
    "LEDGER",
    "CheckpointEntry",
    "CommitteeConfig",
    "CommitteeLearner",
    "LearnerConfig",
    "Lesson",
    "ManifestCheckpoint",
    "Pipeline",
    "PipelineConfig",
    "PublishBehind",
    "RankLearner",
    "ReadAhead",
    "StageTimes",
    "StreamAhead",
    "evolve",
    "first_affinity",
    "gathered",
    "ledger_config",
    "lesson",
    "open_ledger",
    "times_learned",
    "try_micro_batches",
]
