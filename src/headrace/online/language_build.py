"""From a language model's configuration to the parts of its loop. No arithmetic here."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import pyarrow.compute as pc
import torch
from torch import nn

from headrace.config import require
from headrace.data import TextCodec, TokenCollator, completion_batch, vote_batch
from headrace.learn import BoundedStaleness, PolicyLearner, PreferenceConfig, PreferenceLearner
from headrace.nn import ActorCritic, CausalModel, CausalTransformer, load_causal, load_lora, with_lora
from headrace.online.language_config import LanguageConfig
from headrace.optim import clip_norm
from headrace.publish import Replica
from headrace.publish.replica import Mode
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.types import Batch, Events

LanguageLearner = PolicyLearner | PreferenceLearner | BoundedStaleness


def open_policy(config: LanguageConfig) -> CausalModel:
    """Return the model that everything begins with, adapted if adapters are to learn."""
    model = load_causal(config.base)
    if config.adapter is not None:
        require(isinstance(model, CausalTransformer), "LanguageConfig.adapter", got=type(model).__name__,
                expected="a base that runs on our own implementation", do="Merge the adapters with peft.")  # fmt: skip
        load_lora(cast(CausalTransformer, model), config.adapter)
    if config.lora is not None:
        with_lora(cast(nn.Module, model), config.lora, seed=config.seed)
    return model


def open_codec(config: LanguageConfig) -> TextCodec:
    """Return the model's codec."""
    return TextCodec.read(config.base)


def open_language_learner(config: LanguageConfig) -> LanguageLearner:
    """Return a learner in its initial state."""
    policy = open_policy(config)
    reference = copy.deepcopy(policy)
    learner: PolicyLearner | PreferenceLearner
    if isinstance(config.learn, PreferenceConfig):
        adam = _optimizer(config, cast(nn.Module, policy))
        learner = PreferenceLearner(policy, reference, adam, replace(config.learn, seed=config.seed))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = ActorCritic(policy)
        how = replace(config.learn.policy, seed=config.seed)
        learner = PolicyLearner(model, reference, _optimizer(config, model), config.learn.objective, how)
    most = config.most_behind
    return learner if most is None else BoundedStaleness(learner, most)


def _optimizer(config: LanguageConfig, model: nn.Module) -> torch.optim.Optimizer:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return clip_norm(torch.optim.Adam(learning, lr=config.lr, eps=1e-5), config.max_norm)


def open_language_predictor(
    config: LanguageConfig, *, how: GenerateConfig | None = None, mode: Mode = "consistent"
) -> LanguagePredictor:
    """Return a predictor over an empty replica; it answers after the first version was applied."""
    served = open_policy(config)
    replica = Replica({}, cast(nn.Module, served), mode=mode)
    return LanguagePredictor(served, replica, how, codec=open_codec(config), seed=config.seed,
                             batch_rows=config.batch_rows)  # fmt: skip


def open_collator(config: LanguageConfig) -> TokenCollator:
    """Return what makes batches of joined rows."""
    if isinstance(config.learn, PreferenceConfig):
        return TokenCollator(vote_batch, config.batch_rows)
    temperature = config.learn.objective.temperature
    return TokenCollator(lambda rows: drawn_batch(rows, temperature), config.batch_rows)


def drawn_batch(rows: Events, temperature: float) -> Batch:
    """Return completions as a batch; one drawn in another way is of no known version, so a bound leaves it out.

    Args:
        rows: Completions with rewards.
        temperature: How they have to be drawn; rows that do not say are taken as they are.
    """
    batch = completion_batch(rows)
    if "policy" not in rows.names:
        return batch
    plain = f"temperature={temperature:g} top_p=1"
    same = pc.fill_null(pc.equal(rows.column("policy"), plain), True).to_numpy(zero_copy_only=False)
    return replace(batch, versions=batch.versions.where(torch.from_numpy(same.copy()), torch.tensor(-1)))
