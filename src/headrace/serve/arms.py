"""Several models, or versions of one, behind one address: one of them answers each request, and the log says which.

The arm of a unit (a request key, or a user) is a function of the unit, the salt and the shares: the same in every
process, and after a restart. Weighted rendezvous hashing decides, so that other shares move few units: with two arms
none but those that have to move.

Source:
    Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit Rates (1998); weights after Resch, New Hashing
    Algorithms for Data Storage (2015).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.config import known_name, require
from headrace.data.hashing import hash_text
from headrace.errors import ConfigError, VersionError
from headrace.evaluate.bootstrap import mixed
from headrace.publish.acknowledgements import Acknowledger
from headrace.publish.replica import ChangeSource
from headrace.serve.columns import Columns
from headrace.serve.experiment import KEY, MAIN, ExperimentConfig, ShareBook
from headrace.serve.follow import Follower
from headrace.serve.metrics import Reading
from headrace.serve.predictor import RankPredictor
from headrace.serve.refusals import Refusal
from headrace.serve.standing import standing_facts
from headrace.types import Events

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
ARM, ARM_PROPENSITY = "arm", "arm_propensity"
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Arm:
    """One served model.

    Attributes:
        name: In answers, in the log and in the experiment's shares.
        predictor: Who scores.
        follower: Keeps it at the newest version; None when somebody else does.
    """

    name: str
    predictor: RankPredictor
    follower: Follower | None = None

    @property
    def version(self) -> int:
        """The version that answers; -1 before the first."""
        return self.predictor.version.number

    def state(self) -> str:
        """Return how it is, in words."""
        if self.version < 0:
            return "waiting for the first version"
        if self.follower is not None and self.follower.error:
            return "serving an old version"
        return "serving"


class ServedModel(NamedTuple):
    """What an arm answers with.

    Attributes:
        predictor: Who scores.
        changes: Where its versions come from; None when somebody else applies them.
        acknowledger: Tells its publisher which version is served here; None: nobody is told.
    """

    predictor: RankPredictor
    changes: ChangeSource | None = None
    acknowledger: Acknowledger | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Further arms of a server beside its own model, which is the arm `main`.

    Attributes:
        arms: Name to model.
        config: How traffic is split between them and `main`.
        folders: Run folders of the arms: what is erased is erased there too.
    """

    arms: Mapping[str, ServedModel]
    config: ExperimentConfig
    folders: tuple[Path, ...] = ()


class Chosen(NamedTuple):
    """The arm that answers a unit, and the probability with which a unit gets it."""

    arm: Arm
    propensity: float


class Arms:
    """The arms of one server.

    Arms without a version take no traffic; the others then have it in the proportions of their shares, and that is
    what is logged. If none has one, `main` is asked, and says so.

    Args:
        main: The server's own model.
        experiment: Further arms, and how traffic is split; None: `main` has it all.
        columns: What requests look like; every arm must be able to read them.
        poll_s: Pause between two looks of a follower.

    Raises:
        ConfigError: If an arm reads other requests, or the split names no column.

    Thread-safety: may be used from any thread.
    """

    def __init__(
        self, main: Arm, experiment: Experiment | None = None, *, columns: Columns | None = None, poll_s: float = 0.005
    ) -> None:  # fmt: skip
        self.arms = [main]
        config = ExperimentConfig(shares={main.name: 1.0}) if experiment is None else experiment.config
        for name, model in ({} if experiment is None else experiment.arms).items():
            require(name not in self.names, f"Arm '{name}'", got="a second one", expected="every name once")
            if columns is not None:
                _check_columns(name, Columns(model.predictor.request_schema), columns)
            self.arms.append(Arm(name, model.predictor, _following(model, poll_s)))
        for name in self.names:
            known_name(f"Arm '{name}', share", name, list(config.shares))
        if columns is not None and config.split_by != KEY:
            known_name("split_by", config.split_by, [KEY, *columns.names])
        self.split_by, self.book = config.split_by, ShareBook(config)
        self._salts: tuple[str, list[int]] = "", []
        self._answered, self._lock = dict.fromkeys(self.names, 0), threading.Lock()

    @property
    def names(self) -> list[str]:
        """The arms, `main` first."""
        return [arm.name for arm in self.arms]

    def arm(self, name: str) -> Arm:
        """Return one arm; ConfigError when there is none of that name."""
        known_name("Arm", name, self.names)
        return next(arm for arm in self.arms if arm.name == name)

    def start(self) -> None:
        """Follow the versions of all arms but `main`, whose follower its service starts."""
        for arm in self.arms[1:]:
            if arm.follower is not None:
                arm.follower.start()

    def close(self) -> None:
        """End the following."""
        for arm in self.arms[1:]:
            if arm.follower is not None:
                arm.follower.stop()

    def propensities(self) -> Floats:
        """Return the probability with which a unit gets each arm now, (arms,)."""
        if len(self.arms) == 1:
            return np.ones(1)
        shares = self.book.shares()
        held = np.array([shares[arm.name] if arm.version >= 0 else 0.0 for arm in self.arms])
        if not held.any():
            held[0] = 1.0
        return np.asarray(held / held.sum())

    def choose(self, unit: str) -> Chosen:
        """Return who answers a unit.

        Example:
            >>> Arms(Arm("main", None)).choose("user-1").propensity  # type: ignore[arg-type]
            1.0
        """
        if len(self.arms) == 1:
            return Chosen(self.arms[0], 1.0)
        chances = self.propensities().tolist()
        code = rendezvous_one(hash_text(unit) & _MASK, self._salted(), chances)
        return Chosen(self.arms[code], chances[code])

    def split(self, units: Sequence[str]) -> tuple[Integers, Floats]:
        """Return the place of each unit's arm, (N,), and the probability with which a unit gets it, (N,)."""
        chances = self.propensities()
        if len(self.arms) == 1:
            return np.zeros(len(units), np.int64), np.ones(len(units))
        hashes = np.fromiter((hash_text(unit) for unit in units), np.int64, len(units)).view(np.uint64)
        codes = rendezvous(hashes, self._salted(), chances)
        return codes, chances[codes]

    def _salted(self) -> list[int]:
        """Return one salt per arm; another process may have begun an experiment with another one."""
        salt, found = self._salts
        if salt != self.book.salt:
            salt = self.book.salt
            found = [hash_text(f"{salt}\x1f{name}") & _MASK for name in self.names]
            self._salts = salt, found
        return found

    def predict(self, requests: Events) -> Events:
        """Return predictions row by row with `arm` and `arm_propensity`; all rows of a key are answered by one arm.

        Raises:
            SchemaError, VersionError, NumericError: As `RankPredictor.predict`.
        """
        if len(self.arms) == 1:
            return _named(self.arms[0].predictor.predict(requests), self.arms[0].name, 1.0)
        keys = requests.column("key").dictionary_encode()
        units = self._units(requests, keys)
        if len(units) == 1:  # one request
            arm, chance = self.choose(units[0])
            return _named(arm.predictor.predict(requests), arm.name, chance)
        of_key = np.asarray(keys.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
        codes, chances = (found[of_key] for found in self.split(units))
        parts, places = [], []
        for code in np.unique(codes).tolist():
            rows = np.flatnonzero(codes == code)
            mine = requests if len(rows) == len(requests) else requests.take(rows)
            arm = self.arms[code]
            parts.append(_named(arm.predictor.predict(mine), arm.name, float(chances[rows[0]])))
            places.append(rows)
        return parts[0] if len(parts) == 1 else Events.concat(parts).take(np.argsort(np.concatenate(places)))

    def _units(self, requests: Events, keys: pa.DictionaryArray) -> list[str]:
        """Return the unit of every distinct key: that of its first row, or the key where that row has none."""
        units: list[str] = keys.dictionary.to_pylist()
        if self.split_by == KEY or self.split_by not in requests.names:
            return units
        column = requests.column(self.split_by)
        if pa.types.is_list(column.type):
            raise ConfigError("split_by", got=f"a list column '{self.split_by}'", expected="one value per row")
        first = [0] if len(units) == 1 else np.unique(keys.indices.to_numpy(), return_index=True)[1]
        values = column.take(pa.array(first)).cast(pa.string()).to_pylist()
        return [key if value is None else value for key, value in zip(units, values, strict=True)]

    def count(self, predictions: Events) -> None:
        """Count the requests of an answer by arm, for `gauges`."""
        if len(self.arms) == 1:
            return
        if len(predictions.column("key").unique()) == 1:
            with self._lock:
                self._answered[predictions.column(ARM)[0].as_py()] += 1
            return
        found = pa.table({"arm": predictions.column(ARM), "key": predictions.column("key")}).group_by("arm")
        counts = found.aggregate([("key", "count_distinct")])
        with self._lock:
            for name, count in zip(counts["arm"].to_pylist(), counts["key_count_distinct"].to_pylist(), strict=True):
                self._answered[name] += count

    def gauges(self) -> Iterator[Reading]:
        """Yield what Prometheus is told, where there are several arms."""
        if len(self.arms) == 1:
            return
        chances = dict(zip(self.names, self.propensities().tolist(), strict=True))
        by_arm: dict[str, tuple[str, dict[str, float]]] = {
            "headrace_arm_version": ("The version that an arm answers with.", {a.name: a.version for a in self.arms}),
            "headrace_arm_share": ("Share of units that get an arm.", chances),
            "headrace_arm_requests": ("Requests that an arm answered.", dict(self._answered)),
        }
        for name, (text, values) in by_arm.items():
            yield name, text, [({"arm": arm}, float(value)) for arm, value in values.items()]

    def describe(self) -> dict[str, object]:
        """Return arms, shares and versions, as plain values for `GET /v1/models`."""
        shares, chances = self.book.shares(), self.propensities()
        return {"split_by": self.split_by,
                "arms": [_described(arm, shares[arm.name], float(chance))
                         for arm, chance in zip(self.arms, chances, strict=True)]}  # fmt: skip


def rendezvous(units: npt.NDArray[np.uint64], salts: Sequence[int], shares: Floats) -> Integers:
    """Return the place of each unit's arm, (N,): arm a with probability shares[a], over units.

    Args:
        units: Hashes, (N,) uint64.
        salts: One per arm.
        shares: One per arm; those of 0 get nothing.

    Example:
        >>> units = mixed(np.arange(100_000, dtype=np.uint64))
        >>> few, more = (rendezvous(units, [1, 2], np.array([1 - share, share])) for share in (0.1, 0.2))
        >>> round(float(few.mean()), 2), round(float(more.mean()), 2), int((few > more).sum())
        (0.1, 0.2, 0)
    """
    costs = np.full((len(shares), len(units)), np.inf)
    for arm, (salt, share) in enumerate(zip(salts, shares.tolist(), strict=True)):
        if share > 0:
            drawn = (mixed(units ^ np.uint64(salt)) >> np.uint64(11)).astype(np.float64)
            costs[arm] = -np.log((drawn + 0.5) * 2.0**-53) / share
    return np.asarray(np.argmin(costs, axis=0), dtype=np.int64)


def rendezvous_one(unit: int, salts: Sequence[int], shares: Sequence[float]) -> int:
    """Return the place of one unit's arm, as `rendezvous` does, without arrays.

    Example:
        >>> units = np.arange(1000, dtype=np.uint64)
        >>> many = rendezvous(units, [1, 2, 3], np.array([0.2, 0.3, 0.5])).tolist()
        >>> many == [rendezvous_one(unit, [1, 2, 3], [0.2, 0.3, 0.5]) for unit in range(1000)]
        True
    """
    best, found = math.inf, 0
    for arm, (salt, share) in enumerate(zip(salts, shares, strict=True)):
        if share > 0:
            z = ((unit ^ salt) + 0x9E3779B97F4A7C15) & _MASK
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
            cost = -math.log((((z ^ (z >> 31)) >> 11) + 0.5) * 2.0**-53) / share
            if cost < best:
                best, found = cost, arm
    return found


def check_min_version(version: int, wanted: int | None, arm: str = MAIN) -> None:
    """Refuse to answer with a version older than the client has seen.

    Raises:
        Refusal: 409, with `version` and `arm` in the body.
    """
    if wanted is not None and version < wanted:
        error = VersionError("min_version", got=f"version {version} of arm '{arm}'", expected=f"at least {wanted}",
                             do="Ask again in a moment, or ask another replica.")  # fmt: skip
        raise Refusal(409, error, more={"version": version, "arm": arm})


def _following(model: ServedModel, poll_s: float) -> Follower | None:
    if model.changes is None:
        return None
    return Follower(model.predictor.replica, model.changes, poll_s=poll_s, acknowledger=model.acknowledger)


def _named(predictions: Events, name: str, propensity: float) -> Events:
    rows = len(predictions)
    return predictions.with_columns({
        ARM: pa.repeat(pa.scalar(name, pa.string()), rows),
        ARM_PROPENSITY: pa.repeat(pa.scalar(propensity, pa.float32()), rows),
    })  # fmt: skip


def _described(arm: Arm, share: float, propensity: float) -> dict[str, object]:
    found: dict[str, object] = {"name": arm.name, "share": share, "propensity": propensity, "version": arm.version,
                                "parent": arm.predictor.version.parent, "state": arm.state()}  # fmt: skip
    if arm.follower is not None:
        found |= {"published": arm.follower.published, "lag_versions": arm.follower.lag}
        found |= standing_facts(arm.follower.source)
        if arm.follower.error:
            found["error"] = arm.follower.error
    return found


def _check_columns(name: str, mine: Columns, asked: Columns) -> None:
    """Raise unless an arm can read whatever passes as a request of `main`."""
    for column in mine.names:
        known_name(f"Arm '{name}', column '{column}'", column, asked.names)
        lacking = [kind for kind in asked.choices(column) if kind not in mine.choices(column)]
        if lacking:
            raise ConfigError(f"Arm '{name}', column '{column}'", got=f"{mine.choices(column)}",
                              expected=f"what requests may have: {asked.choices(column)}")  # fmt: skip
