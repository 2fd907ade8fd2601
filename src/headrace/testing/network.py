"""Machines out of network namespaces: each with an address of its own, joined by a switch, on links as slow as told.

This is the kernel's own network, so everything that goes over a link is shaped or lost: also what cannot be led through
a proxy, such as the connections that torch.distributed opens between processes. It needs Linux, the commands `ip` and
`tc`, and the right to make namespaces (root); `probe_rights` says whether they are here.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Self

from headrace.config import known_name, require
from headrace.errors import ClusterError
from headrace.testing.closing import Closing
from headrace.testing.proxy import WAYS, Way

COUNTER = itertools.count()
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
DROP = "rate 8bit burst 10 limit 10"
"""No packet is as small as this bucket, so all are dropped."""


class Network(Closing):
    """Named nodes on one switch; as a context manager it leaves nothing behind.

    Args:
        nodes: Their names.
        bytes_per_s: Speed of every link, each way; None: as fast as the machine.
        subnet: First three parts of the addresses.

    Raises:
        ClusterError: If the machine does not let us, with what it said.
    """

    def __init__(self, nodes: Sequence[str], *, bytes_per_s: float | None = None, subnet: str = "10.213.7") -> None:
        require(0 < len(nodes) <= 200 and len(set(nodes)) == len(nodes), "nodes", got=list(nodes),
                expected="1 to 200 different names")  # fmt: skip
        for name in nodes:
            require(NAME.fullmatch(name) is not None, "node", got=name, expected="a-z, 0-9 and -")
        self.nodes, self.bytes_per_s, self.subnet = list(nodes), bytes_per_s, subnet
        self._mark = f"hr{os.getpid():x}-{next(COUNTER)}"
        self._speed: dict[tuple[str, Way], float | None] = {}
        self._held: set[tuple[str, Way]] = set()

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:  # Ctrl-C too leaves nothing behind
            self.close()
            raise
        return self

    def address(self, node: str) -> str:
        """Return the node's IPv4 address."""
        return f"{self.subnet}.{self.nodes.index(known_name('node', node, self.nodes)) + 1}"

    def command(self, node: str, command: Sequence[str]) -> list[str]:
        """Return a command that runs `command` on a node (same files, same processor, other network)."""
        return ["ip", "netns", "exec", self._space(known_name("node", node, self.nodes)), *command]

    def shape(self, node: str, bytes_per_s: float | None, way: Way | None = None) -> None:
        """Set the speed of a node's link, to it (`there`), from it (`back`) or (None) both; None: no limit."""
        require(bytes_per_s is None or bytes_per_s > 0, "bytes_per_s", got=bytes_per_s, expected="None or positive")
        for each in WAYS if way is None else (way,):
            self._speed[node, each] = bytes_per_s
            self._apply(node, each)

    def partition(self, node: str, way: Way | None = None) -> None:
        """Drop every packet to a node (`there`), from it (`back`) or (None) both, and tell nobody."""
        for each in WAYS if way is None else (way,):
            self._held.add((node, each))
            self._apply(node, each)

    def heal(self, node: str, way: Way | None = None) -> None:
        """End a node's partition, one way or (None) both; TCP sends again what was lost, up to seconds later."""
        for each in WAYS if way is None else (way,):
            self._held.discard((node, each))
            self._apply(node, each)

    def close(self) -> None:
        """Remove the nodes; processes that still run there keep a network without links."""
        for name in [*self.nodes, ""]:
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True, check=False)

    def _space(self, node: str) -> str:
        return f"{self._mark}-{node}" if node else self._mark

    def _build(self) -> None:
        switch = self._space("")
        _ip(f"netns add {switch}")
        _ip(f"-n {switch} link add name switch type bridge")
        _ip(f"-n {switch} link set switch up")
        for place, node in enumerate(self.nodes):
            space = self._space(node)
            _ip(f"netns add {space}")
            _ip(f"-n {space} link set lo up")
            _ip(f"link add name link0 netns {space} type veth peer name port{place} netns {switch}")
            _ip(f"-n {switch} link set port{place} master switch up")
            _ip(f"-n {space} address add {self.address(node)}/24 dev link0")
            _ip(f"-n {space} link set link0 up")
            if self.bytes_per_s is not None:
                self.shape(node, self.bytes_per_s)

    def _apply(self, node: str, way: Way) -> None:
        place = self.nodes.index(known_name("node", node, self.nodes))
        # What comes to a node leaves the switch by its port; what it sends leaves the node by its link.
        where = f"-n {self._space('')} qdisc {{}} dev port{place} root" if way == "there" else (
            f"-n {self._space(node)} qdisc {{}} dev link0 root")  # fmt: skip
        speed = self._speed.get((node, way))
        if (node, way) in self._held:
            _run("tc", f"{where.format('replace')} tbf {DROP}")
        elif speed is not None:
            burst = max(int(speed / 100), 4096)
            _run("tc", f"{where.format('replace')} tbf rate {int(speed * 8)}bit burst {burst} latency 200ms")
        else:
            command = ["tc", *where.format("del").split()]
            subprocess.run(command, capture_output=True, check=False)  # there may be none


def _ip(words: str) -> None:
    _run("ip", words)


def _run(program: str, words: str) -> None:
    require(shutil.which(program) is not None, program, got="no such program", expected="iproute2")
    done = subprocess.run([program, *words.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"{program} {words}", got=done.stderr.strip() or f"exit code {done.returncode}", expected="success",
            do="Network namespaces need Linux and root; without them use the faults in user space.",
        )  # fmt: skip
