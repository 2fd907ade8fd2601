"""DLRM, MaskNet, FinalMLP and GDCN: what they have in common, their formulas in float64, and planted signals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.dlrm import DLRM
from headrace.nn.finalmlp import FinalMLP, Streams
from headrace.nn.gdcn import GDCN, GatedCross
from headrace.nn.layers import MLP, generator
from headrace.nn.masknet import MaskNet, Masks
from headrace.types import Batch, Jagged

SIZES = {"user": 6, "item": 9, "place": 4}
FEATURES = tuple(SIZES)
Maker = Callable[..., nn.Module]


class Rows(nn.Module):
    """Embeddings as plain parameters."""

    def __init__(self, sizes: dict[str, int], dim: int = 4, spread: float = 0.4, seed: int = 0) -> None:
        super().__init__()
        draw = generator(seed)
        self.tables = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(size, dim, generator=draw) * spread) for name, size in sizes.items()}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: table[batch.ids[name].values] for name, table in self.tables.items()}


def batch_of(ids: dict[str, Tensor], dense: Tensor, labels: Tensor | None = None) -> Batch:
    rows = len(dense)
    zeros, offsets = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    return Batch(
        ids={name: Jagged(values, offsets) for name, values in ids.items()}, dense=dense,
        labels=zeros.float() if labels is None else labels, weights=torch.ones(rows), event_times=zeros,
        accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan), versions=zeros - 1,
        sample_rates=torch.ones(rows),
    )  # fmt: skip


def small_batch(rows: int = 16, dense: int = 2) -> Batch:
    draw = generator(5)
    ids = {name: torch.randint(0, size, (rows,), generator=draw) for name, size in SIZES.items()}
    return batch_of(ids, torch.randn(rows, dense, generator=draw))


MODELS: dict[str, Maker] = {
    "DLRM": lambda *a, **k: DLRM(*a, **k),
    "MaskNet": lambda *a, **k: MaskNet(*a, **k),
    "parallel MaskNet": lambda *a, **k: MaskNet(*a, masks=Masks(parallel=3, width=7, ratio=0.5), **k),
    "FinalMLP": lambda *a, **k: FinalMLP(*a, streams=Streams(heads=2, second=(6, 4)), **k),
    "FinalMLP with contexts": lambda *a, **k: FinalMLP(
        *a, streams=Streams(contexts=(("user",), ("item", "place"))), **k
    ),
    "FinalMLP without gates": lambda *a, **k: FinalMLP(*a, streams=Streams(gated=False), **k),
    "GDCN": lambda *a, **k: GDCN(*a, **k),
    "parallel GDCN": lambda *a, **k: GDCN(*a, cross=GatedCross(parallel=True, layers=2), **k),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def small_model(make: Maker, *, seed: int = 0, dense: int = 2, **settings: object) -> nn.Module:
    return make(Rows(SIZES), FEATURES, dense, (8, 6), seed=seed, **settings)


@every_model
@pytest.mark.parametrize("dense", [0, 2])
def test_one_logit_per_example_that_does_not_depend_on_neighbours(make: Maker, dense: int) -> None:
    model, batch = small_model(make, dense=dense).eval(), small_batch(dense=dense)
    logits = model(batch)
    assert logits.shape == (16,)
    torch.testing.assert_close(model(batch.slice(3, 7)), logits[3:7], rtol=1e-5, atol=1e-6)
    assert model(batch.slice(0, 0)).shape == (0,)


@every_model
def test_gradients_reach_every_parameter(make: Maker) -> None:
    model = small_model(make)
    model(small_batch(64)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_model
def test_weights_follow_the_seed_alone_and_survive_a_round_trip(make: Maker) -> None:
    before = torch.get_rng_state()
    first = small_model(make, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, other, batch = small_model(make, seed=3), small_model(make, seed=4), small_batch()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first(batch), other(batch))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(batch), other(batch))


@every_model
def test_a_prior_moves_all_logits_alike(make: Maker) -> None:
    low, high = (small_model(make, prior=prior)(small_batch()) for prior in (0.1, 0.5))
    torch.testing.assert_close(high - low, torch.full((16,), math.log(9.0)))


@every_model
def test_dropout_acts_in_training_only(make: Maker) -> None:
    model, batch = small_model(make, dropout=0.5), small_batch()
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


@every_model
def test_other_dense_columns_are_refused(make: Maker) -> None:
    with pytest.raises(DataError, match="another schema"):
        small_model(make)(small_batch(dense=3))


@every_model
def test_input_axes_name_real_axes(make: Maker) -> None:
    model = small_model(make)
    for module in model.modules():
        for name, layout in getattr(module, "input_axes", dict)().items():
            parameter = dict(module.named_parameters())[name]
            for axis in layout if isinstance(layout, tuple) else (layout,):
                assert parameter.shape[axis.axis] == len(FEATURES) * axis.per_feature + 2 * axis.per_dense


# --------------------------------------------------------------------------------------------- formulas in float64


def doubled(make: Maker) -> tuple[nn.Module, Batch, np.ndarray, np.ndarray]:
    """Return a model with random weights, a batch, and its embeddings (B, F, D) and dense columns in NumPy."""
    model, batch = small_model(make).double(), small_batch()
    draw = generator(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.3)
    batch = replace(batch, dense=batch.dense.double())
    embed = next(module for module in model.modules() if isinstance(module, Rows))
    rows = torch.stack([embed(batch)[name] for name in FEATURES], 1)
    return model, batch, rows.detach().numpy(), batch.dense.numpy()


def numpy_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def mlp_of(layers: nn.Module, inputs: np.ndarray, *, last: bool) -> np.ndarray:
    """Rectified layers; the last one is linear where `last` says so."""
    linears = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    for place, layer in enumerate(linears):
        inputs = inputs @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if not last or place + 1 < len(linears):
            inputs = np.maximum(inputs, 0.0)
    return inputs


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values))


def normed(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def test_dlrm_equals_its_formula() -> None:
    model, batch, rows, dense = doubled(MODELS["DLRM"])
    below = np.maximum(mlp_of(model.bottom, dense, last=True), 0.0)
    vectors = [*rows.transpose(1, 0, 2), below]
    pairs = [(vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i + 1, 4)]
    expected = mlp_of(model.top, np.concatenate([np.stack(pairs, 1), below], 1), last=True)
    np.testing.assert_allclose(model(batch).detach().numpy(), expected[:, 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["MaskNet", "parallel MaskNet"])
def test_masknet_equals_its_formula(name: str) -> None:
    model, batch, rows, dense = doubled(MODELS[name])
    own = numpy_of(model)
    fields = np.concatenate([rows, dense[:, :, None] * own["fields.dense_factors"]], 1)
    inputs = normed(fields, own["norm_weight"], own["norm_bias"]).reshape(16, -1)
    outputs = []
    for block in model.blocks:
        mask = mlp_of(block.mask, fields.reshape(16, -1), last=True)
        part = numpy_of(block)
        made = np.maximum(normed((mask * inputs) @ part["layer.weight"].T, part["norm.weight"], part["norm.bias"]), 0)
        outputs.append(made)
        inputs = inputs if name.startswith("parallel") else made
    joined = np.concatenate(outputs, 1) if name.startswith("parallel") else outputs[-1]
    expected = mlp_of(model.deep, joined, last=True)
    np.testing.assert_allclose(model(batch).detach().numpy(), expected[:, 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["FinalMLP", "FinalMLP with contexts"])
def test_finalmlp_equals_its_formula(name: str) -> None:
    model, batch, rows, dense = doubled(MODELS[name])
    flat = np.concatenate([rows.reshape(16, -1), dense], 1)
    contexts = [(), ()] if name == "FinalMLP" else [(0,), (1, 2)]
    streams = []
    for gate, places, layers in zip(model.gates, contexts, (model.first, model.second), strict=True):
        context = rows[:, list(places)].reshape(16, -1) if places else gate.context.detach().numpy()
        streams.append(mlp_of(layers, flat * 2 * sigmoid(mlp_of(gate.layers, context, last=True)), last=False))
    first, second = streams
    own, heads = numpy_of(model.fusion), len(model.fusion.bilinear)
    expected = first @ own["first.weight"][0] + second @ own["second.weight"][0] + own["first.bias"]
    for head, (x, y) in enumerate(zip(np.split(first, heads, 1), np.split(second, heads, 1), strict=True)):
        expected = expected + ((x @ own["bilinear"][head]) * y).sum(1)
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["GDCN", "parallel GDCN"])
def test_gdcn_equals_its_formula(name: str) -> None:
    model, batch, rows, dense = doubled(MODELS[name])
    flat = np.concatenate([rows.reshape(16, -1), dense], 1)
    crossed = flat
    for layer in model.cross:
        own = numpy_of(layer)
        inner = crossed @ own["cross.weight"].T + own["cross.bias"]
        crossed = flat * inner * sigmoid(crossed @ own["gate.weight"].T) + crossed
    parallel = name.startswith("parallel")
    deep = mlp_of(model.deep, flat if parallel else crossed, last=False)
    expected = mlp_of(model.output, np.concatenate([crossed, deep], 1) if parallel else deep, last=True)
    np.testing.assert_allclose(model(batch).detach().numpy(), expected[:, 0], rtol=1e-9)


def test_pairs_of_dlrm_do_not_know_the_order_of_features() -> None:
    first = DLRM(Rows(SIZES), ("user", "item"), 0, ())
    second = DLRM(first.embed, ("item", "user"), 0, ())
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(small_batch(dense=0)), second(small_batch(dense=0)))


def test_a_gate_of_zeros_passes_the_inputs_on() -> None:
    gated, plain = small_model(MODELS["FinalMLP"]), FinalMLP(
        Rows(SIZES), FEATURES, 2, (8, 6), streams=Streams(heads=2, second=(6, 4), gated=False)
    )  # fmt: skip
    with torch.no_grad():
        for parameter in gated.gates.parameters():
            parameter.zero_()  # 2 sigmoid(0) = 1
    plain.load_state_dict({name: v for name, v in gated.state_dict().items() if not name.startswith("gates")})
    torch.testing.assert_close(gated(small_batch()), plain(small_batch()))


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("make", "text"), [
    (lambda e: DLRM(e, (), 2), "at least one id feature"),
    (lambda e: DLRM(e, ("user",), 0), "positive"),
    (lambda e: MaskNet(e, FEATURES, 2, ()), "serial block"),
    (lambda e: MaskNet(e, FEATURES, 2, masks=Masks(parallel=-1)), "parallel"),
    (lambda e: FinalMLP(e, FEATURES, 2, ()), "at least one layer"),
    (lambda e: FinalMLP(e, FEATURES, 2, (7,), streams=Streams(heads=2)), "divisor"),
    (lambda e: FinalMLP(e, FEATURES, 2, streams=Streams(contexts=(("usr",), ()))), "contexts"),
    (lambda e: FinalMLP(e, FEATURES, 2, streams=Streams(contexts=(("user",),))), "two streams"),  # type: ignore[arg-type]
    (lambda e: GDCN(e, FEATURES, 2, cross=GatedCross(layers=0)), "layers"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(make: Callable[[nn.Module], nn.Module], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make(Rows(SIZES))


# -------------------------------------------------------------------------------------------------- planted signals


def planted(rows: int, seed: int) -> Batch:
    """Users and items of two kinds; the click depends on whether the kinds agree, on neither alone."""
    draw = generator(seed)
    users, items = torch.randint(0, 20, (rows,), generator=draw), torch.randint(0, 20, (rows,), generator=draw)
    rate = torch.where(users % 2 == items % 2, 0.9, 0.1)
    labels = (torch.rand(rows, generator=draw) < rate).float()
    return batch_of({"user": users, "item": items}, torch.zeros(rows, 0), labels)


class Linear(nn.Module):
    """The simpler relative of all: a linear layer over the embeddings."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed, self.deep = embed, MLP(8, (), 1, generator(0))

    def forward(self, batch: Batch) -> Tensor:
        rows = self.embed(batch)
        return self.deep(torch.cat([rows["user"], rows["item"]], 1)).squeeze(1)


def accuracy(model: nn.Module) -> float:
    train, test = planted(4000, 0), planted(4000, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(6):
        for piece in train.split(250):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(piece), piece.labels).backward()
            optimizer.step()
    with torch.no_grad():
        return ((model.eval()(test) > 0) == (test.labels > 0.5)).float().mean().item()


@pytest.mark.parametrize("make", [
    lambda e: DLRM(e, ("user", "item"), 0, ()),  # products and nothing else
    lambda e: MaskNet(e, ("user", "item"), 0, (8,)),
    lambda e: MaskNet(e, ("user", "item"), 0, (), masks=Masks(parallel=2, width=8)),
    lambda e: FinalMLP(e, ("user", "item"), 0, (8,)),
    lambda e: GDCN(e, ("user", "item"), 0, (), cross=GatedCross(layers=1)),  # one cross layer and nothing else
    lambda e: GDCN(e, ("user", "item"), 0, (8,), cross=GatedCross(layers=1, parallel=True)),
])  # fmt: skip
def test_a_planted_interaction_is_found(make: Callable[[nn.Module], nn.Module]) -> None:
    assert accuracy(make(Rows({"user": 20, "item": 20}))) > 0.86  # 0.9 is possible


def test_a_linear_model_does_not_see_the_planted_interaction() -> None:
    assert accuracy(Linear(Rows({"user": 20, "item": 20}))) < 0.55
