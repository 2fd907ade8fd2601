"""Searches find what is planted, prune, repeat with their seed, and go on where they were killed."""

from __future__ import annotations

import csv
import json
import sys
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from headrace.data import IdFeature, Schema
from headrace.errors import ConfigError, HeadraceError
from headrace.nn import DeepFM
from headrace.online.config import TableSettings
from headrace.ranking import DenseOptimizer, FitConfig, InMemory, Network, Splits, cut
from headrace.ranking import attempt as attempts
from headrace.ranking.tuning import JOURNAL, Search, tune
from headrace.ranking.tuning_report import TuningReport
from headrace.store import Adam, Uniform
from headrace.testing.toy import Toy, ToyConfig

TOY = Toy(ToyConfig(users=16, items=16, signs=2, strength=3.0))
SCHEMA = Schema(features=(IdFeature("user", 5), IdFeature("item", 5)))
SPACE = ("lr=1e-4..0.3:log", "width=4,8")
READS: list[int] = []


@dataclass(frozen=True)
class Planted:
    rows: int

    def __call__(self) -> Splits:
        READS.append(self.rows)
        return planted(self.rows)


@cache
def planted(rows: int) -> Splits:
    return Splits(*(InMemory.from_events(part, SCHEMA) for part in cut(TOY.events(0, rows), 0.2, 0.2, seed=0)))


def toy(*, lr: float = 0.03, width: int = 8, epochs: int = 3, rows: int = 400, seed: int = 0) -> FitConfig:
    if width == 5:
        raise ConfigError("width", got=5, expected="an even number")
    return FitConfig(
        name="toy", data=Planted(rows), schema=SCHEMA, model=Network(family=DeepFM, hidden=(width,)), batch_rows=64,
        tables=TableSettings(rule=Adam(lr=lr), init=Uniform(0.1)), dense=DenseOptimizer(lr=0.01), epochs=epochs,
        patience=None, seed=seed,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = types.ModuleType("toy_recipes")
    holder.toy = toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_recipes", holder)


def run(folder: Path, *settings: str, **changes: object) -> TuningReport:
    return tune("toy_recipes:toy", settings, Search(**{"space": SPACE, "trials": 8, **changes}), folder)  # type: ignore[arg-type]


def tried(report: TuningReport) -> list[tuple[dict[str, str], str, float]]:
    return [(trial.settings, trial.state, trial.value) for trial in report.trials]


def test_it_finds_a_rate_that_learns(tmp_path: Path) -> None:
    report = run(tmp_path, "rows=1500", trials=6, prune=False)
    assert report.best is not None
    assert float(report.best.settings["lr"]) > 3e-3
    assert report.best.value > 0.6
    assert report.best.value == max(trial.value for trial in report.trials if trial.state == "complete")
    assert report.command == f"headrace run toy_recipes:toy rows=1500 lr={report.best.settings['lr']} width=" + (
        report.best.settings["width"])  # fmt: skip


def test_the_best_trial_is_what_its_parameters_give(tmp_path: Path) -> None:
    best = run(tmp_path, "epochs=2", trials=3, prune=False).best
    assert best is not None
    found = attempts.fit_ranker(toy(lr=float(best.settings["lr"]), width=int(best.settings["width"]), epochs=2))
    assert best.value == found.figures["valid_auc"].value
    assert best.figures["test_auc"] == found.figures["test_auc"].value


def test_hopeless_trials_are_pruned_and_cost_less(tmp_path: Path) -> None:
    report = run(tmp_path, trials=10)
    pruned = [trial for trial in report.trials if trial.state == "pruned"]
    assert pruned
    assert max(len(trial.looks) for trial in report.trials) == 3
    assert {len(trial.looks) for trial in pruned} <= {1, 2}  # not at the last look, where nothing is saved
    assert all(trial.state == "complete" for trial in run(tmp_path / "whole", trials=5, prune=False).trials)


def test_the_same_seed_is_the_same_search_and_another_is_not(tmp_path: Path) -> None:
    one, two, other = (run(tmp_path / name, trials=5, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert tried(one) == tried(two) != tried(other)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [1, 5])
def test_a_killed_search_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    whole = run(tmp_path / "whole", trials=7)
    fit, calls = attempts.fit_ranker, [0]

    def dies(*arguments: object, **keywords: object) -> object:
        calls[0] += 1
        if calls[0] == at:
            raise Killed
        return fit(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(attempts, "fit_ranker", dies)
    with pytest.raises(Killed):
        run(tmp_path / "cut", trials=7)
    with (tmp_path / "cut" / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":6,"worker')  # the line that a kill tore
    again = run(tmp_path / "cut", trials=7)
    assert tried(again) == tried(whole)
    assert calls[0] == 8  # the finished trials were not fitted again


def test_a_finished_search_can_be_made_longer(tmp_path: Path) -> None:
    first = run(tmp_path, trials=3)
    longer = run(tmp_path, trials=5)
    assert tried(longer)[:3] == tried(first)
    assert len(longer.trials) == 5
    assert tried(run(tmp_path, trials=5)) == tried(longer)


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    run(tmp_path, trials=2)
    with pytest.raises(ConfigError, match="metric"):
        run(tmp_path, trials=2, metric="log_loss")
    with pytest.raises(ConfigError, match="settings"):
        run(tmp_path, "epochs=1", trials=2)


def test_two_searches_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def second(*arguments: object, **keywords: object) -> None:
        with pytest.raises(ConfigError, match="running there") as caught:
            run(tmp_path, trials=1)
        said.append(str(caught.value))
        raise ConfigError("width", got=0, expected="more")

    monkeypatch.setattr(attempts, "fit_ranker", second)
    with pytest.raises(HeadraceError, match="no trial"):
        run(tmp_path, trials=1)
    assert len(said) == 1


def test_a_metric_that_does_not_exist_costs_one_trial(tmp_path: Path) -> None:
    fit, calls = attempts.fit_ranker, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "fit_ranker", lambda *a, **k: calls.append(0) or fit(*a, **k))
        with pytest.raises(ConfigError, match="test_auc"):
            run(tmp_path, "epochs=1", metric="tset_auc")
    assert len(calls) == 1


def test_a_small_loss_is_a_good_one(tmp_path: Path) -> None:
    report = run(tmp_path, trials=5, metric="log_loss", prune=False)
    assert report.best is not None
    assert report.best.value == min(trial.value for trial in report.trials)


def test_seeds_are_averaged_and_their_spread_kept(tmp_path: Path) -> None:
    report = run(tmp_path, "epochs=1", trials=2, seeds=3, prune=False)
    for trial in report.trials:
        assert len(set(trial.values)) == 3
        assert trial.value == pytest.approx(sum(trial.values) / 3)
    table = pq.read_table(tmp_path / "trials.parquet").to_pydict()
    assert all(spread > 0 for spread in table["spread"])


def test_a_grid_tries_every_choice_once(tmp_path: Path) -> None:
    report = run(tmp_path, "epochs=1", space=("width=4,8", "lr=0.01,0.1"), sampler="grid", trials=4, prune=False)
    pairs = {(trial.settings["width"], trial.settings["lr"]) for trial in report.trials}
    assert pairs == {(width, lr) for width in ("4", "8") for lr in ("0.01", "0.1")}
    with pytest.raises(ConfigError, match="choices only"):
        run(tmp_path / "range", sampler="grid", trials=2)


def test_refused_parameters_are_failed_trials(tmp_path: Path) -> None:
    report = run(tmp_path, "epochs=1", space=("width=4,5",), sampler="grid", trials=2)
    assert sorted(trial.state for trial in report.trials) == ["complete", "fail"]
    assert "even number" in next(trial.error for trial in report.trials if trial.state == "fail")
    with pytest.raises(HeadraceError, match="even number"):
        run(tmp_path / "none", "epochs=1", space=("width=5",), trials=1)


def test_data_are_read_once(tmp_path: Path) -> None:
    READS.clear()
    run(tmp_path, "rows=601", "epochs=1", trials=3)
    assert READS == [601]


def test_results_are_files_for_programs_and_a_plot(tmp_path: Path) -> None:
    report = run(tmp_path, "epochs=1", trials=4)
    record = json.loads((tmp_path / "tuning.json").read_text())
    assert record["best"]["value"] == report.best.value  # type: ignore[union-attr]
    assert len(record["trials"]) == 4
    table = pq.read_table(tmp_path / "trials.parquet").to_pydict()
    assert table["parameter/lr"] == [float(trial.settings["lr"]) for trial in report.trials]
    assert table["parameter/width"] == [int(trial.settings["width"]) for trial in report.trials]
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["state"] for row in rows] == [trial.state for trial in report.trials]
    drawing = (tmp_path / "tuning.svg").read_text()
    assert "<svg" in drawing
    text = report.table()
    assert "looks better than it is" in text
    assert report.command in text


@pytest.mark.parametrize(("settings", "changes", "said"), [
    (("lr=0.1",), {}, "both fixed and searched"), (("seed=1",), {"seeds": 2}, "seeds"), ((), {"trials": 0}, "trials"),
    ((), {"seed": -1}, "seed"), ((), {"space": ("size=1,2",)}, "unknown"),
])  # fmt: skip
def test_impossible_searches_are_refused(
    tmp_path: Path, settings: tuple[str, ...], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(HeadraceError, match=said):
        run(tmp_path, *settings, **changes)


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="headrace\\[tune\\]"):
        run(tmp_path)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_online_recipes_are_searched_by_progressive_auc(tmp_path: Path, jobs: int) -> None:
    settings = ["requests=120", "publish_every=256", "window_s=20", "log=true"]
    search = Search(space=("lr=0.01..0.1",), trials=2, jobs=jobs)
    report = tune("headrace.online.demo:world", settings, search, tmp_path)
    assert [trial.state for trial in report.trials] == ["complete"] * 2
    assert all(trial.value == trial.figures["auc"] for trial in report.trials)
    assert not any((tmp_path / "trials").iterdir())
