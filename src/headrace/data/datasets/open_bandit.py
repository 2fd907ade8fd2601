"""Open Bandit: fashion items shown at three places of a page, with the probability of every choice, clicked or not.

Two policies ran side by side in one week of November 2019: `random` draws items evenly, `bts` (Bernoulli Thompson
sampling) draws good ones more often, and moves with what it learns. Each row is one item at one place. Of a policy's
log one learns what another policy would have earned, and the other log says whether that is right.

Source:
    Saito, Aihara, Matsutani and Narita, Open Bandit Dataset and Pipeline (2021). CC BY 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import known_name
from headrace.data.datasets.recorded import find_in, missing, read_table
from headrace.data.layout import Layout
from headrace.errors import DataError
from headrace.types import Events

Policy = Literal["random", "bts"]
POLICIES, CAMPAIGNS = ("random", "bts"), ("men", "women", "all")
ADDRESS = "https://research.zozo.com/data.html (a sample: github.com/st-tech/zr-obp, folder obd; CC BY 4.0)"
USER_FEATURES = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
COLUMNS = {"timestamp": "string", "item_id": "int64", "position": "int64", "click": "int64",
           "propensity_score": "float64", **dict.fromkeys(USER_FEATURES, "string")}  # fmt: skip
PLACES = 3

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditLog:
    """What one policy showed, and what came of it; in order of time.

    Attributes:
        policy: Who chose.
        campaign: Which page.
        path: File that was read.
        times: Event times, (N,) µs.
        items: Item shown, from 0, (N,).
        places: Place at which, from 0 (left), (N,).
        clicks: 0 or 1, (N,).
        propensities: Probability with which the policy showed this item at this place then, (N,).
        users: Four hashed features of the user, one column each.
    """

    policy: str
    campaign: str
    path: Path
    times: Integers
    items: Integers
    places: Integers
    clicks: Floats
    propensities: Floats
    users: pa.Table

    def __len__(self) -> int:
        return len(self.clicks)

    def shares(self, items: int) -> Floats:
        """Return how often each item was shown at each place: the policy on average over the log, (places, items)."""
        counts = np.bincount(self.places * items + self.items, minlength=PLACES * items).reshape(PLACES, items)
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    def examples(self) -> Events:
        """Return labelled rows: `item`, `position` (from 1), `propensity`, the user's features, `label`."""
        count = len(self)
        columns: dict[str, object] = {
            "key": [f"{self.policy}-{row}" for row in range(count)], "kind": pa.repeat("example", count),
            "event_time": self.times, "item": pa.array(self.items).cast(pa.string()),
            "position": pa.array((self.places + 1).astype(np.float32)),
            "propensity": pa.array(self.propensities.astype(np.float32)),
            "label": pa.array(self.clicks.astype(np.float32)),
            **{name: self.users[name].combine_chunks() for name in USER_FEATURES},
        }  # fmt: skip
        return Events.from_columns(columns)


def names(policy: str, campaign: str) -> tuple[str, ...]:
    """Return the names under which a log is looked for."""
    inside = f"{policy}/{campaign}/{campaign}.csv"
    return (f"openbandit_{policy}_{campaign}.csv", f"open_bandit_dataset/{inside}", f"obd/{inside}", inside)


def find(policy: Policy = "random", campaign: str = "men") -> Path | None:
    """Return the log of a policy in the data folder or the cache, or None."""
    known_name("Open Bandit, policy", policy, POLICIES)
    known_name("Open Bandit, campaign", campaign, CAMPAIGNS)
    return find_in(names(policy, campaign))


def load(policy: Policy = "random", campaign: str = "men", *, path: Path | None = None,
         rows: int | None = None) -> BanditLog:  # fmt: skip
    """Read the log of a policy.

    Args:
        policy: `random` or `bts`.
        campaign: `men`, `women` or `all`.
        path: The file; None: as `find` finds it.
        rows: Only the first so many rows of the file.

    Raises:
        ConfigError: If there is no such policy or campaign.
        DataError: If there is no file, or it is malformed.
    """
    found = path or find(policy, campaign)
    if found is None:
        raise missing(f"Open Bandit ({policy}, {campaign})", names(policy, campaign), ADDRESS)
    table = read_table(found, Layout(format="csv", types=dict(COLUMNS), keep=tuple(COLUMNS)), rows=rows)
    try:
        times = pc.cast(table["timestamp"], pa.timestamp("us", tz="UTC")).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"File {found}, timestamp", got=str(error)[:200], expected="2019-11-24 00:00:00+00:00"
        ) from error
    moments = np.asarray(times.to_numpy(), dtype=np.int64)
    order = np.argsort(moments, kind="stable")
    columns = {name: np.asarray(table[name].to_numpy())[order]
               for name in ("item_id", "position", "click", "propensity_score")}  # fmt: skip
    places = columns["position"].astype(np.int64) - 1
    if len(places) and not ((places >= 0) & (places < PLACES)).all():
        raise DataError(f"File {found}, position", got=int(columns["position"].min()), expected=f"1 to {PLACES}")
    return BanditLog(
        policy=policy, campaign=campaign, path=found, times=moments[order], items=columns["item_id"].astype(np.int64),
        places=places, clicks=columns["click"].astype(np.float64),
        propensities=columns["propensity_score"].astype(np.float64),
        users=table.select(list(USER_FEATURES)).take(pa.array(order)),
    )  # fmt: skip
