"""An online run learns with the objective it is given, or with the log-loss that fits its join."""

from __future__ import annotations

import torch

from headrace.data import IdFeature, JoinConfig, Label, Schema, collate
from headrace.nn import MMoE
from headrace.nn.tasks import GatedTasks
from headrace.objectives import LogLoss, MultiTask
from headrace.online import OnlineConfig, open_learner
from headrace.types import Events

SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)), extra_labels=(Label("buy", ("buy",)),))


def config(**settings: object) -> OnlineConfig:
    def model(embed: torch.nn.Module, schema: Schema, seed: int) -> torch.nn.Module:
        return MMoE(embed, schema.id_names, 0, (8,), tasks=GatedTasks(priors=(0.5, 0.5), experts=2), seed=seed)

    join = JoinConfig(window_s=60.0, lateness_s=1.0, negative_rate=0.5)
    return OnlineConfig(name="labels", schema=SCHEMA, model=model, join=join, **settings)  # type: ignore[arg-type]


def test_without_an_objective_it_is_the_log_loss_of_the_join() -> None:
    assert open_learner(config(correction="weights")).objective == LogLoss(negative_rate=0.5, correction="weights")


def test_a_given_objective_learns_every_label() -> None:
    learner = open_learner(config(objective=MultiTask(labels=("buy",))))
    rows = Events.from_columns({
        "key": ["a", "b", "c"], "kind": ["example"] * 3, "event_time": [1, 2, 3], "user": [1, 2, 3], "item": [4, 5, 6],
        "label": [1.0, 0.0, 1.0], "buy": [1.0, 0.0, None],
    })  # fmt: skip
    loss = learner.learn(collate(rows, SCHEMA))
    assert torch.isfinite(loss.total)
    assert {name for name in loss.parts if "buy" in name}
