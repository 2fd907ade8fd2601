"""DCN and DCN-V2: other implementations' answers, the degree of their products, and what a vector cannot cross."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError
from headrace.nn import DCN, CrossSettings, DCNv2, Hidden, LogisticRegression

FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "DCN": lambda *inputs, **others: DCN(*inputs, (8,), **others),
    "DCN, batch norm": lambda *inputs, **others: DCN(*inputs, Hidden((8,), batch_norm=True), layers=2, **others),
    "DCN, cross alone": lambda *inputs, **others: DCN(*inputs, (), **others),
    "DCNv2": lambda *inputs, **others: DCNv2(*inputs, (8,), **others),
    "DCNv2, stacked": lambda *inputs, **others: DCNv2(
        *inputs, (8,), cross=CrossSettings(structure="stacked"), **others
    ),
    "DCNv2, mixture": lambda *inputs, **others: DCNv2(*inputs, (8,), cross=CrossSettings(rank=3), **others),
    "DCNv2, cross alone": lambda *inputs, **others: DCNv2(*inputs, (), **others),
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_what_every_family_keeps(
    family_check: Callable[[Callable[..., nn.Module]], None], make: Callable[..., nn.Module]
) -> None:
    family_check(make)


@pytest.mark.parametrize("kind", [DCN, DCNv2])
def test_widths_may_differ(try_it: SimpleNamespace, kind: type[DCN | DCNv2]) -> None:
    rows = try_it.Rows()
    rows.tables["item"] = nn.Parameter(torch.zeros(9, 3))
    model = kind(rows, try_it.features, 2)
    assert model(try_it.small_batch()).shape == (16,)
    assert set(model.input_axes().values()) == {()}  # no layout that could be moved to other features


def test_order_of_inputs_does_not_matter_where_weights_move_along(try_it: SimpleNamespace) -> None:
    model = try_it.stirred(DCN(try_it.Rows(), try_it.features, 2, (8,)))
    other = DCN(model.embed, try_it.features[::-1], 2, (8,))
    axes = model.input_axes()

    def moved(name: str, value: Tensor) -> Tensor:
        if name not in axes:
            return value
        axis, width = axes[name].axis, axes[name].per_feature
        ids, dense = value.split([3 * width, 2], dim=axis)
        return torch.cat([*reversed(ids.split(width, dim=axis)), dense], dim=axis)

    other.load_state_dict({name: moved(name, value) for name, value in model.state_dict().items()})
    torch.testing.assert_close(other(try_it.small_batch()), model(try_it.small_batch()), rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------- answers of other implementations


def output_of(own: dict[str, Tensor], inputs: int) -> dict[str, Tensor]:
    """Return FuxiCTR's one output layer over cross layers and deep part as our two."""
    return {"cross": own["fc.weight"][:, :inputs], "deep": own["fc.weight"][:, inputs:]}


def test_dcn_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("dcn")
    own, output = expected.weights, output_of(expected.weights, 9)
    rows = expected.rows({name: expected.fuxictr("embedding_layer", name) for name in expected.FEATURES})
    expected.agrees(DCN(rows, expected.FEATURES, 0, (5, 4), layers=2), {
        **{f"cross.{place}.weight": own[f"crossnet.cross_net.{place}.weight.weight"][0] for place in range(2)},
        **{f"cross.{place}.bias": own[f"crossnet.cross_net.{place}.bias"] for place in range(2)},
        **expected.under("dnn.mlp.", "deep.layers."),
        "deep.layers.4.weight": output["deep"], "deep.layers.4.bias": torch.zeros(1),
        "output.weight": output["cross"], "output.bias": own["fc.bias"],
    })  # fmt: skip


def test_dcn_agrees_with_deepctr_torch_on_numbers(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("dcn_numbers")
    own = expected.weights
    rows = expected.rows({name: own[f"embedding_dict.{name}.weight"] for name in expected.FEATURES})
    expected.agrees(DCN(rows, expected.FEATURES, 2, (5, 4), layers=2), {
        **{f"cross.{place}.weight": own["crossnet.kernels"][place, :, 0] for place in range(2)},
        **{f"cross.{place}.bias": own["crossnet.bias"][place, :, 0] for place in range(2)},
        **expected.under("dnn.linears.0", "deep.layers.0"), **expected.under("dnn.linears.1", "deep.layers.2"),
        "deep.layers.4.weight": own["dnn_linear.weight"][:, 11:], "deep.layers.4.bias": torch.zeros(1),
        "output.weight": own["dnn_linear.weight"][:, :11], "output.bias": own["out.bias"],
    })  # fmt: skip


def test_dcnv2_agrees_with_deepctr_torch_on_numbers(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("dcnv2_numbers")
    own = expected.weights
    rows = expected.rows({name: own[f"embedding_dict.{name}.weight"] for name in expected.FEATURES})
    expected.agrees(DCNv2(rows, expected.FEATURES, 2, (5, 4), cross=CrossSettings(layers=2)), {
        **{f"cross.{place}.linear.weight": own["crossnet.kernels"][place] for place in range(2)},
        **{f"cross.{place}.linear.bias": own["crossnet.bias"][place, :, 0] for place in range(2)},
        **expected.under("dnn.linears.0", "deep.0"), **expected.under("dnn.linears.1", "deep.2"),
        "deep_output.weight": own["dnn_linear.weight"][:, 11:],
        "output.weight": own["dnn_linear.weight"][:, :11], "output.bias": own["out.bias"],
    })  # fmt: skip


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_dcnv2_agrees_with_fuxictr(try_it: SimpleNamespace, structure: str) -> None:
    stacked = structure == "stacked"
    expected = try_it.Expected("dcnv2_stacked" if stacked else "dcnv2")
    own, output = expected.weights, output_of(expected.weights, 9)
    rows = expected.rows({name: expected.fuxictr("embedding_layer", name) for name in expected.FEATURES})
    model = DCNv2(rows, expected.FEATURES, 0, (5, 4), cross=CrossSettings(layers=2, structure=structure))
    last = {"deep_output.weight": own["fc.weight"], "deep_output.bias": own["fc.bias"]} if stacked else {
        "deep_output.weight": output["deep"], "output.weight": output["cross"], "output.bias": own["fc.bias"]
    }  # fmt: skip
    expected.agrees(model, {
        **{f"cross.{n}.linear.{kind}": own[f"crossnet.cross_layers.{n}.{kind}"]
           for n in range(2) for kind in ("weight", "bias")},
        **expected.under(f"{structure}_dnn.mlp.", "deep."),
        **last,
    })  # fmt: skip


def test_the_mixture_agrees_with_fuxictr(try_it: SimpleNamespace) -> None:
    expected = try_it.Expected("dcnv2_mixture")
    own, output = expected.weights, output_of(expected.weights, 9)
    rows = expected.rows({name: expected.fuxictr("embedding_layer", name) for name in expected.FEATURES})
    model = DCNv2(rows, expected.FEATURES, 0, (5, 4), cross=CrossSettings(layers=2, rank=2, experts=3))
    layers = {}
    for place in range(2):
        layers[f"cross.{place}.down.weight"] = own[f"crossnet.V_list.{place}"].transpose(1, 2).flatten(0, 1)
        layers[f"cross.{place}.inner"] = own[f"crossnet.C_list.{place}"]
        layers[f"cross.{place}.up.weight"] = own[f"crossnet.U_list.{place}"].transpose(0, 1).flatten(1)
        layers[f"cross.{place}.up.bias"] = own[f"crossnet.bias.{place}"][:, 0]
    expected.agrees(model, {
        **layers, "gate.weight": torch.cat([own[f"crossnet.gating.{place}.weight"] for place in range(3)]),
        **expected.under("parallel_dnn.mlp.", "deep."),
        "deep_output.weight": output["deep"], "output.weight": output["cross"], "output.bias": own["fc.bias"],
    })  # fmt: skip


# -------------------------------------------------------------------------------------------------- planted signals


def cross_alone(kind: Callable[..., nn.Module], **settings: object) -> Callable[..., nn.Module]:
    return lambda *inputs: kind(*inputs, (), **settings)


def test_one_cross_layer_finds_a_pair_and_two_find_three_fields(try_it: SimpleNamespace) -> None:
    assert try_it.accuracy(cross_alone(DCN, layers=1), try_it.pairs) > 0.87
    assert try_it.accuracy(LogisticRegression, try_it.pairs) < 0.55
    assert try_it.accuracy(cross_alone(DCN, layers=2), try_it.triples, lr=0.05) > 0.87
    assert try_it.accuracy(cross_alone(DCN, layers=1), try_it.triples, lr=0.05) < 0.6


@pytest.mark.parametrize("cross", [CrossSettings(layers=1), CrossSettings(layers=1, rank=6, experts=2)])
def test_a_matrix_crosses_pairs_that_one_vector_cannot(try_it: SimpleNamespace, cross: CrossSettings) -> None:
    def three_pairs(rows: int, seed: int) -> object:
        return try_it.pairs(rows, seed, pairs=3, kinds=6)

    assert try_it.accuracy(cross_alone(DCNv2, cross=cross), three_pairs, epochs=12) > 0.85
    assert try_it.accuracy(cross_alone(DCN, layers=1), three_pairs, epochs=12) < 0.8


@pytest.mark.parametrize(("build", "what"), [
    (lambda rows, names: DCN(rows, names, 0, layers=0), "layers"),
    (lambda rows, names: CrossSettings(layers=0), "layers"),
    (lambda rows, names: CrossSettings(rank=0), "rank"),
    (lambda rows, names: CrossSettings(rank=2, experts=0), "experts"),
    (lambda rows, names: CrossSettings(structure="paralel"), "'parallel'"),
    (lambda rows, names: DCN(rows, names, 0, (0,)), "widths"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(
    try_it: SimpleNamespace, build: Callable[[nn.Module, tuple[str, ...]], object], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        build(try_it.Rows(), try_it.features)
