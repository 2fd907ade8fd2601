"""Learning: the learner that owns a model's training state, and the checkpoints that keep it."""

from __future__ import annotations

from headrace.learn.checkpoint import CheckpointEntry, ManifestCheckpoint
from headrace.learn.evolve import evolve
from headrace.learn.learner import LearnerConfig, RankLearner
from headrace.learn.ledger import LEDGER, ledger_config, open_ledger, times_learned

__all__ = [
    "LEDGER",
    "CheckpointEntry",
    "LearnerConfig",
    "ManifestCheckpoint",
    "RankLearner",
    "evolve",
    "ledger_config",
    "open_ledger",
    "times_learned",
]
