"""Chances of items to be in a batch: estimated from a stream, or known from counts."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ConfigError, DataError
from headrace.nn.frequencies import KnownFrequencies, StreamingFrequencies
from headrace.nn.layers import generator


def sights(chances: torch.Tensor, batches: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batches, len(chances), generator=generator(seed)) < chances


def learned(frequencies: StreamingFrequencies, seen: torch.Tensor) -> torch.Tensor:
    for batch in seen:
        frequencies(torch.nonzero(batch).squeeze(1))
    return frequencies.eval()(torch.arange(seen.shape[1])).exp()


def test_a_stream_teaches_the_chances() -> None:
    chances = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05])
    found = learned(StreamingFrequencies(256, rate=0.001), sights(chances, 3000))
    torch.testing.assert_close(found, chances, rtol=0.15, atol=0.0)


def test_it_follows_a_change() -> None:
    rare, often = torch.full((5,), 0.05), torch.full((5,), 0.5)
    found = learned(StreamingFrequencies(256, rate=0.05), torch.cat([sights(rare, 1000), sights(often, 400)]))
    assert bool((found > 0.3).all())


def test_evaluation_learns_nothing_and_state_survives() -> None:
    frequencies = StreamingFrequencies(64)
    learned(frequencies, sights(torch.full((5,), 0.4), 20))
    before = {name: value.clone() for name, value in frequencies.state_dict().items()}
    frequencies(torch.tensor([1, 2]))
    assert all(torch.equal(value, before[name]) for name, value in frequencies.state_dict().items())
    other = StreamingFrequencies(64)
    other.load_state_dict(before)
    assert torch.equal(other.eval()(torch.arange(9)), frequencies(torch.arange(9)))


def test_an_item_never_seen_is_as_rare_as_can_be() -> None:
    frequencies = StreamingFrequencies(1 << 12)
    learned(frequencies, sights(torch.full((5,), 0.4), 50))
    torch.testing.assert_close(frequencies(torch.tensor([777])).exp(), torch.tensor([1 / 50]))


def test_several_rows_of_buckets_tell_items_apart_that_share_one() -> None:
    seen = torch.zeros(400, 200, dtype=torch.bool)
    seen[:, :20] = True  # always there
    seen[::20, 20:] = True  # every twentieth batch
    wrong = [float((learned(StreamingFrequencies(256, rows=rows), seen)[20:] > 0.1).float().mean()) for rows in (1, 4)]
    assert wrong[1] < wrong[0] / 2


def test_ids_of_any_size_find_a_bucket() -> None:
    ids = torch.tensor([-(2**63), -1, 0, 1, 2**63 - 1])
    assert torch.isfinite(StreamingFrequencies(7, rows=4)(ids)).all()


def test_known_counts_give_the_chance_to_be_among_the_others_of_a_batch() -> None:
    counts, draw = torch.tensor([1.0, 3.0, 6.0]), generator(0)
    known = KnownFrequencies(torch.tensor([30, 10, 20]), counts, batch_rows=5)
    drawn = torch.multinomial(counts, 4 * 20_000, replacement=True, generator=draw).view(-1, 4)
    share = torch.stack([(drawn == place).any(1).float().mean() for place in range(3)])
    torch.testing.assert_close(known(torch.tensor([30, 10, 20])).exp(), share, rtol=0.02, atol=0.0)
    assert not known.state_dict()


def test_an_item_without_a_count_is_refused() -> None:
    known = KnownFrequencies(torch.tensor([1, 2]), torch.tensor([1.0, 1.0]), batch_rows=4)
    with pytest.raises(DataError, match="id 9 and 1 more"):
        known(torch.tensor([2, 9, 3]))


@pytest.mark.parametrize("make", [
    lambda: StreamingFrequencies(0), lambda: StreamingFrequencies(8, rows=5), lambda: StreamingFrequencies(8, rate=0.0),
    lambda: KnownFrequencies(torch.tensor([1, 1]), torch.ones(2), batch_rows=4),
    lambda: KnownFrequencies(torch.tensor([1, 2]), torch.zeros(2), batch_rows=4),
    lambda: KnownFrequencies(torch.tensor([1, 2]), torch.ones(2), batch_rows=1),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
