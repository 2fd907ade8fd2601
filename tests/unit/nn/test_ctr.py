"""CTR models: their formulas, their degenerate cases, and an interaction that only DeepFM can see."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn import DeepFM, Hidden, LogisticRegression, generator
from headrace.types import Batch, Jagged


class Rows(nn.Module):
    """Embeddings as plain parameters: the smallest thing that a CTR model can read from."""

    def __init__(self, sizes: dict[str, int], dim: int, seed: int = 0, spread: float = 0.1) -> None:
        super().__init__()
        draw = generator(seed)
        self.tables = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(size, dim, generator=draw) * spread) for name, size in sizes.items()}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: table[batch.ids[name].values] for name, table in self.tables.items()}


def batch_of(ids: dict[str, Tensor], dense: Tensor | None = None, labels: Tensor | None = None) -> Batch:
    rows = len(next(iter(ids.values()))) if ids else (0 if dense is None else len(dense))
    zeros, offsets = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    return Batch(
        ids={name: Jagged(values, offsets) for name, values in ids.items()},
        dense=torch.zeros(rows, 0) if dense is None else dense, labels=zeros.float() if labels is None else labels,
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def small_batch(rows: int = 16, seed: int = 5, dense: int = 2) -> Batch:
    draw = generator(seed)
    ids = {"user": torch.randint(0, 6, (rows,), generator=draw), "item": torch.randint(0, 9, (rows,), generator=draw)}
    return batch_of(ids, torch.randn(rows, dense, generator=draw))


def small_model(**settings: object) -> DeepFM:
    return DeepFM(Rows({"user": 6, "item": 9}, 5), ("user", "item"), 2, (8,), **settings)  # type: ignore[arg-type]


def test_deepfm_equals_its_formula_written_out() -> None:
    model, batch = small_model().double(), small_batch()
    with torch.no_grad():
        model.dense_weight.normal_(generator=generator(1))
        model.dense_factors.normal_(generator=generator(2))
    rows = {name: value.double() for name, value in model.embed(batch).items()}
    dense = batch.dense.double()
    object.__setattr__(batch, "dense", dense)
    logits = model(batch)
    for b in range(len(batch)):
        fields = [rows["user"][b, 1:], rows["item"][b, 1:], *(dense[b, c] * model.dense_factors[c] for c in range(2))]
        pairs = sum(fields[i] @ fields[j] for i in range(4) for j in range(i + 1, 4))
        first = rows["user"][b, 0] + rows["item"][b, 0] + dense[b] @ model.dense_weight
        deep = model.deep(torch.cat([rows["user"][b, 1:], rows["item"][b, 1:], dense[b]]))
        torch.testing.assert_close(logits[b], first + pairs + deep[0])


def test_logistic_regression_equals_its_formula_written_out() -> None:
    model, batch = LogisticRegression(Rows({"user": 6, "item": 9}, 5), ("user", "item"), 2), small_batch()
    with torch.no_grad():
        model.bias.fill_(0.3)
        model.dense_weight.copy_(torch.tensor([1.0, -2.0]))
    rows = model.embed(batch)
    expected = 0.3 + rows["user"][:, 0] + rows["item"][:, 0] + batch.dense @ torch.tensor([1.0, -2.0])
    torch.testing.assert_close(model(batch), expected)


def test_deepfm_without_factors_and_depth_is_logistic_regression() -> None:
    embed, batch = Rows({"user": 6, "item": 9}, 5), small_batch()
    deep, linear = DeepFM(embed, ("user", "item"), 2, (8,)), LogisticRegression(embed, ("user", "item"), 2)
    with torch.no_grad():
        for table in embed.tables.values():
            table[:, 1:] = 0.0
        for parameter in deep.deep.parameters():
            parameter.zero_()
        deep.dense_factors.zero_()
        deep.dense_weight.fill_(0.7)
        linear.dense_weight.fill_(0.7)
    torch.testing.assert_close(deep(batch), linear(batch))


def test_without_features_logistic_regression_is_the_base_rate() -> None:
    model = LogisticRegression(Rows({}, 1), (), 0)
    with torch.no_grad():
        model.bias.fill_(-3.0)
    assert model(batch_of({"user": torch.zeros(4, dtype=torch.int64)})).tolist() == [-3.0] * 4


def test_equal_seeds_give_equal_models_whatever_was_drawn_before() -> None:
    first = small_model(seed=4).state_dict()
    torch.rand(3)
    second = small_model(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", [DeepFM, LogisticRegression])
def test_a_prior_is_what_the_model_says_before_it_learned(kind: type[DeepFM | LogisticRegression]) -> None:
    model, batch = kind(Rows({"user": 6}, 4, spread=0.0), ("user",), 0, prior=0.04), small_batch(dense=0)
    torch.testing.assert_close(torch.sigmoid(model(batch)), torch.full((16,), 0.04))


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1])
def test_a_prior_that_is_no_rate_is_refused(prior: float) -> None:
    with pytest.raises(ConfigError, match="prior"):
        LogisticRegression(Rows({}, 1), (), 0, prior=prior)


def test_another_seed_gives_another_model() -> None:
    assert not torch.equal(small_model(seed=4).dense_factors, small_model(seed=5).dense_factors)


def test_examples_do_not_depend_on_their_neighbours() -> None:
    model, batch = small_model().eval(), small_batch()
    torch.testing.assert_close(model(batch)[3:7], model(batch.slice(3, 7)))


def test_gradients_reach_every_parameter() -> None:
    model, batch = small_model(), small_batch()
    with torch.no_grad():
        model.dense_weight.fill_(0.1)
    model(batch).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_width_is_found_by_embedding_nothing() -> None:
    assert small_model().dim == 5


def test_width_cannot_be_found_in_a_module_that_is_no_embedding() -> None:
    with pytest.raises(ConfigError, match="Identity, which returns a Batch"):
        DeepFM(nn.Identity(), ("user",), 0)


def test_a_given_width_asks_nothing_of_the_embedding() -> None:
    assert DeepFM(nn.Identity(), ("user",), 0, dim=3).dim == 3


def test_widths_must_agree() -> None:
    embed = Rows({"user": 6, "item": 9}, 5)
    embed.tables["item"] = nn.Parameter(torch.zeros(9, 7))
    with pytest.raises(ConfigError, match="same dim"):
        DeepFM(embed, ("user", "item"), 0)


def test_a_width_without_room_for_a_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        DeepFM(Rows({"user": 3}, 1), ("user",), 0)


def test_an_unknown_feature_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="one of 'user'"):
        DeepFM(Rows({"user": 3}, 4), ("usr",), 0)


def test_repeated_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="distinct"):
        LogisticRegression(Rows({"user": 3}, 4), ("user", "user"), 0)


def test_a_batch_with_other_dense_columns_is_refused() -> None:
    with pytest.raises(DataError, match="another schema"):
        small_model()(batch_of({"user": torch.tensor([0]), "item": torch.tensor([0])}))


def test_rows_of_another_width_than_declared_are_refused() -> None:
    model = DeepFM(Rows({"user": 3}, 4), ("user",), 0, dim=6)
    with pytest.raises(DataError, match="width 4, expected 6"):
        model(batch_of({"user": torch.tensor([0])}))


def planted(rows: int, seed: int) -> Batch:
    """Users and items of two kinds; the click depends on whether the kinds agree, on neither alone."""
    draw = generator(seed)
    users, items = torch.randint(0, 20, (rows,), generator=draw), torch.randint(0, 20, (rows,), generator=draw)
    rate = torch.where(users % 2 == items % 2, 0.8, 0.2)
    return batch_of({"user": users, "item": items}, labels=(torch.rand(rows, generator=draw) < rate).float())


def accuracy(model: nn.Module) -> float:
    train, test = planted(4000, 0), planted(4000, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(8):
        for piece in train.split(250):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(piece), piece.labels).backward()
            optimizer.step()
    with torch.no_grad():
        return ((model(test) > 0) == (test.labels > 0.5)).float().mean().item()


def test_deepfm_finds_a_planted_interaction_that_the_linear_model_cannot_see() -> None:
    sizes = {"user": 20, "item": 20}
    assert accuracy(DeepFM(Rows(sizes, 6), ("user", "item"), 0, (16,))) > 0.77  # 0.8 is possible
    assert accuracy(LogisticRegression(Rows(sizes, 6), ("user", "item"), 0)) < 0.55


def test_the_interaction_term_alone_finds_it_too() -> None:
    model = DeepFM(Rows({"user": 20, "item": 20}, 6), ("user", "item"), 0, (16,))
    for parameter in model.deep.parameters():
        parameter.requires_grad_(False).zero_()
    assert accuracy(model) > 0.77


@pytest.mark.parametrize("hidden", [(8, 6), Hidden((8,), batch_norm=True)], ids=["plain", "batch norm"])
def test_deepfm_keeps_what_every_family_keeps(
    family_check: Callable[[Callable[..., nn.Module]], None], hidden: tuple[int, ...]
) -> None:
    family_check(lambda *inputs, **settings: DeepFM(*inputs, hidden, **settings))


def test_logistic_regression_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("lr")
    place = "lr_layer.embedding_layer"
    rows = expected.rows({name: expected.fuxictr(place, name) for name in expected.FEATURES})
    expected.agrees(LogisticRegression(rows, expected.FEATURES, 2), {
        "bias": expected.weights["lr_layer.bias"][0], "dense_weight": expected.numbers_of(place)[:, 0],
    })  # fmt: skip


@pytest.mark.parametrize("normed", [False, True])
def test_deepfm_agrees_with_fuxictr(try_it: SimpleNamespace, normed: bool) -> None:
    expected = try_it.Expected("deepfm_batch_norm" if normed else "deepfm")
    own, first = expected.weights, "fm.lr_layer.embedding_layer"
    factors = expected.numbers_of("embedding_layer")
    model = DeepFM(expected.two_orders(first), expected.FEATURES, 2, Hidden((5, 4), batch_norm=normed))
    deep = expected.under("mlp.mlp.", "deep.layers.")
    last = f"deep.layers.{len(model.deep.layers) - 1}.bias"
    expected.agrees(model, {
        **deep, last: deep[last] + own["fm.lr_layer.bias"],  # ours has one bias where FuxiCTR has two
        "deep.layers.0.weight": expected.plain_numbers(deep["deep.layers.0.weight"], factors),
        "dense_weight": expected.numbers_of(first)[:, 0], "dense_factors": factors,
    })  # fmt: skip
