"""An elastic run from the outside: starts its processes, keeps them alive, carries out orders, returns the report."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from headrace.config import require
from headrace.elastic.config import ElasticConfig
from headrace.elastic.settings_file import result_in
from headrace.errors import ClusterError, HeadraceError, WorkerLost
from headrace.runtime.actions import Add, Remove, Restart, action_from_json
from headrace.runtime.crew import Crew, RestartConfig
from headrace.runtime.frames import SECRET_VARIABLE
from headrace.runtime.launch import Launcher, RoleCommand
from headrace.runtime.local_launch import LocalLauncher
from headrace.runtime.wire import Connection, secret_of
from headrace.types import Report

_log = logging.getLogger(__name__)
LOOK_S = 0.1
STATUS_S = 0.5
HEAD = "head-0"
OnStatus = Callable[[Mapping[str, Any]], None]


def run_elastic(
    config: ElasticConfig, *, launcher: Launcher | None = None, stop: Callable[[], bool] | None = None,
    on_status: OnStatus | None = None, on_start: Callable[[Crew], None] | None = None,
    restarts: RestartConfig | None = None,
) -> Report:  # fmt: skip
    """Run to the end on processes that are started here, and ended whatever happens.

    A folder whose run was stopped goes on from its newest checkpoint, or begins anew where it has none. One whose run
    has ended starts nothing: what it came to is returned again.

    Args:
        config: The run.
        launcher: Starts the processes; None: on this machine.
        stop: Asked ten times a second; True ends the run where it stands.
        on_status: Told twice a second how the run stands.
        on_start: Told of the processes once they are started.
        restarts: When processes that died are started again.

    Returns:
        `job_s` (first to last step committed), `steps` (both of this start), validation and test figures, the audit of
        examples, CPU seconds by role, restarts; `settings` has the time of every step.

    Raises:
        ConfigError: If the settings do not fit the recipe, or the folder has the result of other ones.
        WorkerLost: If a process failed too often.
        HeadraceError: What ended the run.
    """
    made = config.ended()
    if made is not None:
        return _of_before(config, made)
    config.check()
    with contextlib.ExitStack() as stack:
        used = launcher or stack.enter_context(LocalLauncher(config.folder / "logs"))
        run = _Run(config, used, restarts)
        stack.callback(run.close)
        run.crew.start()
        if on_start is not None:
            on_start(run.crew)
        return run.follow(stop, on_status)


class _Run:
    """The processes of a run, and what is known of it here."""

    def __init__(self, config: ElasticConfig, launcher: Launcher, restarts: RestartConfig | None) -> None:
        config.write()
        self.config, self.launcher, self.began = config, launcher, time.monotonic()
        self.secret = secret_of(config.folder, create=True)
        counts = {"head": 1, "server": config.servers, "worker": config.workers}
        self.crew = Crew(launcher, self._command, counts, restarts)
        self.cpu_s: dict[str, dict[int, float]] = {}
        self.first_cpu_s: dict[str, float] | None = None
        self._head: tuple[str, Connection] | None = None
        self._address = ""
        self._told: dict[int, tuple[str, int | None, int | None]] = {}
        self._before, self._started = len(steps_of(config)), time.time()
        self._obeyed: dict[str, bool] = {}
        self._closing = threading.Event()

    def _command(self, role: str, index: int) -> RoleCommand:
        words = [sys.executable, "-m", "headrace.elastic", role, str(self.config.folder)]
        if role == "worker":
            words += ["--head", self._where()]
        environment = {**self.config.environment(), SECRET_VARIABLE: self.secret.decode()}
        return RoleCommand(
            name=f"{role}-{index}", role=role, words=tuple(words), environment=environment, warm="headrace.elastic.warm"
        )

    def _where(self) -> str:
        """Return the head's address; while it is being started again that of before, where it will listen again."""
        try:
            self._address = self.launcher.address(HEAD)
        except WorkerLost:
            if not self._address:
                raise
        return self._address

    def call(self, method: str, fields: Mapping[str, Any] | None = None, *, retry_s: float = 30.0) -> Mapping[str, Any]:
        """Call the head, wherever it is now."""
        address = self._where()
        if self._head is None or self._head[0] != address:
            if self._head is not None:
                self._head[1].close()
            self._head = (address, Connection(address, self.secret, 30.0, name="head"))
        return self._head[1].call(method, fields, retry_s=retry_s).fields

    def follow(self, stop: Callable[[], bool] | None, on_status: OnStatus | None) -> Report:
        """Watch until the run has ended."""
        looked, status = 0.0, dict[str, Any]()
        threading.Thread(target=self._tell_servers, name="servers", daemon=True).start()
        while True:
            for end in self.crew.poll(LOOK_S):
                _log.info("%s ended with status %d", end.name, end.code)
            self._measure(int(status.get("step", 0)))
            if stop is not None and stop():
                return self._report(status, whole=False)
            now = time.monotonic()
            if now - looked < STATUS_S and not status.get("finished"):
                continue
            looked = now
            try:
                status = dict(self.call("status", retry_s=0.0))
                self._carry_out()
            except WorkerLost as error:
                _log.info("no status: %s", error)
                status = self._last_word(status)
            else:
                if on_status is not None:
                    on_status(status)
            if status.get("error"):
                raise ClusterError("Run", got=str(status["error"]), expected="a run that goes on")
            if status.get("finished"):
                return self._report(status, whole=True)

    def _last_word(self, status: dict[str, Any]) -> dict[str, Any]:
        """Return how a head that has ended by itself left the run; while it runs, or is started again, what is known.

        Raises:
            ClusterError: If it has ended, and there is no result.
        """
        if HEAD in self.crew.running():
            return status
        path = self.config.folder / "status" / "cluster.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        if float(known.get("started", 0.0)) < self._started:  # of an earlier start
            known = status
        if not known.get("error") and result_in(self.config.folder) is None:
            raise ClusterError("Head", got="its end", expected="a result first",
                               do=f"The end of its log says:\n{self.launcher.tail(HEAD)}")  # fmt: skip
        return {**known, "finished": True}

    def _tell_servers(self) -> None:
        """Tell the head where servers listen: those that were started again, and a head that was."""
        problems: dict[str, str] = {}
        while not self._closing.wait(LOOK_S):
            for name in self.crew.names("server"):
                try:
                    self._tell_server(name)
                    problems.pop(name, None)
                except Exception as error:  # noqa: BLE001 - whatever it is, the others have to be told
                    text = f"{type(error).__name__}: {error}"
                    if problems.get(name) != text and not self._closing.is_set():
                        _log.warning("%s is not met yet: %s", name, text)
                    problems[name] = text

    def _tell_server(self, name: str) -> None:
        number, address = int(name.rpartition("-")[2]), self.launcher.address(name, timeout_s=1.0)
        now = (address, self.launcher.pid(name), self.launcher.pid(HEAD))
        if self._told.get(number) != now:
            self._call_aside("set_server", {"number": number, "address": address, "process": str(now[1])})
            self._told[number] = now

    def _call_aside(self, method: str, fields: Mapping[str, Any]) -> None:
        with Connection(self._where(), self.secret, 60.0, name="head") as connection:
            connection.call(method, fields, retry_s=30.0)

    def _carry_out(self) -> None:
        """Do what the controller has ordered, once: an order comes again until the head has heard that it is done."""
        for one in self.call("orders")["orders"]:
            number = str(one["number"])
            if number not in self._obeyed:
                self._obeyed[number] = self._obey(one["order"])
            self.call("ordered", {"number": number, "worked": self._obeyed[number]})

    def _obey(self, plain: Mapping[str, Any]) -> bool:
        """Return whether an order could be carried out."""
        order = action_from_json(plain)
        try:
            if isinstance(order, Restart):
                self.crew.restart(order.node, timeout_s=0.5)
            elif isinstance(order, Add):
                self.crew.add("worker", order.count)
            elif isinstance(order, Remove):
                self.crew.remove(order.nodes, timeout_s=0.5)
            else:
                return False
        except HeadraceError as error:
            _log.warning("order %s: %s", plain, error)
            return False
        return True

    def _measure(self, step: int) -> None:
        """Note the CPU seconds of every process, where all are this machine's."""
        if not self._where().startswith("127."):
            return
        for name in self.crew.running():
            pid = self.launcher.pid(name)
            seconds = None if pid is None else cpu_seconds(pid)
            if pid is not None and seconds is not None:
                self.cpu_s.setdefault(name, {})[pid] = seconds
        if step and self.first_cpu_s is None:
            self.first_cpu_s = self._by_role()

    def _by_role(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, processes in self.cpu_s.items():
            role = name.rpartition("-")[0]
            found[role] = found.get(role, 0.0) + sum(processes.values())
        return found

    def _report(self, status: Mapping[str, Any], *, whole: bool) -> Report:
        report = Report()
        steps = steps_of(self.config)[self._before :]
        times = [line["monotonic"] for line in steps]
        source = "run_elastic"
        report.add("steps", len(steps), source=source)
        report.add("total_s", time.monotonic() - self.began, unit="s", source="start of processes to report")
        if len(times) > 1:
            report.add("job_s", times[-1] - times[0], unit="s", source="first to last committed step")
            report.add("rows_per_s", sum(line["rows"] for line in steps[1:]) / max(times[-1] - times[0], 1e-9),
                       unit="examples/s", source=source)  # fmt: skip
        for role, seconds in self._by_role().items():
            report.add(f"cpu_s/{role}", seconds, unit="s", source="all processes of the role, imports included")
        report.add("restarts", sum(self.crew.restarts().values()), source=source)
        made = (result_in(self.config.folder) if whole else None) or {}
        _add_result(report, made)
        report.add("quarantined", status.get("shards", {}).get("quarantined", 0), source="the queue")
        since = self.first_cpu_s or {}
        report.settings |= {
            "step_s": [later - one for one, later in pairwise(times)], "status": dict(status),
            "cpu_s_learning": {role: seconds - since.get(role, 0.0) for role, seconds in self._by_role().items()},
            "restarts": self.crew.restarts(), "decisions": str(self.config.folder / "decisions.jsonl"),
            "audit": made.get("audit", {}), "config": {name: str(value) for name, value in asdict(self.config).items()},
        }  # fmt: skip
        if not whole:
            report.notes.append("stopped before its end; nothing was published")
        return report

    def close(self) -> None:
        """End everything."""
        self._closing.set()
        self.crew.stop()
        if self._head is not None:
            self._head[1].close()


def _add_result(report: Report, made: Mapping[str, Any]) -> None:
    """Add what the run came to: figures, and the audit of examples."""
    for name, value in made.get("figures", {}).items():
        report.add(name, value, source=f"after {made['steps']} steps")
    for name in ("lost", "doubled", "unknown"):
        if name in made.get("audit", {}):
            report.add(f"audit/{name}", made["audit"][name], source="the ledger in the tables")


def _of_before(config: ElasticConfig, made: Mapping[str, Any]) -> Report:
    """Return the report of a run that had ended before."""
    report = Report()
    report.add("steps", int(made["steps"]), source="run_elastic")
    _add_result(report, made)
    report.settings |= {"audit": made.get("audit", {}), "decisions": str(config.folder / "decisions.jsonl"),
                        "config": {name: str(value) for name, value in asdict(config).items()}}  # fmt: skip
    report.notes.append("this run had ended before: nothing was started. To learn again, give another folder")
    return report


def steps_of(config: ElasticConfig) -> list[dict[str, Any]]:
    """Return what was noted of every committed step: step, epoch, rows, workers, time (wall) and monotonic.

    Lines that a crash or a full disk has cut off are left out.
    """
    path = config.folder / "steps.jsonl"
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds that a process has taken; None where that cannot be told."""
    require(pid > 0, "pid", got=pid, expected="a process id")
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
