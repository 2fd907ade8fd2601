"""The pair network does not care which comes first, and what is served is a function of two histories."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn import CorrelatedVAE, Gaussian, MultVAE, PairCorrelation, PairSettings, VAESettings, generator
from headrace.nn.pair_correlation import expected_distance
from headrace.types import Batch, Jagged

ITEMS, WIDTH, PAIR = 7, 5, 4


class Table(nn.Module):
    """Rows of items as a plain parameter, for histories of any name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(ITEMS, width, generator=generator(4)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.rows[batch.ids[name].values] for name in ("history", "other")}


def histories(*lists: list[int]) -> Jagged:
    offsets = torch.tensor([0, *torch.tensor([len(one) for one in lists]).cumsum(0).tolist()])
    return Jagged(torch.tensor([item for one in lists for item in one], dtype=torch.int64), offsets)


def batch_of(**ids: Jagged) -> Batch:
    rows = len(next(iter(ids.values())))
    zeros = torch.zeros(rows, dtype=torch.int64)
    empty = {"other": Jagged(zeros[:0], torch.zeros(rows + 1, dtype=torch.int64))}
    return Batch(
        ids={**empty, **ids}, dense=torch.zeros(rows, 0), labels=torch.ones(rows), weights=torch.ones(rows),
        event_times=zeros, accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan),
        versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def model_of(*, paired: bool = True) -> CorrelatedVAE:
    pair = PairSettings(hidden=PAIR) if paired else None
    model = CorrelatedVAE(Table(WIDTH + (2 * PAIR if paired else 0)), ("history", "other") if paired else ("history",),
                          catalogue=range(ITEMS), settings=VAESettings(latent=3, dropout=0.0), pair=pair)  # fmt: skip
    return model.eval()


ONE, TWO = histories([0, 3], [5], [], [1, 2, 6]), histories([2], [], [], [1, 2, 6])


def test_exchanging_the_inputs_changes_nothing() -> None:
    network = PairCorrelation(PAIR, 3, generator(0))
    draw = generator(1)
    one, other = (torch.randn(50, 2 * PAIR, generator=draw) * 5 for _ in range(2))
    found = network(one, other)
    assert found.equal(network(other, one))
    assert found.abs().max() < 1.0
    a, b = one.split(PAIR, 1), other.split(PAIR, 1)

    def f(first, second) -> Tensor:
        return network.output(torch.relu(first[0] + second[1] + network.first_bias))

    mean = (f(a, b) + f(b, a)) / 2  # averaged before the sigmoid
    torch.testing.assert_close(found, (1 - 1e-6) * (2 * torch.sigmoid(mean) - 1))


def test_even_a_huge_input_gives_a_finite_mutual_information() -> None:
    network = PairCorrelation(PAIR, 3, generator(0))
    found = network(torch.full((1, 2 * PAIR), 1e6), torch.full((1, 2 * PAIR), 1e6))
    assert torch.isfinite(torch.log1p(-found.square())).all()


def test_marginals_of_a_pair_are_those_of_the_plain_autoencoder() -> None:
    model = model_of()
    plain = MultVAE(model.vae.embed, ("history",), catalogue=range(ITEMS), settings=model.vae.settings)
    plain.load_state_dict(model.vae.state_dict())
    plain.eval()
    batch = batch_of(history=ONE)
    rows = torch.arange(4)
    found = model.correlated(batch, rows, rows[:1], rows[1:2])
    own = plain.variational(batch)
    torch.testing.assert_close(found.posterior.mean, own.posterior.mean)
    torch.testing.assert_close(found.posterior.log_variance, own.posterior.log_variance)
    torch.testing.assert_close(found.logits, own.logits)
    assert found.examples.tolist() == own.examples.tolist() == [0, 0, 1, 3, 3, 3]
    assert found.places.tolist() == own.places.tolist()


def test_only_rows_alone_are_explained() -> None:
    model = model_of()
    found = model.correlated(batch_of(history=ONE), torch.tensor([3, 1]), torch.tensor([0]), torch.tensor([2]))
    assert found.logits.shape == (2, ITEMS)
    assert found.examples.tolist() == [1, 0, 0, 0]
    assert found.places.tolist() == [5, 1, 2, 6]
    assert found.correlation.shape == (1, 3)


def test_distances_are_expectations() -> None:
    draw = generator(2)
    one = Gaussian(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.2, -1.0]]))
    other = Gaussian(torch.tensor([[0.5, 2.0]]), torch.tensor([[-0.3, 0.4]]))
    c = torch.tensor([[0.8, -0.4]])
    noise = torch.randn(200_000, 2, generator=draw)
    second = c * noise + torch.sqrt(1 - c**2) * torch.randn(200_000, 2, generator=draw)
    drawn = ((one.mean + one.std * noise) - (other.mean + other.std * second)).square().sum(1).mean()
    torch.testing.assert_close(expected_distance(one, other, c)[0], drawn, rtol=0.02, atol=0.0)


def test_served_links_are_log_distances_whichever_comes_first() -> None:
    model = model_of()
    with torch.no_grad():
        found = model(batch_of(history=ONE, other=TWO))
        turned = model(batch_of(history=TWO, other=ONE))
        one, two = model.latents(batch_of(history=ONE)), model.latents(batch_of(history=TWO))
        distance = expected_distance(one.posterior, two.posterior, model.correlation(one, two))
    torch.testing.assert_close(found, turned)
    torch.testing.assert_close(torch.sigmoid(found), 1 / (1 + distance))
    assert torch.isfinite(found).all()


def test_rows_do_not_see_each_other() -> None:
    model = model_of()
    with torch.no_grad():
        whole = model(batch_of(history=ONE, other=TWO))
        first = model(batch_of(history=histories([0, 3]), other=histories([2])))
    torch.testing.assert_close(whole[:1], first)


def test_items_are_scored_as_the_plain_autoencoder_does() -> None:
    model = model_of(paired=False)
    item = Jagged(torch.tensor([1, 4, 0, 99]), torch.arange(5))
    batch = batch_of(history=ONE, item=item)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model.vae(batch))
    assert not model.correlation(model.latents(batch), model.latents(batch)).any()


def test_without_a_history_there_is_the_prior() -> None:
    model = model_of()
    with torch.no_grad():
        found = model.latents(batch_of(history=ONE))
    assert not found.posterior.mean[2].any()
    assert (found.posterior.std[2] == 1.0).all()


def test_what_cannot_work_is_refused() -> None:
    settings = VAESettings(latent=3, dropout=0.0)
    with pytest.raises(ConfigError, match="pair network's"):
        CorrelatedVAE(Table(8), ("history",), catalogue=range(ITEMS), settings=settings, pair=PairSettings(hidden=4))
    with pytest.raises(ConfigError, match="standard prior"):
        CorrelatedVAE(Table(8), ("history",), 2, catalogue=range(ITEMS), settings=settings)
    with pytest.raises(ConfigError, match="hidden"):
        PairSettings(hidden=0)
