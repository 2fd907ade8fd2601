"""`headrace inspect profile` says where a step's time goes: of a fit, of a stream, and of a run that was."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from headrace.cli.main import main
from headrace.data import IdFeature, Schema
from headrace.nn import DeepFM
from headrace.online import RunFolder, run_joiner, run_learner
from headrace.online.config import OnlineConfig
from headrace.online.demo import world
from headrace.ranking import FitConfig, InMemory, Network, Splits, fit_ranker
from headrace.testing.toy import Toy, ToyConfig

SCHEMA = Schema(features=(IdFeature("user", 4), IdFeature("item", 4)))
TOY = Toy(ToyConfig(users=16, items=16))
RECIPES = "profiled_recipes"
LEARNING = {"lookup", "forward", "backward", "table update", "dense update", "checks"}


@dataclass(frozen=True)
class Data:
    def __call__(self) -> Splits:
        rows = InMemory.from_events(TOY.events(0, 200), SCHEMA)
        return Splits(rows, rows, rows)


def offline(*, batch_rows: int = 16) -> FitConfig:
    return FitConfig(name="toy", data=Data(), schema=SCHEMA, model=Network(family=DeepFM, hidden=(8,)), epochs=1,
                     batch_rows=batch_rows)  # fmt: skip


def stream(*, requests: int = 200) -> OnlineConfig:
    return world(requests=requests, log=True, batch_rows=32, publish_every=64)


@pytest.fixture(autouse=True)
def _recipes(monkeypatch) -> None:
    module = ModuleType(RECIPES)
    module.offline, module.stream = offline, stream  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, RECIPES, module)


def profiled(capsys, *words: str) -> dict[str, object]:
    assert main(["inspect", "profile", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_fit_is_measured_from_its_data_on(capsys) -> None:
    facts = profiled(capsys, f"{RECIPES}:offline", "batch_rows=20", "--steps", "12")
    stages = facts["stages_ms"]
    assert facts["steps"] == 12
    assert set(stages) == LEARNING | {"wait", "other"}
    assert sum(stages.values()) == pytest.approx(facts["ms_per_step"])
    assert facts["examples_per_s"] == pytest.approx(20e3 / facts["ms_per_step"], rel=0.2)
    assert "read" in facts["beside_ms"]
    assert "read ahead" in facts["pipeline"]
    assert set(facts["micro_batches_ms"]) == {"1", "2", "4", "8"}


def test_a_stream_is_measured_part_by_part(capsys) -> None:
    facts = profiled(capsys, f"{RECIPES}:stream", "--steps", "8")
    assert facts["steps"] >= 8
    assert LEARNING | {"read", "predict", "join", "judge", "publish"} <= set(facts["stages_ms"])


def test_what_a_fit_has_counted_is_kept_with_it(capsys, tmp_path: Path) -> None:
    fit_ranker(offline(), tmp_path)
    facts = profiled(capsys, str(tmp_path))
    assert facts["steps"] == 13
    assert LEARNING | {"judge", "save"} <= set(facts["stages_ms"])


def test_what_a_learner_process_has_counted_is_in_its_status(capsys, tmp_path: Path) -> None:
    from headrace.errors import SourceEnded
    from headrace.online import close_events, open_log
    from headrace.online.layout import EVENTS

    config, folder = stream(requests=100), RunFolder(tmp_path)
    assert config.player is not None
    player, log = config.player(), open_log(config, folder, EVENTS)
    while True:
        try:
            requests = player.read(512)
        except SourceEnded:
            break
        answers = player.collect(requests, requests)
        for rows in (requests, answers):
            if rows is not None and len(rows):
                log.append(EVENTS, rows)
    close_events(config, folder)
    run_joiner(config, folder, lambda: False)
    run_learner(config, folder, lambda: False)
    facts = profiled(capsys, str(tmp_path))
    assert {"wait", "judge", "publish", "save"} <= set(facts["stages_ms"])
    assert {"read", "publish"} <= set(facts["beside_ms"])


def test_it_is_shown_to_people(capsys) -> None:
    assert main(["inspect", "profile", f"{RECIPES}:offline", "--steps", "3"]) == 0
    shown = capsys.readouterr().out
    for words in ("ms a step", "table update", "examples a second", "the reader alone", "in micro-batches"):
        assert words in shown


def test_what_cannot_be_profiled(capsys, tmp_path: Path) -> None:
    for words, said in (
        (["profile"], "a recipe or a run folder"), (["profile", str(tmp_path)], "no stage times"),
        (["profile", str(tmp_path), "a=1"], "a run folder alone"), (["profile", "nowhere:nothing"], "nowhere"),
        (["profile", f"{RECIPES}:offline", "--steps", "0"], "a positive integer"),
    ):  # fmt: skip
        assert main(["inspect", *words]) == 2
        assert said in capsys.readouterr().err
