"""VAEs over a catalogue: the prior alone for cold users, sparse histories, defined answers at the edges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.layers import generator
from headrace.nn.vae import LEAST_LOGIT, UNKNOWN_LOGIT, MultVAE, VAESettings
from headrace.types import Batch, Jagged

CATALOGUE = (40, 7, 99, 23, 8)
"""Not in order, and not from 0."""


class Rows(nn.Module):
    """A table of items for histories, and one of words for side information."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(0)
        self.items = nn.Parameter(torch.randn(120, 6, generator=draw))
        self.words = nn.Parameter(torch.randn(10, 3, generator=draw))
        self.asked: list[str] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        words = batch.ids["words"] if "words" in batch.ids else Jagged(*(torch.zeros(1, dtype=torch.int64),) * 2)
        owners = torch.repeat_interleave(torch.arange(len(words)), words.offsets.diff())
        found = torch.zeros(len(words), 3).index_add(0, owners, self.words[words.values])
        return {"history": self.items[batch.ids["history"].values], "words": found}


def jagged(lists: list[list[int]]) -> Jagged:
    lengths = torch.tensor([0, *(len(one) for one in lists)])
    return Jagged(torch.tensor([i for one in lists for i in one], dtype=torch.int64), lengths.cumsum(0))


def batch_of(histories: list[list[int]], items: list[list[int]] | None = None, *, words=None, labels=None) -> Batch:
    rows = len(histories)
    zeros = torch.zeros(rows, dtype=torch.int64)
    ids = {"history": jagged(histories), "words": jagged(words or [[row % 10] for row in range(rows)])}
    if items is not None:
        ids["item"] = jagged(items)
    return Batch(
        ids=ids, dense=torch.linspace(-1.0, 1.0, rows).unsqueeze(1), labels=torch.tensor(labels or [1.0] * rows),
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def model_of(*, spread: float = 0.5, seed: int = 1, **settings: object) -> MultVAE:
    chosen = VAESettings(**{"latent": 4, "prior": "user", "prior_hidden": (5,), **settings})  # type: ignore[arg-type]
    model = MultVAE(Rows(), ("history", "words", "item"), 1, catalogue=CATALOGUE, settings=chosen, seed=seed)
    if model.prior is not None:
        nn.init.normal_(model.prior.output.weight, std=spread, generator=generator(2))
    return model.eval()


WARM = [[7, 40], [99], [23, 8, 40]]
COLD = [[], [], []]


def test_without_a_history_the_prior_alone_ranks_and_the_encoder_is_not_called(monkeypatch) -> None:
    model, batch = model_of(), batch_of(COLD)
    expected = model.decode(model.prior(torch.cat([model.embed(batch)["words"], batch.dense], dim=1)))
    monkeypatch.setattr(model, "encode", lambda *_: pytest.fail("the encoder was called"))
    torch.testing.assert_close(model.catalogue_logits(batch), expected)
    assert not torch.equal(expected[0], expected[1])  # people differ, though nobody chose anything
    standard = model_of(prior="standard")
    monkeypatch.setattr(standard, "encode", lambda *_: pytest.fail("the encoder was called"))
    alike = standard.catalogue_logits(batch)
    torch.testing.assert_close(alike, standard.decode(torch.zeros(3, 4)))


def test_cold_and_warm_users_may_stand_in_one_batch() -> None:
    model = model_of()
    mixed = batch_of([WARM[0], [], WARM[2]], [[40], [8], [7]], words=[[1], [2], [3, 4]])
    together = model(mixed)
    for row in range(3):
        torch.testing.assert_close(model(mixed.slice(row, row + 1)), together[row : row + 1], rtol=1e-5, atol=1e-6)


def test_the_first_layer_is_a_matrix_product_with_the_normalised_input() -> None:
    model, batch = model_of(), batch_of(WARM)
    x_BM = torch.zeros(3, 120)
    for row, items in enumerate(WARM):
        x_BM[row, items] = 1.0
    expected = model.encode(nn.functional.normalize(x_BM, dim=1) @ model.embed.items)
    torch.testing.assert_close(model.variational(batch).posterior.mean, expected.mean)


def test_scores_are_log_odds_of_the_chance_of_each_item() -> None:
    for likelihood in ("multinomial", "bernoulli"):
        model = model_of(likelihood=likelihood)
        logits = model.catalogue_logits(batch_of(WARM[:1]))
        asked = batch_of(WARM[:1] * 5, [[item] for item in CATALOGUE], words=[[0]] * 5)
        asked.dense[:] = batch_of(WARM[:1]).dense
        chances = logits.softmax(1) if likelihood == "multinomial" else logits.sigmoid()
        places = model.places(torch.tensor(CATALOGUE))
        torch.testing.assert_close(model(asked).sigmoid(), chances[0, places], rtol=1e-5, atol=1e-7)
    assert model.catalogue.tolist() == sorted(CATALOGUE)


def test_an_item_outside_the_catalogue_ranks_last_and_a_certain_one_is_finite() -> None:
    model = model_of()
    with torch.no_grad():
        model.decoder.output.bias.copy_(torch.tensor([1000.0, 0.0, 0.0, 0.0, -1000.0]))
    found = model(batch_of([[7]] * 3, [[7], [99], [55]]))
    assert bool(torch.isfinite(found).all())
    assert found[0] > 10 > found[1] > found[2]
    assert found[1:].tolist() == [LEAST_LOGIT, UNKNOWN_LOGIT]


def test_unknown_items_in_a_history_are_read_but_not_explained() -> None:
    model, batch = model_of(), batch_of([[7, 55], [55], []])
    found = model.variational(batch)
    assert (found.examples.tolist(), model.catalogue[found.places].tolist()) == ([0], [7])
    assert not torch.equal(found.posterior.mean[1], found.prior_mean[1])


def test_what_is_explained_is_the_history_or_the_item_that_was_chosen() -> None:
    model = model_of()
    batch = batch_of([[7], [8, 40], [40], [99]], [[40], [23], [], [55]], labels=[1.0, 0.0, 1.0, 1.0])
    found = model.variational(batch)
    explained = list(zip(found.examples.tolist(), model.catalogue[found.places].tolist(), strict=True))
    assert explained == [(2, 40), (0, 40)]  # the user without an item; the choice. Refusals and strangers: nothing
    assert found.cases.tolist() == [True, False, True, True]


def test_training_draws_states_and_drops_entries_and_judging_does_neither() -> None:
    model, batch = model_of(dropout=0.5), batch_of(WARM * 20)
    once, again = model.variational(batch), model.variational(batch)
    assert torch.equal(once.logits, again.logits)
    model.train()
    draws = torch.stack([model.variational(batch).logits for _ in range(2)])
    assert not torch.equal(draws[0], draws[1])
    assert int(model.step) == 2


def test_gradients_reach_everything_and_weights_follow_the_seed_alone() -> None:
    for settings in ({}, {"prior": "standard", "encoder_reads_side": True}, {"hidden": (5,)}):
        model = model_of(**settings).train()
        found = model.variational(batch_of(WARM))
        (found.logits.square().sum() + (found.posterior.mean - found.prior_mean).square().sum()).backward()
        lost = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert [name for name in lost if not (name == "embed.words" and settings.get("prior") == "standard")] == []
    first, second, other = (model_of(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["posterior.weight"], other["posterior.weight"])


def test_an_encoder_that_reads_side_information_is_asked_for_cold_users_too() -> None:
    model = model_of(prior="standard", encoder_reads_side=True)
    logits = model.catalogue_logits(batch_of(COLD))
    assert not torch.equal(logits[0], logits[1])


def test_a_user_prior_answers_for_cold_users_even_if_the_encoder_could(monkeypatch) -> None:
    model, plain = model_of(encoder_reads_side=True), model_of()
    assert not torch.equal(model.catalogue_logits(batch_of(WARM, words=[[1]] * 3)),
                           model.catalogue_logits(batch_of(WARM, words=[[2]] * 3)))  # fmt: skip
    first, second = (plain.catalogue_logits(batch_of(WARM, words=[[word]] * 3)) for word in (1, 2))
    assert torch.equal(first, second)  # without it, the encoder alone speaks from the first choice on
    monkeypatch.setattr(model, "encode", lambda *_: pytest.fail("the encoder was called"))
    model.catalogue_logits(batch_of(COLD))


def test_requests_need_one_item_each() -> None:
    with pytest.raises(DataError, match="exactly one id"):
        model_of()(batch_of(WARM, [[7], [], [8]]))


def test_models_that_cannot_work_are_refused() -> None:
    for wrong, match in (
        ({"latent": 0}, "latent"), ({"dropout": 1.0}, "dropout"), ({"prior": "flat"}, "prior"),
        ({"likelihood": "poisson"}, "likelihood"), ({"item": "history"}, "two features"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            VAESettings(**wrong)
    for catalogue in ((), (1, 1)):
        with pytest.raises(ConfigError, match="distinct ids"):
            MultVAE(Rows(), ("history",), catalogue=catalogue)
    with pytest.raises(ConfigError, match="history"):
        MultVAE(Rows(), ("words",), catalogue=CATALOGUE)
    with pytest.raises(ConfigError, match="known of users"):
        MultVAE(Rows(), ("history",), catalogue=CATALOGUE, settings=VAESettings(prior="user"))
    with pytest.raises(DataError, match="another schema"):
        model_of().catalogue_logits(replace(batch_of(WARM), dense=torch.zeros(3, 2)))
