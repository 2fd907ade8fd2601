"""The claims of the variational predictive natural gradient: the toy size in full, and the small one as recorded."""

from __future__ import annotations

import json
import os
import sys
from importlib.resources import files

import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.papers.vpng import recipe
from headrace.papers.vpng.claim import render, run

FIGURES = {
    "L4_iterations/gradient_0.99", "L4_iterations/vpng_0.99",
    *(f"L5_elbo_lead_at_50/{arm}_{correlation}" for arm in ("best_baseline", "vpng_diagonal")
      for correlation in (0.0, 0.9, 0.99)),
    *(f"L6_nats_ahead_of_adam/vpng_at_{at}" for at in (300, 1000)),
    "L6_nats_ahead_of_adam/vpng_k_fac_adam_at_equal_time",
    "L6_ms_per_step/adam", "L6_ms_per_step/vpng_k_fac_adam",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> dict:
    return run("toy")


def test_one_iteration_does_where_the_gradient_takes_hundreds(toy) -> None:
    figures = toy["figures"]
    assert figures["L4_iterations/vpng_0.99"]["value"] <= 2
    assert figures["L4_iterations/gradient_0.99"]["value"] >= 500


def test_the_lead_is_that_of_the_coupling(toy) -> None:
    """Over the best baseline, and over the same method without the coupling of parameters."""
    figures = toy["figures"]
    assert figures["L5_elbo_lead_at_50/best_baseline_0.99"]["value"] > 8
    assert figures["L5_elbo_lead_at_50/vpng_diagonal_0.99"]["value"] > 15


def test_all_goals_of_the_toy_hold(toy) -> None:
    assert [name for name, each in toy["figures"].items() if each["holds"] is False] == []


def test_the_result_is_the_agreed_object(toy) -> None:
    assert {"figures", "commit", "machine", "settings", "tables", "plots"} == set(toy)
    assert json.loads(json.dumps(toy, allow_nan=False)) == json.loads(json.dumps(toy))
    assert render(toy).splitlines()[0].startswith("L4. Mean of a bivariate Gaussian")


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one of .*'toy'"):
        run("tiny")


def test_the_gaussian_has_the_curvature_that_it_says() -> None:
    model = recipe.GaussianMean(0.9, 0)
    hessian = torch.autograd.functional.hessian(
        lambda mean: _loss_at(model, mean), torch.tensor([0.3, -0.2], dtype=torch.float64)
    )
    assert torch.allclose(hessian, model.hessian)
    with torch.no_grad():
        model.q.mean.copy_(model.optimum)
    gradients = torch.autograd.grad(model.loss(model()), list(model.q.parameters()))
    assert max(float(each.abs().max()) for each in gradients) < 1e-9


def _loss_at(model: recipe.GaussianMean, mean: torch.Tensor) -> torch.Tensor:
    z = mean + model.q.log_sd.detach().exp() * model.noise
    squares = (z @ model.root - model.seen @ model.root).square().sum(1).mean() / 2
    return squares + recipe.divergence(mean, model.q.log_sd.detach(), model.prior_sd)


def test_inputs_have_the_planted_correlation_and_weights_no_sum() -> None:
    (inputs, labels), (test_inputs, test_labels) = recipe.regression(0.9, 3)
    assert (inputs.shape, labels.shape) == ((200, 10), (200,))
    assert (test_inputs.shape, test_labels.shape) == ((1000, 10), (1000,))
    matrix = torch.corrcoef(torch.cat([inputs, test_inputs]).T)
    assert abs(float(matrix[~torch.eye(10, dtype=torch.bool)].mean()) - 0.9) < 0.02


def test_the_digits_are_split_without_overlap_and_their_elbo_is_that_of_the_definition() -> None:
    images, test_images = recipe.digits(0)
    assert (images.shape, test_images.shape) == ((1500, 64), (297, 64))
    assert set(images.unique().tolist()) == {0.0, 1.0}
    again, _ = recipe.digits(0)
    assert torch.equal(images, again)
    model = recipe.DigitsVAE(1)
    q, logits = model(images[:5], torch.zeros(5, 3, recipe.LATENTS))
    mean, sd = q[:, : recipe.LATENTS], q[:, recipe.LATENTS :].exp()
    posterior, prior = torch.distributions.Normal(mean, sd), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    seen = torch.distributions.Bernoulli(logits=logits[:, 0]).log_prob(images[:5]).sum(1)
    assert torch.allclose(model.loss(images[:5], q, logits), (divergence - seen).mean(), atol=1e-4)


def test_lacking_digits_are_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn"):
        recipe.digits(0)


def recorded() -> dict:
    return json.loads((files("headrace.papers.vpng") / "expected.json").read_text(encoding="utf-8"))


def test_the_recorded_run_reached_its_goals() -> None:
    figures = recorded()["figures"]
    assert set(figures) >= FIGURES
    assert [name for name, each in figures.items() if each["holds"] is False] == []


def test_the_recorded_run_says_how_it_was_made() -> None:
    settings = recorded()["settings"]
    assert settings["size"] == "small"
    assert len(settings["seeds"]) >= 3
    assert len(settings["digits_seeds"]) >= 3
    assert settings["cpu_seconds"] <= 1800


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("HEADRACE_DATA"), reason="missing data files: HEADRACE_DATA is not set")
def test_the_small_size_reaches_its_goals() -> None:
    result = run("small")
    assert set(result["figures"]) >= FIGURES
    assert [name for name, each in result["figures"].items() if each["holds"] is False] == []
