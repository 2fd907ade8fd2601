"""What is compared: the VAE with its priors, and rankings in closed form that a user could have for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from headrace.data import DenseFeature, Schema, SequenceFeature, collate
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import MultVAE, VAESettings
from headrace.objectives import ELBO
from headrace.optim import Warmup
from headrace.papers.vae_priors.protocol import Cut, Lists, Score, judge
from headrace.papers.vae_priors.recipe import Floats, Integers
from headrace.ranking import InMemory
from headrace.store import Adam, EmbeddingCollection, FeatureLookup, Normal, TableConfig, open_table
from headrace.types import Batch, Events

RIDGES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Penalties that the validation users choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes and rates of a fit; the same for every arm."""

    latent: int = 50
    hidden: int = 200
    epochs: int = 60
    batch_rows: int = 100
    lr: float = 1e-3
    beta: float = 0.5
    warmup: int = 400


ARMS: Mapping[str, VAESettings] = {
    "N(0, I) prior": VAESettings(),
    "side information in the encoder": VAESettings(encoder_reads_side=True),
    "user prior, permuted": VAESettings(prior="user"),
    "user prior": VAESettings(prior="user"),
    "user prior, and in the encoder": VAESettings(prior="user", encoder_reads_side=True),
}


def schema(side: int, width: int) -> Schema:
    """Return a history and numbers about its user."""
    numbers = (DenseFeature(f"side_{place}") for place in range(side))
    past = SequenceFeature("history", width, accepts="integer", pooling="none", max_length=100_000)
    return Schema(features=(past, *numbers))


def users_batch(users: Integers, histories: Lists, side: Floats, width: int) -> Batch:
    """Return one example per user: what they liked, and what is known of them."""
    rows = len(users)
    columns: dict[str, object] = {
        "key": [str(user) for user in users], "kind": ["example"] * rows, "event_time": np.zeros(rows, np.int64),
        "label": np.ones(rows, np.float32), "history": pa.array(histories, pa.list_(pa.int64())),
    }  # fmt: skip
    columns |= {f"side_{place}": side[users, place] for place in range(side.shape[1])}
    return collate(Events.from_columns(columns), schema(side.shape[1], width))


def fit(settings: VAESettings, dealt: Cut, side: Floats, sizes: Sizes, seed: int) -> RankLearner:
    """Return a learner that has learned the training users, one example each, for all its epochs."""
    table = TableConfig(name="history", dim=sizes.hidden, seed=seed, init=Normal(0.03),
                        rule=Adam(lr=sizes.lr, beta1=0.0, correction="table"))  # fmt: skip
    lookup = FeatureLookup(feature="history", table="history", pooling="none")
    embed = EmbeddingCollection({"history": open_table(table)}, [lookup])
    model = MultVAE(embed, ("history",), side.shape[1], catalogue=range(dealt.likes.catalogue),
                    settings=replace(settings, latent=sizes.latent), seed=seed)  # fmt: skip
    objective = ELBO(beta=sizes.beta, annealing=Warmup(steps=sizes.warmup))
    dense = torch.optim.Adam(model.parameters(), lr=sizes.lr)
    learner = RankLearner(model, embed, dense, objective,
                          LearnerConfig(seed=seed, row_gradients="mean", freshness=False))  # fmt: skip
    examples = InMemory(users_batch(dealt.train, [dealt.rest[user] for user in dealt.train], side, sizes.hidden))
    for epoch in range(sizes.epochs):
        for batch in examples.batches(sizes.batch_rows, order=1000 * seed + epoch):
            learner.learn(batch)
    return learner


def scores_of(learner: RankLearner, side: Floats, sizes: Sizes) -> Score:
    """Return the ranking of a learner's model."""
    model = learner.model
    assert isinstance(model, MultVAE)

    def score(users: Integers, histories: Lists) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            return model.catalogue_logits(users_batch(users, histories, side, sizes.hidden))

    return score


def encoder_of_nothing(learner: RankLearner) -> Score:
    """Return the ranking that the encoder gives for an empty history, which serving does not ask it for."""
    model = learner.model
    assert isinstance(model, MultVAE)

    def score(users: Integers, histories: Lists) -> torch.Tensor:
        with torch.no_grad():
            return model.decode(model.encode(torch.zeros(len(users), len(model.first_bias))).mean)

    return score


def popularity(dealt: Cut) -> Score:
    """Return the same ranking for everybody: how many training users like an item."""
    counts = torch.from_numpy(_matrix(dealt, [dealt.rest[user] for user in dealt.train]).sum(0))
    return lambda users, histories: counts.expand(len(users), -1)


def ridge(dealt: Cut, side: Floats, penalty: float) -> Score:
    """Return linear regression of likes on side information; it never looks at a history."""
    told = np.concatenate([np.ones((len(side), 1)), side], axis=1)
    inputs, chosen = told[dealt.train], _matrix(dealt, [dealt.rest[user] for user in dealt.train])
    shrink = penalty * np.eye(inputs.shape[1])
    shrink[0, 0] = 1e-6
    weights = np.linalg.solve(inputs.T @ inputs + shrink, inputs.T @ chosen)
    return lambda users, histories: torch.from_numpy(told[users] @ weights)


def ease(dealt: Cut, penalty: float) -> Score:
    """Return the linear autoencoder in closed form (Steck 2019); without a history all items tie."""
    chosen = _matrix(dealt, [dealt.rest[user] for user in dealt.train])
    inverse = np.linalg.inv(chosen.T @ chosen + penalty * np.eye(chosen.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return lambda users, histories: torch.from_numpy(_matrix(dealt, histories) @ weights)


def best_of(dealt: Cut, made: Sequence[Score], *, folded: int, k: int) -> Score:
    """Return the ranking that serves the validation users best."""
    found = [judge(dealt, dealt.valid, score, folded=folded, k=k, name="recall") for score in made]
    return made[int(np.argmax(found))]


def _matrix(dealt: Cut, lists: Sequence[Integers]) -> Floats:
    whole = np.zeros((len(lists), dealt.likes.catalogue))
    for row, items in enumerate(lists):
        whole[row, items] = 1.0
    return whole
