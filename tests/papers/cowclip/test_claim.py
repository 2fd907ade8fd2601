"""CowClip's claim: the toy size in full, the cells and tables it is made of, and what was recorded."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from headrace.errors import ConfigError
from headrace.evaluate import ClaimRecord, Goal
from headrace.optim import CowClip, Rates, RowL2, RowNormClip
from headrace.papers.cowclip import cells, claim, recipe
from headrace.papers.cowclip.cells import Cell, run_cells
from headrace.papers.cowclip.claim import PLANTED, render, run
from headrace.papers.cowclip.clips import TableNormClip
from headrace.papers.cowclip.drawn import DrawnSplits
from headrace.papers.cowclip.real import in_one_table
from headrace.papers.cowclip.recipe import Task, id_schema, ranker
from headrace.papers.cowclip.tables import Grid, drops, time_table
from headrace.ranking import fit_ranker


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def tiny(folder: Path, train: int = 512) -> Task:
    rates = Rates(dense_lr=1e-3, row_lr=1e-2, l2=1e-8)
    return Task(name="tiny", data=DrawnSplits(PLANTED, train, 100, 200, 1, folder), schema=id_schema(PLANTED.names),
                train=train, prior=0.3, batch_rows=16, baseline=rates, cowclip=rates)  # fmt: skip


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []


def test_cowclip_keeps_what_linear_scaling_loses(toy) -> None:
    figures = toy["figures"]
    kept, lost = (figures[f"auc_drop_at_16x{rule}/DeepFM/planted"]["value"] for rule in ("", "_linear"))
    assert kept < lost / 3


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables"} == set(toy)
    for each in toy["figures"].values():
        assert {"value", "low", "high", "unit", "goal", "holds"} <= set(each)
    assert json.loads(json.dumps(toy, allow_nan=False)) == toy
    assert render(toy).startswith("AUC in % of DeepFM on planted")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_a_recipe_has_penalty_before_clip_and_spares_first_order_weights(tmp_path) -> None:
    task = tiny(tmp_path)
    config = ranker(task, "DeepFM", "cowclip", 4)
    assert config.tables.transforms == (
        RowL2(weight=4e-8), CowClip(ratio=1.0, lower_bound=1e-5, order="code", skip=1),
    )  # fmt: skip
    assert config.row_gradients == "mean"
    assert config.batch_rows == 64
    assert config.dense.lr == pytest.approx(2e-3)
    assert config.dense.schedule is not None
    assert ranker(task, "DCNv2", "cowclip", 4).tables.transforms[1].skip == 0


def test_other_rules_are_neither_clipped_nor_warmed_up(tmp_path) -> None:
    task = tiny(tmp_path)
    for rule in ("none", "sqrt", "linear"):
        config = ranker(task, "DeepFM", rule, 4)
        assert [type(each) for each in config.tables.transforms] == [RowL2]
        assert config.dense.schedule is None
    assert len(ranker(task, "DeepFM", "cowclip", 4, clip="off").tables.transforms) == 1


@pytest.mark.parametrize("clip", ["field", "row", "cowclip"])
def test_every_granularity_fits(tmp_path, clip) -> None:
    config = ranker(tiny(tmp_path), "DeepFM", "cowclip", 4, clip=clip, bound=0.5)
    assert fit_ranker(config).figures["test_auc"].value > 0.4


def test_a_global_clip_wants_one_table(tmp_path) -> None:
    task = tiny(tmp_path)
    with pytest.raises(ConfigError, match="one for all"):
        ranker(task, "DeepFM", "cowclip", 4, clip="global")
    together = in_one_table(task)
    config = ranker(together, "DeepFM", "cowclip", 4, clip="global", bound=0.5)
    assert config.tables.transforms[1] == TableNormClip(max_norm=0.5)
    batch = next(iter(together.data().train.batches(50)))
    values = [set(batch.ids[name].values.tolist()) for name in PLANTED.names]
    assert len(set().union(*values)) == sum(map(len, values))
    assert fit_ranker(config).figures["test_auc"].value > 0.4


def test_one_table_learns_what_several_do(tmp_path) -> None:
    # where rows start at is drawn from the table's name, so results agree and are not equal
    task = tiny(tmp_path, train=1024)
    apart, together = (fit_ranker(ranker(each, "DeepFM", "none", 1)).figures["test_auc"].value
                       for each in (task, in_one_table(task)))  # fmt: skip
    assert apart == pytest.approx(together, abs=0.03)


def test_a_common_norm_scales_all_rows_alike() -> None:
    grads = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    clip, counts = TableNormClip(max_norm=1.0), torch.ones(2, dtype=torch.int64)
    assert torch.allclose(clip(grads, grads, counts), grads / 5)
    assert torch.equal(clip(grads, grads / 10, counts), grads / 10)
    with pytest.raises(ConfigError, match="max_norm"):
        TableNormClip(max_norm=0.0)
    assert float(RowNormClip(max_norm=1.0)(grads, grads, counts).norm()) > 1.0


def test_cells_are_kept_and_found_again(tmp_path, monkeypatch) -> None:
    task, one = tiny(tmp_path), Cell(task="tiny", network="DeepFM", rule="none", times=1)
    two = Cell(task="tiny", network="DeepFM", rule="cowclip", times=4)
    first = run_cells([one], {"tiny": task}, tmp_path / "cells", 0)
    measured = []
    monkeypatch.setattr(cells, "measure", lambda task, cell: measured.append(cell) or dict.fromkeys(first[one], 0.5))
    again = run_cells([one, two, one], {"tiny": task}, tmp_path / "cells", 0)
    assert measured == [two]
    assert again[one] == first[one]
    assert list(again) == [one, two]
    assert first[one]["rows_per_s"] > 0


def test_a_cell_of_the_search_has_its_own_rates(tmp_path) -> None:
    task = tiny(tmp_path)
    plain = cells.measure(task, Cell(task="tiny", network="DeepFM", rule="none", times=1))
    other = cells.measure(task, Cell(task="tiny", network="DeepFM", rule="none", times=1, row_lr=1e-4, dense_lr=1e-4))
    assert plain["log_loss"] != other["log_loss"]


def test_at_the_base_batch_rules_share_a_cell() -> None:
    grid = Grid("d", ("DeepFM",), ("none", "linear", "cowclip"), (1, 8), (0,))
    assert len(grid.cells()) == 2 + 3
    assert grid.cell("DeepFM", "linear", "auto", 1, 0) == grid.cell("DeepFM", "none", "auto", 1, 0)


def test_the_drop_is_against_the_better_of_both_at_the_base_batch() -> None:
    grid, record = Grid("d", ("DeepFM",), ("none", "linear", "cowclip"), (1, 8), (0, 1)), ClaimRecord()
    aucs = {("none", 1): 0.80, ("cowclip", 1): 0.79, ("none", 8): 0.7, ("linear", 8): 0.6, ("cowclip", 8): 0.795}
    found = {cell: {"auc": aucs[cell.rule, cell.times], "seconds": 8.0 / cell.times, "rows_per_s": 1.0}
             for cell in grid.cells()}  # fmt: skip
    drops(record, grid, found, most=Goal("<=", 0.001), linear=Goal(">=", 0.1))
    time_table(record, grid, found)
    figures = record.to_json({})["figures"]
    assert figures["auc_drop_at_8x/DeepFM/d"]["value"] == pytest.approx(0.005)
    assert figures["auc_drop_at_8x/DeepFM/d"]["holds"] is False
    assert figures["auc_drop_at_8x_from_own_1x/DeepFM/d"]["value"] == pytest.approx(-0.005)
    assert figures["auc_drop_at_8x_linear/DeepFM/d"]["holds"] is True
    assert figures["auc_drop_at_8x_none/DeepFM/d"]["goal"] is None
    assert figures["time_vs_base_batch/DeepFM"]["value"] == pytest.approx(1 / 8)


def recorded() -> dict:
    return json.loads((files("headrace.papers.cowclip") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_has_the_figures_that_were_asked_for() -> None:
    names = {"auc_drop_at_128x/DeepFM/generator", "auc_drop_at_128x_linear/DeepFM/generator"}
    names |= {f"auc_drop_at_32x/DeepFM/{name}" for name in claim.SAMPLES}
    assert names | {"time_vs_base_batch/DeepFM"} <= set(recorded()["figures"])


def test_the_recorded_run_reached_its_goals() -> None:
    assert [name for name, each in recorded()["figures"].items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["rows"]["generator"] >= 4_000_000
    assert settings["networks"]["DeepFM"] == 3
    assert set(settings["networks"]) <= set(recipe.NETWORKS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = claim.run("small")
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
