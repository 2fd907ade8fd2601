"""The evidence lower bound: a constant prior is Mult-VAE, sparse choices are dense ones, annealing counts batches."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, normalize

from headrace.errors import ConfigError, DataError
from headrace.nn import MultVAE, VAESettings, generator
from headrace.objectives import ELBO, gaussian_kl, log_likelihood
from headrace.optim import Warmup
from headrace.types import Batch, Jagged

ITEMS, WIDTH, LATENT = 12, 6, 4
LISTS = ([0, 3, 11], [5], [1, 2, 3, 4], [7, 10])


class Rows(nn.Module):
    """The history's table as a plain parameter, one row per item."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(ITEMS, WIDTH, generator=generator(0)) * 0.5)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"history": self.table[batch.ids["history"].values]}


def batch_of(lists=LISTS, *, side: int = 2) -> Batch:
    rows, lengths = len(lists), torch.tensor([0, *(len(one) for one in lists)])
    values = torch.tensor([item for one in lists for item in one], dtype=torch.int64)
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        ids={"history": Jagged(values, lengths.cumsum(0))}, dense=torch.randn(rows, side, generator=generator(3)),
        labels=torch.ones(rows), weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def model_of(prior: str = "standard", **settings: object) -> MultVAE:
    chosen = VAESettings(latent=LATENT, hidden=(5,), prior=prior, dropout=0.0, **settings)  # type: ignore[arg-type]
    return MultVAE(Rows(), ("history",), 2, catalogue=range(ITEMS), settings=chosen, seed=1)


def plain_mult_vae(model: MultVAE, x_BM: Tensor, beta: float) -> Tensor:
    """The loss of Mult-VAE as its authors write it: dense inputs and matrices, log-variances, no prior anywhere."""
    h = torch.tanh(normalize(x_BM, dim=1) @ model.embed.table + model.first_bias)
    h = torch.tanh(model.encoder[0](h))
    mean, log_variance = (h @ model.posterior.weight.T + model.posterior.bias).split(LATENT, dim=1)
    kl = (0.5 * (-log_variance + log_variance.exp() + mean**2 - 1)).sum(1).mean()
    h = mean + torch.randn(mean.shape) * torch.exp(0.5 * log_variance)
    for layer in model.decoder.layers[:-1]:
        h = layer(h)
    logits = h @ model.decoder.output.weight.T + model.decoder.output.bias
    return -(log_softmax(logits, dim=1) * x_BM).sum(1).mean() + beta * kl


def loss_and_gradients(model: MultVAE, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": total.detach(), **found}


def dense_lists(lists=LISTS) -> Tensor:
    x_BM = torch.zeros(len(lists), ITEMS)
    for row, one in enumerate(lists):
        x_BM[row, one] = 1.0
    return x_BM


@pytest.mark.parametrize("prior", ["standard", "user"])
def test_a_constant_prior_is_mult_vae(prior: str) -> None:
    """A constant prior moves latent states and nothing else: loss and gradients are those of Mult-VAE."""
    model = model_of(prior).train()
    torch.manual_seed(7)
    expected = loss_and_gradients(model, plain_mult_vae(model, dense_lists(), 0.3))
    if prior == "user":  # not at zero, but the same for everybody: posterior and decoder take the move back
        move = torch.tensor([0.5, -1.0, 2.0, 0.1])
        with torch.no_grad():
            model.prior.output.bias.copy_(move)
            model.posterior.bias[:LATENT] += move
            model.decoder.layers[0].bias -= model.decoder.layers[0].weight @ move
    torch.manual_seed(7)
    found = loss_and_gradients(model, ELBO(beta=0.3)(model, batch_of()).total)
    for name in expected.keys() - {"decoder.layers.0.weight"}:  # its gradient has the moved states in it
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_an_untrained_user_prior_is_the_standard_one() -> None:
    losses = {}
    for prior in ("standard", "user"):
        torch.manual_seed(3)
        losses[prior] = ELBO()(model_of(prior).train(), batch_of()).total
    assert torch.equal(losses["standard"], losses["user"])


def test_the_kl_is_that_of_the_distributions() -> None:
    draw = generator(5)
    mean, log_variance, prior = (torch.randn(3, LATENT, generator=draw) for _ in range(3))
    q = Independent(Normal(mean, torch.exp(0.5 * log_variance)), 1)
    for given, center in ((prior, prior), (None, torch.zeros_like(prior))):
        expected = kl_divergence(q, Independent(Normal(center, torch.ones_like(center)), 1))
        torch.testing.assert_close(gaussian_kl(mean, log_variance, given), expected)


def test_sparse_choices_are_explained_as_dense_ones() -> None:
    logits, x_BM = torch.randn(4, ITEMS, generator=generator(2)), dense_lists()
    rows, columns = x_BM.nonzero(as_tuple=True)
    torch.testing.assert_close(log_likelihood(logits, rows, columns), (log_softmax(logits, 1) * x_BM).sum(1))
    expected = -binary_cross_entropy_with_logits(logits, x_BM, reduction="none").sum(1)
    torch.testing.assert_close(log_likelihood(logits, rows, columns, "bernoulli"), expected)
    none = torch.zeros(0, dtype=torch.int64)
    assert torch.equal(log_likelihood(logits, none, none), torch.zeros(4))
    with pytest.raises(ConfigError, match="likelihood"):
        log_likelihood(logits, none, none, "poisson")


def test_a_user_prior_pulls_states_towards_what_is_known() -> None:
    model = model_of("user").train()
    nn.init.normal_(model.prior.output.weight, generator=generator(4))
    found = loss_and_gradients(model, ELBO()(model, batch_of()).total)
    assert found["prior.layers.0.weight"].abs().sum() > 0
    with torch.no_grad():
        asked = model.eval().variational(batch_of())
    expected = gaussian_kl(asked.posterior.mean, asked.posterior.log_variance, asked.prior_mean).mean()
    assert ELBO()(model, batch_of()).parts["kl"] == pytest.approx(float(expected), rel=1e-5)
    assert asked.prior_mean.abs().sum() > 0


def test_beta_rises_with_the_batches_that_the_model_counts() -> None:
    model, objective = model_of().train(), ELBO(beta=0.4, annealing=Warmup(steps=4))
    betas = [objective(model, batch_of()).parts["beta"] for _ in range(6)]
    assert betas == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    later = copy.deepcopy(model)  # what a checkpoint brings back
    assert objective(later, batch_of()).parts["beta"] == pytest.approx(0.4)
    assert objective(model.eval(), batch_of()).total.requires_grad
    assert int(model.step) == 6  # judging is not training


def total(model: MultVAE, batch: Batch) -> float:
    return float(ELBO()(model, batch).total.detach())


def test_weights_and_cases_count() -> None:
    model, batch = model_of().eval(), batch_of()
    each = [total(model, batch.slice(row, row + 1)) for row in range(4)]
    assert total(model, batch) == pytest.approx(sum(each) / 4, rel=1e-5)
    batch.weights[:] = torch.tensor([0.0, 2.0, 0.0, 1.0])
    assert total(model, batch) == pytest.approx((2 * each[1] + each[3]) / 4, rel=1e-5)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="beta"):
        ELBO(beta=-1.0)
    with pytest.raises(ConfigError, match="annealing"):
        ELBO(annealing=0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without 'variational'"):
        ELBO()(nn.Linear(1, 1), batch_of())
    with pytest.raises(DataError, match="no examples"):
        ELBO()(model_of(), batch_of(()))
    silent = SimpleNamespace(variational=None)
    with pytest.raises(ConfigError, match="without 'variational'"):
        ELBO()(silent, batch_of())  # type: ignore[arg-type]
