"""The learner: a model over embedding tables that learns batch by batch and says what changed since each version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headrace.config import known_name, require
from headrace.data.features import Schema
from headrace.errors import DataError, NonFiniteLoss, StaleError, StoreError
from headrace.learn.clipping import clipped_shares, tables_that_clip
from headrace.learn.dense import (
    DensePace,
    check_optimizer_state,
    dense_tensors,
    optimizer_settings,
    optimizer_state,
    parameter_names,
    restore_optimizer,
)
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
from headrace.protocols import Objective, Schedule
from headrace.store import Clipping, EmbeddingCollection, Expiry
from headrace.types import Batch, Change, Loss, RowChange, State, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerConfig:
    """Settings of a learner.

    Attributes:
        seed: Seed of its own random numbers (dropout).
        audit: Keep a ledger that counts how often each example was learned (`headrace.learn.ledger`).
        row_gradients: What table rows learn from. `sum`: the gradient of the loss times the number of examples, so
            that an example moves its rows as far as it would alone, whatever the batch size: row rules as online
            learning knows them. `mean`: the gradient of the loss as it is, a mean over the batch, like the dense
            part; a row in one of 256 examples then takes a 256th of the step, and Adagrad's starting accumulator
            keeps it there for long. For rules made for that (large-batch scaling, CowClip).
        dense_schedule: What the rates of the dense optimiser's groups are multiplied with in step 1, 2, ...; None:
            always 1. The rates are those that the optimiser was built with; the step is part of the state.
        freshness: Publish the accepted times of the examples that each version learned. Switch it off for learners
            that never publish: their list would only grow.
        keep_versions: Published versions, before the newest, that changes can still be asked for.
        schema: The schema of the examples; it is stored with the state and published with every version.
        schema_fingerprint: Its fingerprint, when the schema itself is not at hand.

    Raises:
        ConfigError: If a value cannot work, or the fingerprint is not the schema's.
    """

    seed: int = 0
    audit: bool = False
    row_gradients: Literal["mean", "sum"] = "sum"
    dense_schedule: Schedule | None = None
    freshness: bool = True
    keep_versions: int = 8
    schema: Schema | None = None
    schema_fingerprint: str = ""

    def __post_init__(self) -> None:
        known_name("row_gradients", self.row_gradients, ["mean", "sum"])
        require(self.dense_schedule is None or callable(self.dense_schedule), "dense_schedule", got=self.dense_schedule,
                expected="a schedule, from step to factor, or None")  # fmt: skip
        require(self.keep_versions >= 1, "keep_versions", got=self.keep_versions, expected="at least 1")
        if self.schema is None:
            return
        fingerprint = self.schema.fingerprint()
        require(self.schema_fingerprint in ("", fingerprint), "schema_fingerprint", got=self.schema_fingerprint,
                expected=f"{fingerprint}, the schema's", do="Leave it out.")  # fmt: skip
        object.__setattr__(self, "schema_fingerprint", fingerprint)


class RankLearner:
    """Learns a model over embedding tables; implements the roles `Learner` and `Resumable`.

    One step: loss and gradients; refused whole if anything is not finite; then every table takes one update with the
    summed gradients of its ids, the dense optimiser one step, and the ledger one count. Rows of tables with a `ttl_s`
    expire by the event time of what was learned, so that publishing more or less often changes nothing.

    Learning is deterministic: random numbers come from the learner's own generator, which is part of its state.

    Args:
        model: Maps a batch to logits (B,); holds the collection somewhere inside.
        collection: The tables behind the model.
        optimizer: Over the model's dense parameters.
        objective: The loss; if it has a method `spec() -> {name: text}`, that is published too.
        config: Settings.

    Raises:
        ConfigError: If the optimiser and the model do not have the same parameters, or these are not on the CPU.

    Thread-safety: none; one thread learns, publishes and saves.
    """

    def __init__(
        self, model: nn.Module, collection: EmbeddingCollection, optimizer: Optimizer, objective: Objective,
        config: LearnerConfig | None = None,
    ) -> None:  # fmt: skip
        self.model, self.collection, self.optimizer, self.objective = model, collection, optimizer, objective
        self.config = config or LearnerConfig()
        self._names, self._settings = parameter_names(model, optimizer), optimizer_settings(optimizer)
        self._pace = DensePace(optimizer, self.config.dense_schedule)
        require(any(module is collection for module in model.modules()), "Model", got="no embedding collection inside",
                expected="the collection that the learner is given", do="Build the model over it.")  # fmt: skip
        elsewhere = sorted({str(p.device) for p in model.parameters() if p.device.type != "cpu"})
        require(not elsewhere, "Model", got=f"parameters on {elsewhere}", expected="parameters on the CPU")
        self.tables = cast(dict[str, LearnedTable], dict(collection.tables))
        self.ledger: LearnedTable | None = None
        if self.config.audit:
            require(LEDGER not in self.tables, "Tables", got=f"one named '{LEDGER}'", expected="another name")
            self.ledger = self.tables[LEDGER] = cast(LearnedTable, open_ledger())
        self._clipped = tables_that_clip(collection.tables)
        self.spec = self._describe()
        self._expiry = Expiry(self.tables)
        self._rng = torch.Generator().manual_seed(self.config.seed).get_state()
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

    def learn(self, batch: Batch) -> Loss:
        """Learn one step from the batch.

        Returns:
            The loss, detached. Its parts have `clipped/<table>` for every table with a clip: the share of the rows
            that learned in this step whose gradient was clipped.

        Raises:
            NonFiniteLoss: If the loss or a gradient is NaN or infinite; nothing was changed.
            DataError: If the batch is empty or the objective refuses it; nothing was changed.
            StoreError: If a table could not take its update (no memory). Tables may then stand at different steps:
                the learner refuses to go on until `restore` has brought it back to a whole state.
        """
        self._check_whole()
        if not len(batch):
            raise DataError("Learner, batch", got="no examples", expected="at least one", do="Skip empty batches.")
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        try:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._rng)
                loss, clipped = self._gradients(batch), self._clipping()
                self._apply(batch, loss)
        except BaseException:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            self._drop_gradients()
            raise
        return Loss(loss.total, {**loss.parts, **clipped_shares(clipped, self._clipping())}, loss.logits)

    def _clipping(self) -> dict[str, Clipping]:
        return {name: table.clipping() for name, table in self._clipped.items()}

    def _gradients(self, batch: Batch) -> Loss:
        """Compute loss and gradients; raise unless every one of them is finite."""
        self._drop_gradients()
        self.model.train()
        loss = self.objective(self.model, batch)
        total = loss.total.detach()
        self._require_finite(total, batch, f"a loss of {float(total)}")
        scale = len(batch) if self.config.row_gradients == "sum" else 1
        (loss.total * scale).backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        for name, gradient in gradients.items():
            gradient.div_(scale)
            self._require_finite(gradient, batch, f"NaN or infinity in the gradient of '{name}'")
        return Loss(total, loss.parts, None if loss.logits is None else loss.logits.detach())

    def _apply(self, batch: Batch, loss: Loss) -> None:
        """Let tables, dense optimiser and ledger take the step; an error in the middle leaves the learner torn."""
        factor = self._pace.factor()
        self._torn, before = f"the step after example {self._examples}", self._table_marks()
        try:
            self.collection.apply_gradients(batch)
        except BaseException:
            if self._table_marks() == before:
                self._torn = ""  # the tables refused before they moved, and they are the first to move
            raise
        self._pace.step(factor)
        if self.ledger is not None:
            record(self.ledger, batch)
        self._expiry.advance(int(batch.event_times.max()))
        if self._marks.newest < 0:
            self._forget(self._table_marks())  # nobody can ask for changes since then, only for everything
        self._rng = torch.get_rng_state()
        self._count(batch, loss)
        self._drop_gradients()
        self._torn = ""

    def _drop_gradients(self) -> None:
        self.collection.discard()
        self.optimizer.zero_grad(set_to_none=True)

    def _table_marks(self) -> dict[str, int]:
        return {name: table.mark() for name, table in self.tables.items()}

    def _forget(self, marks: Mapping[str, int]) -> None:
        for name, mark in marks.items():
            self.tables[name].forget(mark)

    def _count(self, batch: Batch, loss: Loss) -> None:
        self._examples += len(batch)
        self._loss_sum += float(loss.total) * len(batch)
        if self.config.freshness:
            known_B, positive_B = batch.accepted_times > 0, batch.labels > 0
            self._positives.add(batch.accepted_times[known_B & positive_B])
            self._negatives.add(batch.accepted_times[known_B & ~positive_B])

    @staticmethod
    def _require_finite(values: Tensor, batch: Batch, got: str) -> None:
        if not bool(torch.isfinite(values).all()):
            ids = batch.example_ids
            raise NonFiniteLoss(
                f"Learning {len(batch)} examples, {int(ids[0])} to {int(ids[-1])}", got=got, expected="finite values",
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
        if base.tables is not None:
            try:
                return {name: table.changes(base.tables[name]) for name, table in self.tables.items()}, False
            except StaleError:
                pass  # a replica that drops all rows first need not know which went
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
