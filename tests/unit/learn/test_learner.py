"""RankLearner: the contract in many variations, refusals that change nothing, and what a published change holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam

from headrace.data import IdFeature, Schema
from headrace.errors import CapacityError, ConfigError, DataError, NonFiniteLoss, StaleError, StoreError
from headrace.learn import LEDGER, LearnerConfig, RankLearner
from headrace.nn import DeepFM
from headrace.objectives import LogLoss, SamplingCorrection
from headrace.store import SGD as RowSGD
from headrace.store import AdmitCount, AdmitProbability, EmbeddingCollection, Storage
from headrace.testing import Toy, ToyConfig, assert_same_state, check_learner
from headrace.types import Batch, Loss, Version

LearnerMaker = Callable[..., RankLearner]
TOY = Toy(ToyConfig(users=16, items=16))
SECOND = 1_000_000


def batches(count: int = 5, rows: int = 32, *, first: int = 0) -> list[Batch]:
    return list(TOY.batches(rows, count, first=first))


VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "audited": {"audit": True},
    "dropout": {"dropout": 0.5, "seed": 3},
    "batch norm": {"normed": True},
    "means for rows": {"row_gradients": "mean"},
    "momentum": {"optimizer": lambda p: SGD(p, lr=0.01, momentum=0.9)},
    "adagrad": {"optimizer": lambda p: Adagrad(p, lr=0.1)},
    "admission by count": {"tables": {"user": {"admission": AdmitCount(3)}}},
    "admission by probability": {"tables": {"user": {"admission": AdmitProbability(0.3)}}},
    "expiry": {"tables": {"user": {"ttl_s": 0.4}, "item": {"ttl_s": 0.7}}, "audit": True},
    "rows of sixteen bits": {"tables": {"user": {"storage": Storage(precision="bfloat16")}}},
    "a table within a budget": {"tables": {"item": {"storage": Storage(max_bytes=200_000)}}},
    "few versions kept": {"keep_versions": 1},
}


@pytest.mark.parametrize("settings", VARIATIONS.values(), ids=VARIATIONS)
def test_the_contract_of_a_learner_holds(make_learner: LearnerMaker, settings: dict[str, Any]) -> None:
    others = [
        {"tables": {"user": {"seed": 9}}}, {"tables": {"item": {"dim": 4, "seed": 9}}}, {"hidden": (9,)},
        {"optimizer": lambda p: SGD(p, lr=0.5)}, {"audit": not settings.get("audit", False)},
        {"objective": LogLoss(negative_rate=0.5)}, {"schema_fingerprint": "other"},
    ]  # fmt: skip
    verdict = check_learner(
        lambda: make_learner(**settings), batches(), others=[lambda o=o: make_learner(**(settings | o)) for o in others]
    )
    assert verdict.untried == ()


# ------------------------------------------------------------------------------------------------------- refused steps


class Spoiling(nn.Module):
    """An objective whose loss is finite and whose gradient is not, for a chosen part of the model."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part, self.active = part, True

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        loss = LogLoss()(model, batch)
        if not self.active:
            return loss
        if self.part == "dense":
            target = dict(model.named_parameters())["inner.deep.layers.0.bias"]
        else:
            target = next(m for m in model.modules() if isinstance(m, EmbeddingCollection))(batch)["user"]
        return Loss(loss.total + (target * 0).sum().sqrt())  # sqrt has an infinite slope at 0


@pytest.mark.parametrize("part", ["dense", "table"])
def test_a_gradient_that_is_not_finite_changes_nothing(make_learner: LearnerMaker, part: str) -> None:
    spoiling = Spoiling(part)
    learner = make_learner(objective=spoiling, normed=True, dropout=0.5, audit=True)
    spoiling.active = False
    learner.learn(batches(1)[0])
    spoiling.active, before = True, learner.state()
    with pytest.raises(NonFiniteLoss):
        learner.learn(batches(1)[0])
    assert_same_state(learner.state(), before)
    spoiling.active = False
    learner.learn(batches(1)[0])


def test_a_batch_that_the_objective_refuses_changes_nothing(make_learner: LearnerMaker) -> None:
    learner, batch = make_learner(normed=True, dropout=0.5), batches(1)[0]
    before = learner.state()
    with pytest.raises(DataError, match="row 3"):
        learner.learn(replace(batch, labels=batch.labels.index_fill(0, torch.tensor([3]), float("nan"))))
    assert_same_state(learner.state(), before)


def test_an_empty_batch_is_refused(make_learner: LearnerMaker) -> None:
    with pytest.raises(DataError, match="no examples"):
        make_learner().learn(batches(1)[0].slice(0, 0))


def test_the_error_names_the_examples(make_learner: LearnerMaker) -> None:
    batch = batches(1, first=64)[0]
    with pytest.raises(NonFiniteLoss, match="Learning 32 examples, 64 to 95: got a loss of nan"):
        make_learner().learn(replace(batch, weights=batch.weights * float("nan")))


def test_a_step_that_broke_in_the_middle_stops_the_learner_until_restore(
    make_learner: LearnerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner()
    learner.learn(batches(1)[0])
    state = learner.state()

    def full(*arguments: object) -> None:
        raise CapacityError("Table 'item'", got="no memory")

    with monkeypatch.context() as broken:
        broken.setattr(learner.tables["item"], "update", full)
        with pytest.raises(CapacityError):
            learner.learn(batches(2)[1])
    for call in (lambda: learner.learn(batches(1)[0]), learner.state, lambda: learner.changes(Version(-1))):
        with pytest.raises(StoreError, match="Restore the last checkpoint"):
            call()
    learner.restore(state)
    straight = make_learner()
    for batch in batches(2):
        straight.learn(batch)
    learner.learn(batches(2)[1])
    assert_same_state(learner.state(), straight.state())


def test_an_error_before_the_first_table_moved_is_no_reason_to_stop(
    make_learner: LearnerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner()
    before = learner.state()

    def full(*arguments: object) -> None:
        raise CapacityError("Table 'user'", got="no memory")

    with monkeypatch.context() as broken:
        broken.setattr(learner.tables["user"], "update", full)
        with pytest.raises(CapacityError):
            learner.learn(batches(1)[0])
    assert_same_state(learner.state(), before)
    learner.learn(batches(1)[0])


# ------------------------------------------------------------------------------------------------------------ changes


def test_the_first_version_is_the_whole_initial_model(make_learner: LearnerMaker) -> None:
    change = make_learner(schema_fingerprint="abc").changes(Version(-1))
    assert (change.version, change.full, change.spec["schema"]) == (Version(0, -1), True, "abc")
    assert {"deep.layers.0.weight", "dense_weight"} <= set(change.dense)
    assert all(len(rows) == 0 for rows in change.tables.values())


def test_a_change_holds_exactly_the_rows_learned_since(make_learner: LearnerMaker) -> None:
    learner = make_learner()
    learner.changes(Version(-1))
    for number, batch in enumerate(batches(4, rows=5)):
        learner.learn(batch)
        change = learner.changes(Version(number, number - 1))
        for name in ("user", "item"):
            expected = torch.unique(batch.ids[name].values)
            assert torch.equal(change.tables[name].ids, expected)
            assert torch.equal(change.tables[name].rows, learner.tables[name].lookup(expected))


def test_only_the_first_change_is_full(make_learner: LearnerMaker) -> None:
    learner = make_learner()
    assert [learner.changes(Version(number, number - 1)).full for number in (-1, 0, 1)] == [True, False, False]


def test_a_change_is_a_copy(make_learner: LearnerMaker) -> None:
    learner = make_learner()
    learner.changes(Version(-1))
    learner.learn(batches(1)[0])
    change = learner.changes(Version(0))
    before = change.checksum()
    for batch in batches(3):
        learner.learn(batch)
    assert change.checksum() == before


def test_a_version_that_failed_to_be_published_is_made_anew_with_all_since_the_last(make_learner: LearnerMaker) -> None:
    learner, steady = make_learner(), make_learner()
    for part in (learner, steady):
        part.changes(Version(-1))
        part.learn(batches(2, rows=6)[0])
    learner.changes(Version(0))  # lost on the way
    for part in (learner, steady):
        part.learn(batches(2, rows=6)[1])
    assert learner.changes(Version(0)).checksum() == steady.changes(Version(0)).checksum()


def test_versions_before_the_kept_ones_are_stale_and_their_history_is_dropped(make_learner: LearnerMaker) -> None:
    learner = make_learner(keep_versions=2)
    marks = []
    for number in range(-1, 5):
        learner.changes(Version(number, number - 1))
        marks.append(learner.tables["user"].mark())
        learner.learn(batches(1, first=32 * (number + 1))[0])
    with pytest.raises(StaleError, match="version 2"):
        learner.changes(Version(2, 1))
    with pytest.raises(StaleError):
        learner.tables["user"].changes(marks[2])
    learner.tables["user"].changes(marks[3])


def test_a_version_from_elsewhere_is_refused(make_learner: LearnerMaker) -> None:
    with pytest.raises(StaleError, match="belongs to this change log"):
        make_learner().changes(Version(57, 56))


def test_notes_tell_what_was_learned_since_the_version(make_learner: LearnerMaker) -> None:
    learner = make_learner()
    learner.changes(Version(-1))
    first, second = batches(2, rows=8)
    second = replace(second, accepted_times=second.accepted_times.index_fill(0, torch.tensor([0, 1]), 0))
    losses = [float(learner.learn(first).total)]
    learner.changes(Version(0))
    losses.append(float(learner.learn(second).total))
    notes = learner.changes(Version(1)).notes
    known, positive = second.accepted_times > 0, second.labels > 0
    assert notes["example_offset"].tolist() == [16]
    assert torch.equal(notes["accepted_times"], second.accepted_times[known & positive])
    assert torch.equal(notes["negative_accepted_times"], second.accepted_times[known & ~positive])
    assert notes["loss"].item() == pytest.approx(losses[1], rel=1e-6)


def test_nothing_learned_leaves_no_loss(make_learner: LearnerMaker) -> None:
    assert "loss" not in make_learner().changes(Version(-1)).notes


def test_without_freshness_no_times_are_kept(make_learner: LearnerMaker) -> None:
    learner = make_learner(freshness=False)
    learner.learn(batches(1)[0])
    assert set(learner.changes(Version(-1)).notes) == {"example_offset", "loss"}
    assert learner.state()["positives"]["times"].numel() == 0  # type: ignore[index, call-overload, union-attr]


def test_the_spec_tells_tables_schema_and_correction(make_learner: LearnerMaker) -> None:
    schema = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
    learner = make_learner(schema=schema, objective=LogLoss(negative_rate=0.1, correction="serving"))
    spec = learner.changes(Version(-1)).spec
    assert spec["table/user"] == learner.tables["user"].config.spec()
    assert (spec["schema"], Schema.from_json(spec["schema_json"])) == (schema.fingerprint(), schema)
    assert SamplingCorrection.from_spec(spec["sampling"]) == SamplingCorrection(0.1, "serving")


# -------------------------------------------------------------------------------------------------------------- expiry


def at(batch: Batch, seconds: float) -> Batch:
    return replace(batch, event_times=torch.full_like(batch.event_times, int(seconds * SECOND)))


def test_rows_that_nobody_touches_expire_and_the_change_says_so(make_learner: LearnerMaker) -> None:
    learner = make_learner(tables={"user": {"ttl_s": 100.0}})
    learner.changes(Version(-1))
    old, recent = batches(2, rows=5)
    learner.learn(at(old, 0))
    learner.changes(Version(0))
    learner.learn(at(recent, 101))
    change = learner.changes(Version(1))
    gone = sorted(set(old.ids["user"].values.tolist()) - set(recent.ids["user"].values.tolist()))
    assert gone
    assert change.tables["user"].removed.tolist() == gone
    assert change.tables["item"].removed.tolist() == []
    assert not learner.tables["user"].contains(torch.tensor(gone)).any()  # type: ignore[attr-defined]


def test_a_learner_that_never_publishes_keeps_no_history(make_learner: LearnerMaker) -> None:
    learner = make_learner(tables={"user": {"ttl_s": 1.0}})
    for second, batch in enumerate(batches(20, rows=4)):
        learner.learn(at(batch, 2 * second))
    assert learner.state()["tables"]["user"]["removed_ids"].numel() == 0  # type: ignore[index, call-overload, union-attr]


# ------------------------------------------------------------------------------------------------------ random numbers


def test_learning_neither_reads_nor_moves_the_global_random_numbers(make_learner: LearnerMaker) -> None:
    losses = []
    for seed in (1, 2):
        learner = make_learner(dropout=0.5)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses.append([float(learner.learn(batch).total) for batch in batches(3)])
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]


def test_another_seed_drops_other_units(make_learner: LearnerMaker) -> None:
    losses = [float(make_learner(dropout=0.5, seed=seed).learn(batches(1)[0]).total) for seed in (1, 2)]
    assert losses[0] != losses[1]


# ------------------------------------------------------------------------------------------------------ row gradients


def first_step(make_learner: LearnerMaker, batch: Batch, **settings: Any) -> tuple[Tensor, Tensor]:
    """Return what one step of plain descent adds to the batch's users and to a dense weight."""
    own = {"rule": RowSGD(lr=1.0)}
    learner = make_learner(tables={"user": own, "item": own}, optimizer=lambda p: SGD(p, lr=1.0), **settings)
    users = torch.unique(batch.ids["user"].values)
    weight = dict(learner.model.named_parameters())["deep.layers.0.weight"]
    before = learner.tables["user"].lookup(users), weight.detach().clone()
    learner.learn(batch)
    return learner.tables["user"].lookup(users) - before[0], weight.detach() - before[1]


def test_rows_may_learn_from_the_sum_while_the_dense_part_learns_from_the_mean(make_learner: LearnerMaker) -> None:
    batch = batches(1)[0]
    mean, total = (first_step(make_learner, batch, row_gradients=kind) for kind in ("mean", "sum"))
    torch.testing.assert_close(total[0], mean[0] * len(batch))
    torch.testing.assert_close(total[1], mean[1])


def test_an_unknown_kind_of_row_gradients_is_refused() -> None:
    with pytest.raises(ConfigError, match="row_gradients"):
        LearnerConfig(row_gradients="total")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ configuration


def test_the_model_must_hold_the_collection(make_learner: LearnerMaker) -> None:
    one, other = make_learner(), make_learner()
    with pytest.raises(ConfigError, match="Build the model over it"):
        RankLearner(one.model, other.collection, one.optimizer, LogLoss())


def test_the_optimiser_must_be_the_models(make_learner: LearnerMaker) -> None:
    one, other = make_learner(), make_learner()
    with pytest.raises(ConfigError, match="not the model's"):
        RankLearner(one.model, one.collection, Adam(other.model.parameters()), LogLoss())


def test_a_fingerprint_that_is_not_the_schemas_is_refused() -> None:
    with pytest.raises(ConfigError, match="schema_fingerprint"):
        LearnerConfig(schema=Schema(features=(IdFeature("user", 4),)), schema_fingerprint="abc")


def test_a_user_table_must_not_take_the_ledgers_name() -> None:
    from headrace.store import FeatureLookup, ReferenceTable, TableConfig

    tables = {LEDGER: ReferenceTable(TableConfig(name=LEDGER, dim=4))}
    collection = EmbeddingCollection(tables, [FeatureLookup(feature="user", table=LEDGER)])
    model = DeepFM(collection, ("user",), 0, (4,))
    with pytest.raises(ConfigError, match="another name"):
        RankLearner(model, collection, Adam(model.parameters()), LogLoss(), LearnerConfig(audit=True))


# ------------------------------------------------------------------------------------------------------------- signal


def test_it_learns_the_planted_signal(make_learner: LearnerMaker) -> None:
    learner = make_learner(hidden=(16,), tables={"user": {"dim": 8}, "item": {"dim": 8}})  # with default rates
    for batch in batches(500, rows=32):
        learner.learn(batch)
    with torch.no_grad():
        scores: Tensor = learner.model(test := TOY.batch(100_000, 4000))
    positive, negative = scores[test.labels > 0], scores[test.labels == 0]
    auc = (positive.unsqueeze(1) > negative).double().mean().item()
    assert auc > TOY.best_auc() - 0.03
