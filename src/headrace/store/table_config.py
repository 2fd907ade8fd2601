"""What a table is made of (`TableConfig`) and what it tells about itself (`TableStats`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from headrace.config import require, tree
from headrace.errors import NumericError
from headrace.protocols import RowTransform, Schedule
from headrace.store.admission import Admission, AdmitAll, AdmitCount, AdmitProbability, AdmitSketch
from headrace.store.cache import TierStats, require_memory
from headrace.store.capacity import require_room
from headrace.store.hashing import key_of
from headrace.store.initial import InitialRow, Uniform
from headrace.store.row_rules import Adagrad, FloatArray, RowRule
from headrace.store.storage import Storage

MAX_DIM = 65_536
MAX_TTL_S = 9e12


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Configuration of one embedding table.

    Attributes:
        name: Name of the table; part of what initial rows are drawn from.
        dim: Floats per embedding (D).
        rule: How a row learns.
        init: What a row starts from.
        seed: Seed of initial rows and of admission by probability; part of the published version.
        admission: Which ids get a row.
        ttl_s: Seconds of event time after which an untouched row expires (see `Expiry`); None: never.
        transforms: Changes of row gradients before the rule, in order (CowClip and its like).
        storage: How rows are kept: precision, what stands beside a row, how much memory it may take.
        schedule: What the rule's learning rate is multiplied with in update 1, 2, ...; None: always 1.

    Raises:
        ConfigError: If a value cannot work.
    """

    name: str
    dim: int
    rule: RowRule = field(default_factory=Adagrad)
    init: InitialRow = field(default_factory=Uniform)
    seed: int = 0
    admission: Admission = field(default_factory=AdmitAll)
    ttl_s: float | None = None
    transforms: tuple[RowTransform, ...] = ()
    storage: Storage = field(default_factory=Storage)
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        require(bool(self.name), "TableConfig.name", got=self.name, expected="a name that is not empty")
        require(_whole(self.dim) and 1 <= self.dim <= MAX_DIM, f"TableConfig.dim of table '{self.name}'", got=self.dim,
                expected=f"an integer from 1 to {MAX_DIM}")  # fmt: skip
        require(isinstance(self.rule, RowRule), "TableConfig.rule", got=self.rule,
                expected="SGD, Momentum, Adagrad, RowWiseAdagrad, Adam, AdamW, FTRL or GroupFTRL",
                do="A rule of your own has lr, slot_count, fresh_slots and step.")  # fmt: skip
        require(callable(self.init), "TableConfig.init", got=self.init, expected="Zeros, Constant, Uniform or Normal")
        require(_whole(self.seed) and 0 <= self.seed < 2**63, "TableConfig.seed", got=self.seed,
                expected="an integer from 0 to 2^63 - 1")  # fmt: skip
        require(isinstance(self.admission, (AdmitAll, AdmitCount, AdmitProbability, AdmitSketch)),
                "TableConfig.admission", got=self.admission,
                expected="AdmitAll, AdmitCount, AdmitProbability or AdmitSketch")  # fmt: skip
        require(self.ttl_s is None or 0 < self.ttl_s <= MAX_TTL_S, "TableConfig.ttl_s", got=self.ttl_s,
                expected=f"seconds up to {MAX_TTL_S:g}, or None")  # fmt: skip
        require(all(callable(item) for item in self.transforms), "TableConfig.transforms", got=self.transforms,
                expected="a tuple of row transforms")  # fmt: skip
        self._check_storage()

    def _check_storage(self) -> None:
        require(isinstance(self.storage, Storage), "TableConfig.storage", got=self.storage, expected="a Storage")
        require(self.schedule is None or callable(self.schedule), "TableConfig.schedule", got=self.schedule,
                expected="a schedule, from update number to factor, or None")  # fmt: skip
        require(self.ttl_s is None or self.storage.event_times, f"TableConfig.ttl_s of table '{self.name}'",
                got=f"{self.ttl_s} with event_times=False", expected="Storage(event_times=True)",
                do="Only rows that know when they were touched can expire.")  # fmt: skip
        require_room(self)
        require_memory(self)

    @property
    def row_key(self) -> int:
        """The 64-bit key that initial rows are drawn from."""
        return key_of(self.seed, self.name, "row")

    @property
    def admission_key(self) -> int:
        """The 64-bit key that admission by probability draws from."""
        return key_of(self.seed, self.name, "admission")

    def rate(self, update: int) -> np.float32:
        """Return the learning rate of update number `update`: 1, 2, ..., the table's mark after it.

        Raises:
            NumericError: If the schedule gives no finite number of at least 0.
        """
        factor = 1.0 if self.schedule is None else float(self.schedule(update))
        with np.errstate(over="ignore"):
            rate = np.float32(self.rule.lr * factor)
        if not (factor >= 0.0 and np.isfinite(rate)):
            raise NumericError(
                f"Table '{self.name}', schedule at update {update}", got=factor,
                expected="a finite factor of at least 0",
                do="Nothing was changed. Repair the schedule.",
            )  # fmt: skip
        return rate

    @property
    def lost_when_missed(self) -> np.float32:
        """Part of a row, times the rate, that is lost in each update which the row misses (`RowL2`, lazy)."""
        return np.float32(sum(float(getattr(item, "lost_when_missed", 0.0)) for item in self.transforms))

    @property
    def paced(self) -> bool:
        """Whether each row has one slot more, the last, for the update in which it last learned; see `pace`."""
        return bool(self.lost_when_missed) or bool(getattr(self.rule, "paced", False))

    def slot_count(self) -> int:
        """Return S, the floats kept beside an embedding: those of the rule, and the pace."""
        return self.rule.slot_count(self.dim) + int(self.paced)

    def fresh_slots(self) -> FloatArray:
        """Return the slots (S,) of a row that has not learned yet."""
        slots = self.rule.fresh_slots(self.dim)
        return np.append(slots, np.float32(0.0)) if self.paced else slots

    @property
    def ttl_us(self) -> int | None:
        """`ttl_s` in whole microseconds of event time."""
        return None if self.ttl_s is None else round(self.ttl_s * 1e6)

    def spec(self) -> str:
        """Return, as JSON, what a replica must agree on to read the same rows: name, dim, init and seed."""
        facts = {"name": self.name, "dim": self.dim, "init": tree(self.init), "seed": self.seed}
        return json.dumps(facts, sort_keys=True)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Clipping:
    """How often the clips of a table fired.

    Attributes:
        learned: Rows that learned, one per row and update.
        clipped: Those of them whose gradient was clipped.
    """

    learned: int
    clipped: int


@dataclass(frozen=True, slots=True)
class TableStats:
    """Numbers about a table.

    Attributes:
        rows: Rows present.
        bytes: Memory held by rows, map, filter and change history; never above `max_bytes`.
        admitted: Ids that `update` has given a row, ever (an id that returns counts again).
        filtered: Gradients dropped because their id had no row, ever; one per id and update.
        evicted: Rows removed by `evict` or for want of room, ever.
        load: Share of the map's places that are taken.
        pending: Ids that wait for admission with a count of their own; 0 with a sketch, which counts them together.
        capacity: Rows that fit into `max_bytes`; None: no bound.
        max_bytes: The budget; None: no bound.
        tier: Where the rows are; None: all in memory. `bytes` counts memory and file together.
    """

    rows: int
    bytes: int
    admitted: int
    filtered: int
    evicted: int
    load: float
    pending: int = 0
    capacity: int | None = None
    max_bytes: int | None = None
    tier: TierStats | None = None
