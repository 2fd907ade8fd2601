"""Fisher matrices: families against their definition, forms against each other, scores of layers and parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from headrace.errors import ConfigError, NonFiniteLoss
from headrace.optim import (
    Bernoulli,
    Categorical,
    Diagonal,
    Draws,
    Exact,
    Gaussian,
    Kfac,
    LowRank,
    NaturalGradient,
    NormalPosterior,
    Poisson,
)
from headrace.optim.fisher import Form
from headrace.optim.predictive import Family


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """Two linear layers and a parameter of another kind."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, outputs)
        self.scale = nn.Parameter(torch.tensor(1.3))
        with torch.no_grad():
            for place, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(place)))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(inputs))) * self.scale
        return out


INPUTS = torch.randn(7, 3, generator=seeded(9), dtype=torch.float64)


def observed(net: nn.Module, form: Form, family: Family, *, inputs: Tensor = INPUTS, **settings) -> NaturalGradient:
    """An optimiser that has seen the outputs of the net once; gradients are those of the summed squares."""
    optimizer = NaturalGradient(SGD(net.parameters(), lr=1.0), net, form, **settings)
    with optimizer.recording() as tape:
        outputs = net(inputs)
    optimizer.observe(tape, outputs, family, generator=seeded(4))
    outputs.square().mean().backward()
    return optimizer


def jacobian(net: nn.Module, inputs: Tensor = INPUTS) -> Tensor:
    """(B, K, P), by plain backward passes."""
    outputs = net(inputs)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(out, list(net.parameters()), retain_graph=True)])
        for out in outputs.flatten()
    ]
    return torch.stack(rows).reshape(*outputs.shape, -1)


def flat_gradient(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]


def step_of(net: nn.Module, optimizer: NaturalGradient) -> Tensor:
    optimizer.step()
    return flat_gradient(net)


# what must be equal --------------------------------------------------------------------------------------------------


def test_a_fisher_matrix_that_is_one_is_the_plain_gradient() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))

    net = Direct()
    optimizer = NaturalGradient(SGD([net.mean], lr=0.5), net, Exact(damping=0.0), draws=Draws(kind="exact"))
    with optimizer.recording() as tape:
        outputs = net.mean[None] * 1.0
    optimizer.observe(tape, outputs, Gaussian())
    (outputs**3).sum().backward()
    plain = net.mean.detach() - 0.5 * 3 * net.mean.detach() ** 2
    optimizer.step()
    assert torch.allclose(net.mean, plain, atol=1e-14)


@pytest.mark.parametrize(("family", "width"), [
    (Bernoulli(), 1), (Bernoulli(shift=0.7), 2), (Categorical(), 3), (Gaussian(sd=2.0), 2), (Poisson(), 1),
    (NormalPosterior(), 4), (NormalPosterior(log_variance=True), 2),
])  # fmt: skip
def test_exact_draws_give_the_matrix_of_the_definition(family, width) -> None:
    net = Net(width)
    optimizer = observed(net, Exact(damping=0.3), family, draws=Draws(kind="exact"))
    outputs, rows = net(INPUTS).detach(), jacobian(net)
    units = torch.eye(width, dtype=torch.float64)
    roots = torch.stack([family.root(outputs, unit.expand_as(outputs)) for unit in units], dim=2)
    inner = roots @ roots.mT
    fisher = torch.einsum("bkp,bkl,blq->pq", rows, inner, rows) / len(INPUTS)
    gradient = flat_gradient(net)
    expected = torch.linalg.solve(fisher + 0.3 * torch.eye(len(fisher), dtype=torch.float64), gradient)
    assert torch.allclose(step_of(net, optimizer), expected, atol=1e-9)


def test_the_families_know_their_fisher_matrix() -> None:
    """The Hessian of the negative log-probability, where it does not depend on the outcome."""
    logits = torch.randn(1, 3, generator=seeded(1), dtype=torch.float64)
    units = torch.eye(3, dtype=torch.float64)
    for family, log_partition in (
        (Bernoulli(), lambda x: nn.functional.softplus(x).sum()), (Poisson(), lambda x: x.exp().sum()),
        (Categorical(), lambda x: x.logsumexp(0)), (Categorical(trials=5), lambda x: 5 * x.logsumexp(0)),
        (Gaussian(sd=0.5), lambda x: (x / 0.5).square().sum() / 2),
    ):  # fmt: skip
        roots = torch.cat([family.root(logits, unit[None]) for unit in units]).T
        hessian = torch.autograd.functional.hessian(log_partition, logits[0])
        assert torch.allclose(roots @ roots.T, hessian, atol=1e-12), family


@pytest.mark.parametrize("kind", ["signs", "sample"])
@pytest.mark.parametrize(("family", "width"), [
    (Bernoulli(), 2), (Categorical(trials=3), 3), (Gaussian(sd=0.7), 2), (Poisson(), 2), (NormalPosterior(), 4),
])  # fmt: skip
def test_drawn_outcomes_give_the_exact_matrix_within_three_errors(family, width, kind) -> None:
    outputs = torch.randn(1, width, generator=seeded(3), dtype=torch.float64)
    exact = Draws(kind="exact").residuals(family, outputs, None)[:, 0]
    many = 1500
    drawn = Draws(kind=kind, many=many).residuals(family, outputs, seeded(6))[:, 0] * many**0.5
    products = drawn[:, :, None] * drawn[:, None, :]
    off = products.mean(0) - exact.T @ exact
    assert bool((off.abs() <= 3.5 * products.std(0) / many**0.5 + 1e-12).all())


def test_the_matrix_is_symmetric_and_never_negative() -> None:
    net = Net(2)
    optimizer = observed(net, Exact(), Bernoulli(), draws=Draws(kind="sample", many=3))
    optimizer.step()
    matrix = torch.cat([optimizer.state[p]["fisher.matrix"] for p in net.parameters()])
    assert torch.allclose(matrix, matrix.T, atol=1e-15)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12


def test_without_damping_the_step_does_not_depend_on_the_parameters_chosen() -> None:
    """Parameters A u instead of w: the step in w is the same, whatever invertible A is."""

    class Turned(nn.Module):
        def __init__(self, turn: Tensor, start: Tensor) -> None:
            super().__init__()
            self.turn, self.own = turn, nn.Parameter(torch.linalg.solve(turn, start))

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.sinh(inputs @ (self.turn @ self.own))[:, None]

    start = torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64)
    turn = torch.randn(3, 3, generator=seeded(5), dtype=torch.float64) * 2
    ends = []
    for each in (torch.eye(3, dtype=torch.float64), turn):
        net = Turned(each, start)
        observed(net, Exact(damping=0.0), Bernoulli()).step()
        ends.append(net.turn @ net.own.detach())
    assert not torch.allclose(ends[0], start, atol=1e-3)
    assert torch.allclose(ends[0], ends[1], atol=1e-9)


# forms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_low_rank_of_full_rank_is_exact(steps) -> None:
    """Over several observations, averaged as the exact form averages them."""
    ends = []
    for form in (Exact(damping=0.2), LowRank(rank=40, damping=0.2)):
        net = Net(2)
        optimizer = NaturalGradient(SGD(net.parameters(), lr=0.05), net, form, decay=0.6)
        for turn in range(steps):
            with optimizer.recording() as tape:
                outputs = net(INPUTS * (1 + turn))
            optimizer.observe(tape, outputs, Bernoulli(), generator=seeded(turn))
            optimizer.zero_grad()
            outputs.square().mean().backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


def test_low_rank_keeps_the_leading_directions() -> None:
    net = Net(2)
    optimizer = observed(net, LowRank(rank=2), Bernoulli(), draws=Draws(kind="exact"))
    optimizer.step()
    kept = torch.cat([optimizer.state[p]["fisher.matrix"] for p in net.parameters()], dim=1)
    other = Net(2)
    whole = observed(other, Exact(), Bernoulli(), draws=Draws(kind="exact"))
    whole.step()
    matrix = torch.cat([whole.state[p]["fisher.matrix"] for p in other.parameters()])
    assert torch.allclose(kept.square().sum(1), torch.linalg.eigvalsh(matrix)[-2:], atol=1e-9)


def test_kfac_of_one_row_is_the_exact_block() -> None:
    """For one example the Kronecker product is no approximation."""
    ends = []
    for form in (Exact(damping=0.3), Kfac(damping=0.3)):
        net = nn.Sequential(nn.Linear(3, 2).double())
        with torch.no_grad():
            net[0].weight.copy_(torch.randn(2, 3, generator=seeded(1), dtype=torch.float64))
            net[0].bias.zero_()
        ends.append(step_of(net, observed(net, form, Bernoulli(), inputs=INPUTS[:1])))
    assert torch.allclose(ends[0], ends[1], atol=1e-12)


def test_kfac_takes_its_factors_apart_only_now_and_then() -> None:
    net = Net()
    optimizer = NaturalGradient(SGD(net.parameters(), lr=0.1), net, Kfac(refresh=3))
    seen = []
    for turn in range(4):
        with optimizer.recording() as tape:
            outputs = net(INPUTS + turn)
        optimizer.observe(tape, outputs, Bernoulli(), generator=seeded(turn))
        optimizer.zero_grad()
        outputs.sum().backward()
        optimizer.step()
        seen.append(optimizer.state[net.first.weight]["fisher.inputs_values"].clone())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_the_diagonal_is_that_of_the_matrix() -> None:
    nets = [Net(2), Net(2)]
    exact, diagonal = (observed(net, form, Bernoulli()) for net, form in zip(nets, (Exact(), Diagonal()), strict=True))
    exact.step()
    diagonal.step()
    matrix = torch.cat([exact.state[p]["fisher.matrix"] for p in nets[0].parameters()])
    found = torch.cat([diagonal.state[p]["fisher.variance"] for p in nets[1].parameters()])
    assert torch.allclose(found, matrix.diagonal())


def test_layers_and_single_parameters_give_the_same_scores() -> None:
    """A linear layer written out by hand goes the slow way; its scores are those of the fast one."""

    class Plain(nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            for name, parameter in net.named_parameters():
                self.register_parameter(name.replace(".", "_"), nn.Parameter(parameter.detach().clone()))

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = torch.tanh(inputs @ self.first_weight.T + self.first_bias)
            return (hidden @ self.second_weight.T + self.second_bias) * self.scale

    fast, slow = Net(2), Plain(Net(2))
    order = [slow.scale, slow.first_weight, slow.first_bias, slow.second_weight, slow.second_bias]
    assert [p.shape for p in fast.parameters()] == [p.shape for p in order]
    settings = {"draws": Draws(many=2), "examples": 5}
    step_of(fast, observed(fast, Exact(), Bernoulli(), **settings))
    step_of(slow, observed(slow, Exact(), Bernoulli(), **settings))
    for one, other in zip(fast.parameters(), order, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-12)


def test_further_draws_of_an_example_are_averaged() -> None:
    """(B, S, K) outputs: the matrix is a mean over S; with all S alike it is that of (B, K)."""
    ends = []
    for inputs in (INPUTS, INPUTS[:, None].expand(-1, 6, -1)):
        net = Net(2)
        ends.append(step_of(net, observed(net, Exact(), Bernoulli(), inputs=inputs, draws=Draws(kind="exact"))))
    assert torch.allclose(ends[0], ends[1], atol=1e-12)


def test_parameters_without_influence_keep_their_gradient() -> None:
    net = nn.ModuleDict({"seen": nn.Linear(3, 1), "other": nn.Linear(3, 1)}).double()
    optimizer = NaturalGradient(SGD(net.parameters(), lr=1.0), net, LowRank())
    with optimizer.recording() as tape:
        seen, other = net["seen"](INPUTS), net["other"](INPUTS)
    optimizer.observe(tape, seen, Bernoulli(), generator=seeded())
    (seen + other).sum().backward()
    before = [net[name].weight.grad.clone() for name in ("seen", "other")]
    optimizer.step()
    assert not torch.allclose(net["seen"].weight.grad, before[0])
    assert torch.equal(net["other"].weight.grad, before[1])


def test_scores_that_are_not_finite_are_refused() -> None:
    net = Net()
    with torch.no_grad():
        net.scale.fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match="scores"):
        observed(net, LowRank(), Gaussian())


def test_scores_whose_squares_are_not_finite_are_refused() -> None:
    net = Net().float()
    with torch.no_grad():
        net.scale.fill_(1e25)
    with pytest.raises(NonFiniteLoss, match="scores"):
        observed(net, Kfac(), Gaussian(), inputs=INPUTS.float())


def test_inputs_that_never_change_do_not_spoil_the_factors() -> None:
    """Many eigenvalues of zero, in float32, step after step."""
    layer = nn.Linear(64, 3)
    inputs = torch.rand(40, 64, generator=seeded(2))
    inputs[:, 5:60] = 0.0
    optimizer = NaturalGradient(SGD(layer.parameters(), lr=0.01), layer, Kfac(refresh=1))
    for turn in range(30):
        with optimizer.recording() as tape:
            outputs = layer(inputs)
        optimizer.observe(tape, outputs, Bernoulli(), generator=seeded(turn))
        optimizer.zero_grad()
        outputs.square().mean().backward()
        optimizer.step()
        own = optimizer.state[layer.weight]
        vectors = own["fisher.inputs_vectors"]
        assert torch.allclose(vectors.T @ vectors, torch.eye(65), atol=1e-5)
        rebuilt = vectors @ torch.diag(own["fisher.inputs_values"]) @ vectors.T
        assert torch.allclose(rebuilt, own["fisher.inputs"], atol=1e-4)


def test_a_step_without_any_observation_says_what_to_do() -> None:
    net = Net()
    optimizer = NaturalGradient(SGD(net.parameters(), lr=1.0), net, LowRank())
    net(INPUTS).sum().backward()
    with pytest.raises(ConfigError, match="Observed"):
        optimizer.step()


def test_outputs_without_a_graph_are_refused() -> None:
    net = Net()
    optimizer = NaturalGradient(SGD(net.parameters(), lr=1.0), net, LowRank())
    with optimizer.recording() as tape:
        outputs = net(INPUTS)
    with pytest.raises(ConfigError, match="graph"):
        optimizer.observe(tape, outputs.detach(), Bernoulli())


def parts_in_turn(form: Form) -> tuple[nn.ModuleDict, NaturalGradient]:
    """Two layers of which the first batch uses one, the second both, the third the other."""
    net = nn.ModuleDict({"one": nn.Linear(3, 1), "two": nn.Linear(3, 1)}).double()
    optimizer = NaturalGradient(SGD(net.parameters(), lr=0.1), net, form, decay=0.5)
    for names in (("one",), ("one", "two"), ("two",)):
        with optimizer.recording() as tape:
            outputs = sum(net[name](INPUTS) for name in names)
        optimizer.observe(tape, outputs, Bernoulli(), generator=seeded())
        optimizer.zero_grad()
        outputs.sum().backward()
        optimizer.step()
    return net, optimizer


def test_further_parameters_than_before_are_refused_by_the_whole_matrix_alone() -> None:
    with pytest.raises(ConfigError, match="had no part"):
        parts_in_turn(Exact())
    for form in (LowRank(), Kfac(), Diagonal()):
        net, optimizer = parts_in_turn(form)
        assert all(any(name.startswith("fisher.") for name in optimizer.state[p]) for p in net.parameters())
        assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_low_rank_takes_new_parameters_in_with_scores_of_zero() -> None:
    """The matrix is that of an average in which the second layer had no scores at first."""
    net, optimizer = parts_in_turn(LowRank(damping=0.1))
    held = torch.cat([optimizer.state[p]["fisher.matrix"] for p in net.parameters()], dim=1)
    matrix = held.T @ held
    assert float(matrix[:4, :4].trace()) > 0
    assert float(matrix[4:, 4:].trace()) > 0
    assert float(matrix[:4, 4:].abs().max()) > 0  # the batch that used both


def test_too_many_parameters_for_a_whole_matrix_are_refused() -> None:
    net = Net()
    with pytest.raises(ConfigError, match="LowRank"):
        observed(net, Exact(most=10), Bernoulli()).step()


def test_a_closure_is_called_before_the_step() -> None:
    net = Net()
    optimizer = NaturalGradient(SGD(net.parameters(), lr=0.1), net, LowRank())

    def closure() -> float:
        optimizer.zero_grad()
        with optimizer.recording() as tape:
            outputs = net(INPUTS)
        optimizer.observe(tape, outputs, Bernoulli(), generator=seeded())
        loss = outputs.square().mean()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(5)]
    assert losses[-1] < losses[0]
