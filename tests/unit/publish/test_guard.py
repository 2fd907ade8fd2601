from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.data.log import EmbeddedLog
from headrace.errors import ConfigError, SchemaError
from headrace.publish import GuardConfig, LogPublisher, Replica, Shadow, ShadowGuard, Sluice, place
from headrace.publish.guard import describe
from headrace.types import Batch, Change, Version


class Slope(nn.Module):
    """Scores a row by its one number times a slope."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Tensor:
        return batch.dense[:, 0] * self.slope + self.bias


def examples(rows: int = 1000, *, seed: int = 0, shift: float = 0.0) -> Batch:
    """Rows whose click probability is sigmoid(2 x + shift)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows).astype(np.float32)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-2 * x - shift))).astype(np.float32)
    whole, ones = torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
    return Batch(ids={}, dense=torch.from_numpy(x)[:, None], labels=torch.from_numpy(labels), weights=ones,
                 event_times=whole, accepted_times=whole, example_ids=whole, predictions=ones * math.nan,
                 versions=whole, sample_rates=ones)  # fmt: skip


def learned(number: int, slope: float, bias: float = 0.0) -> Change:
    dense = {"slope": torch.tensor([slope]), "bias": torch.tensor([bias])}
    return Change(version=Version(number, number - 1), dense=dense, full=number == 0)


class House:
    def __init__(self, folder: Path, config: GuardConfig, batches: list[Batch]) -> None:
        self.batches, self.made = batches, 0
        log = EmbeddedLog(folder / "changes.db", durability="process")
        self.publisher = LogPublisher(log, folder / "s")
        self.guard = ShadowGuard(config, self.shadow, lambda rows: self.batches)
        self.sluice = Sluice(self.publisher, guard=self.guard)

    def shadow(self) -> Shadow:
        self.made += 1
        model = Slope().eval()
        return Shadow(Replica({}, model), model)

    def learn(self, *slopes: float, bias: float = 0.0) -> None:
        for slope in slopes:
            self.sluice.publish(learned(self.sluice.last().number + 1, slope, bias))

    @property
    def served(self) -> float:
        model = Slope()
        Replica({}, model).catch_up(self.publisher)
        return float(model.slope.detach())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, GuardConfig(), [examples()])


def test_versions_that_rank_as_well_go_out_under_their_own_numbers(house: House) -> None:
    house.learn(1.0, 1.5, 2.0)
    assert house.publisher.last().number == 2
    assert house.sluice.durable.plain
    assert house.made == 2, "each model was made once, and followed"
    assert [record.verdict["passed"] for record in house.sluice.durable.records.newest(9)] == [True] * 3


def test_a_version_that_ranks_worse_waits_and_the_next_one_contains_it(house: House, caplog) -> None:
    house.learn(1.0, -3.0)
    assert house.publisher.last().number == 0
    assert house.served == 1.0
    assert "auc" in caplog.text
    assert "training goes on" in caplog.text
    assert house.sluice.status()["refused"] == 1
    house.learn(-2.0)
    assert house.publisher.last().number == 0
    house.learn(2.0)
    assert house.publisher.last() == Version(1, 0)
    assert house.served == 2.0
    assert house.sluice.status() | {"verdict": None, "pending_rows": 0} == {
        "version": 1, "staged": 3, "pending": 0, "pending_rows": 0, "refused": 2, "hold": None, "verdict": None,
    }  # fmt: skip
    assert house.made == 2


def test_a_refused_version_says_why(house: House) -> None:
    house.learn(1.0, -3.0)
    record = house.sluice.durable.records.newest(1)[0]
    assert record.kind == "refused"
    assert record.version == -1
    assert record.staged == 1
    assert describe(record.verdict).startswith("refused: ")
    assert "below the served version's" in describe(house.sluice.standing.verdict)


def test_within_the_margin_a_version_may_be_worse(tmp_path: Path) -> None:
    house = House(tmp_path, GuardConfig(auc_margin=0.99), [examples()])
    house.learn(1.0, -0.5)
    assert house.publisher.last().number == 1


def test_not_finite_values_never_go_out(house: House) -> None:
    house.learn(1.0, math.nan)
    assert house.publisher.last().number == 0
    assert "dense tensor 'slope'" in describe(house.sluice.standing.verdict)
    house.learn(1.5)
    assert house.served == 1.5


def test_scores_that_overflow_are_not_finite(tmp_path: Path) -> None:
    batch = examples()
    batch.dense[0, 0] = 3e38
    house = House(tmp_path, GuardConfig(), [batch])
    house.learn(0.0, 1e3)
    assert house.publisher.last().number == 0
    assert "1 of 1000 scores are not finite" in describe(house.sluice.standing.verdict)


def test_a_badly_calibrated_version_waits(house: House) -> None:
    house.learn(2.0)
    house.learn(2.0, bias=-4.0)
    assert house.publisher.last().number == 0
    assert "not within 0.5 to 2" in describe(house.sluice.standing.verdict)


def test_a_badly_calibrated_version_that_is_less_wrong_than_the_served_one_goes_out(tmp_path: Path) -> None:
    """Else a shift of the click rate would keep the served version for ever, which is worse."""
    house = House(tmp_path, GuardConfig(min_rows=100), [])
    house.learn(2.0)
    house.batches = [examples(shift=-4.0)]
    house.learn(2.0, bias=-0.5)
    assert house.publisher.last().number == 1
    assert "so is the served version" in describe(house.sluice.durable.records.newest(1)[0].verdict)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "no joined example yet"),
        ([examples(20)], "20 examples"),
        ([examples(1000, shift=-30)], "0 of them positive"),
    ],
)
def test_what_is_unknown_passes_with_a_note(tmp_path: Path, batches: list[Batch], said: str) -> None:
    house = House(tmp_path, GuardConfig(), batches)
    house.learn(1.0, -3.0)
    assert house.publisher.last().number == 1
    assert said in describe(house.sluice.durable.records.newest(1)[0].verdict)


def test_examples_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    def broken(rows: int) -> list[Batch]:
        raise SchemaError("column 'x'", got="no such column")

    house = House(tmp_path, GuardConfig(), [])
    house.guard._newest = broken
    house.learn(1.0)
    assert "column 'x'" in describe(house.sluice.durable.records.newest(1)[0].verdict)


def test_labels_that_are_no_clicks_are_unknown(tmp_path: Path) -> None:
    batch = examples()
    batch.labels[0] = 0.5
    house = House(tmp_path, GuardConfig(), [batch])
    house.learn(1.0, -3.0)
    assert house.publisher.last().number == 1


def test_a_change_that_does_not_fit_the_model_waits(house: House) -> None:
    house.learn(1.0)
    strange = Change(version=Version(1, 0), dense={"slope": torch.ones(7), "bias": torch.zeros(1)})
    house.sluice.publish(strange)
    assert house.publisher.last().number == 0
    assert "(7,)" in describe(house.sluice.standing.verdict)


def test_a_release_past_the_guard_is_possible_once(house: House) -> None:
    house.learn(1.0, -3.0)
    place(house.publisher.changes.log, "release")
    house.sluice.obey()
    assert house.publisher.last().number == 0, "asked again, it is refused again"
    place(house.publisher.changes.log, "release", unchecked=True)
    house.sluice.obey()
    assert house.served == -3.0
    house.learn(-4.0)
    assert house.served == -4.0, "it is compared with what is served now"
    assert house.publisher.last().number == 2


def test_the_guard_follows_a_rollback(house: House) -> None:
    house.learn(1.0, 2.0)
    place(house.publisher.changes.log, "rollback", to=0)
    house.learn(2.5)
    place(house.publisher.changes.log, "release")
    house.learn(3.0)
    assert [record.kind for record in house.sluice.durable.records.newest(9)] == [
        "learned", "learned", "rollback", "release", "learned"]  # fmt: skip
    assert house.served == 3.0


def test_a_restarted_guard_judges_as_before(tmp_path: Path, house: House) -> None:
    house.learn(1.0, -3.0)
    again = House(tmp_path, GuardConfig(), [examples()])
    assert not again.sluice.retry()
    again.learn(-2.0)
    assert again.publisher.last().number == 0
    again.batches = []
    assert again.sluice.retry(), "nothing is known any more, so it passes"
    assert again.served == -2.0


@pytest.mark.parametrize(
    "wrong",
    [{"rows": 0}, {"min_rows": 4096}, {"calibration": (2.0, 0.5)}, {"auc_margin": 1.0}, {"min_positives": 0}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        GuardConfig(**wrong)
