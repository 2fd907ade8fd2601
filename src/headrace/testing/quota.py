"""Less of a machine for one process: a share of a processor, a small disk, files that cannot grow."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.config import require
from headrace.errors import ClusterError
from headrace.testing.closing import Closing

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
BEAT_S = 0.02
COUNTER = itertools.count()


class CpuQuota(Closing):
    """A control group whose processes get so much of one processor's time; needs the right to make one (root).

    The period is 10 ms: with the usual 100 ms, short steps would run at full speed and stall now and then.

    Args:
        share: Processor seconds per second, all processes together.

    Raises:
        ClusterError: If there is no such control group here, or it may not be made.
    """

    def __init__(self, share: float) -> None:
        self._modern = (GROUPS / "cgroup.controllers").exists()
        places = [GROUPS] if self._modern else [GROUPS / "cpu", GROUPS / "cpu,cpuacct"]
        parent = next((place for place in places if place.is_dir()), None)
        if parent is None:
            raise ClusterError("CPU quota", got=f"no control groups at {GROUPS}", expected="cgroup v1 cpu, or v2")
        self._parent, self.folder = parent, parent / f"headrace-{os.getpid()}-{next(COUNTER)}"
        with _told("CPU quota"):
            self.folder.mkdir()
        try:
            self.set(share)
        except ClusterError:
            self.close()
            raise

    def set(self, share: float) -> None:
        """Change the share."""
        require(share >= 0.01, "share", got=share, expected="0.01 or more of a processor")
        quota = max(int(share * PERIOD_US), 1000)
        period = int(quota / share)  # a quota below 1 ms is refused: then the period is longer
        with _told("CPU quota"):
            if self._modern:
                (self.folder / "cpu.max").write_text(f"{quota} {period}")
            else:
                (self.folder / "cpu.cfs_period_us").write_text(str(period))
                (self.folder / "cpu.cfs_quota_us").write_text(str(quota))

    def add(self, pid: int) -> None:
        """Put a process, with all its threads, under the quota.

        Raises:
            ProcessLookupError: If there is no such process any more.
        """
        with _told("CPU quota"):
            (self.folder / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Let the processes go and remove the group."""
        if not self.folder.is_dir():
            return
        for _ in range(50):
            with contextlib.suppress(OSError):
                for pid in (self.folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(OSError):
                        (self._parent / "cgroup.procs").write_text(pid)
                self.folder.rmdir()
                return
            time.sleep(0.01)


class Throttle:
    """A process that gets a share of the time, by stopping and continuing it 50 times a second; needs no rights.

    Args:
        pid: The process.
        share: Of the time that it may run.
        held: Whether somebody else holds it stopped now, so that it must not be continued.
    """

    def __init__(self, pid: int, share: float, held: Callable[[], bool] = lambda: False) -> None:
        require(0 < share <= 1, "share", got=share, expected="above 0, up to 1")
        self.pid, self.share, self._held = pid, share, held
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="throttle", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the process run freely again."""
        self._ended.set()
        self._thread.join()
        self._go()

    def _go(self) -> None:
        if not self._held():
            send(self.pid, signal.SIGCONT)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S * self.share):
            if not send(self.pid, signal.SIGSTOP):
                return
            self._ended.wait(BEAT_S * (1.0 - self.share))
            self._go()


class SmallDisk(Closing):
    """A file system in memory of a given size, mounted on a folder, that can be filled up; needs root.

    Args:
        folder: Where; made if it is not there.
        size_bytes: How much fits.

    Raises:
        ClusterError: If it may not be mounted.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        require(size_bytes >= 1 << 16, "size_bytes", got=size_bytes, expected="at least 65,536")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ClusterError("Small disk", got=done.stderr.strip(), expected="a mounted file system", do="Be root.")

    def fill(self) -> None:
        """Leave no room: writes fail with ENOSPC."""
        with contextlib.suppress(OSError), (self.folder / ".ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Make room again."""
        (self.folder / ".ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount; what was on it is gone."""
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)


def limit_files(pid: int, limit_bytes: int | None) -> None:
    """Let no file of a running process grow beyond a limit (0: not at all), or (None) lift the limit.

    Writing more fails with EFBIG where a full disk gives ENOSPC; both are an `OSError`. A program that did not ignore
    SIGXFSZ is killed by it; Python does.
    """
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if limit_bytes is None else limit_bytes, hard))


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a process, and to its group if it leads one; whether it was there."""
    try:
        if os.getpgid(pid) == pid and pid != os.getpgrp():
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what the machine did not let us do."""
    try:
        yield
    except ProcessLookupError:
        raise
    except OSError as error:
        raise ClusterError(what, got=str(error), expected="the right to do this", do="Be root on Linux.") from error
