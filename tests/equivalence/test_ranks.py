"""Tables over ranks: two and four processes learn what one learns, up to the rounding of sums."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

WORKER = Path(__file__).with_name("ranks_worker.py")
SIZES = (2, 4)


def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ranks_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Return what one process, two and four have learned, by `case-size`; and the bytes they sent."""
    folder, module = tmp_path_factory.mktemp("ranks"), worker()
    found = {f"{case}-1": module.run(None, case) for case in module.CASES}
    for size in SIZES:
        processes = [
            subprocess.Popen([sys.executable, str(WORKER), str(rank), str(size), str(folder / f"meet{size}"),
                              str(folder), ",".join(module.CASES)], stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"})
            for rank in range(size)
        ]  # fmt: skip
        for process in processes:
            _, errors = process.communicate(timeout=150)
            assert process.returncode == 0, errors[-2000:]
        for case in module.CASES:
            with np.load(folder / f"{case}-{size}.npz", allow_pickle=False) as arrays:
                found[f"{case}-{size}"] = dict(arrays)
        sent = [json.loads((folder / f"sent-{size}-{rank}.json").read_text()) for rank in range(size)]
        found[f"sent-{size}"] = {case: sum(each[case] for each in sent) for case in module.CASES}
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", ["sum", "mean"])
def test_ranks_learn_what_one_learns(learned, case, size) -> None:
    alone, together = learned[f"{case}-1"], learned[f"{case}-{size}"]
    assert alone.keys() == together.keys()
    for name, values in alone.items():
        if values.dtype == np.float32 or values.dtype == np.float64:
            np.testing.assert_allclose(together[name], values, rtol=2e-4, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(together[name], values, err_msg=name)


def test_the_case_is_not_trivial(learned) -> None:
    alone = learned["sum-1"]
    assert len(alone["second/user/removed"]) > 0  # something expired
    assert 0 < len(alone["first/item/ids"]) < 40  # something was not admitted
    assert np.abs(alone["second/user/rows"]).max() > 0.02  # something was learned
    assert not np.allclose(alone["second/user/rows"][:4], learned["mean-1"]["second/user/rows"][:4])


@pytest.mark.parametrize("size", SIZES)
def test_a_bad_loss_on_one_rank_is_refused_by_all_and_changes_nothing(learned, size) -> None:
    alone, together = learned["poisoned-1"], learned[f"poisoned-{size}"]
    assert alone["losses"][3] == together["losses"][3] == -1.0
    np.testing.assert_allclose(together["second/user/rows"], alone["second/user/rows"], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_narrow_wire_sends_less_and_stays_near(learned, size) -> None:
    assert learned[f"sent-{size}"]["bfloat16"] < learned[f"sent-{size}"]["sum"]
    exact, near = learned[f"sum-{size}"]["second/user/rows"], learned[f"bfloat16-{size}"]["second/user/rows"]
    assert 0 < np.abs(exact - near).max() < 0.1
