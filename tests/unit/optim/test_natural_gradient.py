"""Natural gradients in a learner: identity is the plain gradient, a run that was stopped goes on to the bit."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from headrace.errors import ConfigError, NonFiniteLoss, RowRuleMismatch
from headrace.learn import RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.optim import (
    Categorical,
    Diagonal,
    Draws,
    Exact,
    Gaussian,
    Identity,
    Kfac,
    LowRank,
    NaturalGradient,
    Observed,
)
from headrace.optim.fisher import Form
from headrace.store import EmbeddingCollection, FeatureLookup, ReferenceTable, TableConfig
from headrace.testing import Toy, ToyConfig, assert_same_state

TOY = Toy(ToyConfig(users=32, items=32))
FORMS: list[Form] = [Exact(), LowRank(rank=12), Kfac(refresh=2), Diagonal()]
Inner = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return Adam(parameters, lr=0.01)


def learner(form: Form | None, inner: Inner = adam, **settings) -> RankLearner:
    tables = {name: ReferenceTable(TableConfig(name=name, dim=4)) for name in ("user", "item")}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    model = DeepFM(collection, tuple(tables), 0, (8,), dropout=0.2, seed=1)
    dense = inner(list(model.parameters()))
    if form is None:
        return RankLearner(model, collection, dense, LogLoss())
    natural = NaturalGradient(dense, model, form, **settings)
    return RankLearner(model, collection, natural, Observed(LogLoss(), natural))


def batches(many: int = 6) -> list:
    return list(TOY.batches(32, many))


def dense_of(one: RankLearner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.model.state_dict().items()}


@pytest.mark.parametrize("inner", [adam, lambda p: SGD(p, lr=0.1, momentum=0.9)])
def test_the_identity_is_the_plain_gradient(inner) -> None:
    plain, natural = learner(None, inner), learner(Identity(), inner)
    for batch in batches():
        assert torch.equal(plain.learn(batch).total, natural.learn(batch).total)
    assert_same_state(dense_of(plain), dense_of(natural))


# in a learner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
@pytest.mark.parametrize("inner", [adam, lambda p: SGD(p, lr=0.1)], ids=["adam", "sgd"])
@pytest.mark.parametrize("every", [1, 2])
def test_stop_and_go_on_is_the_straight_run(form, inner, every) -> None:
    given = batches(6)
    straight = learner(form, inner, every=every)
    losses = [straight.learn(batch).total for batch in given]
    first = learner(form, inner, every=every)
    for batch in given[:3]:
        first.learn(batch)
    second = learner(form, inner, every=every)
    second.restore(first.state())
    assert [second.learn(batch).total for batch in given[3:]] == losses[3:]
    assert_same_state(second.state(), straight.state())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_a_natural_step_is_another_one(form) -> None:
    plain, natural = learner(None), learner(form)
    for batch in batches(2):
        plain.learn(batch)
        natural.learn(batch)
    assert any(not torch.equal(a, b) for a, b in zip(dense_of(plain).values(), dense_of(natural).values(), strict=True))


def test_a_state_of_another_form_is_refused() -> None:
    saved = learner(LowRank(rank=12))
    saved.learn(batches(1)[0])
    with pytest.raises(RowRuleMismatch, match="fisher"):
        learner(Kfac()).restore(saved.state())


def test_a_loss_without_gradients_is_only_looked_at() -> None:
    one = learner(LowRank())
    batch = batches(1)[0]
    with torch.no_grad():
        looked = one.objective(one.model.eval(), batch)
    assert torch.equal(looked.total, LogLoss()(one.model, batch).total.detach())
    with pytest.raises(ConfigError, match="no observation"):
        one.optimizer.step()


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    one, twin = learner(LowRank(rank=12)), learner(LowRank(rank=12))
    given = batches(2)
    for each in (one, twin):
        each.learn(given[0])
    with torch.no_grad():
        kept = one.model.deep.output.weight.clone()
        one.model.deep.output.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss):
        one.learn(given[1])
    with torch.no_grad():
        one.model.deep.output.weight.copy_(kept)
    assert torch.equal(one.learn(given[1]).total, twin.learn(given[1]).total)
    assert_same_state(one.state(), twin.state())


# what is refused -----------------------------------------------------------------------------------------------------


def test_tables_on_several_ranks_are_refused() -> None:
    one = learner(LowRank())
    one.model.ranks = SimpleNamespace(size=2)
    with pytest.raises(ConfigError, match="ranks"):
        one.learn(batches(1)[0])


def test_an_unknown_output_is_named() -> None:
    one = learner(LowRank())
    one.objective.output = "depe"
    with pytest.raises(ConfigError, match="deep"):
        one.learn(batches(1)[0])


@pytest.mark.parametrize("make", [
    lambda: LowRank(rank=0), lambda: LowRank(damping=0.0), lambda: Exact(damping=-1.0), lambda: Kfac(refresh=0),
    lambda: Diagonal(damping=0.0), lambda: Draws(many=0), lambda: Draws(kind="guess"), lambda: Gaussian(sd=0.0),
    lambda: Categorical(trials=0), lambda: learner(LowRank(), decay=1.0), lambda: learner(LowRank(), every=0),
    lambda: learner(LowRank(), examples=0),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()
