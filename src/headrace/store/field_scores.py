"""Rank requests read and scored in native code: JSON in, probabilities out, rows straight from a shared space.

What a model has to be for that is a `FieldPlan`, plain data; `headrace.serve.field_plan` makes one from a schema and
a network. Bodies that are not plain (see `csrc/score/rank_body.h`) are not read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.config import known_name, require
from headrace.errors import CapacityError, NumericError, StaleError, StoreError
from headrace.store.shared_memory import SharedReader
from headrace.store.table import load_native

ColumnKind: TypeAlias = Literal["text", "integer", "any", "number"]
KINDS: dict[str, int] = {"text": 0, "integer": 1, "any": 2, "number": 3}
_ARROW = {0: pa.string(), 1: pa.int64(), 2: pa.float64()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanColumn:
    """A field of a request's JSON.

    Attributes:
        name: In the body.
        column: In the log.
        kind: What its values are.
        refused: A body that has it goes the general way.
    """

    name: str
    column: str
    kind: ColumnKind
    refused: bool = False

    def __post_init__(self) -> None:
        known_name(f"PlanColumn '{self.name}', kind", self.kind, list(KINDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanId:
    """An embedded feature.

    Attributes:
        table: Its table's name.
        column: Place of its column in the plan; -1: none, it is always `constant`.
        constant: Id where the body has none; None: there must be one, or the feature is optional and embeds as zeros.
        optional: The body may lack it.
    """

    table: str
    column: int
    constant: int | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNumber:
    """A dense column: `(f(x) - mean) / std`, where f is `sign(x) log(1 + |x|)` with `log1p`.

    Attributes:
        column: Place of its column in the plan; -1: none, it is always `absent`.
        absent: Value where the body has none.
        optional: The body may lack it.
        mean: Taken away.
        std: Divided by.
        log1p: Whether the value is first made smaller.
    """

    column: int
    absent: float = 0.0
    optional: bool = False
    mean: float = 0.0
    std: float = 1.0
    log1p: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPlan:
    """What is computed: names of dense tensors of the shared space, in the order of the computation.

    Attributes:
        columns: Fields that a body may have; a field that is not named here is refused by the general way.
        item: Place of the column that names candidates.
        ids: Embedded features, in the order of the deep network's input.
        numbers: Dense columns, behind them.
        dim: Width of the tables' rows.
        first_order: Column 0 of a row is its weight and the others its factor.
        interactions: Factors meet in pairs.
        bias: One number, or empty.
        number_weights: (numbers,), or empty.
        number_factors: (numbers, factor width), or empty.
        layers: Weight and bias of every layer of the deep network: rectified but for the last one, which has one
            output. Empty: there is none.
        negative_rate: Share of negatives that were kept in training, if serving corrects for it; else 1.
    """

    columns: tuple[PlanColumn, ...]
    item: int
    ids: tuple[PlanId, ...]
    numbers: tuple[PlanNumber, ...] = ()
    dim: int
    first_order: bool = True
    interactions: bool = True
    bias: str = ""
    number_weights: str = ""
    number_factors: str = ""
    layers: tuple[tuple[str, str], ...] = ()
    negative_rate: float = 1.0

    def __post_init__(self) -> None:
        require(len(self.layers) != 1, "FieldPlan.layers", got="one layer", expected="none, or hidden ones and one")


class ScoredBody:
    """A request that was read; after `FieldScores.score` with its probabilities.

    Args:
        native: What the reader made.
        plan: What it was read for.
    """

    def __init__(self, native: Any, plan: FieldPlan) -> None:
        self.native, self._plan = native, plan

    @property
    def rows(self) -> int:
        """Candidates."""
        return int(self.native.rows)

    @property
    def key(self) -> str | None:
        """The request's key, if it has one."""
        key: str | None = self.native.key
        return key

    @property
    def event_time(self) -> int | None:
        """Its time, if it says one."""
        time: int | None = self.native.event_time
        return time

    @property
    def min_version(self) -> int | None:
        """The oldest version that may answer, if it says one."""
        version: int | None = self.native.min_version
        return version

    @property
    def log(self) -> bool | None:
        """Whether its rows are to be logged, if it says so."""
        said = int(self.native.log)
        return None if said < 0 else bool(said)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Probabilities (rows,)."""
        return np.asarray(self.native.scores())

    def answer(self, key: str, version: int, more: str = "") -> bytes:
        """Return the answer as JSON; `more` stands behind the version, with a comma before it."""
        return bytes(self.native.answer(self._plan.item, key, version, more))

    def columns(self) -> dict[str, pa.Array]:
        """Return every column that the body has as Arrow, one value per candidate."""
        found = {}
        for number, there in enumerate(self.native.present()):
            if there:
                found[self._plan.columns[number].column] = self._column(number)
        return found

    def _column(self, number: int) -> pa.Array:
        kind, offsets, values = self.native.column(number)
        buffers = [None, pa.py_buffer(values)]
        if kind == 0:
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
        return pa.Array.from_buffers(_ARROW[kind], self.rows, buffers)


class FieldScores:
    """Reads and scores requests as a plan says, from one shared space.

    Args:
        plan: What is computed.
        reader: Where rows and dense tensors are.
        max_rows: Most candidates of one request.

    Raises:
        StoreError: If the space lacks a table or tensor of the plan, or it has another type or shape.

    Thread-safety: one thread at a time.

    Cost: what candidates share is looked up and multiplied once a request; see `csrc/score/field_scorer.h`.
    """

    def __init__(self, plan: FieldPlan, reader: SharedReader, *, max_rows: int = 20_000) -> None:
        module = load_native()
        require(module is not None, "FieldScores", got="no native module", expected="headrace.store._native")
        assert module is not None
        self.plan, self.reader = plan, reader
        looked_up = {feature.column for feature in plan.ids}
        columns = [(column.name, KINDS[column.kind], column.refused, place in looked_up)
                   for place, column in enumerate(plan.columns)]  # fmt: skip
        self._bodies = module.RankReader(columns, plan.item, max_rows)
        self._scorer = module.FieldScorer(self._native_plan(module))

    def read(self, body: bytes) -> ScoredBody | None:
        """Return the request, or None where its body is not a plain one."""
        native = self._bodies.read(body)
        return None if native is None else ScoredBody(native, self.plan)

    def score(self, bodies: Sequence[ScoredBody]) -> int:
        """Give every request its probabilities, all from one version; returns its number.

        Raises:
            StaleError: If there is no version yet.
            StoreError: If a request lacks a value that the plan needs.
            NumericError: If a probability is not finite.
        """
        (code, detail), version = self._scorer.score(self.reader.native, [body.native for body in bodies])
        if code == 0:
            return int(version)
        if code == 4:
            raise StaleError("FieldScores", got="no version yet", expected="one published version")
        if code == 3:
            raise NumericError(f"Version {version}", got="a score that is NaN or infinite", expected="finite scores",
                               do="Look at the learner, or at a huge input.")  # fmt: skip
        if code == 7:
            raise CapacityError("FieldScores", got="no memory", expected="room for the rows of the requests")
        raise StoreError("FieldScores", got=f"code {code}, detail {detail}", expected="all values that the plan needs")

    def _native_plan(self, module: Any) -> Any:
        plan, native = self.plan, module.FieldPlan()
        names = {name: number for number, name in enumerate(self.reader.tables)}
        for feature in plan.ids:
            known_name("FieldPlan, table", feature.table, list(names))
            native.add_id(names[feature.table], feature.column, feature.constant, feature.optional)
        for number in plan.numbers:
            native.add_number(number.column, number.absent, number.optional, number.mean, number.std, number.log1p)
        native.dim, native.first_order, native.interactions = plan.dim, plan.first_order, plan.interactions
        native.negative_rate = plan.negative_rate
        width, count = plan.dim - int(plan.first_order), len(plan.numbers)
        native.bias_at = self._place(plan.bias, 1)
        native.number_weights_at = self._place(plan.number_weights, count)
        native.number_factors_at = self._place(plan.number_factors, count * width)
        inputs = len(plan.ids) * width + count
        for place, (weight, bias) in enumerate(plan.layers):
            outputs = self._outputs(weight, inputs)
            if place == len(plan.layers) - 1 and outputs != 1:
                raise StoreError(f"Dense tensor '{weight}'", got=f"{outputs} outputs", expected="one")
            native.add_layer(self._place(weight, outputs * inputs), self._place(bias, outputs), inputs, outputs)
            inputs = outputs
        return native

    def _outputs(self, weight: str, inputs: int) -> int:
        known_name("FieldPlan, dense tensor", weight, list(self.reader.dense_places))
        shape = self.reader.dense_places[weight].shape
        if len(shape) != 2 or shape[1] != inputs:
            raise StoreError(f"Dense tensor '{weight}'", got=str(shape), expected=f"(outputs, {inputs})")
        return shape[0]

    def _place(self, name: str, values: int) -> int:
        """Return where a tensor begins, in floats; -1 for no name."""
        if not name:
            return -1
        known_name("FieldPlan, dense tensor", name, list(self.reader.dense_places))
        place = self.reader.dense_places[name]
        if place.dtype != "float32" or int(np.prod(place.shape, dtype=np.int64)) != values:
            raise StoreError(f"Dense tensor '{name}'", got=f"{place.dtype} {place.shape}",
                             expected=f"{values} values of float32")  # fmt: skip
        return place.at // 4
