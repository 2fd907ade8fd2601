"""Worker processes that share one model in memory forget a user at once, and keep the version that they have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headrace.data import IdFeature, JoinConfig, Schema
from headrace.data.subjects import UserColumns
from headrace.online import OnlineConfig, open_learner
from headrace.online.demo import DeepFMBuilder
from headrace.online.shared_serving import open_shared_serving, open_shared_view
from headrace.store.table import load_native
from headrace.types import Change, RowChange, Version

CONFIG = OnlineConfig(
    name="shared", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))), model=DeepFMBuilder((8,)),
    join=JoinConfig(window_s=5.0, lateness_s=1.0),
)  # fmt: skip
USERS = UserColumns.of(CONFIG.schema)


def version(number: int, value: float) -> Change:
    ids = torch.tensor(sorted(USERS.ids(name)[0] for name in ("ann", "bob")))
    rows = RowChange(ids, torch.full((2, 4), value), torch.zeros(0, dtype=torch.int64))
    first = open_learner(CONFIG).changes(Version(-1))
    return replace(first, version=Version(number, number - 1), tables={**first.tables, "user": rows}, full=not number)


@pytest.mark.skipif(load_native() is None, reason="shared memory needs the native module")
def test_a_row_is_gone_in_every_view_at_once() -> None:
    serving = open_shared_serving(CONFIG)
    serving.replica.apply(version(0, 0.5))
    view = open_shared_view(CONFIG, serving.space.folder, 0)[0].replica
    ann, bob = (torch.tensor(USERS.ids(name)) for name in ("ann", "bob"))

    def seen() -> tuple[int, float, float]:
        with view.reading() as held:
            table = view.tables["user"]
            return held.number, round(float(table.lookup(ann).mean()), 3), round(float(table.lookup(bob).mean()), 3)

    assert seen() == (0, 0.5, 0.5)
    serving.replica.forget({"user": ann})
    number, hers, his = seen()
    assert (number, his) == (0, 0.5)
    assert abs(hers) < 0.02, "what an id without a row reads"
    serving.replica.apply(version(1, 0.75))
    assert seen() == (1, hers, 0.75), "it stays out"
    serving.replica.remember({"user": ann})
    serving.replica.apply(version(2, 0.25))
    assert seen() == (2, 0.25, 0.25)
