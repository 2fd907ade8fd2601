"""From a run's configuration to what recommends: catalogue, memory, and both stages of every arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from headrace.config import require
from headrace.data import EmbeddedLog
from headrace.errors import ConfigError
from headrace.online.build import embedding, open_tables, seeded_model
from headrace.online.config import OnlineConfig
from headrace.online.layout import EVENTS
from headrace.publish.replica import ServingTable
from headrace.serve import RankPredictor
from headrace.serve.catalogue import Catalogue
from headrace.serve.item_vectors import ItemVectors, RowVectors, TowerVectors, feature_of, towers_in
from headrace.serve.near_index import open_index
from headrace.serve.popularity import Popularity
from headrace.serve.recommend import Recommender, Stage
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.retrieve import Retriever
from headrace.serve.seen import SeenMemory

MAIN = "main"


def open_recommender(
    config: OnlineConfig, events: EmbeddedLog, items: EmbeddedLog, predictors: Mapping[str, RankPredictor], *,
    configs: Mapping[str, OnlineConfig] | None = None,
) -> Recommender:  # fmt: skip
    """Return what answers `POST /v1/recommend` for a run.

    Args:
        config: The run; its `recommend` says how, and the defaults do where it does not.
        events: The log of impressions and actions, from which users' memory comes.
        items: The log of the catalogue.
        predictors: Rankers by the name of their arm, `main` among them.
        configs: The runs of arms that are made otherwise than `main`.

    Raises:
        ConfigError: If the settings do not fit the model, or an arm's model is another than its configuration makes.
    """
    settings = config.recommend or RecommendConfig()
    schema = config.request_schema
    names = {column for feature in schema.features for column in feature.columns}
    require(settings.user in names, "RecommendConfig, user", got=settings.user, expected=f"one of {sorted(names)}",
            do="It is the column that names the user.")  # fmt: skip
    popularity = Popularity(settings.half_life_s)
    memory = SeenMemory(
        events, EVENTS, user=settings.user, item=schema.item, acted=settings.acted or config.join.positive,
        popularity=popularity, limits=settings.memory,
    )  # fmt: skip
    stages = {
        name: open_stage((configs or {}).get(name, config), predictor, settings)
        for name, predictor in predictors.items()
    }
    apart = [settings.user, *([] if config.position is None else [config.position])]
    return Recommender(stages, Catalogue(items, schema, apart=apart), memory, popularity, settings)


def with_items(config: OnlineConfig, path: Path | None) -> OnlineConfig:
    """Return a run whose server loads its catalogue from a file; None: as it is.

    Raises:
        ConfigError: If the run does not recommend.
    """
    if path is None:
        return config
    require(config.recommend is not None, "--items", got=str(path), expected="a recipe with a RecommendConfig",
            do="Give OnlineConfig recommend=RecommendConfig().")  # fmt: skip
    return replace(config, recommend=replace(config.recommend or RecommendConfig(), items=path))


def open_stage(config: OnlineConfig, predictor: RankPredictor, settings: RecommendConfig) -> Stage:
    """Return a ranker with the retrieval that goes before it.

    Raises:
        ConfigError: If the model has no towers and they are asked for, or is another than the configuration makes.
    """
    vectors = open_vectors(config, predictor, settings)
    index = None if vectors is None else open_index(settings.index)
    retriever = Retriever(predictor.replica, vectors, index=index, index_from=settings.index_from)
    return Stage(predictor, retriever, user=settings.user)


def open_vectors(config: OnlineConfig, predictor: RankPredictor, settings: RecommendConfig) -> ItemVectors | None:
    """Return how a run's items and users become vectors; None: they do not."""
    towers = towers_in(predictor.model)
    if settings.vectors == "none" or (settings.vectors == "auto" and towers is None):
        return None
    tables = open_tables(config, serving=True)
    if settings.vectors == "rows":
        feature = feature_of(predictor, config.schema.item)
        if feature is None:
            raise ConfigError("RecommendConfig, vectors", got="'rows', and no id feature of the item",
                              expected=f"one that reads '{config.schema.item}'", do="Add IdFeature.")  # fmt: skip
        table = next(f.table for f in config.schema.id_features if f.name == feature)
        return RowVectors(predictor, feature, cast(ServingTable, tables[table]))
    ahead = seeded_model(config, embedding(config.schema, tables))
    shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()}
              for model in (ahead, predictor.model)]  # fmt: skip
    require(shapes[0] == shapes[1], "Arm, model", got="another model than its configuration makes",
            expected="the same one", do="Give the arm its own run's configuration.")  # fmt: skip
    own = towers_in(ahead)
    reads = set() if own is None else set(own.item_tower.reads.features)
    named = {f.table for f in config.schema.id_features if f.name in reads}
    items = {name: cast(ServingTable, table) for name, table in tables.items() if name in named}
    return TowerVectors(predictor, ahead, items)
