from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from headrace.errors import ConfigError
from headrace.testing import Toy, ToyConfig, first_difference

DRIFTING = ToyConfig(seed=1, drift_every_s=100.0, drift_share=0.5)


def auc(scores, batch) -> float:
    return float(roc_auc_score(batch.labels.numpy(), np.asarray(scores)))


def truth(toy: Toy, batch, era: int = 0) -> np.ndarray:
    return toy.probability(batch.ids["user"].values.numpy(), batch.ids["item"].values.numpy(), era)


def test_the_best_auc_is_that_of_the_truth() -> None:
    toy = Toy(ToyConfig())
    batch = toy.batch(0, 100_000)
    assert auc(truth(toy, batch), batch) == pytest.approx(toy.best_auc(), abs=0.005)


@pytest.mark.parametrize("bias", [0.0, -1.5])
def test_every_id_alone_is_positive_equally_often(bias) -> None:
    config = ToyConfig(bias=bias)
    grid = Toy(config)._grid(0).reshape(config.users, config.items)
    assert grid.mean(axis=1) == pytest.approx(grid.mean())
    assert grid.mean(axis=0) == pytest.approx(grid.mean())


def test_a_sum_of_something_per_id_finds_nothing() -> None:
    toy = Toy(ToyConfig(users=16, items=16))
    train, judge = toy.batch(0, 20_000), toy.batch(20_000, 20_000)

    def one_hot(batch) -> np.ndarray:
        ids = (batch.ids["user"].values, batch.ids["item"].values)
        return torch.cat([nn.functional.one_hot(values, 16) for values in ids], dim=1).numpy()

    model = LogisticRegression(max_iter=200).fit(one_hot(train), train.labels.numpy())
    assert auc(model.predict_proba(one_hot(judge))[:, 1], judge) == pytest.approx(toy.additive_auc(), abs=0.02)


def test_embeddings_that_multiply_find_it() -> None:
    toy = Toy(ToyConfig(users=16, items=16))
    torch.manual_seed(0)
    users, items = nn.Embedding(16, 4), nn.Embedding(16, 4)
    optimizer = torch.optim.Adam([*users.parameters(), *items.parameters()], lr=0.05)

    def scores(batch) -> torch.Tensor:
        return (users(batch.ids["user"].values) * items(batch.ids["item"].values)).sum(dim=1)

    for batch in toy.batches(256, 200):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(scores(batch), batch.labels).backward()
        optimizer.step()
    judge = toy.batch(60_000, 20_000)
    assert auc(scores(judge).detach(), judge) > toy.best_auc() - 0.03


def test_drift_changes_the_truth_and_keeps_the_balance() -> None:
    toy = Toy(DRIFTING)
    assert first_difference(toy._grid(0), toy._grid(3)) is not None
    assert toy.best_auc(3) == pytest.approx(toy.best_auc(0))
    grid = toy._grid(3).reshape(64, 64)
    assert grid.mean(axis=0) == pytest.approx(grid.mean())


def test_a_frozen_truth_falls_as_stated() -> None:
    toy = Toy(DRIFTING)
    later = toy.batch(30_000, 9_000)  # 100 rows a second: all of era 3
    assert set(toy.era(later.event_times.numpy()).tolist()) == {3}
    assert auc(truth(toy, later, 3), later) == pytest.approx(toy.best_auc(3), abs=0.015)
    assert auc(truth(toy, later, 0), later) == pytest.approx(toy.frozen_auc(0, 3), abs=0.015)
    assert toy.frozen_auc(0, 3) < toy.best_auc(3) - 0.15
    assert toy.frozen_auc(2, 2) == toy.best_auc(2)


def test_without_drift_there_is_one_era() -> None:
    toy = Toy(ToyConfig())
    assert set(toy.era(toy.batch(10**7, 10).event_times.numpy()).tolist()) == {0}


@pytest.mark.parametrize(("first", "rows"), [(0, 10), (4090, 20), (8192, 1), (100, 0), (5000, 9000)])
def test_any_part_can_be_made_alone(first, rows) -> None:
    whole, part = Toy(DRIFTING).columns(0, 15_000), Toy(DRIFTING).columns(first, rows)
    for name, values in part.items():
        assert values.tolist() == whole[name][first : first + rows].tolist()


def test_batches_are_consecutive() -> None:
    batches = list(Toy(ToyConfig()).batches(50, 4, first=7))
    assert torch.cat([batch.example_ids for batch in batches]).tolist() == list(range(7, 207))


def test_events_and_batches_say_the_same() -> None:
    toy = Toy(ToyConfig(seed=3))
    events, batch = toy.events(20, 30), toy.batch(20, 30)
    assert events.column("label").to_pylist() == batch.labels.tolist()
    assert events.times.tolist() == batch.event_times.tolist()
    assert events.column("user").to_pylist() == [f"u{number}" for number in batch.ids["user"].values.tolist()]
    assert events.column("example_id").to_pylist() == batch.example_ids.tolist()


def test_negatives_have_no_action_time() -> None:
    events = Toy(ToyConfig()).events(0, 100)
    pairs = zip(events.column("label").to_pylist(), events.column("action_time").to_pylist(), strict=True)
    assert all((time > 0) == (label == 1) for label, time in pairs)


def test_other_seeds_are_other_data() -> None:
    one, other = (Toy(ToyConfig(seed=seed)).batch(0, 100) for seed in (0, 1))
    assert first_difference(one, other) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [("users", 63), ("items", 0), ("signs", 0), ("rows_per_s", 0.0), ("drift_every_s", 0.0), ("drift_share", 1.5)],
)
def test_a_value_that_cannot_work_is_refused(name, value) -> None:
    with pytest.raises(ConfigError):
        ToyConfig(**{name: value})
