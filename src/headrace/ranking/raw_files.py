"""Raw files as the three splits of a fit: decoded while the model learns; nothing is prepared or held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from headrace.config import require
from headrace.data import ExampleFiles, Layout, PreparedStatistics, Schema
from headrace.ranking.examples import Splits


@dataclass(frozen=True, kw_only=True)
class FileSplits:
    """Reads labelled rows of Parquet, CSV, TSV, libFM, JSON lines or Arrow files; a `ReadSplits` for `FitConfig.data`.

    Attributes:
        train: Files to learn from.
        valid: Files to choose by.
        test: Files to judge.
        schema: What is read from the rows: the schema of the fit.
        layout: Names, types, delimiter, derived and renamed columns, time.
        preparation: What raw rows are prepared with first; the fit's, if it has one.
        workers: Threads (or processes) that decode at once, beside the one that reads ahead; the fit adds threads
            where its learner would wait.
        processes: Whether they are processes.
        notes: What a report must say about the data.

    Raises:
        ConfigError: If a split has no file, or one of the splits' files is another's.
    """

    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    test: tuple[Path, ...]
    schema: Schema
    layout: Layout = field(default_factory=Layout)
    preparation: PreparedStatistics | None = None
    workers: int = 0
    processes: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            require(bool(getattr(self, name)), f"FileSplits.{name}", got="no file", expected="at least one")
        learned = {path.resolve() for path in self.train}
        twice = sorted(path.name for path in (*self.valid, *self.test) if path.resolve() in learned)
        require(
            not twice, "FileSplits", got=f"{twice} among the files to learn from", expected="other files to judge by"
        )

    def __call__(self) -> Splits:
        """Open the files."""
        train, valid, test = (
            ExampleFiles(paths, self.schema, self.layout, preparation=self.preparation, workers=self.workers,
                         processes=self.processes)
            for paths in (self.train, self.valid, self.test)
        )  # fmt: skip
        sizes = f"{len(train)} examples to learn from, {len(valid)} to choose by, {len(test)} to judge"
        return Splits(train, valid, test, files=(*self.train, *self.valid, *self.test), notes=(sizes, *self.notes))
