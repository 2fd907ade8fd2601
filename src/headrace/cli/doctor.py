"""Say what this machine can run, and what to do about what it cannot."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from headrace.cli.output import console, human_bytes, print_json

if TYPE_CHECKING:
    from headrace.store.checked import CheckedTable

NAME = "doctor"
HELP = "what this machine can run"
OK, LIMITED, MISSING = "ok", "limited", "missing"
EXTRAS = {
    "kafka": ("confluent_kafka", "events from and to Kafka"),
    "cluster": ("ray", "several machines"),
    "language": ("transformers", "language models"),
}
NEEDED_MEMORY_BYTES = 3 * 1024**3
NEEDED_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: its state (`ok`, `limited`, `missing`), what was found, and what to do about it."""

    name: str
    state: str
    found: str
    do: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; exit code 1 when something that every verb needs is missing."""
    findings = examine()
    usable = all(finding.state != MISSING for finding in findings if finding.name in {"python", "torch", "arrow"})
    runs = what_runs(findings) if usable else {}
    if arguments.json:
        print_json({"usable": usable, "runs": runs, "findings": [asdict(finding) for finding in findings]})
        return 0 if usable else 1
    table = Table(box=None, show_header=False)
    for column in ("state", "name", "found"):
        table.add_column(column, overflow="fold")
    colours = {OK: "green", LIMITED: "yellow", MISSING: "red"}
    for finding in findings:
        advice = f"\n[dim]{escape(finding.do)}[/dim]" if finding.do else ""
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.name, escape(finding.found) + advice)
    console().print(table)
    console().print("\nThis machine can run Headrace." if usable else "\nThis machine cannot run Headrace yet.")
    for command, how in runs.items():
        console().print(f"  {command:<38} {how}")
    return 0 if usable else 1


def what_runs(findings: list[Finding]) -> dict[str, str]:
    """Return commands with how they run on this machine: on which data, how fast, or what they lack."""
    good = {finding.name for finding in findings if finding.state == OK}
    logs = [name for name in ("trivago", "movielens") if f"data: {name}" in good]
    lacking = [name for name in ("trivago", "criteo", "movielens") if f"data: {name}" not in good]
    pace = "" if "native table" in good else ", slowly (no native table)"
    played = f"on the {logs[0]} log" if logs else "on MovieLens if it can be downloaded, else simulated"
    return {
        "headrace demo": played + pace,
        "headrace run|serve|predict|evaluate": "yes" + pace,
        "headrace papers run … --size toy": "yes" + pace,
        "headrace papers run … --size small": f"lacks data: {', '.join(lacking)}" if lacking else "yes" + pace,
        "events from Kafka": "yes" if "kafka" in good else "no: pip install 'headrace[kafka]'",
    }


def examine() -> list[Finding]:
    """Return one finding per thing looked at; never raises: what cannot be looked at is a finding too."""
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", _python), ("packages", _packages), ("native table", _native), ("compiler", _compiler),
        ("data", _data), ("extras", _extras), ("cuda", _cuda), ("machine", _machine), ("port", _port),
    ]  # fmt: skip
    findings: list[Finding] = []
    for name, look in looks:
        try:
            findings += look()
        except Exception as error:  # noqa: BLE001 - a broken part must not hide the others
            findings.append(Finding(name, MISSING, f"could not be examined: {type(error).__name__}: {error}"))
    return findings


def _python() -> list[Finding]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    found = f"{version} ({platform.system()} {platform.machine()})"
    return [Finding("python", OK if good else MISSING, found, "" if good else "Install Python 3.11 or newer.")]


def _packages() -> list[Finding]:
    findings = []
    for name, distribution in (("torch", "torch"), ("arrow", "pyarrow"), ("disk tier", "rocksdict")):
        try:
            importlib.import_module(distribution)
            findings.append(Finding(name, OK, f"{distribution} {importlib.metadata.version(distribution)}"))
        except ImportError as error:
            findings.append(Finding(name, MISSING, str(error), f"pip install {distribution}"))
    return findings


def _native() -> list[Finding]:
    if native_class() is None:
        advice = "Install a C++20 compiler and CMake, then `make build` (or reinstall the package)."
        return [Finding("native table", LIMITED, "not built: tables run in pure Python, slowly", advice)]
    difference = native_difference()
    if difference is None:
        return [Finding("native table", OK, f"equal to the reference table on a self-check; {native_speed()}")]
    found = f"differs from the reference table: {difference}"
    return [Finding("native table", MISSING, found, "Rebuild it: `make clean build`.")]


def native_class() -> type[CheckedTable] | None:
    """Return the native table's class, or None where the module was not built."""
    from headrace.store import NativeTable
    from headrace.store.table import load_native

    return NativeTable if load_native() is not None else None


def native_speed() -> str:
    """Return which instruction set the loops over floats use, and on how many threads a step is spread."""
    import torch

    from headrace.store.table import load_native

    module = load_native()
    kernels = "no" if module is None else module.kernels()
    threads = torch.get_num_threads()
    return f"{kernels} kernels, {threads} thread{'s' if threads > 1 else ''} (torch.get_num_threads)"


def native_difference() -> str | None:
    """Drive the native and the reference table with the same updates; return where they differ, None when nowhere."""
    import torch

    from headrace.store import (
        FTRL,
        SGD,
        Adagrad,
        Adam,
        GroupFTRL,
        Momentum,
        ReferenceTable,
        RowWiseAdagrad,
        TableConfig,
    )

    native = native_class()
    assert native is not None
    random = torch.Generator().manual_seed(0)
    dim = 20  # a whole vector of every instruction set, and a rest
    for rule in (SGD(), Momentum(), Adagrad(), RowWiseAdagrad(), Adam(), FTRL(), GroupFTRL()):
        config = TableConfig(name="self-check", dim=dim, rule=rule)
        tables = (native(config), ReferenceTable(config))
        probe = torch.tensor([-(2**63), -1, 0, 1, 2**63 - 1, *range(100, 160)], dtype=torch.int64)
        for step in range(5):
            ids = probe[torch.randperm(len(probe), generator=random)[:40]].sort().values
            grads = torch.randn(len(ids), dim, generator=random)
            counts, times = torch.ones(len(ids), dtype=torch.int64), torch.full((len(ids),), step, dtype=torch.int64)
            for table in tables:
                table.update(ids, grads, counts, times)
        if not torch.equal(tables[0].lookup(probe), tables[1].lookup(probe)):
            return f"rows after 5 updates with {type(rule).__name__}"
        if len(tables[0]) != len(tables[1]):
            return f"{len(tables[0])} rows, reference {len(tables[1])}"
    return None


def _compiler() -> list[Finding]:
    found = []
    for command in ("c++", "cmake", "ninja"):
        if path := shutil.which(os.environ.get("CXX", command) if command == "c++" else command):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
            first = (said.splitlines() or [""])[0].strip()
            found.append(f"ninja {first}" if command == "ninja" else first)
    if len(found) == 3:
        return [Finding("compiler", OK, "; ".join(found))]
    advice = "Only needed to build the native table. Debian: apt-get install g++ cmake ninja-build"
    return [Finding("compiler", LIMITED, "; ".join(found) or "none", advice)]


def _data() -> list[Finding]:
    from headrace.config import DATA_VARIABLE, data_folder
    from headrace.errors import ConfigError

    try:
        folder = data_folder()
    except ConfigError as error:
        return [Finding("data", MISSING, str(error))]
    findings = []
    if folder is None:
        advice = f"Set {DATA_VARIABLE} to a folder with data sets; without it the demo downloads or simulates."
        findings.append(Finding("data", LIMITED, f"{DATA_VARIABLE} is not set", advice))
    else:
        findings.append(Finding("data", OK, f"{folder} ({sum(1 for _ in folder.iterdir())} files)"))
    package = importlib.import_module("headrace.data.datasets")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"headrace.data.datasets.{info.name}")
        if hasattr(module, "find"):
            found: Path | None = module.find()
            state, text = (OK, str(found)) if found else (LIMITED, "not found")
            findings.append(Finding(f"data: {info.name}", state, text))
    return findings


def _extras() -> list[Finding]:
    findings = []
    for extra, (module, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            findings.append(Finding(extra, LIMITED, f"not installed ({purpose})", f"pip install 'headrace[{extra}]'"))
        else:
            distribution = module.replace("_", "-")
            findings.append(Finding(extra, OK, f"{distribution} {importlib.metadata.version(distribution)}"))
    return findings


def _cuda() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return [Finding("cuda", OK, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")]
    return [Finding("cuda", LIMITED, "no GPU: everything here runs on the CPU")]


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory of this machine, or of this container when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return total if text == "max" else min(total, int(text))


def _machine() -> list[Finding]:
    cores, memory, disk = available_cores(), memory_bytes(), shutil.disk_usage(Path.cwd()).free
    few, little, full = cores < 2, memory < NEEDED_MEMORY_BYTES, disk < NEEDED_DISK_BYTES
    where = f"{human_bytes(disk)} free in {Path.cwd()}"
    return [
        Finding("cores", LIMITED if few else OK, str(cores), "The demo wants two." if few else ""),
        Finding("memory", LIMITED if little else OK, human_bytes(memory), "The demo wants 3 GiB." if little else ""),
        Finding("disk", LIMITED if full else OK, where, "Runs keep logs: leave 2 GiB." if full else ""),
    ]


def _port() -> list[Finding]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            return [Finding("network", MISSING, f"no loopback port can be opened: {error}", "Serving needs 127.0.0.1.")]
        return [Finding("network", OK, f"loopback ports can be opened (for example {probe.getsockname()[1]})")]
