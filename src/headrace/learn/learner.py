"""The learner: a model over embedding tables that learns batch by batch and says what changed since each version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headrace.config import require
from headrace.errors import NonFiniteLoss, StaleError, StoreError
from headrace.learn.clipping import clipped_shares, tables_that_clip
from headrace.learn.dense import (
    Buffers,
    DensePace,
    check_optimizer_state,
    dense_tensors,
    optimizer_settings,
    optimizer_state,
    parameter_names,
    restore_optimizer,
)
from headrace.learn.learner_config import LearnerConfig
from headrace.learn.learner_state import (
    FORMAT,
    LearnedTable,
    check_same_learner,
    load_dense,
    read_state,
    restore_tables,
)
from headrace.learn.ledger import LEDGER, open_ledger, record
from headrace.learn.marks import Mark, TimeLog, VersionMarks
from headrace.learn.micro_batches import MicroBatches, check_slices
from headrace.learn.stages import StageTimes, lookups_timed
from headrace.learn.tiers import hot_shares, tables_on_disk, tiers_of
from headrace.learn.together import Together
from headrace.protocols import Objective
from headrace.store import Clipping, EmbeddingCollection, Expiry
from headrace.types import Batch, Change, Loss, RowChange, State, Version


class RankLearner:
    """Learns a model over embedding tables; implements the roles `Learner` and `Resumable`.

    One step: loss and gradients; refused whole if anything is not finite; then every table takes one update with the
    summed gradients of its ids, the dense optimiser one step, and the ledger one count. Rows of tables with a `ttl_s`
    expire by the event time of what was learned, so that publishing more or less often changes nothing.

    Over sharded tables every rank has a learner; `learn` and `changes` are collective, and a step is the one that one
    learner would take from the batches of all ranks together (`headrace.learn.gathered` puts their changes together).

    Learning is deterministic: random numbers come from the learner's own generator, which is part of its state.

    Args:
        model: Maps a batch to logits (B,); holds the collection somewhere inside.
        collection: The tables behind the model.
        optimizer: Over the model's dense parameters.
        objective: The loss; if it has a method `spec() -> {name: text}`, that is published too.
        config: Settings.
        together: How the ranks of a step add up; None: over the ranks of the collection's tables.

    Raises:
        ConfigError: If the optimiser and the model do not have the same parameters, or these are not on the CPU.

    Attributes:
        times: Where the time of its steps goes.
        micro_batches: See `LearnerConfig`; may be set before a step, and is no part of the state.

    Thread-safety: none; one thread learns, publishes and saves.
    """

    def __init__(
        self, model: nn.Module, collection: EmbeddingCollection, optimizer: Optimizer, objective: Objective,
        config: LearnerConfig | None = None, together: Together | None = None,
    ) -> None:  # fmt: skip
        self.model, self.collection, self.optimizer, self.objective = model, collection, optimizer, objective
        self.config = config or LearnerConfig()
        self._names, self._settings = parameter_names(model, optimizer), optimizer_settings(optimizer)
        self._pace = DensePace(optimizer, self.config.dense_schedule)
        self._named = dict(model.named_parameters())  # a walk over all modules takes as long as a small layer
        self._learned = {*self._named.values(), *(p for group in optimizer.param_groups for p in group["params"])}
        require(any(module is collection for module in model.modules()), "Model", got="no embedding collection inside",
                expected="the collection that the learner is given", do="Build the model over it.")  # fmt: skip
        elsewhere = sorted({str(p.device) for p in model.parameters() if p.device.type != "cpu"})
        require(not elsewhere, "Model", got=f"parameters on {elsewhere}", expected="parameters on the CPU")
        self.tables = cast(dict[str, LearnedTable], dict(collection.tables))
        self.ledger: LearnedTable | None = None
        if self.config.audit:
            require(LEDGER not in self.tables, "Tables", got=f"one named '{LEDGER}'", expected="another name")
            self.ledger = self.tables[LEDGER] = cast(LearnedTable, open_ledger())
        self._clipped, self._on_disk = tables_that_clip(collection.tables), tables_on_disk(collection.tables)
        self.spec = self._describe()
        self._expiry = Expiry(self.tables)
        self.times = StageTimes()
        before, after = lookups_timed(self.times)
        collection.register_forward_pre_hook(before)
        collection.register_forward_hook(after, always_call=True)
        self.micro_batches, self._slices = self.config.micro_batches, cast("MicroBatches | None", None)
        self._together = together or Together(collection.ranks)
        self._rng = torch.Generator().manual_seed(self._together.seed(self.config.seed)).get_state()
        self._marks = VersionMarks(self.config.keep_versions)
        self._positives, self._negatives = TimeLog(), TimeLog()
        self._examples, self._loss_sum, self._torn = 0, 0.0, ""

    def _describe(self) -> Mapping[str, str]:
        """Return the text that a replica, or a later learner, must agree on."""
        spec = {f"table/{name}": table.config.spec() for name, table in self.tables.items()}
        if self.config.schema_fingerprint:
            spec["schema"] = self.config.schema_fingerprint
        if self.config.schema is not None:
            spec["schema_json"] = self.config.schema.to_json()
        own = getattr(self.objective, "spec", None)
        return {**spec, **(own() if callable(own) else {})}

    @property
    def examples(self) -> int:
        """Examples learned so far: the offset in the example log after the last one."""
        return self._examples

    @property
    def version(self) -> int:
        """Number of the newest version that changes were told of; -1 before the first."""
        return self._marks.newest

    def learn(self, batch: Batch) -> Loss:
        """Learn one step from the batch.

        Returns:
            The loss, detached. Its parts have `clipped/<table>` for every table with a clip: the share of the rows
            that learned in this step whose gradient was clipped; and `hot/<table>` for every table with a disk: the
            share of the rows found that were in memory.

        Raises:
            NonFiniteLoss: If the loss or a gradient is NaN or infinite; nothing was changed.
            DataError: If the batch is empty or the objective refuses it; nothing was changed.
            StoreError: If a table could not take its update (no memory). Tables may then stand at different steps:
                the learner refuses to go on until `restore` has brought it back to a whole state.
        """
        self._check_whole()
        examples = self._together.examples(batch)
        buffers, tiers = Buffers(self.model), tiers_of(self._on_disk)
        try:
            with self.times.stage("checks"), torch.random.fork_rng(devices=[]):
                self._slice(batch)
                torch.set_rng_state(self._together.random(self._rng))
                loss, clipped = self._gradients(batch, examples), self._clipping()
                self._apply(batch, loss)
        except BaseException:
            buffers.put_back()
            self._drop_gradients()
            raise
        parts = clipped_shares(clipped, self._clipping()) | hot_shares(tiers, tiers_of(self._on_disk))
        return Loss(loss.total, {**loss.parts, **parts}, loss.logits)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Compute losses and gradients with the model inside, for a look; afterwards the learner is as before."""
        buffers = Buffers(self.model)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._rng)
                yield
        finally:
            buffers.put_back()
            self._drop_gradients()

    def _clipping(self) -> dict[str, Clipping]:
        return {name: table.clipping() for name, table in self._clipped.items()}

    def _gradients(self, batch: Batch, examples: int) -> Loss:
        """Compute loss and gradients over the examples of all ranks; raise unless every one of them is finite."""
        self._drop_gradients()
        if not self.model.training:  # a walk over all modules, every step
            self.model.train()
        scale = examples if self.config.row_gradients == "sum" else 1
        if self._slices is not None:
            loss = self._slices.backward(batch, scale / examples)
        else:
            with self.times.stage("forward"):
                loss = self.objective(self.model, batch)
        total = self._together.mean(loss.total.detach(), len(batch), examples)
        if self._together.knows_loss:
            self._require_finite(total, batch, f"a loss of {float(total)}")
        if self._slices is None:
            with self.times.stage("backward"):
                (loss.total * (scale * (len(batch) / examples))).backward()  # type: ignore[no-untyped-call]
        total = self._exchange(total, scale, batch)
        return Loss(total, loss.parts, None if loss.logits is None else loss.logits.detach())

    def _exchange(self, total: Tensor, scale: int, batch: Batch | None) -> Tensor:
        """Add gradients over ranks and return the loss of all of them; raise unless every one is finite."""
        total = self._together.add_gradients(self.model, total)
        if not self._together.knows_loss:
            self._require_finite(total, batch, f"a loss of {float(total)}")
        gradients = {name: p.grad for name, p in self._named.items() if p.grad is not None}
        if scale != 1:
            for gradient in gradients.values():
                gradient.div_(scale)
        self._require_finite_gradients(gradients, batch)
        return total

    def follow(self, examples: int) -> Tensor:
        """Take the step of the other ranks, with `examples` among them and none here; return their mean loss."""
        self._check_whole()
        self._drop_gradients()
        try:
            total = self._exchange(torch.zeros(()), examples if self.config.row_gradients == "sum" else 1, None)
            factor = self._pace.factor()
            with self._together.agreed(None):
                pass
            self._pace.step(factor)
        finally:
            self._drop_gradients()
        self._together.average_buffers(self.model)
        return total

    def _apply(self, batch: Batch, loss: Loss) -> None:
        """Let tables, dense optimiser and ledger take the step; an error in the middle leaves the learner torn."""
        factor = self._pace.factor()
        self._torn, before = f"the step after example {self._examples}", self._table_marks()
        try:
            with self.times.stage("table update"), self._together.agreed(batch):
                self.collection.apply_gradients(batch)
        except BaseException:
            if self._table_marks() == before:
                self._torn = ""  # the tables refused before they moved, and they are the first to move
            raise
        with self.times.stage("dense update"):
            self._pace.step(factor)
        self._together.average_buffers(self.model)
        if self.ledger is not None:
            record(self.ledger, batch)
        self._expiry.advance(self._together.newest(batch.event_times))
        if self._marks.newest < 0:
            self._forget(self._table_marks())  # nobody can ask for changes since then, only for everything
        self._rng = torch.get_rng_state()
        self._count(batch, loss)
        self._drop_gradients()
        self._torn = ""

    def _drop_gradients(self) -> None:
        self.collection.discard()
        for parameter in self._learned:
            parameter.grad = None

    def _table_marks(self) -> dict[str, int]:
        return {name: table.mark() for name, table in self.tables.items()}

    def _forget(self, marks: Mapping[str, int]) -> None:
        for name, mark in marks.items():
            self.tables[name].forget(mark)

    def _slice(self, batch: Batch) -> None:
        """Prepare for micro-batches, at the first step with so many."""
        count, parts = self.micro_batches, (self.model, self.collection, self.objective)
        if count == 1:
            self._slices = None
        elif (self._slices is None or self._slices.count != count) and check_slices(*parts, batch):
            self._slices = MicroBatches(*parts, count, self.times)

    def _count(self, batch: Batch, loss: Loss) -> None:
        self._examples += len(batch)
        self.times.count()
        self._loss_sum += float(loss.total) * len(batch)
        if self.config.freshness:
            known_B, positive_B = batch.accepted_times > 0, batch.labels > 0
            self._positives.add(batch.accepted_times[known_B & positive_B])
            self._negatives.add(batch.accepted_times[known_B & ~positive_B])

    def _require_finite_gradients(self, gradients: Mapping[str, Tensor], batch: Batch | None) -> None:
        """Look at sums first: a number that is not finite makes a sum that is not; but so may large finite ones."""
        sums = [gradient.sum() for gradient in gradients.values()]
        if not sums or math.isfinite(sum(torch.stack([one.double() for one in sums]).tolist())):
            return
        for name, gradient in gradients.items():
            self._require_finite(gradient, batch, f"NaN or infinity in the gradient of '{name}'")

    @staticmethod
    def _require_finite(values: Tensor, batch: Batch | None, got: str) -> None:
        if not bool(torch.isfinite(values).all()):
            ids = [] if batch is None else batch.example_ids.tolist()
            raise NonFiniteLoss(
                f"Learning {len(ids)} examples" + (f", {ids[0]} to {ids[-1]}" if ids else " and others'"),
                got=got, expected="finite values",
                do="Nothing was changed. Look at the features and weights of these examples, or lower the rates.",
            )  # fmt: skip

    def _check_whole(self) -> None:
        if self._torn:
            raise StoreError("Learner", got=f"{self._torn}, which an error interrupted", expected="a whole state",
                             do="Restore the last checkpoint; the examples after it are learned again.")  # fmt: skip

    def changes(self, since: Version) -> Change:
        """Return what was learned after version `since`, as a change whose version is `since.number + 1`.

        The change of number 0 (since -1) and the first one after a change of schema are full, and so is one where a
        table no longer knows what was removed (no history, or more removals than `max_bytes` has room for). Asked
        again, with nothing learned in between, the answer is the same to the bit; if more was learned, it defines the
        version anew, as is right when publishing failed.

        `notes`: `example_offset` (1,) int64 examples learned ever; `accepted_times` and `negative_accepted_times`
        int64 µs of the positives and negatives learned since; `loss` (1,) float32 mean since, if anything was learned.

        Raises:
            StaleError: If the learner has no mark of that version.

        Cost: O(rows changed since) for a native table, and one copy of the dense tensors.
        """
        self._check_whole()
        base = self._marks.base(since.number)
        tables, full = self._changed_rows(base)
        mark = Mark(self._table_marks(), self._examples, len(self._positives), len(self._negatives), self._loss_sum)
        change = Change(
            version=Version(since.number + 1, since.number), tables=tables, dense=dense_tensors(self.model),
            notes=self._notes(base), spec=dict(self.spec), full=full,
        )  # fmt: skip
        self._marks.set(change.version.number, mark)
        self._forget_old()
        return change

    def _changed_rows(self, base: Mark) -> tuple[dict[str, RowChange], bool]:
        """Return every table's rows since a mark and False, or all of them and True where that cannot be told."""
        known: dict[str, RowChange] | None = None
        if base.tables is not None:
            try:
                known = {name: table.changes(base.tables[name]) for name, table in self.tables.items()}
            except StaleError:
                pass  # a replica that drops all rows first need not know which went
        if known is not None and not self._together.any(False):
            return known, False
        if known is None:
            self._together.any(True)  # the other ranks then tell all rows too
        return {name: table.rows() for name, table in self.tables.items()}, True

    def _notes(self, base: Mark) -> dict[str, Tensor]:
        notes = {"example_offset": torch.tensor([self._examples])}
        if self.config.freshness:
            notes["accepted_times"] = self._positives.since(base.positives)
            notes["negative_accepted_times"] = self._negatives.since(base.negatives)
        learned = self._examples - base.examples
        if learned:
            notes["loss"] = torch.tensor([(self._loss_sum - base.loss_sum) / learned], dtype=torch.float32)
        return notes

    def _forget_old(self) -> None:
        """Drop what no version that can still be asked for needs."""
        oldest = self._marks.oldest
        self._positives.forget(oldest.positives)
        self._negatives.forget(oldest.negatives)
        self._forget(self._marks.oldest_tables or {})

    def state(self) -> State:
        """Return all that is needed to continue exactly.

        That is: tables with slots, filters and change history, the ledger among them; dense weights; the optimiser;
        random numbers; counts; and the marks of published versions.

        Raises:
            StoreError: If the last step was torn by an error.
        """
        self._check_whole()
        tables: State = {name: table.state() for name, table in self.tables.items()}
        return {
            "format": FORMAT, "spec": dict(self.spec), "dense": dict(dense_tensors(self.model)), "tables": tables,
            "optimizer": optimizer_state(self.optimizer, self._names), "optimizer_settings": dict(self._settings),
            "rng": self._rng.clone(),
            "expiry": self._expiry.state(), "marks": self._marks.state(), "positives": self._positives.state(),
            "negatives": self._negatives.state(), "examples": self._examples, "loss_sum": self._loss_sum,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue from what `state` returned.

        The optimiser has to be built with the settings it was built with then; what a schedule has made of them
        since (the present learning rate) is part of the state and comes back.

        Raises:
            RowRuleMismatch: If tables, schema, objective, dense tensors or optimiser are others than those of the
                state; nothing was changed.
            CorruptSnapshot: If it is not the state of a learner; nothing was changed.
        """
        saved = read_state(state)
        check_same_learner(saved, self.spec, self.model, self.tables)
        check_optimizer_state(self._settings, self._names, saved.optimizer_settings, saved.optimizer)
        restore_tables(self.tables, saved.tables)
        self._torn = "a restore"
        load_dense(self.model, saved.dense)
        restore_optimizer(self.optimizer, self._names, saved.optimizer)
        self._rng, self._examples, self._loss_sum = saved.rng.clone(), saved.examples, saved.loss_sum
        self._expiry.restore(saved.expiry)
        self._marks.restore(saved.marks)
        self._positives.restore(saved.positives)
        self._negatives.restore(saved.negatives)
        self._drop_gradients()
        self._torn = ""
