"""Models of several labels: degenerate equalities, what each part learns from, and labels that want other experts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.esmm import ESMM
from headrace.nn.layers import MLP, generator
from headrace.nn.multi_task import PLE, MMoE, SharedBottom
from headrace.nn.probability import product_logit
from headrace.nn.tasks import GatedTasks, LayeredTasks, LearnedWeights, Tasks
from headrace.types import Batch, Jagged

EXPECTED = Path(__file__).parent / "expected" / "multi_task.json"
FEATURES = ("user", "item")
THREE = (0.5, 0.2, 0.1)
KINDS = ["shared", "mmoe", "ple", "esmm"]


class Rows(nn.Module):
    """Embeddings as plain parameters."""

    def __init__(self, dim: int = 4, size: int = 9) -> None:
        super().__init__()
        draw = generator(0)
        self.tables = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(size, dim, generator=draw) * 0.3) for name in FEATURES}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: table[batch.ids[name].values] for name, table in self.tables.items()}


def batch_of(ids: dict[str, Tensor], dense: Tensor) -> Batch:
    rows = len(dense)
    zeros, offsets = torch.zeros(rows, dtype=torch.int64), torch.arange(rows + 1)
    return Batch(
        ids={name: Jagged(values, offsets) for name, values in ids.items()}, dense=dense, labels=torch.zeros(rows),
        weights=torch.ones(rows), event_times=zeros, accepted_times=zeros, example_ids=zeros,
        predictions=torch.full((rows,), math.nan), versions=zeros - 1, sample_rates=torch.ones(rows),
    )  # fmt: skip


def small_batch(rows: int = 64, seed: int = 5) -> Batch:
    draw = generator(seed)
    ids = {name: torch.randint(0, 9, (rows,), generator=draw) for name in FEATURES}
    return batch_of(ids, torch.randn(rows, 2, generator=draw))


def build(kind: str, embed: nn.Module | None = None, **settings: object) -> nn.Module:
    embed = embed or Rows()
    made: dict[str, object] = {
        "shared": lambda: SharedBottom(embed, FEATURES, 2, (6, 5), tasks=Tasks(priors=THREE, towers=(4,)), **settings),
        "mmoe": lambda: MMoE(
            embed, FEATURES, 2, (6, 5), tasks=GatedTasks(priors=THREE, towers=(4,), experts=3, gates=(3,)), **settings
        ),
        "ple": lambda: PLE(
            embed, FEATURES, 2, (6, 5), tasks=LayeredTasks(priors=THREE, towers=(4,), experts=2, own=2), **settings
        ),
        "esmm": lambda: ESMM(embed, FEATURES, 2, (6, 5), priors=THREE, **settings),
    }
    return made[kind]()  # type: ignore[operator]


def set_all(to: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy weights by name; every parameter but the embeddings has to be named."""
    own = dict(to.named_parameters())
    assert {name for name in own if not name.startswith("embed")} == set(values)
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


@pytest.mark.parametrize("kind", KINDS)
def test_one_logit_per_example_and_label(kind: str) -> None:
    assert build(kind)(small_batch(7)).shape == (7, 3)
    assert build(kind)(small_batch(0)).shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_and_embedding(kind: str) -> None:
    model = build(kind)
    model(small_batch(400)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_examples_do_not_see_each_other(kind: str) -> None:
    model, batch = build(kind), small_batch(12)
    order = torch.randperm(12, generator=generator(2))
    ids = {name: batch.ids[name].values[order] for name in FEATURES}
    torch.testing.assert_close(model(batch_of(ids, batch.dense[order])), model(batch)[order])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_saved_and_loaded_and_follow_from_the_seed(kind: str) -> None:
    first, other, batch = build(kind), build(kind, seed=1), small_batch()
    assert not torch.equal(first(batch), other(batch))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(batch), other(batch))
    torch.rand(3)
    assert torch.equal(build(kind)(batch), first(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_read_the_inputs_say_so(kind: str) -> None:
    model = build(kind)
    axes, own = model.input_axes(), dict(model.named_parameters())  # type: ignore[operator]
    assert {name for name, value in own.items() if not name.startswith("embed") and value.shape[-1] == 10} == set(axes)
    assert {(axis.axis, axis.per_feature, axis.per_dense) for axis in axes.values()} == {(1, 4, 1)}


@pytest.mark.parametrize("kind", ["shared", "mmoe", "ple"])
def test_every_label_starts_at_its_prior(kind: str) -> None:
    model = build(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("towers") and "weight" in name:
                parameter.zero_()
    torch.testing.assert_close(torch.sigmoid(model(small_batch(3))), torch.tensor(THREE).expand(3, 3))


def test_dropout_drops_in_training_only() -> None:
    model, batch = build("ple", dropout=0.5), small_batch()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_mmoe_with_one_expert_is_a_shared_bottom() -> None:
    embed, batch = Rows(), small_batch()
    mmoe = MMoE(embed, FEATURES, 2, (6, 5), tasks=GatedTasks(priors=THREE, towers=(4,), experts=1))
    shared = SharedBottom(embed, FEATURES, 2, (6, 5), tasks=Tasks(priors=THREE, towers=(4,)))
    values = {name: value for name, value in mmoe.state_dict().items() if name.startswith("towers")}
    values |= {
        f"bottom.{place}.{part}": mmoe.state_dict()[f"mixture.shared.0.{place}.{part}"]
        for place in (0, 2)
        for part in ("weight", "bias")
    }
    set_all(shared, values)
    torch.testing.assert_close(mmoe(batch), shared(batch))


def test_equal_experts_make_every_gate_idle() -> None:
    mmoe, batch = build("mmoe"), small_batch()
    with torch.no_grad():
        for expert in mmoe.mixture.shared:  # type: ignore[union-attr]
            expert.load_state_dict(mmoe.mixture.shared[0].state_dict())  # type: ignore[union-attr,index]
    before = mmoe(batch)
    with torch.no_grad():
        for parameter in mmoe.mixture.gates.parameters():  # type: ignore[union-attr]
            parameter.add_(1.0)
    torch.testing.assert_close(mmoe(batch), before)


def test_ple_of_one_level_without_own_experts_is_mmoe() -> None:
    embed, batch = Rows(), small_batch()
    mmoe = MMoE(embed, FEATURES, 2, (6,), tasks=GatedTasks(priors=THREE, towers=(4,), experts=3))
    ple = PLE(embed, FEATURES, 2, (6,), tasks=LayeredTasks(priors=THREE, towers=(4,), experts=3, own=0, levels=1))
    values = {name.replace("mixture.", "levels.0."): value for name, value in mmoe.state_dict().items()}
    set_all(ple, {name: value for name, value in values.items() if not name.startswith("embed")})
    torch.testing.assert_close(ple(batch), mmoe(batch))


@pytest.mark.parametrize("shared_gate", ["all", "shared"])
def test_ple_equals_its_formula_written_out(shared_gate: str) -> None:
    tasks = LayeredTasks(priors=THREE, towers=(4,), experts=2, own=2, shared_gate=shared_gate)  # type: ignore[arg-type]
    model, batch = PLE(Rows(), FEATURES, 2, (6, 5), tasks=tasks), small_batch(5)
    rows = model.embed(batch)
    mixed = [torch.cat([rows["user"], rows["item"], batch.dense], dim=1)] * 4
    for depth, level in enumerate(model.levels):
        shared = [expert(mixed[3]) for expert in level.shared]
        own = [[expert(mixed[task]) for expert in level.own[task]] for task in range(3)]
        after = []
        for task in range(3):
            gate = torch.softmax(level.gates[task](mixed[task]), 1)
            after.append(sum(gate[:, e : e + 1] * expert for e, expert in enumerate(own[task] + shared)))
        if depth == 0:
            gate = torch.softmax(level.gates[3](mixed[3]), 1)
            weighed = own[0] + own[1] + own[2] + shared if shared_gate == "all" else shared
            assert gate.shape[1] == len(weighed)
            after.append(sum(gate[:, e : e + 1] * expert for e, expert in enumerate(weighed)))
        mixed = after
    expected = torch.cat([tower(mix) for tower, mix in zip(model.towers, mixed, strict=True)], dim=1)
    torch.testing.assert_close(model(batch), expected)


def test_esmm_with_one_step_is_a_plain_network() -> None:
    embed, batch = Rows(), small_batch()
    model = ESMM(embed, FEATURES, 2, (6, 5), priors=(0.2,), seed=3)
    plain = MLP(10, (6, 5), 1, generator(3))
    plain.load_state_dict(model.towers[0].state_dict())
    rows = embed(batch)
    torch.testing.assert_close(model(batch), plain(torch.cat([rows["user"], rows["item"], batch.dense], 1)))


def test_esmm_multiplies_the_probabilities_of_the_steps() -> None:
    model, batch = build("esmm").double(), small_batch()
    object.__setattr__(batch, "dense", batch.dense.double())
    steps = torch.sigmoid(model.steps(batch))  # type: ignore[operator]
    torch.testing.assert_close(torch.sigmoid(model(batch)), steps.cumprod(1))


@pytest.mark.parametrize("size", [0.1, 10.0, 80.0, 1e4])
def test_products_of_probabilities_and_their_gradients_are_finite(size: float) -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * size
    first, second = signs[:, 0].clone().requires_grad_(), signs[:, 1].clone().requires_grad_()
    product = product_logit(first, second)
    nn.functional.binary_cross_entropy_with_logits(product, torch.tensor([0.0, 1.0, 0.0, 1.0])).backward()
    for values in (product, first.grad, second.grad):
        assert values is not None
        assert torch.isfinite(values).all()
    if size <= 10.0:
        exact = torch.sigmoid(signs.double()).prod(1)
        torch.testing.assert_close(product.double(), torch.logit(exact), rtol=1e-5, atol=1e-5)


def test_mmoe_serves_two_unrelated_labels_through_a_bottleneck_that_a_shared_bottom_must_share() -> None:
    inputs = torch.randn(600, 2, generator=generator(1))
    labels, batch, losses = (inputs > 0).float(), batch_of({}, inputs), {}
    models = {
        "shared": SharedBottom(nn.Module(), (), 2, (8, 1), tasks=Tasks(towers=())),
        "mmoe": MMoE(nn.Module(), (), 2, (8, 1), tasks=GatedTasks(towers=(), experts=4)),
    }
    for name, model in models.items():
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), labels)
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["mmoe"] < 0.1
    assert losses["shared"] > 0.3


def test_learned_weights_pass_logits_through_and_start_even() -> None:
    model, batch = build("shared"), small_batch()
    wrapped = LearnedWeights(model, 3)
    assert torch.equal(wrapped(batch), model(batch))
    assert wrapped.log_variances.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Tasks(priors=()), "one rate per label"),
        (lambda: Tasks(priors=(0.5, 1.0)), "between 0 and 1"),
        (lambda: GatedTasks(experts=0), "experts"),
        (lambda: LayeredTasks(own=-1), "own"),
        (lambda: LayeredTasks(levels=0), "levels"),
        (lambda: SharedBottom(Rows(), FEATURES, 2, ()), "at least one width"),
        (lambda: MMoE(Rows(), ("user", "user"), 2), "distinct"),
        (lambda: ESMM(Rows(), (), 0), "at least one feature"),
        (lambda: LearnedWeights(Rows(), 0), "number of labels"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()  # type: ignore[operator]


def test_another_number_of_dense_columns_is_refused() -> None:
    with pytest.raises(DataError, match="dense"):
        build("mmoe")(batch_of(dict.fromkeys(FEATURES, torch.zeros(1, dtype=torch.int64)), torch.zeros(1, 3)))


@pytest.mark.parametrize("name", ["SharedBottom", "MMoE", "PLE", "PLE/paper", "ESMM"])
def test_agrees_with_another_implementation(name: str) -> None:
    case = json.loads(EXPECTED.read_text())[name]
    ids = {key: torch.tensor(values) for key, values in case["ids"].items()}
    batch = batch_of(ids, torch.tensor(case["dense"]).reshape(len(case["probabilities"]), -1))
    features, hidden = tuple(case["features"]), case["hidden"]
    embed = Rows()
    embed.tables = nn.ParameterDict(
        {key: nn.Parameter(torch.tensor(values)) for key, values in case["embeddings"].items()}
    )
    columns, towers = batch.dense.shape[1], case["towers"]
    model = {
        "SharedBottom": lambda: SharedBottom(embed, features, columns, hidden, tasks=Tasks(towers=towers)),
        "MMoE": lambda: MMoE(
            embed, features, columns, hidden, tasks=GatedTasks(towers=towers, experts=3, gates=case["gates"])
        ),
        "PLE": lambda: PLE(
            embed, features, columns, hidden,
            tasks=LayeredTasks(towers=towers, experts=2, own=2, gates=case["gates"], shared_gate="shared"),
        ),
        "PLE/paper": lambda: PLE(
            embed, features, columns, hidden,
            tasks=LayeredTasks(towers=towers, experts=2, own=2, gates=case["gates"]),
        ),
        "ESMM": lambda: ESMM(embed, features, columns, hidden),
    }[name]()  # fmt: skip
    set_all(model, {key: torch.tensor(values) for key, values in case["weights"].items()})
    got = torch.sigmoid(model(batch)).detach().numpy()
    np.testing.assert_allclose(got, np.array(case["probabilities"]), atol=1e-5)
    assert np.ptp(got, axis=0).min() > 0.01
