"""AutoInt: FuxiCTR's answers, its order of fields, and an interaction that no linear model sees."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn import AutoInt, FieldAttention, Hidden, LogisticRegression


@pytest.mark.parametrize("settings", [
    {"attention": FieldAttention(layers=2, width=6)},
    {"attention": FieldAttention(width=4, scaled=True), "hidden": (8,)},
    {"hidden": Hidden((8,), batch_norm=True)},
], ids=["plain", "with a deep part", "batch norm"])  # fmt: skip
def test_what_every_family_keeps(
    family_check: Callable[[Callable[..., nn.Module]], None], settings: dict[str, object]
) -> None:
    family_check(lambda *inputs, **others: AutoInt(*inputs, **settings, **others))


def test_attention_is_equivariant_in_the_fields(try_it: SimpleNamespace) -> None:
    model, order = try_it.stirred(AutoInt(try_it.Rows(), try_it.features, 2)), torch.tensor([3, 0, 4, 1, 2])
    fields = model.fields(try_it.small_batch()).fields
    torch.testing.assert_close(
        model.attention(fields[:, order]), model.attention(fields)[:, order], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("plus", [False, True])
def test_it_agrees_with_fuxictr(try_it: SimpleNamespace, plus: bool) -> None:
    expected = try_it.Expected("autoint_plus" if plus else "autoint")
    own, factors = expected.weights, expected.numbers_of("embedding_layer")
    settings = FieldAttention(layers=2, heads=1 if plus else 2, width=4, scaled=plus)
    rows = expected.rows({name: expected.fuxictr("embedding_layer", name) for name in expected.FEATURES})
    model = AutoInt(rows, expected.FEATURES, 2, (5, 4) if plus else (), attention=settings)

    def projection(place: int) -> Tensor:
        """FuxiCTR leaves the residual alone where widths agree; ours is always projected."""
        parts = [own[f"self_attention.{place}.W_{name}.weight"] for name in ("q", "k", "v")]
        return torch.cat([*parts, own.get(f"self_attention.{place}.W_res.weight", torch.eye(4))])

    deep = {}
    if plus:
        deep = expected.under("dnn.mlp.", "deep.layers.")
        deep["deep.layers.0.weight"] = expected.plain_numbers(own["dnn.mlp.0.weight"], factors)
    expected.agrees(model, {
        **{f"attention.{place}.project.weight": projection(place) for place in range(2)},
        "fields.dense_factors": factors, "output.weight": own["fc.weight"], "output.bias": own["fc.bias"], **deep,
    })  # fmt: skip


def test_dropout_acts_in_training_only(try_it: SimpleNamespace) -> None:
    model, batch = try_it.stirred(AutoInt(try_it.Rows(), try_it.features, 2, dropout=0.5)), try_it.small_batch()
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


def test_it_finds_an_interaction_that_the_linear_model_cannot_see(try_it: SimpleNamespace) -> None:
    small = FieldAttention(layers=2, heads=2, width=8)
    assert try_it.accuracy(lambda *inputs: AutoInt(*inputs, attention=small), try_it.pairs) > 0.87
    assert try_it.accuracy(LogisticRegression, try_it.pairs) < 0.55


@pytest.mark.parametrize(("settings", "what"), [
    ({"layers": 0}, "layers"), ({"heads": 3, "width": 8}, "divisor"), ({"heads": 0}, "heads"), ({"width": 0}, "heads"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict[str, int], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        FieldAttention(**settings)


def test_dropout_must_be_a_share(try_it: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        AutoInt(try_it.Rows(), try_it.features, 2, dropout=1.0)
