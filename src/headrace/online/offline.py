"""The right half of the loop on files: score rows with a run's newest version, and judge a version on labelled rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from headrace.data import Layout, Schema
from headrace.data.collate import collate
from headrace.data.formats import pieces
from headrace.data.source import FileSource
from headrace.errors import DataError, SourceEnded, VersionError, nearest
from headrace.evaluate import Comparison, Evaluation, Judging, ProgressiveMetric, StreamingEvaluation, compare
from headrace.loop import predict
from headrace.online.build import open_serving, with_preparation
from headrace.online.config import OnlineConfig
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.logs import open_log
from headrace.protocols import Source
from headrace.publish import ChangeReader
from headrace.serve import RankPredictor
from headrace.types import Events, Report

READ_ROWS = 4096


def newest_predictor(config: OnlineConfig, folder: RunFolder) -> RankPredictor:
    """Return a predictor at the newest published version of a run.

    Raises:
        VersionError: If the run has published none, or the folder does not exist.
    """
    if not folder.log(CHANGES).exists():
        raise VersionError(f"Run {folder.root}", got="no published version", expected="at least version 0",
                           do="Run the recipe with the same --folder first.")  # fmt: skip
    serving = open_serving(with_preparation(config, folder))
    serving.replica.catch_up(ChangeReader(open_log(config, folder, CHANGES), folder.snapshots))
    if serving.replica.version.number < 0:
        raise VersionError(f"Run {folder.root}", got="no published version", expected="at least version 0",
                           do="Run the recipe with the same --folder first.")  # fmt: skip
    return serving.predictor


def request_file(path: Path, schema: Schema) -> FileSource:
    """Return a source over a file of rows: `key`, `item`, the schema's columns, `event_time` (µs) if it has one.

    Columns of text files are read as the schema means them.
    """
    names = _column_names(path)
    if "key" not in names:
        raise DataError(f"File {path}", got=f"columns {names}", expected="a column 'key' that names each request")
    time = "event_time" if "event_time" in names else None
    wanted = {schema.label.name: "float64", **schema.text_types}
    types = {name: kind for name, kind in wanted.items() if name in names}
    kind = None if "kind" in names else "impression"
    layout = Layout(time=time, time_unit="us", key=("key",), kind=kind, types=types)
    return FileSource(path, layout, order="file")


def _column_names(path: Path) -> list[str]:
    FileSource(path)  # says so if there is no such file
    for piece in pieces(path, Layout(time=None, kind="impression")):
        return list(piece.batch.schema.names)
    raise DataError(f"File {path}", got="no rows", expected="at least one row")


def predict_file(config: OnlineConfig, folder: RunFolder, source: Source, output: Path) -> Report:
    """Score every row of a source into a Parquet file, in order; the file appears whole or not at all.

    Returns:
        Rows, rows per second and the version that answered.
    """
    predictor = newest_predictor(config, folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    writer: pq.ParquetWriter | None = None

    def sink(requests: Events, predictions: Events) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(temporary, predictions.batch.schema, compression="zstd")
        writer.write_batch(predictions.batch)

    try:
        report = predict(source, predictor, sink, read_rows=READ_ROWS)
        if writer is None:
            raise DataError("Requests", got="no rows", expected="at least one")
        writer.close()
        temporary.replace(output)
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
    report.add("version", predictor.version.number, source=str(folder.root))
    return report


def evaluate_source(
    config: OnlineConfig, folder: RunFolder, source: Source, *, groups: str | None = None, slices: Sequence[str] = (),
    how: Judging | None = None,
) -> tuple[Report, Evaluation]:  # fmt: skip
    """Judge a run's newest version on labelled rows (kind `example`, or any rows with the label column).

    Args:
        config: The run's configuration.
        folder: The run.
        source: The rows.
        groups: Column of users or requests, for metrics and intervals by group.
        slices: Columns whose categories are judged apart.
        how: Confidence, k, bins.

    Returns:
        AUC, log-loss, normalised entropy, calibration as progressive validation has them, with intervals, plus the row
        count; and the evaluation itself, with its slices.

    Raises:
        DataError: If there are no rows, or a column is not there.
        VersionError: If the run has published no version.
    """
    metric, stream = ProgressiveMetric(window_s=config.metric_window_s), None
    predictor = newest_predictor(config, folder)
    for examples in batches(source):
        unscored = without(examples, ("score", "version", "score_logged"))
        predictions = predictor.predict(unscored)
        batch = collate(predictor.prepared(unscored), config.schema)
        scores = torch.from_numpy(predictions.column("score").to_numpy(zero_copy_only=False).copy())
        metric.update(replace(batch, predictions=scores, extra=_logged(predictions)))
        if stream is None:
            stream = StreamingEvaluation(grouped=groups is not None, slices=tuple(slices), how=how)
        stream.update(
            batch.labels.numpy(), scores.numpy(), 1.0 / batch.sample_rates.numpy(),
            None if groups is None else _column(examples, groups), {name: _column(examples, name) for name in slices},
        )  # fmt: skip
    if stream is None:
        raise DataError("Evaluation rows", got="none", expected="at least one labelled row")
    report, evaluation = Report(), stream.result()
    report.add("rows", evaluation.rows, source="evaluate")
    report.add("version", predictor.version.number, source=str(folder.root))
    for name, value in metric.compute().items():
        report.add(name, value, source="evaluate")
    evaluation.add_to(report)
    return report, evaluation


def compare_source(
    first: tuple[OnlineConfig, RunFolder], second: tuple[OnlineConfig, RunFolder], source: Source, *,
    groups: str | None = None, how: Judging | None = None,
) -> Comparison:  # fmt: skip
    """Judge the newest versions of two runs on the same labelled rows, paired.

    Cost: 24 bytes of memory per row, and the groups.

    Raises:
        DataError: If there are no rows, or the column is not there.
        VersionError: If a run has published no version.
    """
    predictors = [newest_predictor(config, folder) for config, folder in (first, second)]
    parts: list[tuple[np.ndarray, ...]] = []
    keys: list[pa.Array] = []
    for examples in batches(source):
        unscored = without(examples, ("score", "version", "score_logged"))
        batch = collate(predictors[0].prepared(unscored), first[0].schema)
        scores = [each.predict(unscored).column("score").to_numpy(zero_copy_only=False) for each in predictors]
        parts.append((batch.labels.numpy().copy(), *scores, 1.0 / batch.sample_rates.numpy()))
        if groups is not None:
            keys.append(_column(examples, groups))
    if not parts:
        raise DataError("Evaluation rows", got="none", expected="at least one labelled row")
    labels, one, two, weights = (np.concatenate(each) for each in zip(*parts, strict=True))
    return compare(labels, one, two, pa.chunked_array(keys) if groups is not None else None, weights, how=how)


def batches(source: Source) -> Iterator[Events]:
    """Yield the rows of a source until it has no more, many at a time."""
    while True:
        try:
            examples = source.read(READ_ROWS)
        except SourceEnded:
            return
        if examples is None:
            return
        if len(examples):
            yield examples


def _column(examples: Events, name: str) -> pa.Array:
    if name not in examples.names:
        raise DataError(f"Column '{name}'", got="not there", expected=nearest(name, examples.names))
    return examples.column(name)


def without(events: Events, names: tuple[str, ...]) -> Events:
    """Return the rows without some columns, where they have them."""
    present = [name for name in names if name in events.names]
    return Events(events.batch.drop_columns(present)) if present else events


def _logged(predictions: Events) -> dict[str, torch.Tensor]:
    if "score_logged" not in predictions.names:
        return {}
    values = predictions.column("score_logged").cast(pa.float32()).to_numpy(zero_copy_only=False)
    return {"score_logged": torch.from_numpy(values.copy())}
