"""What every model family keeps, as checks that a family's test asks for by one fixture, and small data to try it on.

A family adds one file of tests with

    @pytest.mark.parametrize("make", FAMILIES)
    def test_what_every_family_keeps(family_check, make): family_check(make)

where `make(embed, features, dense_dim, **settings)` builds it. `family_check` runs once for every check below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn import generator
from headrace.types import Batch, Jagged

Maker = Callable[..., nn.Module]
SIZES = {"user": 6, "item": 9, "place": 4}
FEATURES = tuple(SIZES)
WIDTH = 11  # 1 + 5 * 2: three features and two dense columns, for families that need one factor per field


class Rows(nn.Module):
    """Embeddings as plain parameters: the smallest thing that a model can read from."""

    def __init__(
        self, sizes: Mapping[str, int] | None = None, dim: int = WIDTH, *, spread: float = 0.4, seed: int = 0
    ) -> None:
        super().__init__()
        draw = generator(seed)
        self.tables = nn.ParameterDict(
            {name: torch.randn(size, dim, generator=draw) * spread for name, size in (sizes or SIZES).items()}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: table[batch.ids[name].values] for name, table in self.tables.items()}


def batch_of(ids: Mapping[str, Tensor], dense: Tensor | None = None, labels: Tensor | None = None) -> Batch:
    """Return a batch with one id per feature and example."""
    rows = len(next(iter(ids.values())))
    zeros, offsets = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    return Batch(
        ids={name: Jagged(values, offsets) for name, values in ids.items()},
        dense=torch.zeros(rows, 0) if dense is None else dense, labels=zeros.float() if labels is None else labels,
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def small_batch(rows: int = 16, *, dense: int = 2, seed: int = 5) -> Batch:
    draw = generator(seed)
    ids = {name: torch.randint(0, size, (rows,), generator=draw) for name, size in SIZES.items()}
    return batch_of(ids, torch.randn(rows, dense, generator=draw))


def turned(batch: Batch, order: Tensor) -> Batch:
    """Return the examples in another order."""
    ids = {name: jagged.values[order] for name, jagged in batch.ids.items()}
    return batch_of(ids, batch.dense[order], batch.labels[order])


def stirred(model: nn.Module, spread: float = 0.3) -> nn.Module:
    """Move every parameter off its initial value, so that no term is zero by chance."""
    draw = generator(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * spread)
    return model


# ------------------------------------------------------------------------------------------- what every family keeps


def gives_one_logit_per_example(make: Maker) -> None:
    model = stirred(make(Rows(), FEATURES, 2)).eval()
    logits = model(small_batch())
    assert logits.shape == (16,)
    assert logits.dtype == torch.float32
    assert model(small_batch(0)).shape == (0,)
    assert make(Rows(), FEATURES[:1], 0)(small_batch(3, dense=0)).shape == (3,)


def examples_do_not_see_each_other(make: Maker) -> None:
    model, batch = stirred(make(Rows(), FEATURES, 2)).eval(), small_batch()
    logits = model(batch)
    torch.testing.assert_close(model(batch.slice(3, 7)), logits[3:7], rtol=1e-5, atol=1e-6)
    order = torch.randperm(16, generator=generator(1))
    torch.testing.assert_close(model(turned(batch, order)), logits[order], rtol=1e-5, atol=1e-6)


def gradients_reach_everything(make: Maker) -> None:
    model = stirred(make(Rows(), FEATURES, 2))
    model(small_batch(64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def weights_follow_the_seed_alone(make: Maker) -> None:
    before = torch.get_rng_state()
    first = make(Rows(), FEATURES, 2, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, other = make(Rows(), FEATURES, 2, seed=3).state_dict(), make(Rows(), FEATURES, 2, seed=4).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def state_survives_a_round_trip(make: Maker) -> None:
    model, other = stirred(make(Rows(), FEATURES, 2)), make(Rows(seed=1), FEATURES, 2, seed=1)
    batch = small_batch(64)
    model.train()(batch)  # moves what batch normalisation keeps
    assert not torch.equal(other.eval()(batch), model.eval()(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))
    held = [value.data_ptr() for value in model.state_dict().values() if value.numel()]
    assert len(held) == len(set(held))  # nothing is published twice


def prior_is_where_it_starts(make: Maker) -> None:
    batch = replace(small_batch(), dense=torch.zeros(16, 2))
    model = make(Rows(spread=0.0), FEATURES, 2, prior=0.04).eval()
    torch.testing.assert_close(model(batch).sigmoid(), torch.full((16,), 0.04))
    with pytest.raises(ConfigError, match="prior"):
        make(Rows(), FEATURES, 2, prior=1.0)


def wrong_features_are_refused(make: Maker) -> None:
    with pytest.raises(ConfigError, match="distinct"):
        make(Rows(), ("user", "item", "user"), 2)
    with pytest.raises(ConfigError, match="distinct"):
        make(Rows(), "user", 2)
    with pytest.raises(DataError, match="one of 'user'"):
        make(Rows(), ("usr", "item", "place"), 2)
    with pytest.raises(ConfigError, match="dense_dim"):
        make(Rows(), FEATURES, -1)
    with pytest.raises(ConfigError, match="features"):
        make(Rows(), (), 0)


def wrong_batches_are_refused(make: Maker) -> None:
    model = make(Rows(), FEATURES, 2)
    with pytest.raises(DataError, match="another schema"):
        model(small_batch(dense=3))
    wide = next(module for module in model.modules() if isinstance(module, Rows))
    wide.tables["item"] = nn.Parameter(torch.zeros(9, WIDTH + 4))
    with pytest.raises(DataError, match=f"width {WIDTH + 4}, expected {WIDTH}"):
        model(small_batch())


def input_axes_are_real(make: Maker) -> None:
    model = make(Rows(), FEATURES, 2)
    for module in model.modules():
        own = dict(module.named_parameters())
        for name, layout in getattr(module, "input_axes", dict)().items():
            for axis in layout if isinstance(layout, tuple) else (layout,):
                assert own[name].shape[axis.axis] == len(FEATURES) * axis.per_feature + 2 * axis.per_dense, name


CHECKS = [
    gives_one_logit_per_example, examples_do_not_see_each_other, gradients_reach_everything,
    weights_follow_the_seed_alone, state_survives_a_round_trip, prior_is_where_it_starts, wrong_features_are_refused,
    wrong_batches_are_refused, input_axes_are_real,
]  # fmt: skip


@pytest.fixture(params=CHECKS, ids=lambda check: check.__name__)
def family_check(request: pytest.FixtureRequest) -> Callable[[Maker], None]:
    """Each thing that every family keeps, one after another."""
    check: Callable[[Maker], None] = request.param
    return check


# -------------------------------------------------------------------------------------------------- planted signals


def pairs_that_agree(rows: int, seed: int, *, pairs: int = 1, kinds: int = 20) -> Batch:
    """Ids of two kinds, in pairs of features; a click is likely where most pairs agree, whatever the ids alone."""
    draw = generator(seed)
    ids = {f"f{place}": torch.randint(0, kinds, (rows,), generator=draw) for place in range(2 * pairs)}
    votes = sum((ids[f"f{2 * p}"] + ids[f"f{2 * p + 1}"] + 1) % 2 * 2 - 1 for p in range(pairs))
    return _clicked(ids, votes > 0, draw)  # type: ignore[operator, arg-type]


def triples_that_agree(rows: int, seed: int, *, kinds: int = 6) -> Batch:
    """Three features of two kinds each; a click is likely where an even number is odd: no pair says anything."""
    draw = generator(seed)
    ids = {f"f{place}": torch.randint(0, kinds, (rows,), generator=draw) for place in range(3)}
    return _clicked(ids, sum(ids.values()) % 2 == 0, draw)  # type: ignore[arg-type]


def _clicked(ids: dict[str, Tensor], likely: Tensor, draw: torch.Generator) -> Batch:
    rate = torch.where(likely, 0.9, 0.1)
    return batch_of(ids, labels=(torch.rand(len(likely), generator=draw) < rate).float())


def accuracy(
    make: Maker, data: Callable[[int, int], Batch], *, dim: int = 4, epochs: int = 8, lr: float = 0.02, rows: int = 4000
) -> float:
    """Train on one draw of the data, and return the share of another that is told right (0.9 is possible)."""
    train, test = data(rows, 0), data(rows, 1)
    sizes = {name: int(jagged.values.max()) + 1 for name, jagged in train.ids.items()}
    model = make(Rows(sizes, dim, spread=0.3), tuple(sizes), 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for piece in train.split(250):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(piece), piece.labels).backward()
            optimizer.step()
    with torch.no_grad():
        return ((model.eval()(test) > 0) == (test.labels > 0.5)).float().mean().item()


# ----------------------------------------------------------------------------------- answers of other implementations


class Expected:
    """Weights, inputs and logits of another implementation, as `scripts/expected_nn.py` wrote them."""

    FEATURES, NUMBERS = ("user", "item", "place"), ("price", "age")

    def __init__(self, name: str) -> None:
        content = json.loads((Path(__file__).parent / "expected" / f"{name}.json").read_text(encoding="utf-8"))
        self.weights = {key: torch.tensor(value) for key, value in content["weights"].items()}
        inputs = {key: torch.tensor(value) for key, value in content["inputs"].items()}
        dense = [inputs[number] for number in self.NUMBERS if number in inputs]
        ids = {feature: inputs[feature] for feature in self.FEATURES}
        self.logits, self.numbers = torch.tensor(content["logit"]), len(dense)
        self.batch = batch_of(ids, torch.stack(dense, 1) if dense else None)

    def fuxictr(self, place: str, field: str) -> Tensor:
        """Return FuxiCTR's embedding of a feature (ids, D) or of a number (D, 1), under `place`."""
        return self.weights[f"{place}.embedding_layer.embedding_layers.{field}.weight"]

    def rows(self, tables: Mapping[str, Tensor]) -> Rows:
        """Return an embedding module with these tables."""
        rows = Rows(dict.fromkeys(tables, 1))
        for name, table in tables.items():
            rows.tables[name] = nn.Parameter(table.clone())
        return rows

    def two_orders(self, first: str, second: str = "embedding_layer") -> Rows:
        """Return FuxiCTR's first-order weights and factors as one row each."""
        both = {f: torch.cat([self.fuxictr(first, f), self.fuxictr(second, f)], 1) for f in self.FEATURES}
        return self.rows(both)

    def numbers_of(self, place: str) -> Tensor:
        """Return FuxiCTR's embeddings of numbers, (C, D)."""
        return torch.cat([self.fuxictr(place, number) for number in self.NUMBERS], 1).T

    def plain_numbers(self, weight: Tensor, factors: Tensor) -> Tensor:
        """Return a first layer over embeddings and plain numbers that does what FuxiCTR's does over all embeddings."""
        split = weight.unflatten(1, (-1, factors.shape[1]))
        ids, numbers = split[:, : len(self.FEATURES)].flatten(1), split[:, len(self.FEATURES) :]
        return torch.cat([ids, torch.einsum("ock,ck->oc", numbers, factors)], 1)

    def under(self, theirs: str, ours: str) -> dict[str, Tensor]:
        """Return all weights whose name begins with `theirs`, with `ours` in its place."""
        found = {name: value for name, value in self.weights.items() if name.startswith(theirs)}
        return {ours + name.removeprefix(theirs): value for name, value in found.items() if "num_batches" not in name}

    def agrees(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Load the parameters by name, all of them, and compare logits."""
        names = {name for name in model.state_dict() if "embed." not in name and "num_batches" not in name}
        assert names == set(state)
        model.load_state_dict(dict(state), strict=False)
        torch.testing.assert_close(model.eval()(self.batch), self.logits, rtol=1e-5, atol=1e-5)


@pytest.fixture
def try_it() -> SimpleNamespace:
    """Small embeddings and batches, planted signals, and the answers of other implementations."""
    return SimpleNamespace(
        Rows=Rows, batch_of=batch_of, small_batch=small_batch, stirred=stirred, accuracy=accuracy, Expected=Expected,
        pairs=pairs_that_agree, triples=triples_that_agree, features=FEATURES, width=WIDTH,
    )  # fmt: skip
