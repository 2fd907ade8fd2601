"""A family gets the arguments that it takes, and no others."""

from __future__ import annotations

import pytest
from torch import nn

from headrace.data import DenseFeature, IdFeature, Schema
from headrace.errors import ConfigError
from headrace.nn import DeepFM, LogisticRegression
from headrace.ranking import DenseOptimizer, FitConfig, Network, Splits, as_online

SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4), DenseFeature("price")))


class Seen(nn.Module):
    def __init__(self, embed: nn.Module, features, dense_dim: int, *, seed: int = 0, depth: int = 1) -> None:
        super().__init__()
        self.got = {"features": features, "dense_dim": dense_dim, "seed": seed, "depth": depth}


def test_only_known_arguments_are_given() -> None:
    model = Network(family=Seen, hidden=(3,), dropout=0.5, settings={"depth": 7})(nn.Identity(), SCHEMA, 5)
    assert model.got == {"features": ("user", "item"), "dense_dim": 1, "seed": 5, "depth": 7}


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'depth'"):
        Network(family=Seen, settings={"dpeth": 7})


def no_data() -> Splits:
    raise AssertionError("nobody asked for data")


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"patience": 0}, "patience"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"row_gradients": "max"}, "row_gradients"),
        ({"name": ""}, "name"),
    ],
)
def test_a_configuration_checks_itself(wrong: dict[str, object], name: str) -> None:
    right = {"name": "x", "data": no_data, "schema": SCHEMA, "model": Network(family=DeepFM)}
    FitConfig(**right)
    with pytest.raises(ConfigError, match=name):
        FitConfig(**{**right, **wrong})


@pytest.mark.parametrize("wrong", [{"kind": "lion"}, {"lr": 0.0}, {"weight_decay": -1.0}, {"eps": 0.0}])
def test_an_optimiser_checks_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DenseOptimizer(**wrong)


@pytest.mark.parametrize("kind", ["adam", "adamw", "adagrad", "sgd"])
def test_every_kind_of_optimiser_has_the_settings(kind: str) -> None:
    built = DenseOptimizer(kind=kind, lr=0.5, weight_decay=0.25).build(nn.Linear(2, 1))
    assert type(built).__name__.lower() == kind
    assert (built.param_groups[0]["lr"], built.param_groups[0]["weight_decay"]) == (0.5, 0.25)


def test_serving_sees_the_same_ranker() -> None:
    config = FitConfig(name="x", data=no_data, schema=SCHEMA, model=Network(family=LogisticRegression), seed=4)
    online = as_online(config)
    assert (online.schema, online.model, online.seed, online.tables) == (SCHEMA, config.model, 4, config.tables)
    assert as_online(online) is online
