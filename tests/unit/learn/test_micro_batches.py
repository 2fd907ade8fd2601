"""Slices of a batch add up to the batch: same loss, same gradients up to rounding, one update of every table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, NonFiniteLoss
from headrace.learn import LearnerConfig, RankLearner, try_micro_batches
from headrace.nn import DeepFM
from headrace.objectives import LogLoss
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.testing import Tolerance, assert_same_state, first_difference
from headrace.testing.toy import Toy, ToyConfig
from headrace.types import Batch, Jagged, Loss

TOY = Toy(ToyConfig(users=16, items=16))
CLOSE = Tolerance(absolute=1e-6, relative=1e-4)


def batch(rows: int = 50) -> Batch:
    return next(iter(TOY.batches(rows, 1)))


class Pooled(nn.Module):
    """Reads one feature pooled and the other one id by id."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed, self.out = embed, nn.Linear(4, 1)

    def forward(self, batch: Batch) -> Tensor:
        found = self.embed(batch)
        offsets = batch.ids["item"].offsets
        owners = torch.repeat_interleave(torch.arange(len(batch)), offsets.diff())
        rows = found["user"].index_add(0, owners, found["item"])
        return self.out(rows).squeeze(1)


def unpooled(**config) -> RankLearner:
    tables = {name: open_table(TableConfig(name=name, dim=4)) for name in ("user", "item")}
    lookups = [FeatureLookup(feature="user", table="user"), FeatureLookup(feature="item", table="item", pooling="none")]
    collection = EmbeddingCollection(tables, lookups)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Pooled(collection)
    return RankLearner(
        model, collection, torch.optim.SGD(model.parameters(), lr=0.1), LogLoss(), LearnerConfig(**config)
    )


def lists() -> Batch:
    """A batch whose items are lists of 0 to 3 ids."""
    plain = batch()
    offsets = torch.cumsum(torch.tensor([0, *(row % 4 for row in range(len(plain)))]), 0)
    return Batch(**{name: getattr(plain, name) for name in Batch.__slots__}
                 | {"ids": {**plain.ids, "item": Jagged(torch.arange(int(offsets[-1])) % 16, offsets)}})  # fmt: skip


@pytest.mark.parametrize("count", [2, 3, 50, 64])
@pytest.mark.parametrize("gradients", ["sum", "mean"])
def test_slices_learn_what_the_batch_learns(make_learner, count: int, gradients: str) -> None:
    optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    plain = make_learner(row_gradients=gradients, optimizer=optimizer)
    sliced = make_learner(row_gradients=gradients, optimizer=optimizer, micro_batches=count)
    for given in TOY.batches(50, 4):
        one, other = plain.learn(given), sliced.learn(given)
        assert first_difference(other, one, CLOSE) is None
    states = [{name: part for name, part in learner.state().items() if name in ("dense", "tables", "examples")}
              for learner in (sliced, plain)]  # fmt: skip
    assert first_difference(*states, CLOSE) is None


@pytest.mark.parametrize("count", [2, 7])
def test_lists_are_cut_by_their_own_offsets(count: int) -> None:
    plain, sliced, given = unpooled(), unpooled(micro_batches=count), lists()
    plain.learn(given)
    sliced.learn(given)
    for name in ("user", "item"):
        one, other = (learner.tables[name].rows() for learner in (plain, sliced))
        assert torch.equal(one.ids, other.ids)
        torch.testing.assert_close(one.rows, other.rows)


def test_a_table_without_a_gradient_is_left_alone(make_learner) -> None:
    @dataclass
    class UsersOnly:
        def __call__(self, model: nn.Module, given: Batch) -> Loss:
            embed = next(module for module in model.modules() if isinstance(module, EmbeddingCollection))
            bias = dict(model.named_parameters())["deep.layers.0.bias"].sum()
            return Loss(embed(given)["user"].square().sum() / len(given) + bias)

    learner = make_learner(objective=UsersOnly(), micro_batches=3)
    learner.learn(batch())
    assert len(learner.tables["user"].rows().ids)
    assert not len(learner.tables["item"].rows().ids)


@dataclass
class InBatch:
    """Not a mean over examples: every example is compared with all others."""

    def __call__(self, model: nn.Module, given: Batch) -> Loss:
        logits = model(given)
        return Loss(torch.logsumexp(logits, 0) - logits.mean())


def test_what_mixes_examples_is_refused_and_nothing_is_learned(make_learner) -> None:
    learner = make_learner(objective=InBatch(), micro_batches=2)
    before = learner.state()
    with pytest.raises(ConfigError, match="a mean over examples"):
        learner.learn(batch())
    assert_same_state(learner.state(), before)
    with pytest.raises(ConfigError, match="batch normalisation"):
        make_learner(normed=True, micro_batches=2).learn(batch())


class OwnIds(DeepFM):
    """Looks up something else than its batch."""

    def forward(self, given: Batch) -> Tensor:
        return super().forward(given.slice(0, len(given)))


def test_a_model_that_looks_up_ids_of_its_own_is_refused() -> None:
    tables = {name: open_table(TableConfig(name=name, dim=4)) for name in ("user", "item")}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature=name, table=name) for name in tables])
    model = OwnIds(collection, ("user", "item"), 0, (8,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = RankLearner(model, collection, optimizer, LogLoss(), LearnerConfig(micro_batches=2))
    with pytest.raises(ConfigError, match="ids of its own"):
        learner.learn(batch())
    assert "forward" not in vars(collection)


def test_dropout_is_drawn_from_the_learners_own_numbers(make_learner) -> None:
    runs = []
    for seed in (1, 2):
        learner = make_learner(dropout=0.5, micro_batches=4)
        torch.manual_seed(seed)
        for given in TOY.batches(32, 3):
            learner.learn(given)
        runs.append(learner.state())
    assert_same_state(*runs)


def test_a_loss_that_is_not_finite_is_refused_as_ever(make_learner) -> None:
    learner = make_learner(micro_batches=2)
    learner.learn(batch())
    before, given = learner.state(), batch()
    given.weights[3] = float("nan")
    with pytest.raises(NonFiniteLoss):
        learner.learn(given)
    assert_same_state(learner.state(), before)


def test_trying_numbers_of_slices_changes_nothing(make_learner) -> None:
    learner = make_learner(dropout=0.3)
    learner.learn(batch())
    before = learner.state()
    trials = try_micro_batches(learner, batch(), (1, 2, 4), tries=2)
    assert sorted(trial.micro_batches for trial in trials) == [1, 2, 4]
    assert trials == sorted(trials, key=lambda trial: trial.seconds)
    assert_same_state(learner.state(), before)
