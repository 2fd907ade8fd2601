"""A run's version as a ranking policy: judged off a simulated log, against what the simulator knows to be true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.cli.main import main
from headrace.data import MemorySource, example_ids
from headrace.data.log import EmbeddedLog
from headrace.errors import DataError
from headrace.evaluate import OffPolicy, ranking_target
from headrace.feedback import World, WorldConfig
from headrace.online import RunFolder
from headrace.online.demo import world
from headrace.online.offline import newest_predictor
from headrace.online.policy import judge_ranking
from headrace.types import Events

LEARNED, JUDGED = 600, 2600
RECIPE = ["headrace.online.demo:world", f"requests={LEARNED}", "log=true", "publish_every=512"]
WORLD = World(WorldConfig(seed=0, requests=JUDGED, candidates=10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("policy") / "run"
    assert main(["run", *RECIPE, "--folder", str(path), "--json"]) == 0
    return RunFolder(path)


@pytest.fixture(scope="module")
def rows() -> Events:
    """Labelled lists of the same world's log, of requests that the run has not learned from."""
    log = Events.concat(list(World(WORLD.config).stream(400)))
    clicks = log.of_kind("click")
    clicked = set(example_ids(clicks.column("key"), clicks.column("item")).tolist())
    shown = log.of_kind("impression").slice(LEARNED * 10)
    ids = example_ids(shown.column("key"), shown.column("item"))
    labels = pa.array([float(one in clicked) for one in ids.tolist()], pa.float32())
    return shown.with_columns({"label": labels, "kind": pa.array(["example"] * len(shown))})


CONFIG = world(requests=LEARNED, log=True, publish_every=512)


def source(rows: Events) -> MemorySource:
    return MemorySource([rows])


def test_the_estimate_holds_the_truth(folder: RunFolder, rows: Events) -> None:
    found = judge_ranking(CONFIG, folder, source(rows))
    assert not found.reasons
    scores = newest_predictor(CONFIG, folder).predict(rows).column("score").to_numpy(zero_copy_only=False)
    target = ranking_target(scores, rows.column("key"), rows.column("position").to_numpy(zero_copy_only=False))
    placed = rows.with_columns({"position": pa.array(target.places.astype(np.float32))})
    truth = WORLD.true_probability(placed).mean()
    logged = WORLD.true_probability(rows).mean()
    for name in ("ips", "snips", "dr"):
        assert found[name].low < truth < found[name].high, name
    assert found["logged"].low < logged < found["logged"].high
    assert found.gains["dr"].low < truth - logged < found.gains["dr"].high
    assert found["dr"].error < found["ips"].error  # the model is good for something


def test_the_model_stands_at_the_places_of_the_judged_policy(folder: RunFolder, rows: Events) -> None:
    """DM by hand: each list's items at their own new places; its mean does not depend on the order of rows."""
    found = judge_ranking(CONFIG, folder, source(rows))
    mixed = judge_ranking(CONFIG, folder, source(rows.take(np.random.default_rng(0).permutation(len(rows)))))
    for name in ("dm", "dr", "ips"):
        assert mixed[name].value == pytest.approx(found[name].value, rel=1e-6)
    predictor = newest_predictor(CONFIG, folder)
    places = ranking_target(predictor.predict(rows).column("score").to_numpy(zero_copy_only=False), rows.column("key"),
                            rows.column("position").to_numpy(zero_copy_only=False)).places  # fmt: skip
    moved = predictor.predict(rows.with_columns({"position": pa.array(places.astype(np.float32))}))
    assert found["dm"].value == pytest.approx(
        float(np.mean(moved.column("score_logged").to_numpy(zero_copy_only=False))), rel=1e-5
    )


def test_a_shuffling_policy_needs_no_model(folder: RunFolder, rows: Events) -> None:
    shuffled = judge_ranking(CONFIG, folder, source(rows), explore=1.0)
    assert "dr" not in shuffled.figures
    truth = np.mean([WORLD.true_probability(rows, position=float(place)).mean() for place in range(1, 11)])
    assert shuffled["snips"].low < truth < shuffled["snips"].high


def test_what_was_learned_from_is_no_judge(folder: RunFolder, rows: Events) -> None:
    found = judge_ranking(CONFIG, folder, source(rows), learned=True)
    assert found.verdict.startswith("cannot conclude: the version has learned")
    parts = rows.with_columns({"policy": pa.array(["epsilon-greedy"] * len(rows))})
    assert "what /v1/recommend showed" in judge_ranking(CONFIG, folder, source(parts)).verdict


def test_rows_that_cannot_be_used(folder: RunFolder, rows: Events) -> None:
    for changed, what in (
        (Events(rows.batch.drop_columns(["propensity"])), "propensity"),
        (rows.with_columns({"sample_rate": pa.array(np.full(len(rows), 0.5, np.float32))}), "sample_rate"),
        (rows.slice(1), "Lists"),
    ):
        with pytest.raises(DataError, match=what):
            judge_ranking(CONFIG, folder, source(changed))


def test_the_command_line(folder: RunFolder, rows: Events, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedLog(tmp_path / "examples.db", durability="process") as log:
        log.append("examples", rows)
    words = ["evaluate", *RECIPE, "--folder", str(folder.root), "--policy", "greedy", "--input", str(tmp_path)]
    capsys.readouterr()
    assert main([*words, "--json", "--clip", "20", "--test", "bootstrap"]) == 0
    said = json.loads(capsys.readouterr().out)
    expected = judge_ranking(CONFIG, folder, source(rows), how=OffPolicy(clip=20.0, interval="bootstrap"))
    assert said["figures"]["clipped_dr"]["value"] == pytest.approx(expected["clipped_dr"].value)
    assert main([*words, "--groups", "user"]) == 0
    assert "as a policy (greedy)" in capsys.readouterr().out
    assert main([*words, "--slices", "user"]) == 2
    assert main([*words[:-4], "--policy", "best", "--input", str(tmp_path)]) == 2
