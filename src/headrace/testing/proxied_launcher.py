"""A launcher that puts a bad network between the processes that it starts, without their knowing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headrace.errors import HeadraceError
from headrace.testing.closing import Closing
from headrace.testing.fault_lab import Target
from headrace.testing.proxy import TcpProxy

PATIENCE_S = 60.0


class ProxiedLauncher(Closing):
    """Wraps a launcher: whoever asks for the address of a process gets that of a `TcpProxy` before it.

    Where such an address stands in the command or the environment of a process started later, that process gets a proxy
    of its own, so that it can be cut off from the others alone. `targets` are what a `FaultLab` needs. A process that
    is started again keeps its proxies. Connections that processes open to each other by themselves (torch.distributed)
    do not go through a proxy; for those there is `Network`.

    Args:
        inner: The launcher, one of `headrace.runtime`.

    Thread-safety: that of the launcher inside.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._before: dict[str, TcpProxy] = {}
        self._own: dict[tuple[str, str], TcpProxy] = {}
        self._lock = threading.RLock()

    def targets(self) -> dict[str, Target]:
        """Return every process that runs as a target of faults."""
        with self._lock:
            return {name: self.target(name) for name in self.inner.running()}

    def target(self, name: str) -> Target:
        """Return a process, also one that does not run yet, as a target of faults."""
        with self._lock:
            before = [self._before[name]] if name in self._before else []
            own = [proxy for (client, _), proxy in self._own.items() if client == name]
            return Target(pid=lambda: self.inner.pid(name), links=before, uplinks=own)

    def start(self, command: Any) -> None:
        """Start a process; addresses of proxies in its command become those of its own proxies."""
        words = tuple(self._translated(command.name, word) for word in command.words)
        variables = {key: self._translated(command.name, value) for key, value in command.environment.items()}
        self.inner.start(replace(command, words=words, environment=variables))
        if command.name in self._before:  # it will announce another port
            threading.Thread(target=self._follow, args=(command.name,), daemon=True).start()

    def address(self, name: str, timeout_s: float = PATIENCE_S) -> str:
        """Return the address of the proxy before a process that has announced itself."""
        found = _pair(self.inner.address(name, timeout_s))
        with self._lock:
            if name not in self._before:
                self._before[name] = TcpProxy(found).__enter__()
            self._retarget(name, found)
            return _text(self._before[name].address)

    def exits(self, timeout_s: float = 0.0) -> Sequence[Any]:
        """Return the ends not told yet, each once."""
        return list(self.inner.exits(timeout_s))

    def running(self) -> list[str]:
        """Return the names of the processes that live."""
        return list(self.inner.running())

    def pid(self, name: str) -> int | None:
        """Return a process's id; None when it does not run."""
        found: int | None = self.inner.pid(name)
        return found

    def signal(self, name: str, number: int) -> bool:
        """Send a signal; False when there was nobody to receive it."""
        return bool(self.inner.signal(name, number))

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        """End a process."""
        self.inner.stop(name, timeout_s)

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a process's log."""
        return str(self.inner.tail(name, lines))

    def close(self) -> None:
        """End every process and the network."""
        self.inner.close()
        with self._lock:
            for proxy in [*self._before.values(), *self._own.values()]:
                proxy.close()
            self._before, self._own = {}, {}

    def _follow(self, name: str) -> None:
        """Lead the proxies of a process that was started again to where it listens now."""
        try:
            found = _pair(self.inner.address(name, PATIENCE_S))
        except HeadraceError:
            return  # it died again; its next start is followed as well
        with self._lock:
            if name in self._before:
                self._retarget(name, found)

    def _retarget(self, name: str, found: tuple[str, int]) -> None:
        self._before[name].target = found
        for (_, server), proxy in self._own.items():
            if server == name:
                proxy.target = found

    def _translated(self, client: str, text: str) -> str:
        with self._lock:
            for server, proxy in list(self._before.items()):
                shown = _text(proxy.address)
                if shown in text:
                    key = (client, server)
                    if key not in self._own:
                        self._own[key] = TcpProxy(proxy.target).__enter__()
                    text = text.replace(shown, _text(self._own[key].address))
        return text


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
