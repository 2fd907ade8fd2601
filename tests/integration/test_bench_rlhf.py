"""The language benchmark's figures, on a tiny model and without peers of their own environment."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from headrace.evaluate import ClaimRecord
from headrace.nn import CausalSettings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def rlhf(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("rlhf_benchmark", BENCHMARKS / "rlhf.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["rlhf_benchmark"] = module
    spec.loader.exec_module(module)
    tiny = CausalSettings(vocabulary=64, width=16, layers=1, heads=2, max_length=128)
    monkeypatch.setattr(module, "SIZES", {"1m": tiny})
    return module


def test_generation_has_its_figures(rlhf) -> None:
    pytest.importorskip("transformers", reason="the extra 'language' is not installed")
    record = ClaimRecord()
    rlhf.measure_generation(1, record)
    assert {f"generate_vs_transformers/batch_{rows}/1m" for rows in (1, 8, 64)} <= set(record.figures)
    assert record.figures["logprob_error"]["holds"] is True


def test_our_iteration_runs_without_the_peer(rlhf, monkeypatch) -> None:
    monkeypatch.setattr(rlhf, "TRL", BENCHMARKS / "nowhere")
    monkeypatch.setattr(rlhf, "PPO_ROWS", 8)
    rows = rlhf.measure_ppo(1, ClaimRecord())
    assert [row[0] for row in rows] == ["own critic", "shared trunk"]
    assert all(row[2] == "not installed" for row in rows)


def test_our_curve_rises_without_the_peer(rlhf, monkeypatch) -> None:
    monkeypatch.setattr(rlhf, "TRL", BENCHMARKS / "nowhere")
    record = ClaimRecord()
    rlhf.measure_curves(range(2), record, iterations=16)
    row = record.tables[0].rows[0]
    assert row[0] == "ours"
    assert float(row[-1].split()[0]) > float(row[1].split()[0]) + 0.03
    assert record.figures == {}


def test_the_result_is_recorded_and_printed_as_one_object(rlhf, monkeypatch, tmp_path, capsys) -> None:
    pytest.importorskip("transformers", reason="the extra 'language' is not installed")
    monkeypatch.setattr(sys, "argv", ["rlhf.py", "--quick", "--json", "--record", str(tmp_path / "rlhf.json")])
    assert rlhf.main() in {0, 3}
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "rlhf.json").read_text())
    assert {"command", "notes"} <= set(printed["settings"])
    assert "generate_vs_transformers/batch_8/1m" in printed["figures"]


@pytest.mark.live
@pytest.mark.timeout(1200)
def test_curves_of_both_lie_within_the_spread_of_seeds(rlhf) -> None:
    if not rlhf.TRL.exists():
        pytest.skip("TRL is not there: scripts/peers_rlhf.sh")
    record = ClaimRecord()
    rlhf.measure_curves(range(5), record)
    assert record.figures["ppo_curve_vs_trl"]["holds"]
