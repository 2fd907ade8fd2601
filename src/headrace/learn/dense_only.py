"""A learner of models without tables: language models, reward models, anything that is dense throughout."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from headrace.learn.learner import RankLearner
from headrace.learn.learner_config import LearnerConfig
from headrace.protocols import Objective
from headrace.store import EmbeddingCollection


def dense_learner(
    model: nn.Module, optimizer: Optimizer, objective: Objective, config: LearnerConfig | None = None
) -> RankLearner:
    """Return the learner of a model that has no tables: the same learner, over none.

    Checkpoints, versions, refused steps and random numbers are those of every learner. The loss is taken as it is, a
    mean over the batch.

    Args:
        model: The model; an empty collection is put into it, which adds no weights.
        optimizer: Over its parameters that learn; `headrace.optim.clip_norm` bounds its gradients.
        objective: The loss.
        config: Settings; `row_gradients` is set here.

    Example:
        >>> import torch
        >>> from headrace.nn import CausalSettings, CausalTransformer
        >>> from headrace.objectives import NextToken
        >>> model = CausalTransformer(CausalSettings(vocabulary=9, width=8, layers=1, heads=1))
        >>> learner = dense_learner(model, torch.optim.AdamW(model.parameters(), lr=1e-3), NextToken())
        >>> learner.examples
        0
    """
    held = [module for module in model.modules() if isinstance(module, EmbeddingCollection)]
    collection = held[0] if held else EmbeddingCollection({}, [])
    if not held:
        model.add_module("no_tables", collection)
    settings = replace(config or LearnerConfig(freshness=False), row_gradients="mean")
    return RankLearner(model, collection, optimizer, objective, settings)
