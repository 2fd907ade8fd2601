"""The solvers' claims: the toy size in full, what was recorded at the small size, worlds, measures and readers."""

from __future__ import annotations

import itertools
import json
import os
from importlib.resources import files

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.papers.bfn_solver import sets
from headrace.papers.bfn_solver.claim import render, run
from headrace.papers.bfn_solver.learned import Curves
from headrace.papers.bfn_solver.measures import Reference, share_of_words, written
from headrace.papers.bfn_solver.recipe import Size, digit_model, examples, learn, text_model
from headrace.papers.bfn_solver.worlds import Markov, Mixture

FIGURES = {
    "B1_slope/order_1", "B1_slope_largest/order_1", "B1_slope/order_2",
    *(f"B1_discrete_5/{pair}/sticky" for pair in ("ode2_minus_ode1", "ode2_minus_sde2", "ode1_minus_sde1",
                                                  "sde2_minus_sde1", "sde1_minus_original")),
    *(f"B1_discrete_5/ode2_minus_original/{chain}" for chain in ("sticky", "loose")),
    "B1_slope_largest/order_2_permuted",
    "B1_speedup_10/digits_ode2", "B1_speedup_10/coarse_digits_ode2", "B1_speedup_10/text_ode2",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_orders_are_what_they_are_called(toy) -> None:
    figures = toy["figures"]
    assert 0.8 < figures["B1_slope/order_1"]["value"] < figures["B1_slope_largest/order_1"]["value"] < 1.2
    assert figures["B1_slope/order_2"]["value"] > 1.7
    assert figures["B1_slope_largest/order_2_permuted"]["value"] < 1.2  # with a guess that means nothing it is gone


def test_second_order_is_best_with_five_evaluations(toy) -> None:
    figures = toy["figures"]
    for other in ("original", "sde1", "ode1"):
        assert figures[f"B1_discrete_5/ode2_minus_{other}/sticky"]["value"] < 0


def test_the_released_euler_step_is_worse_than_ours(toy) -> None:
    for chain in ("sticky", "loose"):
        assert toy["figures"][f"B1_discrete_5/sde_euler_minus_euler_as_released/{chain}"]["value"] < -0.05


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("B1. ODE")
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_the_chains_denoiser_gives_the_posterior() -> None:
    """Against Bayes with the densities of the states themselves."""
    world = Markov(3, stay=0.5)
    time = torch.full((4,), 0.6, dtype=torch.float64)
    beta = float(world.flow.accuracy(time[:1]))
    codes = torch.tensor(list(itertools.product(range(3), repeat=4)))[[5, 40, 60, 80]]
    noise = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = world.flow.noised(codes, time, noise)
    means = beta * (3 * world.sharp - 1)
    logs = -((states[:, None] - means) ** 2).flatten(2).sum(2) / (2 * 3 * beta) + world.chances.log()
    expected = torch.einsum("bn,nlk->blk", torch.softmax(logs, 1), world.sharp)
    found = world(world.flow.inputs(states), time).exp()
    assert torch.allclose(found, expected, atol=1e-9)


def test_the_mixtures_denoiser_is_right_on_average() -> None:
    """The expected noise of states of the same kind is the mean of their noise."""
    world, draw = Mixture(1), np.random.default_rng(0)
    picked = draw.choice(3, 100_000, p=world.weights.numpy())
    data = torch.from_numpy(world.means.numpy()[picked] + world.deviations.numpy()[picked] * draw.normal(size=100_000))
    time, noise = torch.full((100_000,), 0.15, dtype=torch.float64), torch.from_numpy(draw.normal(size=(100_000, 1)))
    state = world.flow.noised(data[:, None], time, noise)
    guess = world(state, time)
    for part in state[:, 0].argsort().chunk(10):
        assert float((guess - noise)[part].mean()) == pytest.approx(0.0, abs=0.04)
    assert float(world.quantiles(1001)[500]) == pytest.approx(float(data.median()), abs=0.02)


def test_distances_are_zero_where_there_is_none() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(500, 3))
    assert Reference.of(rows).distance(rows) == pytest.approx(0.0, abs=1e-9)
    assert Reference.of(rows).distance(rows + 2.0) == pytest.approx(12.0)
    assert share_of_words(["x to be or n", " bee not "], {"to", "be", "or", "not"}) == pytest.approx(4 / 5)
    assert written(torch.tensor([[0, 1, 26]])) == [" az"]


def test_spared_evaluations_are_read_off_the_originals_curve() -> None:
    curves = Curves("x", "x", "x", few=(5, 10, 20), many=(40,))
    curves.values = {"original": [[8.0, 4.0, 2.0, 1.0]], "ode2": [[2.0, 1.4142135, 0.5]]}
    assert curves.spared("ode2", 5)[0] == pytest.approx(4.0)
    assert curves.spared("ode2", 20)[0] == 2.0  # the original never gets there: at least that
    assert curves.gain("ode2", 10)[0] == pytest.approx(4.0 - 1.4142135)


def test_networks_are_taught_the_same_way_by_the_same_seed() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(64, 196, generator=draw) * 2 - 1
    learned = torch.randint(27, (200,), generator=draw)
    size = Size(width=16, blocks=1, steps=4, rows=8)
    for build, data in ((digit_model, images), (text_model, learned)):
        model = build(size, 0, data)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        losses = learn(model, data, size, 1)
        assert np.isfinite(losses).all()
        assert len(losses) == 4
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved == {name for name, _ in model.named_parameters()}
        assert learn(build(size, 0, data), data, size, 1) == losses
        assert learn(build(size, 0, data), data, size, 2) != losses
    assert examples(learned[:8].reshape(2, 4)).extra["text"].shape == (2, 4)


@pytest.mark.parametrize("load", [lambda: sets.digits("train"), sets.text])
def test_missing_data_is_named(load, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"none of .*(idx3|txt)"):
        load()


def test_a_file_that_is_no_idx_file_is_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + bytes(20))
    with pytest.raises(DataError, match="IDX"):
        sets.digits("train")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="IDX"):
        sets.digits("train")


def test_the_sets_have_the_published_sizes(data_file) -> None:
    data_file("mnist_test-images-idx3-ubyte.gz")
    images, labels = sets.digits("test")
    assert images.shape == (10_000, 196)
    assert float(images.min()) == -1.0
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    learned, held_out = sets.text()
    assert learned.startswith("first citizen before we proceed any further")
    assert set(learned + held_out) == set(sets.ALPHABET)


def recorded() -> dict:
    return json.loads((files("headrace.papers.bfn_solver") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert settings["cpu_seconds"] <= 1200


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
