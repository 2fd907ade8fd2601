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
from headrace.elastic.gathering import heals
from headrace.elastic.job import SOURCE, Job
from headrace.elastic.membership import Membership
from headrace.elastic.recovery import Recovery
from headrace.elastic.relief import Relief
from headrace.elastic.server_side import ServerSide
from headrace.elastic.settings_file import RESULT, result_in
from headrace.elastic.stream import Inflow
from headrace.elastic.turns import Result, Vote
from headrace.errors import HeadraceError, StoreError
from headrace.publish.durable_files import write_whole
from headrace.runtime.actions import Add, NodeAction, Remove, Restart, action_json
from headrace.runtime.controller import Controller, ControllerConfig
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
        config.check(self.job.fit)
        self.queue = ShardQueue(self.folder / "queue.db", self.job.queue_config(), durability=config.durability)
        self.inflow = Inflow(self.queue, SOURCE, self.job.splits.train, self.job.fit.batch_rows)
        self.rows = self.inflow.rows(self.job.fit.epochs)
        solution = Static() if config.solution is None else solution_from_json(config.solution)
        settings = ControllerConfig(batch=self.job.fit.batch_rows, rows=self.rows, leaves_out=config.sums == "head")
        self.controller = Controller(solution, settings, log=self.folder / "decisions.jsonl")
        self.members = Membership(self.folder / "epoch.json", config.silence_s, sync=config.durability == "power")
        self._born = self.members.epoch
        self.servers = ServerSide(config.servers, self.job.tables, secret)
        self.recovery = Recovery(config.saved_in, self.servers, self.queue, config.checkpoint_every,
                                 dense_at_servers=config.mode == "async")  # fmt: skip
        self._recovering = threading.Lock()
        self.conductor: Any = self.conduct()
        self.report = result_in(self.folder)
        self.began = time.time()
        self._sessions: dict[str, dict[str, Any]] = {}
        self._ordered, self._orders = 0, dict[str, NodeAction]()
        self._mending: threading.Thread | None = None
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
        request.session["worker"], self._sessions[worker] = worker, request.session
        with self.conductor.turn:
            if self.members.seen(worker, now):
                self.members[worker].told = {**self.members[worker].told, **request.fields}
        epoch = self.conductor.wait_for_change(int(request.fields["epoch"]), self.config.heartbeat_s)
        return {"epoch": epoch}

    def closed(self, session: dict[str, Any]) -> None:
        """Note that a connection has ended; that of a worker's agent ends with the worker, unless it made another."""
        worker = session.get("worker")
        if worker is not None and self._sessions.get(worker) is session and not self._stopped.is_set():
            del self._sessions[worker]
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
        own = {"own": True} if fields.get("own") else {}
        self.conductor.poison(str(fields["worker"]), int(fields["epoch"]), int(fields["step"]), rows,
                              str(fields["error"]), **own)  # fmt: skip

    def _answer_saves(self, request: Request) -> dict[str, Any]:
        return {"save": self.recovery.wanted(int(request.fields["step"]))}

    def _answer_save(self, request: Request) -> None:
        self.recovery.deliver(int(request.fields["step"]), request.fields, request.arrays)

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
        made, path = dict(request.fields), self.folder / RESULT
        try:
            write_whole(path, json.dumps(made, indent=2).encode())
        except OSError as error:  # the worker asks again
            raise StoreError(f"Result {path}", got=str(error), expected="a file that can be written",
                             do="Look at the free space and the rights of its folder.") from error  # fmt: skip
        with self.conductor.turn:
            self.report = made
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
        number, address, process = int(told["number"]), str(told["address"]), str(told.get("process", ""))
        another = not self.servers.known(number, address, process)
        all_there = self.servers.set_server(number, address, process)
        if another:
            with self.conductor.turn:
                self.controller.join(f"server-{number}", "server", time.monotonic())
        if all_there:
            self.meet_servers()

    def meet_servers(self) -> None:
        """Let new servers begin, or meet those that live; where they lack what was committed, go back.

        Raises:
            HeadraceError: If they do not answer; the run ends with it where it would not help to try again.
        """
        with self._recovering:
            if self.servers.ready:
                return
            try:
                if not self.servers.begin(self.queue):
                    self._go_back("a table server lost its tables")
            except HeadraceError as error:
                if not heals(error):
                    self.conductor.fail(error)
                raise
            with self.conductor.turn:
                self.controller.shares = self.servers.shares()
                self.conductor.turn.notify_all()

    def _go_back(self, reason: str) -> None:
        """Bring servers, queue and workers to the newest checkpoint."""
        begun = time.monotonic()
        with self.conductor.turn:
            held = self.servers.hold()
            step, fields, arrays = self.recovery.restore(sorted(self.servers.record.servers))
            self.conductor.go_back(step, fields, arrays)
            self.controller.shares = self.servers.shares()
            self.servers.release(held)
            self.members.forgive(time.monotonic())
        _log.warning("%s: everything went back to step %d in %.3f s", reason, step, time.monotonic() - begun)

    def _lost_buckets(self) -> None:
        with self._recovering:
            if self.servers.ready:
                self._go_back("buckets were lost on their way to another table server")

    # Orders --------------------------------------------------------------------------------------------------------

    def _answer_orders(self, request: Request) -> dict[str, Any]:
        """Return what is to be done and was not said to be done; each has a number that no other head gives."""
        with self.conductor.turn:
            for order in self.controller.orders(Restart, Add, Remove):
                self._ordered += 1
                self._orders[f"{self._born}.{self._ordered}"] = order
            return {"orders": [{"number": number, "order": action_json(order)} for number, order in
                               self._orders.items()]}  # fmt: skip

    def _answer_ordered(self, request: Request) -> None:
        with self.conductor.turn:
            order = self._orders.pop(str(request.fields["number"]), None)
            if order is not None:
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
        known["decisions"] = list(self.controller.noted)
        known["servers"] = self.servers.heard() if self.servers.ready else []
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
            except HeadraceError as error:
                if not heals(error):
                    self.conductor.fail(error)
                else:  # a full disk: what could not be noted is noted later
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
        apart = not self.servers.ready and self.servers.complete()
        busy = self._mending is not None and self._mending.is_alive()
        if (lost or apart) and not busy and self.conductor.failed is None:
            self._mending = threading.Thread(target=self._mend, name="mend", daemon=True)
            self._mending.start()

    def _mend(self) -> None:
        """Go back, or meet the servers, where nobody does it; in a thread, for it may wait long for a server."""
        try:
            with self._recovering:
                if self.servers.ready and self.conductor.homeless():
                    self._go_back("all workers were lost")
            self.meet_servers()
        except HeadraceError as error:
            _log.warning("table servers: %s", error)
            if not heals(error):
                self.conductor.fail(error)
            self._stopped.wait(STATUS_S)

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
