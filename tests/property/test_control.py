"""Noise never makes the control flap, whatever its law and seed; plans stay exact under anything that happens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runtime.actions import AdjustBatch, MoveBuckets, Restart
from headrace.runtime.controller import Controller, ControllerConfig
from headrace.runtime.simulate_job import Overheads, SimulatedJob
from headrace.runtime.simulate_patterns import persistent_worker, transient_worker
from headrace.runtime.simulate_run import simulate
from headrace.runtime.solutions_nd import AntDtNd, RestartCost

ND = AntDtNd(restart=RestartCost(wait_s=1.0, stall_s=0.1))
JOB = SimulatedJob(rows=60_000, batch=400, overheads=Overheads(step_s=0.005, wait_s=1.0))


def drawn(law: str, spread: float, count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    if law == "uniform":
        return 1 + draw.uniform(-spread, spread, count)
    if law == "spikes":  # one batch in fifty takes five times as long
        return np.where(draw.random(count) < 0.02, 5.0, 1.0) * draw.lognormal(0, spread / 2, count)
    return draw.lognormal(0, spread, count)


@given(
    law=st.sampled_from(["lognormal", "uniform", "spikes"]), spread=st.floats(0.0, 0.25), workers=st.integers(2, 12),
    seed=st.integers(0, 10_000),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_noise_alone_changes_nothing(law, spread, workers, seed) -> None:
    controller = Controller(ND, ControllerConfig(batch=100 * workers))
    steps = 120
    noise = drawn(law, spread, steps * (workers + 2), seed).reshape(steps, workers + 2)
    for place in range(workers):
        controller.join(f"worker-{place}", "worker", 0.0)
    for place in range(2):
        controller.join(f"server-{place}", "server", 0.0)
    made = []
    for step in range(steps):
        for place, (name, rows) in enumerate(controller.plan(step).sizes.items()):
            controller.record_step(name, step, rows, rows * 0.001 * noise[step, place])
        for place in range(2):
            controller.record_requests(f"server-{place}", 100, 0.1 * noise[step, workers + place])
        made += controller.tick(float(step), step, rows_left=10_000_000)
    # nobody is slow: what a long run of bad luck may do once must not go on, and nobody is started again
    assert len(made) <= 2, [decision.reason for decision in made]
    assert not any(isinstance(decision.action, Restart) for decision in made)


@given(noise=st.floats(0.0, 0.2), seed=st.integers(0, 1000), factor=st.floats(2.5, 8.0))
@settings(max_examples=8, deadline=None)
def test_one_slow_worker_is_a_handful_of_changes(noise, seed, factor) -> None:
    pattern = persistent_worker(worker_row_s=0.001, factor=factor)
    result = simulate(replace(JOB, pattern=pattern, noise=noise, seed=seed), ND)
    kinds = [type(decision.action) for decision in result.decisions]
    assert 1 <= kinds.count(AdjustBatch) <= 6
    assert kinds.count(Restart) <= 1
    assert kinds.count(MoveBuckets) == 0


@given(noise=st.floats(0.0, 0.2), seed=st.integers(0, 1000), start=st.floats(0.1, 0.6))
@settings(max_examples=8, deadline=None)
def test_a_slow_while_is_followed_there_and_back(noise, seed, start) -> None:
    pattern = transient_worker(worker_row_s=0.001, start=start)
    own = AntDtNd(restart=RestartCost(tries=0))
    result = simulate(replace(JOB, pattern=pattern, noise=noise, seed=seed), own)
    sizes = [decision.action.sizes["worker-0"] for decision in result.decisions
             if isinstance(decision.action, AdjustBatch)]  # fmt: skip
    assert 2 <= len(sizes) <= 8
    assert min(sizes) < 55
    assert sizes[-1] > 75


EVENTS = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "step", "ask"]), st.integers(0, 5), st.floats(0.1, 10.0)),
    min_size=1, max_size=60,
)  # fmt: skip


@given(events=EVENTS, batch=st.integers(50, 500))
@settings(max_examples=60, deadline=None)
def test_the_batch_is_exact_and_no_plan_changes_once_it_was_told(events, batch) -> None:
    controller = Controller(ND, ControllerConfig(batch=batch))
    controller.join("worker-9", "worker", 0.0)
    told, step, now = {}, 0, 0.0
    for kind, place, value in events:
        name, now = f"worker-{place}", now + 1.0
        if kind in ("join", "leave"):
            controller.join(name, "worker", now) if kind == "join" else controller.leave(name, now)
            told = {}  # other members do these steps anew
        elif kind == "ask":
            told.setdefault(step + place, controller.plan(step + place))
        else:
            for each, rows in controller.plan(step).sizes.items():
                controller.record_step(each, step, rows, rows * (value if each == name else 1.0))
            controller.tick(now, step)
            step += 1
        for asked, plan in told.items():
            assert controller.plan(asked) == plan
        plan = controller.plan(step)
        assert sum(plan.sizes.values()) == batch
        assert set(plan.sizes) == set(controller.monitor.nodes("worker"))
