"""A stream that runs away from one worker: others are added by its lag, and every example is learned once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from headrace.data import EmbeddedLog
from headrace.elastic import ElasticConfig, run_elastic
from headrace.runtime import LagScaling, LocalLauncher, Pattern, solution_json
from headrace.testing.toy import Toy, ToyConfig

SHOP = """
from headrace.data import IdFeature, JoinConfig, Schema
from headrace.nn import DeepFM
from headrace.online import OnlineConfig
from headrace.ranking import Network


def shop() -> OnlineConfig:
    return OnlineConfig(
        name="shop", schema=Schema(features=(IdFeature("user", 4), IdFeature("item", 4))), batch_rows=64,
        model=Network(family=DeepFM, hidden=(8,)), join=JoinConfig(window_s=60.0, lateness_s=1.0),
    )
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_workers_are_added_by_the_lag_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_recipe.py").write_text(SHOP)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.syspath_prepend(str(tmp_path))
    log = EmbeddedLog(tmp_path / "examples.db")
    log.append("examples", Toy(ToyConfig()).events(0, 8_000))
    log.close_topic("examples")
    folder, seen, lags = tmp_path / "run", set[str](), list[int]()

    def on_status(status: Any) -> None:
        seen.update(worker["name"] for worker in status["workers"])
        lags.append(status["lag"]["train"])

    words = ("recipe=shop_recipe:shop", f"log={log.path}", "held_rows=200")
    config = ElasticConfig(
        recipe="headrace.elastic.stream:examples", settings=words, folder=folder, workers=1, servers=1, publish=False,
        pattern=Pattern(worker_row_s=0.01), solution=solution_json(LagScaling(target_s=5.0, workers_max=3)),
    )  # fmt: skip
    with LocalLauncher(folder / "logs", environment={"PYTHONPATH": path}) as launcher:
        report = run_elastic(config, launcher=launcher, on_status=on_status)
    assert len(seen) >= 2
    assert lags[0] > lags[-1] == 0
    audit: Any = report.settings["audit"]
    assert (audit["learned"], audit["lost"], audit["doubled"]) == (7_800, 0, 0)
