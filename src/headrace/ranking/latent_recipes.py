"""A recipe for latent recommenders: a VAE over the whole catalogue, with a prior made of what is known of the user.

    headrace run headrace.ranking.latent_recipes:movielens variant=1m

A row is a rating with the movies that its user had liked before. A liked movie is to be explained by that history, or
by the user's age, gender and occupation where there is none yet. The score of a row is the chance that the movie is
what this user likes next; the report's AUC tells liked movies from others that the user chose to rate, which asks more
than finding them in the catalogue does. See the paper `vae_priors` for the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from torch import nn

from headrace.config import fingerprint
from headrace.data.datasets import movielens as movielens_data
from headrace.data.datasets.recorded import codes
from headrace.data.download import cache_folder
from headrace.data.files import sha256
from headrace.data.prepare import prepare
from headrace.data.prepare_columns import FIRST, Category, History, Preparation
from headrace.data.prepared_files import PreparedData
from headrace.nn import MultVAE, VAESettings
from headrace.objectives import ELBO
from headrace.optim import Warmup
from headrace.ranking.config import FitConfig
from headrace.ranking.history_recipes import histories
from headrace.ranking.network import Network
from headrace.ranking.prepared import IN_ORDER
from headrace.ranking.steps import Steps, ranker_of

KNOWN = ("age", "gender", "occupation")
"""What editions of MovieLens may know of a user."""


def movielens(
    *, dim: int = 64, latent: int = 32, beta: float = 0.01, lr: float = 1e-3, table_lr: float | None = None,
    batch_rows: int = 1024, epochs: int = 3, length: int = 100, variant: str = "100k", folder: Path | None = None,
    seed: int = 0,
) -> FitConfig:  # fmt: skip
    """MovieLens ratings in order of time with the movies liked before; the newest tenth is the test.

    Editions that know nothing of users get the standard prior. `dim` is the width of a table row: the first layer.
    `beta` is small because a row has one choice to explain: with 0.2 the latent state is hardly used.
    """
    data = ratings(variant, length=length, folder=folder)
    told = tuple(name for name in KNOWN if name in data.statistics.preparation.names)
    settings = VAESettings(latent=latent, prior="user" if told else "standard")
    network = Network(family=mult_vae, settings={"items": data.statistics.vocabulary_size("item"), "sizes": settings})
    steps = Steps(lr=lr, table_lr=table_lr, batch_rows=batch_rows, epochs=epochs, seed=seed)
    config = ranker_of(f"movielens-{variant}-latent", data, network, steps, dim=dim)
    warmup = max(data.rows("train") // batch_rows, 1)
    return replace(config, objective=ELBO(beta=beta, annealing=Warmup(steps=warmup)))


def mult_vae(
    embed: nn.Module, features: Sequence[str], dense_dim: int, *, items: int, sizes: VAESettings, seed: int = 0
) -> MultVAE:
    """Build the VAE over all prepared items, `FIRST` to `items - 1`, without the ids of rare and missing ones."""
    return MultVAE(embed, features, dense_dim, catalogue=range(FIRST, items), settings=sizes, seed=seed)


def ratings(variant: str, *, length: int, folder: Path | None = None) -> PreparedData:
    """Prepare the ratings of an edition with histories and users' attributes, or find them prepared.

    Raises:
        ConfigError: If there is no such edition.
        DataError: If there is no file and it cannot be downloaded.
    """
    path = movielens_data.find(variant) or movielens_data.fetch(variant)
    name = f"movielens-latent-{fingerprint([variant, sha256(path), length])}"
    where = folder or cache_folder() / "prepared" / name
    if (where / "manifest.json").exists():
        return PreparedData(where)
    table = pa.Table.from_batches(list(movielens_data.examples(path)))
    if "timestamp" in table.column_names:
        table = table.sort_by("timestamp")
    told = [name for name in KNOWN if name in table.column_names]
    table = table.select(["user_id", "item", "label", *told])
    liked = table["label"].to_numpy() > 0
    past = histories(codes(table["user_id"]), table["item"], liked, length)
    plan = Preparation(columns=(
        *(Category(name) for name in told), Category("item"),
        History("history", vocabulary="item", max_length=length, pooling="none"),
    ))  # fmt: skip
    return prepare(table.append_column("history", past), plan, where, split=IN_ORDER)
