"""Bayesian flow networks: their loss as an objective, what learns it, and the predictor that draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from headrace.data import IdFeature, Schema
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import BayesianFlow, ContinuousFlow, DiscreteFlow, ResidualDenoiser
from headrace.objectives import FlowLoss
from headrace.publish import Replica
from headrace.serve import FlowPredictor, SamplerConfig
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.testing import Toy, ToyConfig, Verdict, check_learner, check_objective, check_predictor
from headrace.types import Batch, Change, Events, Version

TOY = Toy(ToyConfig(seed=1, users=32, items=64, rows_per_s=0.05))
SCHEMA = Schema(features=(IdFeature("user", 4),))


def network(flow: ContinuousFlow | DiscreteFlow, *, serving: bool = False) -> BayesianFlow:
    """Draws three numbers, or three classes of two, for the user who asks."""
    table = ReferenceTable(TableConfig(name="user", dim=4, rule=Adagrad(lr=0.05)), serving=serving)
    embed = EmbeddingCollection({"user": table}, [FeatureLookup(feature="user", table="user")])
    shape = (3, 2) if isinstance(flow, DiscreteFlow) else (3,)
    denoiser = ResidualDenoiser(shape, shape, width=8, blocks=1, condition=4, probabilities=len(shape) == 2)
    return BayesianFlow(denoiser, flow, (3,), embed=embed, features=("user",))


FLOWS = {"numbers": ContinuousFlow(sigma=0.05), "classes": DiscreteFlow(classes=2, rate=4.0)}


def batches() -> list[Batch]:
    made = []
    for batch in TOY.batches(24, 4):
        chosen = (batch.ids["user"].values % 2)[:, None].expand(-1, 3)
        made.append(replace(batch, dense=chosen.float() - 0.5, extra={"classes": chosen.contiguous()}))
    return made


def learner(name: str, seed: int = 0) -> RankLearner:
    model = network(FLOWS[name])
    loss = FlowLoss("classes" if name == "classes" else "")
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    return RankLearner(model, model.embed, adam, loss, LearnerConfig(seed=seed))


def objectives() -> Iterator[tuple]:
    for name in FLOWS:

        def run(_: Path, name=name) -> Verdict:
            one = learner(name)
            return check_objective(one.objective, one.model, batches()[0], other=batches()[1])

        yield "Objective", FlowLoss, run, (), name


def learners() -> Iterator[tuple]:
    def run(_: Path) -> Verdict:
        return check_learner(lambda: learner("numbers"), batches(), others=[lambda: learner("classes")])

    yield "Learner", RankLearner, run, (), "flow"


def learned(name: str) -> tuple[list[Change], Change]:
    source, whole = learner(name), learner(name)
    changes = [source.changes(Version(-1))]
    for number, batch in enumerate(batches()):
        source.learn(batch)
        whole.learn(batch)
        changes.append(source.changes(Version(number, number - 1)))
    return changes, replace(whole.changes(Version(-1)), version=changes[-1].version, full=True)


def predictors() -> Iterator[tuple]:
    for name, flow in FLOWS.items():

        def run(_: Path, name=name, flow=flow) -> Verdict:
            def make() -> FlowPredictor:
                model = network(flow, serving=True)
                config = SamplerConfig(evaluations=3, method="sde2")
                return FlowPredictor(model, Replica(dict(model.embed.tables), model), config, schema=SCHEMA)

            changes, full = learned(name)
            asked = TOY.events(0, 20)
            asked = Events(asked.batch.select(["key", "kind", "event_time", "item", "user"]))
            return check_predictor(make, asked, changes, full=full, absolute=0.0)

        yield "Predictor", FlowPredictor, run, (), name


CASES = [objectives, learners, predictors]
