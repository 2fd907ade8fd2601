"""The head's process: the one that decides. It holds queue, members and controller, and answers everybody's calls.

It keeps nothing that a successor could not read from the run's folder, or be told by the workers and servers that live.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import asdict
from typing import Any

from headrace.elastic.calls import METHODS
from headrace.elastic.conductor import Conductor
from headrace.elastic.config import ElasticConfig
from headrace.elastic.job import SOURCE, Job
from headrace.elastic.membership import Membership
from headrace.elastic.recovery import Recovery
from headrace.elastic.relief import Relief
from headrace.elastic.server_side import ServerSide
from headrace.elastic.stream import Inflow
from headrace.elastic.turns import Result, Vote
from headrace.errors import HeadraceError, StoreError
from headrace.publish.durable_files import write_whole
from headrace.runtime.actions import Add, Remove, Restart, action_from_json, action_json
from headrace.runtime.controller import Controller, ControllerConfig, read_decisions
from headrace.runtime.frames import Reply, Request
from headrace.runtime.solutions import Static, solution_from_json
from headrace.runtime.wire import Server
from headrace.runtime.work_queue import ShardQueue

_log = logging.getLogger(__name__)
STATUS_S = 0.5
TICK_S = 0.05
LINGER_S = 10.0
"""How long a head whose run has ended waits for somebody to ask for the outcome."""


class Head:
    """The head of a synchronous run.

    Args:
        config: The run.
        secret: Of the run.
    """

    def __init__(self, config: ElasticConfig, secret: bytes) -> None:
        self.config, self.folder, self.job = config, config.folder, Job(config)
        self.queue = ShardQueue(self.folder / "queue.db", self.job.queue_config(), durability=config.durability)
        self.inflow = Inflow(self.queue, SOURCE, self.job.splits.train, self.job.fit.batch_rows)
        self.rows = self.inflow.rows(self.job.fit.epochs)
        solution = Static() if config.solution is None else solution_from_json(config.solution)
        settings = ControllerConfig(batch=self.job.fit.batch_rows, rows=self.rows)
        self.controller = Controller(solution, settings, log=self.folder / "decisions.jsonl")
        self.members = Membership(self.folder / "epoch.json", config.silence_s)
        self.servers = ServerSide(config.servers, self.job.tables, secret)
        self.recovery = Recovery(config.saved_in, self.servers, self.queue, config.checkpoint_every,
                                 dense_at_servers=config.mode == "async")  # fmt: skip
        self._recovering = threading.Lock()
        self.conductor: Any = self.conduct()
        self.report: dict[str, Any] | None = None
        self.began = time.time()
        self._steps = (self.folder / "steps.jsonl").open("a", encoding="utf-8", buffering=1)
        self._leader, self._seen_whole, self._address = "", False, ""
        self._stopped = threading.Event()
        self.relief = Relief(self.servers, self.controller, lambda: self.conductor.turn, lost=self._lost_buckets)

    def conduct(self) -> Any:
        """Return what decides about steps."""
        return Conductor(self.queue, self.members, self.controller, self.servers, begin_with=self.config.workers,
                         begin_s=self.config.start_s, on_commit=self._committed)  # fmt: skip

    def methods(self) -> dict[str, Any]:
        """Return what is answered, by name."""
        return {name: getattr(self, f"_answer_{name}") for name in METHODS if hasattr(self, f"_answer_{name}")}

    # Workers -------------------------------------------------------------------------------------------------------

    def _answer_enter(self, request: Request) -> dict[str, Any]:
        fields = request.fields
        self._wait_for_servers()
        return dict(self.conductor.enter(str(fields["worker"]), fields["told"], int(fields["step"])))

    def _answer_hand_over(self, request: Request) -> None:
        self.conductor.hand_over(int(request.fields["epoch"]), request.fields, request.arrays)

    def _answer_handed(self, request: Request) -> Reply:
        return Reply(*self.conductor.handed(int(request.fields["epoch"])))

    def _answer_beat(self, request: Request) -> dict[str, Any]:
        worker, now = str(request.fields["worker"]), time.monotonic()
        request.session["worker"] = worker
        with self.conductor.turn:
            if self.members.seen(worker, now):
                self.members[worker].told = {**self.members[worker].told, **request.fields}
        epoch = self.conductor.wait_for_change(int(request.fields["epoch"]), self.config.heartbeat_s)
        return {"epoch": epoch}

    def closed(self, session: dict[str, Any]) -> None:
        """Note that a connection has ended; that of a worker's agent ends with the worker."""
        worker = session.get("worker")
        if worker is not None and not self._stopped.is_set():
            self.conductor.left(worker, "its connection ended")

    def _answer_add(self, request: Request) -> Reply:
        fields = request.fields
        found = self.conductor.add(str(fields["worker"]), int(fields["epoch"]), int(fields["step"]),
                                   request.arrays["values"])  # fmt: skip
        if isinstance(found, dict):
            late: list[Result] = found["late"]
            arrays = {str(one.step): one.sums for one in late if one.sums is not None}
            return Reply({"late": [[one.step, one.rows] for one in late]}, arrays)
        return Reply({}, {"values": found})

    def _answer_vote(self, request: Request) -> dict[str, Any]:
        fields = request.fields
        vote = Vote(int(fields["rows"]), float(fields["seconds"]), int(fields["newest"]))
        return dict(self.conductor.vote(str(fields["worker"]), int(fields["epoch"]), int(fields["step"]), vote,
                                        int(fields["known"])))  # fmt: skip

    def _answer_plans(self, request: Request) -> dict[str, Any]:
        return dict(self.conductor.plans(str(request.fields["worker"]), int(request.fields["epoch"]),
                                         int(request.fields["known"])))  # fmt: skip

    def _answer_bad(self, request: Request) -> None:
        fields = request.fields
        rows = [(str(shard), int(fence), int(place), str(why)) for shard, fence, place, why in fields["rows"]]
        self.conductor.poison(str(fields["worker"]), int(fields["epoch"]), int(fields["step"]), rows,
                              str(fields["error"]))  # fmt: skip

    def _answer_saves(self, request: Request) -> dict[str, Any]:
        return {"save": self.recovery.wanted(int(request.fields["step"]))}

    def _answer_save(self, request: Request) -> None:
        self.recovery.deliver(int(request.fields["step"]), request.fields, request.arrays)

    def _answer_leave(self, request: Request) -> None:
        self.conductor.left(str(request.fields["worker"]), str(request.fields.get("reason", "it left")))

    # The end -------------------------------------------------------------------------------------------------------

    def _answer_farewell(self, request: Request) -> dict[str, Any]:
        """Return whether this worker makes the result; the others wait until it is made, or its maker is gone."""
        worker, whole = str(request.fields["worker"]), int(request.fields["step"]) == self.conductor.committed
        with self.conductor.turn:
            while self.report is None and self.conductor.failed is None:
                if whole and (not self._leader or self._leader not in self.members):
                    self._leader = worker
                    return {"leader": True}
                self.conductor.turn.wait(STATUS_S)
        return {"leader": False}

    def _answer_result(self, request: Request) -> None:
        with self.conductor.turn:
            self.report = dict(request.fields)
            write_whole(self.folder / "result.json", json.dumps(self.report, indent=2).encode())
            self.conductor.turn.notify_all()

    # Servers -------------------------------------------------------------------------------------------------------

    def _answer_buckets(self, request: Request) -> dict[str, Any]:
        self._wait_for_servers()  # a head that was started again is told of them in a moment
        return self.servers.record.fields()

    def _wait_for_servers(self) -> None:
        while not self.servers.ready and self.conductor.failed is None:
            time.sleep(TICK_S)

    def _answer_set_server(self, request: Request) -> None:
        told = request.fields
        if self.servers.set_server(int(told["number"]), str(told["address"]), str(told.get("process", ""))):
            self.meet_servers()

    def meet_servers(self) -> None:
        """Let new servers begin, or meet those that live; where they lack what was committed, go back."""
        with self._recovering:
            if self.servers.ready:
                return
            if not self.servers.begin(self.queue):
                self._go_back("a table server lost its tables")
            with self.conductor.turn:
                self.conductor.turn.notify_all()

    def _go_back(self, reason: str) -> None:
        """Bring servers, queue and workers to the newest checkpoint."""
        begun = time.monotonic()
        with self.conductor.turn:
            self.servers.ready = False
            step, fields, arrays = self.recovery.restore(sorted(self.servers.record.servers))
            self.conductor.go_back(step, fields, arrays)
            self.servers.ready = True
            self.members.forgive(time.monotonic())
        _log.warning("%s: everything went back to step %d in %.3f s", reason, step, time.monotonic() - begun)

    def _lost_buckets(self) -> None:
        with self._recovering:
            if self.servers.ready:
                self._go_back("buckets were lost on their way to another table server")

    # Orders --------------------------------------------------------------------------------------------------------

    def _answer_orders(self, request: Request) -> dict[str, Any]:
        with self.conductor.turn:
            return {"orders": [action_json(order) for order in self.controller.orders(Restart, Add, Remove)]}

    def _answer_ordered(self, request: Request) -> None:
        with self.conductor.turn:
            order = action_from_json(request.fields["order"])
            if isinstance(order, (Restart, Add, Remove)):
                self.controller.done(order, time.monotonic(), worked=bool(request.fields["worked"]))

    # What can be seen ----------------------------------------------------------------------------------------------

    def _committed(self, result: Result) -> None:
        line = {"step": result.step, "epoch": result.epoch, "rows": result.rows, "workers": list(result.workers),
                "time": time.time(), "monotonic": time.monotonic()}  # fmt: skip
        try:
            self._steps.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk: the line stays in the buffer and comes with a later one
            _log.warning("steps: %s", error)
        self.recovery.committed(result.step)

    def _answer_status(self, request: Request) -> dict[str, Any]:
        if self.report is not None and not self._seen_whole:
            self._write_status(self._address)  # whoever hears of the end may stop this process next
            self._seen_whole = True
        return self.status()

    def status(self) -> dict[str, Any]:
        """Return what people may want to see of the run: plain values."""
        conductor, now = self.conductor, time.monotonic()
        with conductor.turn:
            counts = self.queue.counts()
            shards = {name: getattr(counts, name) for name in counts.__dataclass_fields__}
            workers = []
            for name in self.members.names:
                member, plan = self.members[name], self.controller.plan(conductor.committed)
                workers.append({
                    "name": name, "heard_s": round(now - member.seen, 3), "batch_rows": plan.sizes.get(name),
                    "state": "silent" if now - member.seen > self.config.silence_s else "working",
                    "generation": member.told.get("generation"), "pid": member.told.get("pid"),
                    "step": member.told.get("step"),
                })  # fmt: skip
            known = {
                "name": self.job.fit.name, "mode": self.config.mode, "step": conductor.committed,
                "epoch": self.members.epoch, "finished": self.report is not None, "started": self.began,
                "rows": {"committed": counts.pending + counts.done, "all": self.rows},
                "workers": workers, "shards": shards,
                "error": None if conductor.failed is None else str(conductor.failed),
                "events": [asdict(event) for event in self.members.events[-20:]],
            }  # fmt: skip
        if self.inflow.lag is not None:
            known["lag"] = {SOURCE: self.inflow.lag}
        known["quarantined"] = [
            {"source": row.source, "epoch": row.epoch, "row": row.row, "error": row.error}
            for row in self.queue.quarantined()[:20]
        ]
        log = self.folder / "decisions.jsonl"
        known["decisions"] = list(read_decisions(log))[-20:] if log.is_file() else []
        known["servers"] = self.servers.stats() if self.servers.ready else []
        return known

    # Time ----------------------------------------------------------------------------------------------------------

    def run(self, wire: Server) -> None:
        """Watch over silence until the run has ended and everybody has gone."""
        last, written, ended, self._address = time.monotonic(), 0.0, time.monotonic(), wire.address
        self.relief.start()
        while not self._stopped.wait(min(self.config.heartbeat_s, STATUS_S) / 2):
            now = time.monotonic()
            try:
                self._watch(now, now - last)
            except StoreError as error:  # a full disk: what could not be noted is noted later
                _log.warning("not done yet: %s", error)
            last = now
            if now - written > STATUS_S:
                written = now
                self._write_status(wire.address)
            if self.report is None or len(self.members):
                ended = now
            elif self._seen_whole or now - ended > LINGER_S:
                break
        self._write_status(wire.address)

    def _watch(self, now: float, gap: float) -> None:
        with self.conductor.turn:
            if gap > self.config.silence_s / 2:
                self.members.forgive(now)  # this process stood still itself
            for worker in self.members.silent(now):
                self.conductor.left(worker, f"silent for more than {self.config.silence_s:g} s")
            self.inflow.look(now, self.controller)
            self.conductor.nudge()
            lost = self.servers.ready and self.conductor.homeless()
        if lost:
            with self._recovering:
                self._go_back("all workers were lost")

    def _write_status(self, address: str) -> None:
        folder = self.folder / "status"
        folder.mkdir(exist_ok=True)
        try:
            body = json.dumps(self.status() | {"address": address, "pid": os.getpid()}).encode()
            write_whole(folder / "cluster.json", body, sync=False)
        except (OSError, HeadraceError) as error:
            _log.warning("status: %s", error)

    def close(self) -> None:
        """Stop."""
        self._stopped.set()
        self.relief.close()
        self.servers.close()
        self._steps.close()
        self.queue.shut()
