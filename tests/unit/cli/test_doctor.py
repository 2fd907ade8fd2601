from __future__ import annotations

import json

import pytest
import torch

from headrace.cli import doctor
from headrace.cli.main import main
from headrace.store import SGD, ReferenceTable
from headrace.store.table import load_native


@pytest.fixture
def findings():
    return {finding.name: finding for finding in doctor.examine()}


def test_everything_is_looked_at(findings) -> None:
    wanted = {"python", "torch", "arrow", "disk tier", "native table", "compiler", "data", "kafka", "cluster", "cuda",
              "language", "cores", "memory", "disk", "network"}  # fmt: skip
    assert wanted <= set(findings)


def test_states_are_known_and_what_is_lacking_comes_with_advice(findings) -> None:
    for finding in findings.values():
        assert finding.state in {"ok", "limited", "missing"}
        if finding.state != "ok" and not finding.name.startswith(("cuda", "data:")):
            assert finding.do


def test_this_machine_is_usable(capsys) -> None:
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["usable"] is True
    assert all(set(finding) == {"name", "state", "found", "do"} for finding in said["findings"])


def test_people_get_a_table(capsys) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "python" in printed
    assert "This machine can run Headrace." in printed


def test_data_folder_that_is_none_is_missing(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path / "nowhere"))
    data = [finding for finding in doctor.examine() if finding.name == "data"]
    assert [finding.state for finding in data] == ["missing"]


def test_each_data_set_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    names = {finding.name: finding.state for finding in doctor.examine()}
    for dataset in ("trivago", "movielens", "criteo", "avazu"):
        assert names[f"data: {dataset}"] == "limited"


def test_a_look_that_fails_is_a_finding(monkeypatch) -> None:
    def broken() -> list[doctor.Finding]:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "_machine", broken)
    machine = [finding for finding in doctor.examine() if finding.name == "machine"]
    assert machine[0].state == "missing"
    assert "no such thing" in machine[0].found


def test_self_check_notices_a_table_that_learns_otherwise(monkeypatch) -> None:
    class Wrong(ReferenceTable):
        def update(self, ids, grads, counts, times) -> None:
            super().update(ids, grads * 1.01, counts, times)

    monkeypatch.setattr(doctor, "native_class", lambda: Wrong)
    assert SGD.__name__ in (doctor.native_difference() or "")


def test_self_check_is_silent_on_equal_tables(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "native_class", lambda: ReferenceTable)
    assert doctor.native_difference() is None


def test_cores_and_memory_are_positive() -> None:
    assert doctor.available_cores() >= 1
    assert doctor.memory_bytes() > 2**26


def finding(name: str, state: str = "ok") -> doctor.Finding:
    return doctor.Finding(name, state, "")


def test_what_runs_says_which_log_the_demo_plays() -> None:
    with_log = [finding("native table"), finding("data: movielens")]
    assert doctor.what_runs(with_log)["headrace demo"] == "on the movielens log"
    assert doctor.what_runs([*with_log, finding("data: trivago")])["headrace demo"] == "on the trivago log"
    assert "simulated" in doctor.what_runs([finding("native table")])["headrace demo"]


def test_what_runs_says_what_is_slow_and_what_is_lacking() -> None:
    runs = doctor.what_runs([finding("data: trivago"), finding("kafka", "limited")])
    assert "slowly" in runs["headrace demo"]
    assert runs["headrace papers run … --size small"] == "lacks data: criteo, movielens"
    assert runs["events from Kafka"].startswith("no")


def test_the_native_table_is_named_with_its_kernels_and_threads(findings) -> None:
    native = findings["native table"]
    if native.state != "ok":
        pytest.skip("no native table here")
    assert load_native().kernels() in {"portable", "avx2", "avx512"}
    assert f"{load_native().kernels()} kernels" in native.found
    assert f"{torch.get_num_threads()} thread" in native.found
