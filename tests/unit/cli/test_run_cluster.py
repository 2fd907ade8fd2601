"""The options of `headrace run --cluster` and `headrace demo --cluster`: what they mean, and what is refused."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from headrace.cli import demo, run
from headrace.cli.run_cluster import elastic_config, named_solution, placement
from headrace.elastic.demo import clicks, slow_for_a_while
from headrace.errors import ConfigError
from headrace.runtime import AntDtNd, LagScaling, solution_from_json


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return parser.parse_args(["headrace.elastic.demo:clicks", *words])


def test_the_command_line_becomes_settings() -> None:
    words = ["rows=500", "--cluster", "local", "--workers", "3", "--servers", "2", "--mode", "async", "--solution"]
    config = elastic_config(parsed(*words, "AntDtNd", "--checkpoint-every", "50", "--folder", "there"))
    assert (config.workers, config.servers, config.mode, config.checkpoint_every) == (3, 2, "async", 50)
    assert (config.recipe, config.settings) == ("headrace.elastic.demo:clicks", ("rows=500",))
    assert config.folder == Path("there")
    assert config.solution is not None
    assert solution_from_json(config.solution) == AntDtNd()
    assert not config.remote
    assert len(config.learned().data().train) == 400


def test_defaults_are_those_of_the_run() -> None:
    config = elastic_config(parsed("--cluster", "auto"))
    assert (config.workers, config.servers, config.mode, config.solution) == (2, 1, "sync", None)
    assert config.folder.parent == Path("runs")
    assert config.remote
    assert elastic_config(parsed("rows=7", "--cluster", "auto")).folder != config.folder


def test_gradients_are_added_where_slow_workers_can_be_left_out() -> None:
    assert elastic_config(parsed("--cluster", "local", "--solution", "AntDtNd")).sums == "gloo"
    assert elastic_config(parsed("--cluster", "local", "--solution", "BackupWorkers")).sums == "head"
    assert elastic_config(parsed("--cluster", "local", "--sums", "head")).sums == "head"
    with pytest.raises(ConfigError, match="--sums head"):
        elastic_config(parsed("--cluster", "local", "--solution", "BackupWorkers", "--sums", "gloo")).check()


def test_solutions_are_found_by_name() -> None:
    assert named_solution("LagScaling") == LagScaling()
    assert named_solution("headrace.runtime.solutions_nd:AntDtNd") == AntDtNd()
    with pytest.raises(ConfigError, match="AntDtNd"):
        named_solution("AntDt")
    with pytest.raises(ConfigError, match="can be imported"):
        named_solution("no.such.module:Thing")
    with pytest.raises(ConfigError):
        named_solution("Crew")


def test_places_are_read() -> None:
    assert placement(["worker=cpu:2,gpu:1", "head=run_disk"]).devices == {"worker": "cpu:2,gpu:1", "head": "run_disk"}
    with pytest.raises(ConfigError, match="ROLE=RESOURCES"):
        placement(["cpu:2"])
    with pytest.raises(ConfigError, match="'worker'"):
        placement(["wroker=cpu:2"])
    with pytest.raises(ConfigError, match="none, with --cluster local"):
        run.run(parsed("--cluster", "local", "--place", "worker=cpu:2"))


def test_staleness_is_bounded_where_nobody_waits() -> None:
    words = ["--cluster", "local", "--workers", "3", "--max-staleness", "4"]
    assert elastic_config(parsed(*words, "--mode", "async")).max_staleness == 4
    with pytest.raises(ConfigError, match="but with --mode async"):
        elastic_config(parsed(*words))


@pytest.mark.parametrize("words", [
    ("--workers", "2"), ("--place", "worker=cpu:1"), ("--mode", "sync"), ("--max-staleness", "0"),
])  # fmt: skip
def test_options_without_a_cluster_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="but with --cluster"):
        run.run(parsed(*words))


@pytest.mark.parametrize("words", [
    ("--search", "dim=8,16", "--cluster", "local"), ("--search", "dim=8,16", "--changes", "there"),
    ("--search", "dim=8,16", "--workers", "2"), ("--cluster", "local", "--changes", "there"),
    ("--cluster", "local", "--events-from", "there"),
])  # fmt: skip
def test_options_that_would_be_dropped_beside_another_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"none, with --(search|cluster)|nothing, but with --cluster"):
        run.run(parsed(*words))


@pytest.mark.parametrize(("words", "told"), [
    (("--workers", "8"), "--workers: got 8, expected nothing, but with --cluster"),
    (("--servers", "2"), "--servers: got 2, expected nothing, but with --cluster"),
    (("--cluster", "local", "--data", "movielens"), "--data: got 'movielens', expected auto or trivago, with"),
    (("--cluster", "local", "--data", "world"), "--data: got 'world', expected auto or trivago, with"),
    (("--cluster", "local", "--forever"), "--forever: got True, expected nothing, with --cluster"),
    (("--cluster", "local", "--seconds", "5"), "--seconds: got 5.0, expected nothing, with --cluster"),
])  # fmt: skip
def test_the_demo_refuses_what_it_would_drop(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(ConfigError, match=re.escape(told)):
        demo.run(parser.parse_args(["--folder", str(tmp_path / "demo"), *words]))
    assert not (tmp_path / "demo").exists()


def test_other_recipes_and_roles_are_refused() -> None:
    with pytest.raises(ConfigError, match="none, with --cluster"):
        run.run(parsed("--cluster", "local", "--role", "learner"))
    arguments = parsed("--cluster", "local")
    arguments.recipe = "headrace.online.demo:world"
    with pytest.raises(ConfigError, match="OnlineConfig"):
        elastic_config(arguments)


def test_the_demo_has_a_worker_that_is_slow_for_a_while() -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert parser.parse_args([]).cluster is None
    pattern = slow_for_a_while(row_s=0.001)
    assert pattern.worker_s(1, 100, 0.5) == pytest.approx(0.4)
    assert pattern.worker_s(1, 100, 0.9) == pattern.worker_s(0, 100, 0.5) == pytest.approx(0.1)


def test_invented_clicks_can_be_learned_and_are_the_same_again() -> None:
    first, again = clicks(rows=2000).data(), clicks(rows=2000).data()
    assert (len(first.train), len(first.valid), len(first.test)) == (1600, 200, 200)
    assert first.train.batch.labels.equal(again.train.batch.labels)
    assert 0.2 < float(first.train.batch.labels.mean()) < 0.5
    assert len(first.train.batch.example_ids.unique()) == 1600
