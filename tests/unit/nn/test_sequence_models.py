"""What all models over histories have in common, and planted signals that only the right one of them can see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.bst import BST, BSTSettings
from headrace.nn.dien import DIEN
from headrace.nn.din import DIN, DINSettings
from headrace.nn.layers import generator
from headrace.nn.sasrec import SASRec, SASRecSettings
from headrace.types import Batch, Jagged

ITEMS, USERS = 12, 5
FEATURES, PAIRS = ("user", "past", "item"), {"past": "item"}
Maker = Callable[[nn.Module, int], nn.Module]


class Rows(nn.Module):
    """Tables as plain parameters: users, and items that history and target share."""

    def __init__(self, dim: int = 4, seed: int = 0, items: int = ITEMS) -> None:
        super().__init__()
        draw = generator(seed)
        self.user = nn.Parameter(torch.randn(USERS, dim, generator=draw) * 0.3)
        self.item = nn.Parameter(torch.randn(items, dim, generator=draw) * 0.3)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        tables = {"user": self.user, "item": self.item, "past": self.item}
        return {name: table[batch.ids[name].values] for name, table in tables.items()}


def batch_of(histories: list[list[int]], targets: Tensor | None = None, labels: Tensor | None = None) -> Batch:
    rows = len(histories)
    draw, zeros = generator(rows), torch.zeros(rows, dtype=torch.int64)
    lengths = torch.tensor([0, *(len(one) for one in histories)])
    each = torch.arange(rows + 1)
    return Batch(
        ids={
            "user": Jagged(torch.arange(rows) % USERS, each),
            "item": Jagged(torch.arange(rows) * 7 % ITEMS if targets is None else targets, each),
            "past": Jagged(torch.tensor([i for one in histories for i in one], dtype=torch.int64), lengths.cumsum(0)),
        },
        dense=torch.randn(rows, 2, generator=draw), labels=zeros.float() if labels is None else labels,
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


HISTORIES = [[1, 2, 3], [], [4], [5, 6, 7, 8, 9, 1], [2, 2], [0, 11]]
MODELS: dict[str, Maker] = {
    "DIN": lambda embed, seed: DIN(embed, FEATURES, 2, (8,), pairs=PAIRS, seed=seed),
    "DIN with softmax and PReLU": lambda embed, seed: DIN(
        embed, FEATURES, 2, (8,), pairs=PAIRS, seed=seed, settings=DINSettings(softmax=True, activation="prelu")
    ),
    "DIEN": lambda embed, seed: DIEN(embed, FEATURES, 2, (8,), pairs=PAIRS, seed=seed),
    "BST": lambda embed, seed: BST(embed, FEATURES, 2, (8,), pairs=PAIRS, seed=seed),
    "BST of the target": lambda embed, seed: BST(
        embed, FEATURES, 2, (8,), pairs=PAIRS, seed=seed, settings=BSTSettings(pooling="target", blocks=2)
    ),
    "SASRec": lambda embed, seed: SASRec(embed, FEATURES, 2, pairs=PAIRS, seed=seed),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@every_model
def test_one_logit_per_example(make: Maker) -> None:
    assert make(Rows(), 0)(batch_of(HISTORIES)).shape == (6,)
    assert make(Rows(), 0).eval()(batch_of(HISTORIES).slice(0, 0)).shape == (0,)


@every_model
def test_longer_histories_of_neighbours_change_nothing(make: Maker) -> None:
    model, batch = make(Rows(), 0).eval(), batch_of(HISTORIES)
    logits = model(batch)
    for start, stop in ((0, 3), (1, 2), (2, 3), (4, 6)):
        torch.testing.assert_close(logits[start:stop], model(batch.slice(start, stop)), rtol=1e-5, atol=1e-6)


@every_model
def test_gradients_do_not_depend_on_padding_either(make: Maker) -> None:
    found = []
    for part in (batch_of(HISTORIES), batch_of(HISTORIES).slice(0, 3)):
        embed = Rows()
        make(embed, 0).eval()(part)[:3].sum().backward()
        found.append(embed.item.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@every_model
def test_empty_histories_are_well_defined(make: Maker) -> None:
    embed = Rows()
    model, batch = make(embed, 0), batch_of([[], [], []])
    logits = model(batch)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    untouched = torch.ones(ITEMS, dtype=torch.bool)
    untouched[batch.ids["item"].values] = False
    assert embed.item.grad is None or not embed.item.grad[untouched].any()


@every_model
def test_gradients_reach_every_parameter(make: Maker) -> None:
    model = make(Rows(), 0)
    if isinstance(model, DIEN):  # its next-click network learns from its own loss alone
        sum(output.sum() for output in model.forward_with_auxiliary(batch_of(HISTORIES))).backward()
    else:
        model(batch_of(HISTORIES)).sum().backward()
    none = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert none == (["embed.user"] if isinstance(model, SASRec) else [])


@every_model
def test_examples_may_stand_in_any_order(make: Maker) -> None:
    model, order = make(Rows(), 0).eval(), [3, 0, 5, 1, 4, 2]
    batch = batch_of(HISTORIES)
    turned = batch_of([HISTORIES[row] for row in order], batch.ids["item"].values[order])
    turned = replace(turned, dense=batch.dense[order], ids={
        **turned.ids, "user": Jagged(batch.ids["user"].values[order], batch.ids["user"].offsets)})  # fmt: skip
    torch.testing.assert_close(model(turned), model(batch)[order], rtol=1e-5, atol=1e-6)


@every_model
def test_weights_follow_the_seed_alone_and_survive_a_round_trip(make: Maker) -> None:
    before = torch.get_rng_state()
    first = make(Rows(), 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, other = make(Rows(), 3), make(Rows(), 4)
    state, batch = first.state_dict(), batch_of(HISTORIES)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(first.eval()(batch), other.eval()(batch))
    other.load_state_dict(state)
    assert torch.equal(first(batch), other.eval()(batch))


@every_model
def test_double_precision_is_kept(make: Maker) -> None:
    model, batch = make(Rows(), 0).double(), batch_of(HISTORIES)
    logits = model(replace(batch, dense=batch.dense.double()))
    assert logits.dtype == torch.float64


@pytest.mark.parametrize("family", [DIN, DIEN])
def test_input_axes_name_real_axes(family: type[DIN]) -> None:
    model = family(Rows(), FEATURES, 2, (8,), pairs=PAIRS)
    for name, axis in model.input_axes().items():
        size = dict(model.named_parameters())[name].shape[axis.axis]
        assert size == len(model.features) * axis.per_feature + 2 * axis.per_dense


@pytest.mark.parametrize("pairs", [{}, {"past": "itm"}, {"old": "item"}, {"past": "item", "item": "user"}])
@pytest.mark.parametrize("family", [DIN, DIEN, BST, SASRec])
def test_pairs_have_to_be_features(family: type[DIN], pairs: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="pairs"):
        family(Rows(), FEATURES, 2, pairs=pairs)


@pytest.mark.parametrize("family", [DIN, DIEN, BST, SASRec])
def test_a_pooled_history_is_refused(family: type[DIN]) -> None:
    class Pooled(Rows):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return super().forward(batch) | {"past": torch.zeros(len(batch), 4)}

    with pytest.raises(DataError, match="pooling 'none'"):
        family(Pooled(), FEATURES, 2, pairs=PAIRS)(batch_of(HISTORIES))


@pytest.mark.parametrize("family", [DIN, DIEN, BST, SASRec])
def test_a_pair_of_two_widths_is_refused(family: type[DIN]) -> None:
    class Uneven(Rows):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return super().forward(batch) | {"item": torch.zeros(len(batch), 3)}

    with pytest.raises(ConfigError, match="share a table"):
        family(Uneven(), FEATURES, 2, pairs=PAIRS)


@pytest.mark.parametrize("make", [
    lambda: BST(Rows(), FEATURES, 2, pairs=PAIRS, settings=BSTSettings(max_length=5)),
    lambda: SASRec(Rows(), FEATURES, 2, pairs=PAIRS, settings=SASRecSettings(max_length=5)),
])  # fmt: skip
def test_a_history_beyond_the_positions_is_refused(make: Callable[[], nn.Module]) -> None:
    assert make()(batch_of([[1, 2, 3, 4, 5]])).shape == (1,)
    with pytest.raises(DataError, match="6 entries, expected at most 5"):
        make()(batch_of(HISTORIES))


# -------------------------------------------------------------------------------------------------- planted signals


class MeanPooled(nn.Module):
    """The simpler relative: an MLP over the target and the mean of the history."""

    def __init__(self, embed: nn.Module, dim: int) -> None:
        super().__init__()
        self.embed = embed
        self.layers = nn.Sequential(nn.Linear(2 * dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, batch: Batch) -> Tensor:
        rows = self.embed(batch)
        mean = rows["past"].view(len(batch), -1, rows["past"].shape[1]).mean(1)
        return self.layers(torch.cat([mean, rows["item"]], dim=1)).squeeze(1)


def fitted_auc(model: nn.Module, train: Batch, test: Batch, *, lr: float = 0.02, epochs: int = 10) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for piece in train.split(128):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(piece), piece.labels).backward()
            optimizer.step()
    with torch.no_grad():
        scores = model.eval()(test)
    above = scores[test.labels > 0.5].unsqueeze(1) - scores[test.labels < 0.5]
    return float((above > 0).float().mean())


def seen_before(rows: int, seed: int, items: int = 60, length: int = 8) -> Batch:
    """Positive, mostly, where the target is one of the history's entries."""
    draw = generator(seed)
    past = torch.randint(0, items, (rows, length), generator=draw)
    again = torch.rand(rows, generator=draw) < 0.5
    place = torch.randint(0, length, (rows,), generator=draw)
    targets = torch.where(again, past[torch.arange(rows), place], torch.randint(0, items, (rows,), generator=draw))
    within = (past == targets.unsqueeze(1)).any(1)
    labels = (torch.rand(rows, generator=draw) < torch.where(within, 0.95, 0.05)).float()
    return batch_of(past.tolist(), targets, labels)


def newest_decides(rows: int, seed: int) -> Batch:
    """Each history holds one item of each of four groups; positive, mostly, where the newest is of the target's."""
    draw = generator(seed)
    groups = torch.rand(rows, 4, generator=draw).argsort(1)
    past = groups + 4 * torch.randint(0, 3, (rows, 4), generator=draw)
    targets = torch.randint(0, 12, (rows,), generator=draw)
    agrees = past[:, -1] % 4 == targets % 4
    labels = (torch.rand(rows, generator=draw) < torch.where(agrees, 0.95, 0.05)).float()
    return batch_of(past.tolist(), targets, labels)


def test_din_finds_what_was_seen_before_and_a_mean_does_not() -> None:
    train, test = seen_before(4000, 0), seen_before(1500, 1)
    attention = DIN(Rows(8, items=60), FEATURES, 2, (16,), pairs=PAIRS, settings=DINSettings(attention=(32,)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean = MeanPooled(Rows(8, items=60), 8)
    assert fitted_auc(attention, train, test) > 0.85
    assert fitted_auc(mean, train, test) < 0.78


@pytest.mark.parametrize(("family", "low", "high"), [(DIEN, 0.85, 1.0), (BST, 0.85, 1.0), (DIN, 0.4, 0.6)])
def test_the_order_of_a_history_is_seen_by_models_that_read_it(family: type[DIEN], low: float, high: float) -> None:
    model = family(Rows(8), FEATURES, 2, (16,), pairs=PAIRS)
    assert low < fitted_auc(model, newest_decides(3000, 0), newest_decides(1500, 1)) < high
