"""Models in pure torch, one family a file: plain modules over embedded features; no table in sight."""

from __future__ import annotations

from headrace.nn.ctr import DeepFM, LogisticRegression
from headrace.nn.layers import MLP, InputAxis, embedded, empty_embeddings, generator, linear, pairwise_interactions

__all__ = [
    "MLP",
    "DeepFM",
    "InputAxis",
    "LogisticRegression",
    "embedded",
    "empty_embeddings",
    "generator",
    "linear",
    "pairwise_interactions",
]
