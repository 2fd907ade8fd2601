"""A variational autoencoder whose latent states may correlate: a posterior for every pair that respects each one's own.

Two histories give a correlation in every latent dimension, by a network that does not care which comes first. The means
and variances are those of the plain autoencoder, so a pair's marginals are its members' posteriors by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn.layers import empty_embeddings, generator, linear
from headrace.nn.sequence import history, only
from headrace.nn.vae import Gaussian, MultVAE, VAESettings
from headrace.types import Batch

NEARLY_ONE = 1.0 - 1e-6
"""Correlations stay between minus this and this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """How pairs are read.

    Attributes:
        hidden: Units P of the pair network's hidden layer. They are the last 2 P columns of the history's table: what
            an item adds if it stands in the first or in the second history.
        other: Feature with the other history, for served pairs; read from the same table, pooling `none`. Empty: pairs
            are not served.

    Raises:
        ConfigError: If there is no hidden unit.
    """

    hidden: int = 100
    other: str = "other"

    def __post_init__(self) -> None:
        require(self.hidden >= 1, "PairSettings.hidden", got=self.hidden, expected="1 or more")


@dataclass(frozen=True, slots=True)
class Latents:
    """What a model knows of some histories: posteriors, and what the pair network reads of each.

    Shapes:
        posterior (B, K); pair (B, 2 P), or (B, 0) where latents are independent.
    """

    posterior: Gaussian
    pair: Tensor

    def take(self, rows: Tensor) -> Latents:
        """Return those of some rows (R,)."""
        chosen = Gaussian(self.posterior.mean[rows], self.posterior.log_variance[rows])
        return Latents(chosen, self.pair[rows])


@dataclass(frozen=True, slots=True)
class Correlated:
    """All that a bound with correlated latents asks of a batch; `headrace.objectives.CorrelatedELBO` reads it.

    Attributes:
        posterior: Of the latent state of every row.
        correlation: Of every pair of rows, in every latent dimension.
        logits: Of the whole catalogue, for a draw from the posterior of the rows to be explained.
        examples, places: Row and column in `logits` of every choice that is to be explained.
        likelihood: How logits explain choices.

    Shapes:
        posterior (B, K); correlation (P, K); logits (A, M); examples, places (L,) int64.
    """

    posterior: Gaussian
    correlation: Tensor
    logits: Tensor
    examples: Tensor
    places: Tensor
    likelihood: str


class PairCorrelation(nn.Module):
    """Two inputs to a correlation in every dimension: `tanh((f(x, y) + f(y, x)) / 4)`, held off -1 and 1.

    f has one hidden layer. Its first weights stand in the embedding table, so an input is the sum of its items' rows:
    P columns for the first place and P for the second.

    Args:
        hidden: Units P.
        latent: Dimensions K.
        draw: Where initial weights are drawn from.

    Shapes:
        (N, 2 P), (N, 2 P) -> (N, K)

    Source:
        Tang et al. 2019, "Correlated Variational Auto-Encoders" (symmetric by averaging before the sigmoid;
        `2 sigmoid(u) - 1 = tanh(u / 2)`).
    """

    def __init__(self, hidden: int, latent: int, draw: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.first_bias = nn.Parameter(torch.zeros(hidden))
        self.output = linear(hidden, latent, draw)

    def forward(self, one_NP: Tensor, other_NP: Tensor) -> Tensor:
        """Return the correlations; exchanging the inputs changes nothing."""
        (a, b), (c, d) = (torch.chunk(rows, 2, dim=-1) for rows in (one_NP, other_NP))
        both = torch.relu(a + d + self.first_bias) + torch.relu(c + b + self.first_bias)
        pressed: Tensor = torch.nn.functional.linear(both, self.output.weight) * 0.5 + self.output.bias
        return NEARLY_ONE * torch.tanh(0.5 * pressed)


class CorrelatedVAE(nn.Module):
    """`MultVAE` over a graph's nodes, with a network for the correlation of any two of them.

    Trained with `headrace.objectives.CorrelatedELBO` on batches of nodes, edges and other pairs. It answers two kinds
    of requests, both from histories alone, so also for nodes that no graph had:

    - rows with an item: the log-odds of the item, as `MultVAE`;
    - rows with another history: `-log D`, where D is the expected squared distance of the two latent states. The score
      is then `1 / (1 + D)`: who belongs together scores high.

    Args:
        embed: Maps a batch to the rows of the history (L, H + 2 P) and of the other history; H without pair settings.
        features: Names of the features that it embeds.
        dense_dim: Dense columns; there are none.
        catalogue: Ids of all items.
        settings: Sizes and choices of the autoencoder; its prior must be `standard`.
        pair: How pairs are read; None: latents are independent, and every correlation is 0.
        seed: Seed of the initial weights.

    Shapes:
        Batch of B -> logits (B,).

    Raises:
        ConfigError: If the prior is another, the encoder reads more than the history, or the table is too narrow.

    Source:
        Tang et al. 2019, "Correlated Variational Auto-Encoders". The first layers of encoder and pair network share a
        table here; sizes are ours.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int = 0, *, catalogue: Sequence[int] | Tensor,
        settings: VAESettings | None = None, pair: PairSettings | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen = settings or VAESettings(dropout=0.0)
        require(chosen.prior == "standard" and not chosen.encoder_reads_side and dense_dim == 0, "CorrelatedVAE",
                got=f"prior {chosen.prior}, {dense_dim} dense columns",
                expected="a standard prior and a history alone")  # fmt: skip
        self.embed, self.history, self.other = embed, chosen.history, "" if pair is None else pair.other
        (rows,) = empty_embeddings(embed, (chosen.history,))
        self.width = int(rows.shape[1]) - (0 if pair is None else 2 * pair.hidden)
        require(self.width >= 1, f"Table of '{chosen.history}'", got=f"{rows.shape[1]} columns",
                expected="the encoder's width and twice the pair network's")  # fmt: skip
        own = [name for name in features if name != self.other]
        self.vae = MultVAE(_FirstColumns(embed, chosen.history, self.width), own, catalogue=catalogue, settings=chosen,
                           seed=seed)  # fmt: skip
        draw = generator(seed + 1)
        self.pair = None if pair is None else PairCorrelation(pair.hidden, chosen.latent, draw)

    def forward(self, batch: Batch) -> Tensor:
        """Return log-odds (B,): of the rows' items, or of the rows' two histories belonging together."""
        if not self.other or self.other not in batch.ids:
            logits_B: Tensor = self.vae(batch)
            return logits_B
        rows = self.embed(only(batch, (self.history, self.other)))
        one, two = self._latents(rows, batch, self.history), self._latents(rows, batch, self.other)
        return -torch.log(expected_distance(one.posterior, two.posterior, self.correlation(one, two)))

    def latents(self, batch: Batch) -> Latents:
        """Return posteriors of the batch's histories, and what the pair network reads of them."""
        return self._latents(self.embed(only(batch, (self.history,))), batch, self.history)

    def correlation(self, one: Latents, other: Latents) -> Tensor:
        """Return the correlation of latents pair by pair, (N, K); zeros where they are independent."""
        if self.pair is None:
            return torch.zeros_like(one.posterior.mean)
        found: Tensor = self.pair(one.pair, other.pair)
        return found

    def variational(self, batch: Batch) -> object:
        """Return what the plain evidence lower bound asks for; see `MultVAE.variational`."""
        return self.vae.variational(batch)

    def correlated(self, batch: Batch, alone_A: Tensor, left_P: Tensor, right_P: Tensor) -> Correlated:
        """Return what the bound asks for; in training mode the latent states to be decoded are drawn.

        Args:
            batch: Histories, one lookup for all.
            alone_A: Rows whose choices are to be explained.
            left_P: Row of every pair's one member.
            right_P: Row of its other member.
        """
        if self.training:
            self.vae.step += 1
        found = self._latents(self.embed(batch), batch, self.history)
        chosen = found.take(alone_A).posterior
        codes_AK = chosen.sample() if self.training else chosen.mean
        correlation_PK = self.correlation(found.take(left_P), found.take(right_P))
        past = batch.ids[self.history]
        place_B = torch.full((len(batch),), -1, dtype=torch.int64)
        place_B[alone_A] = torch.arange(len(alone_A))
        examples_L = torch.repeat_interleave(place_B, past.offsets[1:] - past.offsets[:-1])
        places_L = self.vae.places(past.values)
        told_L = (examples_L >= 0) & (places_L >= 0)
        return Correlated(
            found.posterior, correlation_PK, self.vae.decode(codes_AK), examples_L[told_L], places_L[told_L],
            self.vae.settings.likelihood,
        )  # fmt: skip

    def _latents(self, rows: Mapping[str, Tensor], batch: Batch, name: str) -> Latents:
        past = history(rows, batch, name)
        pooled_BD = self.vae.pool(past)
        found = self.vae.encode(pooled_BD[:, : self.width])
        seen_B1 = (past.offsets[1:] > past.offsets[:-1]).unsqueeze(1)
        mean_BK = torch.where(seen_B1, found.mean, 0.0)  # without a history there is the prior alone
        log_variance_BK = torch.where(seen_B1, found.log_variance, 0.0)
        return Latents(Gaussian(mean_BK, log_variance_BK), pooled_BD[:, self.width :])


def expected_distance(one: Gaussian, other: Gaussian, correlation: Tensor) -> Tensor:
    """Return the expected squared distance of two correlated latent states, (..., K) -> (...)."""
    a, b = one.std, other.std
    apart = (one.mean - other.mean).square() + a.square() + b.square() - 2.0 * a * b * correlation
    return apart.sum(-1)


class _FirstColumns(nn.Module):
    """The embedding with one feature cut to its first columns."""

    def __init__(self, embed: nn.Module, feature: str, width: int) -> None:
        super().__init__()
        self.embed, self.feature, self.width = embed, feature, width

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rows."""
        rows = dict(self.embed(batch))
        return {**rows, self.feature: rows[self.feature][:, : self.width]}
