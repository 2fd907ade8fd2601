"""What a table is made of (`TableConfig`) and what it tells about itself (`TableStats`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from headrace.config import require, tree
from headrace.protocols import RowTransform
from headrace.store.admission import Admission, AdmitAll, AdmitCount, AdmitProbability
from headrace.store.hashing import key_of
from headrace.store.initial import InitialRow, Uniform
from headrace.store.row_rules import Adagrad, RowRule

MAX_DIM = 65_536


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

    def __post_init__(self) -> None:
        require(bool(self.name), "TableConfig.name", got=self.name, expected="a name that is not empty")
        require(_whole(self.dim) and 1 <= self.dim <= MAX_DIM, f"TableConfig.dim of table '{self.name}'", got=self.dim,
                expected=f"an integer from 1 to {MAX_DIM}")  # fmt: skip
        require(isinstance(self.rule, RowRule), "TableConfig.rule", got=self.rule, expected="SGD, Adagrad, Adam, FTRL",
                do="A rule of your own has slot_count, fresh_slots and step.")  # fmt: skip
        require(callable(self.init), "TableConfig.init", got=self.init, expected="Zeros, Constant, Uniform or Normal")
        require(_whole(self.seed) and 0 <= self.seed < 2**63, "TableConfig.seed", got=self.seed,
                expected="an integer from 0 to 2^63 - 1")  # fmt: skip
        require(isinstance(self.admission, (AdmitAll, AdmitCount, AdmitProbability)), "TableConfig.admission",
                got=self.admission, expected="AdmitAll, AdmitCount or AdmitProbability")  # fmt: skip
        require(self.ttl_s is None or self.ttl_s > 0, "TableConfig.ttl_s", got=self.ttl_s, expected="seconds or None")
        require(all(callable(item) for item in self.transforms), "TableConfig.transforms", got=self.transforms,
                expected="a tuple of row transforms")  # fmt: skip

    @property
    def row_key(self) -> int:
        """The 64-bit key that initial rows are drawn from."""
        return key_of(self.seed, self.name, "row")

    @property
    def admission_key(self) -> int:
        """The 64-bit key that admission by probability draws from."""
        return key_of(self.seed, self.name, "admission")

    def spec(self) -> str:
        """Return, as JSON, what a replica must agree on to read the same rows: name, dim, init and seed."""
        facts = {"name": self.name, "dim": self.dim, "init": tree(self.init), "seed": self.seed}
        return json.dumps(facts, sort_keys=True)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class TableStats:
    """Numbers about a table.

    Attributes:
        rows: Rows present.
        bytes: Memory held by rows, map, filter and change history.
        admitted: Ids that `update` has given a row, ever (an id that returns counts again).
        filtered: Gradients dropped because their id had no row, ever; one per id and update.
        evicted: Rows removed by `evict`, ever.
        load: Share of the map's places that are taken.
        pending: Ids that wait for admission with a count.
    """

    rows: int
    bytes: int
    admitted: int
    filtered: int
    evicted: int
    load: float
    pending: int = 0
