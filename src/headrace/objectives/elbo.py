"""The evidence lower bound of a variational autoencoder, with a standard prior or one for each user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from headrace.config import known_name, require
from headrace.errors import ConfigError
from headrace.objectives.supervised import check_examples
from headrace.protocols import Schedule
from headrace.types import Batch, Loss

LIKELIHOODS = ("multinomial", "bernoulli")


class _Gaussian(Protocol):
    """Means and log-variances, (B, K) each."""

    mean: Tensor
    log_variance: Tensor


class _Variational(Protocol):
    """What a model says of a batch; see `headrace.nn.Variational`."""

    posterior: _Gaussian
    prior_mean: Tensor
    logits: Tensor
    examples: Tensor
    places: Tensor
    cases: Tensor
    likelihood: str
    step: int


@dataclass(frozen=True, slots=True)
class ELBO:
    """The negative evidence lower bound: `beta x KL(posterior || prior) - log-likelihood of the choices`.

    The prior is the model's: with mean zero for everybody this is the loss of Mult-VAE, with a mean that depends on the
    user that of user-dependent priors. Nothing else differs.

    The total is `sum w_b l_b / B` over the examples that count, as that of `LogLoss`.

    Attributes:
        beta: Weight of the KL; 1 is the bound itself. Below 1 the latent state may say more about the user.
        annealing: Factor on beta at training batch 1, 2, ... (`headrace.optim.Warmup` rises from 0 to 1). The model
            counts the batches, in a buffer that is saved with it, so this objective stays stateless.

    Raises:
        ConfigError: If beta is negative; or, when called, if the model has no `variational`.

    Shapes:
        The model's `variational(batch)` returns a `headrace.nn.Variational`; weights (B,).

    Source:
        Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering" (multinomial likelihood, beta and its
        annealing). Karamanolakis et al. 2018, "Item Recommendation with Variational Autoencoders and Heterogenous
        Priors" (the prior's mean).
    """

    beta: float = 0.2
    annealing: Schedule | None = None

    def __post_init__(self) -> None:
        require(self.beta >= 0.0, "beta", got=self.beta, expected="0 or more")
        require(self.annealing is None or callable(self.annealing), "annealing", got=self.annealing,
                expected="a schedule, from batch number to factor, or None")  # fmt: skip

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss; its parts are the mean `reconstruction` and `kl` of the examples that count, and `beta`."""
        check_examples(batch)
        found = _asked(model)(batch)
        beta = self.beta * (1.0 if self.annealing is None else float(self.annealing(found.step)))
        counts_B = found.cases.to(batch.weights.dtype)
        kl_B = gaussian_kl(found.posterior.mean, found.posterior.log_variance, found.prior_mean)
        fit_B = log_likelihood(found.logits, found.examples, found.places, found.likelihood)
        total = ((beta * kl_B - fit_B) * counts_B * batch.weights).sum() / len(batch)
        many = counts_B.sum().clamp(min=1.0)
        parts = {
            "reconstruction": float(-(fit_B * counts_B).sum().detach() / many),
            "kl": float((kl_B * counts_B).sum().detach() / many), "beta": beta,
        }  # fmt: skip
        return Loss(total, parts)


def gaussian_kl(mean_BK: Tensor, log_variance_BK: Tensor, prior_mean_BK: Tensor | None = None) -> Tensor:
    """Return `KL(N(mean, variance) || N(prior mean, 1))`, added up over the K dimensions: (B,).

    Args:
        mean_BK: Means.
        log_variance_BK: Logarithms of the variances.
        prior_mean_BK: Means of the prior; None: zero.

    Example:
        >>> gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([2.])
    """
    distance_BK = mean_BK if prior_mean_BK is None else mean_BK - prior_mean_BK
    return 0.5 * (distance_BK.square() + log_variance_BK.exp() - 1.0 - log_variance_BK).sum(1)


def log_likelihood(logits_BM: Tensor, examples_L: Tensor, places_L: Tensor, likelihood: str = "multinomial") -> Tensor:
    """Return the log-likelihood (B,) of sparse choices under logits of a whole catalogue.

    `multinomial`: the sum of log-softmax at the chosen places. `bernoulli`: every place is chosen or not, and a place
    should stand at most once per example.

    Args:
        logits_BM: Logits.
        examples_L: Row of every choice.
        places_L: Column of every choice.
        likelihood: Which.

    Cost:
        O(B M + L); no dense matrix of choices is made.

    Example:
        >>> logits, row, column = torch.zeros(1, 4), torch.tensor([0, 0]), torch.tensor([1, 3])
        >>> log_likelihood(logits, row, column).exp()
        tensor([0.0625])
    """
    known_name("likelihood", likelihood, LIKELIHOODS)
    chosen_B = logits_BM.new_zeros(len(logits_BM)).index_add(0, examples_L, logits_BM[examples_L, places_L])
    if likelihood == "bernoulli":
        return chosen_B - softplus(logits_BM).sum(1)
    counts_B = torch.bincount(examples_L, minlength=len(logits_BM)).to(logits_BM.dtype)
    return chosen_B - counts_B * logits_BM.logsumexp(1)


def _asked(model: nn.Module) -> Callable[[Batch], _Variational]:
    found = getattr(model, "variational", None)
    if not callable(found):
        raise ConfigError("ELBO, model", got=f"a {type(model).__name__} without 'variational'",
                          expected="a model that has it, as MultVAE of headrace.nn does")  # fmt: skip
    return cast("Callable[[Batch], _Variational]", found)
