"""Tables and checkpoints, each with how it is put through its contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace.data import EmbeddedLog
from headrace.learn import ManifestCheckpoint
from headrace.online import TrimmedExamples
from headrace.store import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdmitAll,
    AdmitCount,
    AdmitProbability,
    NativeTable,
    Ranks,
    ReferenceTable,
    ShardedTable,
    TableConfig,
    Zeros,
    open_table,
)
from headrace.testing import DictTable, MemoryCheckpoint, Verdict, check_checkpoint, check_table


def tables() -> Iterator[tuple]:
    admissions = {"all": (AdmitAll(), 1), "count": (AdmitCount(4), 4), "chance": (AdmitProbability(0.3), None)}
    untried = {"all": (17,), "count": (), "chance": (9, 10, 17)}
    rules = {"sgd": SGD(), "adagrad": Adagrad(), "adam": Adam(), "ftrl": FTRL(), "ftrl-l1": FTRL(l1=0.01, l2=0.1)}
    for part in (ReferenceTable, NativeTable, ShardedTable):
        opened = {ShardedTable: lambda config: ShardedTable(open_table(config), Ranks.alone())}.get(part, part)
        for rule_name, rule in rules.items():
            for admission_name, (admission, admit_at) in admissions.items():

                def run(_: Path, part=opened, rule=rule, admission=admission, admit_at=admit_at) -> Verdict:
                    def make(**other):
                        settings = {"name": "user", "dim": 5, "rule": rule, "admission": admission, "seed": 3, **other}
                        return lambda: part(TableConfig(**settings))

                    others = [make(dim=6), make(seed=4), make(rule=SGD(lr=0.7)), make(init=Zeros()), make(name="item")]
                    return check_table(make(), others=others, admit_at=admit_at)

                yield ("Table", part, run, untried[admission_name], f"{rule_name}-{admission_name}")

    others = [lambda: DictTable(4), lambda: DictTable(5, seed=1)]
    yield "Table", DictTable, lambda _: check_table(lambda: DictTable(5, 4), others=others, admit_at=4)


def checkpoints() -> Iterator[tuple]:
    def manifest(folder: Path) -> Verdict:
        return check_checkpoint(
            lambda: ManifestCheckpoint(folder / "run", keep=1), reopen=lambda one: ManifestCheckpoint(one.folder)
        )

    def trimmed(folder: Path) -> Verdict:
        examples = EmbeddedLog(folder / "examples.db", durability="process")

        def opened(one: TrimmedExamples | None = None) -> TrimmedExamples:
            kept = ManifestCheckpoint(folder / "run", keep=1)
            return TrimmedExamples(kept, 1, examples, "examples", 0.0, every_s=0.0)

        return check_checkpoint(opened, reopen=opened)

    yield "Checkpoint", ManifestCheckpoint, manifest
    yield "Checkpoint", TrimmedExamples, trimmed
    yield "Checkpoint", MemoryCheckpoint, lambda _: check_checkpoint(MemoryCheckpoint, reopen=lambda one: one)


CASES = [tables, checkpoints]
