"""Variational autoencoders over a catalogue: from what a user chose, or is known to be, to a chance of every item.

The first layer of the encoder is an embedding table: a history of n items costs n rows, however long the catalogue is.
The decoder is dense over the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from headrace.config import known_name, require
from headrace.errors import DataError
from headrace.nn.fields import check_inputs, dense_columns
from headrace.nn.layers import MLP, Hidden, embedded, empty_embeddings, generator, hidden_layers, linear
from headrace.nn.sequence import History, history, in_evaluation, sum_rows
from headrace.types import Batch

LIKELIHOODS = ("multinomial", "bernoulli")
PRIORS = ("standard", "user")
LEAST_LOGIT = -60.0
"""Served logits of items of the catalogue are held above this; the probability is 1e-26 there."""
UNKNOWN_LOGIT = -80.0
"""Served logit of an item that the catalogue lacks: behind all that it has."""
LEAST_DOUBT = -1e-6
"""Log-probabilities are held below this, so that their log-odds are finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VAESettings:
    """Names, sizes and the two parts that can be chosen: prior and likelihood.

    Attributes:
        history: Feature with the items that the user chose; pooling `none`.
        item: Feature that names one item.
        latent: Width K of the latent state.
        hidden: Widths of the encoder between its first layer, which is the history's table, and the latent state; the
            decoder has them in the opposite order, and the table's width as its last.
        dropout: Share of the history's entries left out in training.
        prior: `standard`, normal around zero for everybody; or `user`, normal around a function of all other features
            and dense columns.
        prior_hidden: Widths of the hidden layers of that function; none makes it linear.
        encoder_reads_side: The encoder reads the other features too, beside the history. Without it they speak for
            users without a history only: from the first choice on, the encoder alone does. With the standard prior,
            it is called for users without a history too.
        likelihood: `multinomial`, items compete for one choice; or `bernoulli`, each is chosen or not.

    Raises:
        ConfigError: If a value cannot work.
    """

    history: str = "history"
    item: str = "item"
    latent: int = 200
    hidden: tuple[int, ...] = ()
    dropout: float = 0.5
    prior: Literal["standard", "user"] = "standard"
    prior_hidden: tuple[int, ...] = ()
    encoder_reads_side: bool = False
    likelihood: Literal["multinomial", "bernoulli"] = "multinomial"

    def __post_init__(self) -> None:
        require(self.latent >= 1, "latent", got=self.latent, expected="1 or more")
        require(0.0 <= self.dropout < 1.0, "dropout", got=self.dropout, expected="a share in [0, 1)")
        require(self.history != self.item, "history, item", got=self.item, expected="two features")
        known_name("prior", self.prior, PRIORS)
        known_name("likelihood", self.likelihood, LIKELIHOODS)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Normal distributions with diagonal covariance, one per example.

    Shapes:
        mean (B, K); log_variance (B, K).
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviations (B, K)."""
        return torch.exp(0.5 * self.log_variance)

    def sample(self) -> Tensor:
        """Return one draw each, (B, K), from torch's generator; gradients flow into mean and variance."""
        return self.mean + self.std * torch.randn_like(self.mean)


@dataclass(frozen=True, slots=True)
class Variational:
    """All that an evidence lower bound asks of a batch; `headrace.objectives.ELBO` reads it.

    Attributes:
        posterior: Of the latent state, given the history; the prior itself where there is none.
        prior_mean: Mean of the prior, whose variance is 1.
        logits: Of the whole catalogue, for a draw from the posterior.
        examples, places: Row and column in `logits` of every choice that is to be explained.
        cases: Which examples count at all.
        likelihood: How logits explain choices.
        step: How many training batches there were, this one included.

    Shapes:
        prior_mean (B, K); logits (B, M); examples, places (L,) int64; cases (B,) bool.
    """

    posterior: Gaussian
    prior_mean: Tensor
    logits: Tensor
    examples: Tensor
    places: Tensor
    cases: Tensor
    likelihood: str
    step: int


class MultVAE(nn.Module):
    """A variational autoencoder of histories, with a prior for everybody or one for each user.

    `logit(item) = decoder(z)[item]` with z the posterior mean given the history; without a history z is the mean of
    the prior, and the encoder is not called. A user prior makes that mean a function of what is known of the user
    (attributes, words), so that users who chose nothing yet are ranked for too; at the start it is zero for
    everybody, which is the standard prior. With prior `standard` the model is Mult-VAE.

    A row to learn from is either a user with a history and no item (the history is to be explained) or one choice: a
    history before it, an item, and a label above 0 (the item is to be explained; rows with label 0 teach nothing).
    Entries of a history should be distinct; unknown items in it are read by the encoder and explained by nobody.

    Served are log-odds of the item's probability, so that the score is the chance that this item is chosen next
    (multinomial), or chosen at all (Bernoulli). They never see the item's own row. An item that the catalogue lacks
    gets `UNKNOWN_LOGIT` and ranks behind all others.

    Args:
        embed: Maps a batch to the history (L, H) and all other features (B, D); the item is not asked for.
        features: Names of all features; those that are neither history nor item, and all dense columns, are what is
            known of a user ("side").
        dense_dim: Number of dense columns.
        catalogue: Ids of all items that can be recommended, (M,).
        settings: Sizes and choices.
        seed: Seed of the initial weights.

    Attributes:
        catalogue: The ids, ascending: (M,) int64; the columns of `catalogue_logits`.

    Shapes:
        Batch of B -> logits (B,).

    Cost:
        O(entries x H) for the first layer and O(B H M) for the decoder, with B M floats.

    Raises:
        ConfigError: If features, catalogue and settings do not fit each other.

    Source:
        Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering" (Mult-VAE: normalised input, dropout
        on it, tanh, log-variance). Karamanolakis et al. 2018, "Item Recommendation with Variational Autoencoders and
        Heterogenous Priors" (user-dependent prior; its exact architecture is not known to us). We differ in dropping
        the encoder where there is no history.
    """

    def __init__(
        self, embed: nn.Module, features: Sequence[str], dense_dim: int = 0, *, catalogue: Sequence[int] | Tensor,
        settings: VAESettings | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_inputs(features, dense_dim)
        chosen = self.settings = settings or VAESettings()
        require(chosen.history in features, "features", got=tuple(features), expected=f"'{chosen.history}' among them")
        self.embed, self.dense_dim = embed, dense_dim
        self.side = tuple(name for name in features if name not in (chosen.history, chosen.item))
        self.catalogue: Tensor
        self.register_buffer("catalogue", _distinct(catalogue))
        self.step: Tensor
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))
        (first,) = empty_embeddings(embed, (chosen.history,))
        width = int(first.shape[1])
        side = sum(int(rows.shape[1]) for rows in empty_embeddings(embed, self.side)) + dense_dim
        known = side > 0 or not (chosen.prior == "user" or chosen.encoder_reads_side)
        require(known, "features", got=tuple(features), expected="at least one feature or dense column more",
                do="A prior for each user needs something that is known of users.")  # fmt: skip
        draw, inner = generator(seed), chosen.hidden
        self.first_bias = nn.Parameter(torch.zeros(width))
        self.encoder_side = linear(side, width, draw, bias=False) if chosen.encoder_reads_side else None
        self.encoder = hidden_layers(width, Hidden(inner, activation="tanh"), draw)
        self.posterior = linear(inner[-1] if inner else width, 2 * chosen.latent, draw)
        decoder = Hidden((*reversed(inner), width), activation="tanh")
        self.decoder = MLP(chosen.latent, decoder, len(self.catalogue), draw)
        self.prior = _flat_start(side, chosen, draw) if chosen.prior == "user" else None

    def forward(self, batch: Batch) -> Tensor:
        """Return the log-odds (B,) of each example's item."""
        places_B = self.places(self._items(batch))
        logits_BM = self.catalogue_logits(batch)
        own_B = logits_BM.gather(1, places_B.clamp(min=0).unsqueeze(1)).squeeze(1)
        if self.settings.likelihood == "multinomial":
            log_chance_B = (own_B - logits_BM.logsumexp(1)).clamp(max=LEAST_DOUBT)
            own_B = log_chance_B - torch.log(-torch.expm1(log_chance_B))
        return torch.where(places_B >= 0, own_B.clamp(min=LEAST_LOGIT), UNKNOWN_LOGIT)

    def catalogue_logits(self, batch: Batch) -> Tensor:
        """Return the decoder's logits of all items, (B, M), at the mean of each user's latent state.

        The batch needs no items. Column m is item `catalogue[m]`.
        """
        rows = self.embed(in_evaluation(batch, (self.settings.history, *self.side)))
        posterior, _ = self._states(rows, batch)
        return self.decode(posterior.mean)

    def variational(self, batch: Batch) -> Variational:
        """Return what the evidence lower bound asks for; in training mode the latent states are drawn."""
        if self.training:
            self.step += 1
        rows = self.embed(batch)
        posterior, prior_mean_BK = self._states(rows, batch)
        codes_BK = posterior.sample() if self.training else posterior.mean
        examples_L, places_L, cases_B = self._choices(history(rows, batch, self.settings.history), batch)
        return Variational(
            posterior, prior_mean_BK, self.decode(codes_BK), examples_L, places_L, cases_B, self.settings.likelihood,
            int(self.step),
        )  # fmt: skip

    def encode(self, rows_BH: Tensor, side_BS: Tensor | None = None) -> Gaussian:
        """Return the posterior of histories whose rows were pooled, and of side information if the encoder reads it."""
        inputs_BH = rows_BH + self.first_bias
        if self.encoder_side is not None and side_BS is not None:
            inputs_BH = inputs_BH + self.encoder_side(side_BS)
        mean_BK, log_variance_BK = self.posterior(self.encoder(torch.tanh(inputs_BH))).chunk(2, dim=1)
        return Gaussian(mean_BK, log_variance_BK)

    def decode(self, codes_BK: Tensor) -> Tensor:
        """Return logits (B, M) of latent states."""
        logits_BM: Tensor = self.decoder(codes_BK)
        return logits_BM

    def pool(self, past: History) -> Tensor:
        """Return the histories' rows added up, over the root of their number: (B, H).

        It is the first layer over an input of length 1. In training, entries are dropped.
        """
        lengths_B = past.offsets[1:] - past.offsets[:-1]
        rows_LH = past.rows
        if self.training and self.settings.dropout:
            kept_L = dropout(rows_LH.new_ones(len(rows_LH)), self.settings.dropout)
            rows_LH = rows_LH * kept_L.unsqueeze(1)
        sums_BH = sum_rows(rows_LH, past.examples(), len(lengths_B))
        return sums_BH / lengths_B.clamp(min=1).to(sums_BH.dtype).sqrt().unsqueeze(1)

    def places(self, ids_N: Tensor) -> Tensor:
        """Return the columns of ids in the catalogue, (N,) int64; -1 for ids that it lacks."""
        places_N = torch.searchsorted(self.catalogue, ids_N).clamp(max=len(self.catalogue) - 1)
        return torch.where(self.catalogue[places_N] == ids_N, places_N, -1)

    def _states(self, rows: Mapping[str, Tensor], batch: Batch) -> tuple[Gaussian, Tensor]:
        """Return posteriors, and the means of the priors (B, K)."""
        past = history(rows, batch, self.settings.history)
        side_BS = self._side(rows, batch)
        prior_BK = past.rows.new_zeros(len(batch), self.settings.latent) if self.prior is None else self.prior(side_BS)
        seen_B1 = (past.offsets[1:] > past.offsets[:-1]).unsqueeze(1)
        if self.prior is None and self.encoder_side is not None:
            seen_B1 = torch.ones_like(seen_B1)  # then the encoder is who knows of users without a history
        if not bool(seen_B1.any()):
            return Gaussian(prior_BK, torch.zeros_like(prior_BK)), prior_BK
        # All rows go through the encoder, not only those with a history: another shape would round differently, and
        # the score of a row must not depend on its neighbours.
        found = self.encode(self.pool(past), side_BS)
        mean_BK = torch.where(seen_B1, found.mean, prior_BK)
        return Gaussian(mean_BK, torch.where(seen_B1, found.log_variance, 0.0)), prior_BK

    def _side(self, rows: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return torch.cat([*embedded(rows, self.side, len(batch)), dense_columns(batch, self.dense_dim)], dim=1)

    def _items(self, batch: Batch) -> Tensor:
        """Return the examples' items (B,)."""
        item = batch.ids[self.settings.item]
        if not torch.equal(item.offsets, torch.arange(len(batch) + 1, device=item.offsets.device)):
            raise DataError(f"Feature '{self.settings.item}'", got=f"{len(item.values)} ids in {len(batch)} examples",
                            expected="exactly one id per example", do="Ask for one item in a row.")  # fmt: skip
        return item.values

    def _choices(self, past: History, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return row and column of all choices to be explained, and which examples count (see the class)."""
        examples_L, ids_L = past.examples(), past.ids
        cases_B = torch.ones(len(batch), dtype=torch.bool, device=ids_L.device)
        item = batch.ids.get(self.settings.item)
        if item is not None and len(item.values):
            counts_B = item.offsets[1:] - item.offsets[:-1]
            one_B, chosen_B = counts_B > 0, batch.labels > 0
            cases_B = ~one_B | chosen_B
            of_item_N = torch.repeat_interleave(torch.arange(len(batch), device=ids_L.device), counts_B)
            whole_L, taken_N = ~one_B[examples_L], chosen_B[of_item_N]
            examples_L = torch.cat([examples_L[whole_L], of_item_N[taken_N]])
            ids_L = torch.cat([ids_L[whole_L], item.values[taken_N]])
        places_L = self.places(ids_L)
        return examples_L[places_L >= 0], places_L[places_L >= 0], cases_B


def _distinct(catalogue: Sequence[int] | Tensor) -> Tensor:
    """Return the ids of a catalogue in ascending order."""
    ids = torch.as_tensor(catalogue, dtype=torch.int64).flatten()
    distinct: Tensor = torch.unique(ids)
    require(len(distinct) == len(ids) > 0, "catalogue", got=f"{len(ids)} ids, {len(distinct)} of them distinct",
            expected="distinct ids, at least one")  # fmt: skip
    return distinct


def _flat_start(side: int, settings: VAESettings, draw: torch.Generator) -> MLP:
    """Return the user prior's network, zero everywhere at the start: the standard prior."""
    network = MLP(side, Hidden(settings.prior_hidden, activation="tanh"), settings.latent, draw)
    with torch.no_grad():
        network.output.weight.zero_()
    return network
