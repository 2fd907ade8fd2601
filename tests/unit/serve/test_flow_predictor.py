"""A flow network published, replicated and asked for samples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from headrace.data import EmbeddedLog, IdFeature, Schema
from headrace.errors import ConfigError, NumericError, VersionError
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import BayesianFlow, ContinuousFlow, DiscreteFlow, ResidualDenoiser
from headrace.objectives import FlowLoss
from headrace.publish import LogPublisher, Replica
from headrace.serve import FlowPredictor, SamplerConfig
from headrace.store import Adagrad, EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.types import Batch, Change, Events, Jagged, Version

SCHEMA = Schema(features=(IdFeature("colour", 4),))


def network(*, serving: bool = False) -> BayesianFlow:
    table = open_table(TableConfig(name="colour", dim=4, rule=Adagrad(lr=0.3)), serving=serving)
    embed = EmbeddingCollection({"colour": table}, [FeatureLookup(feature="colour", table="colour")])
    denoiser = ResidualDenoiser((2,), (2,), width=32, condition=4)
    return BayesianFlow(denoiser, ContinuousFlow(sigma=0.05), (2,), embed=embed, features=("colour",))


def plain(classes: int = 3) -> BayesianFlow:
    shape = (5, classes)
    return BayesianFlow(ResidualDenoiser(shape, shape, probabilities=True), DiscreteFlow(classes=classes), (5,))


def asked(keys: list[str], **columns: object) -> Events:
    return Events.from_columns({"key": keys, "kind": ["impression"] * len(keys), "event_time": [7] * len(keys),
                                "item": ["i"] * len(keys), **columns})  # fmt: skip


def full(model: BayesianFlow) -> Change:
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    return Change(version=Version(0), dense=dense, full=True)


def predictor(**settings: object) -> FlowPredictor:
    model = plain()
    made = FlowPredictor(model, Replica({}, model), **settings)
    made.apply(full(model))
    return made


def test_learned_published_replicated_and_drawn_as_asked(tmp_path) -> None:
    """Red is at one point and blue at another: who asks for red gets red, on the replica."""
    model = network()
    learner = RankLearner(model, model.embed, torch.optim.Adam(model.parameters(), lr=5e-3), FlowLoss(),
                          LearnerConfig(seed=1, schema=SCHEMA))  # fmt: skip
    colours = torch.arange(64) % 2
    none, ones = torch.zeros(64, dtype=torch.int64), torch.ones(64)
    batch = Batch(
        ids={"colour": Jagged(colours, torch.arange(65))}, dense=torch.tensor([[0.6, -0.4], [-0.5, 0.3]])[colours],
        labels=ones, weights=ones, event_times=none, accepted_times=none, example_ids=torch.arange(64),
        predictions=torch.full((64,), torch.nan), versions=none - 1, sample_rates=ones,
    )  # fmt: skip
    publisher = LogPublisher(EmbeddedLog(tmp_path / "log.db", durability="process"), tmp_path / "snapshots")
    for _ in range(250):
        learner.learn(batch)
    publisher.publish(learner.changes(Version(-1)))
    served = network(serving=True)
    replica = Replica(dict(served.embed.tables), served)
    assert replica.catch_up(publisher) == 1
    drawing = FlowPredictor(served, replica, SamplerConfig(evaluations=10), schema=SCHEMA)
    answers = drawing.predict(asked([f"r{n}" for n in range(40)], colour=[n % 2 for n in range(40)]))
    drawn = np.array(answers.column("sample").to_pylist())
    for colour, point in enumerate([[0.6, -0.4], [-0.5, 0.3]]):
        assert np.abs(drawn[colour::2] - point).mean() < 0.15
    assert answers.column("version").to_pylist() == [0] * 40


def test_a_request_gets_the_same_sample_whoever_asks_beside_it() -> None:
    one, two = predictor(), predictor(block_rows=16)
    together = one.predict(asked(["a", "b", "c"]))
    assert two.predict(asked(["b"])).column("sample").to_pylist() == together.column("sample").to_pylist()[1:2]
    assert len({tuple(sample) for sample in together.column("sample").to_pylist()}) > 1
    other = predictor(seed=1).predict(asked(["a", "b", "c"]))
    assert other.column("sample").to_pylist() != together.column("sample").to_pylist()


def test_classes_are_written_in_the_alphabet() -> None:
    codes = predictor().predict(asked(["a", "b"])).column("sample").to_pylist()
    words = predictor(alphabet=("x", "y", "zz")).predict(asked(["a", "b"])).column("sample").to_pylist()
    assert words == ["".join(("x", "y", "zz")[code] for code in row) for row in codes]


def test_no_rows_get_no_answers() -> None:
    nothing = predictor().predict(asked(["a"]).slice(0, 0))
    assert len(nothing) == 0
    assert nothing.column("sample").type == pa.list_(pa.int64())


def test_what_cannot_work_is_refused() -> None:
    model = plain()
    with pytest.raises(ConfigError, match="one per class"):
        FlowPredictor(model, Replica({}, model), alphabet=("a",))
    with pytest.raises(ConfigError, match="schema"):
        FlowPredictor(model, Replica({}, model), schema=SCHEMA)
    with pytest.raises(ConfigError, match="moments"):
        FlowPredictor(model, Replica({}, model), SamplerConfig(matched=True))
    with pytest.raises(VersionError, match="no version yet"):
        FlowPredictor(model, Replica({}, model)).predict(asked(["a"]))


def test_a_sample_that_is_not_finite_is_refused() -> None:
    model = BayesianFlow(ResidualDenoiser((2,), (2,)), ContinuousFlow(), (2,))
    drawing = FlowPredictor(model, Replica({}, model))
    drawing.apply(full(model))
    with torch.no_grad():
        model.denoiser.leave.bias.fill_(float("nan"))
    with pytest.raises(NumericError, match="finite samples"):
        drawing.predict(asked(["a"]))
