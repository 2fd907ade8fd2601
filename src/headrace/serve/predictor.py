"""Scores request rows with the version that a replica holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.data.collate import collate
from headrace.data.features import CrossFeature, DenseFeature, Feature, IdFeature, Schema
from headrace.data.prepare_statistics import PreparedStatistics, check_preparation
from headrace.errors import NumericError, VersionError
from headrace.objectives.sampling import SamplingCorrection, check_applied_once, correct_probability
from headrace.publish.replica import Replica
from headrace.types import Batch, Change, Events, Version

BLOCK_ROWS = 64
"""Costs a request of 25 rows a tenth more than 32, and one of 256 rows a third less."""
Mask = npt.NDArray[np.bool_]


class RankPredictor:
    """The `Predictor` of rankers: one probability per row, from one version per call.

    Rows are scored in blocks of exactly `block_rows` (the last one filled up), because a matrix product of another
    shape may round differently. So the score of a row is the same to the bit whatever other rows are asked with it,
    where the inputs of the network's layers are a multiple of 4 wide; with other widths the matrix product of some
    libraries depends on the row's place in the block, and scores can differ in the last bit.

    Where the schema serves a feature at a reference value (`serve_as`) and the request has its real one, the answer
    has both: `score` with the reference value, and `score_logged` with the real one, both from the same version.

    Args:
        model: Maps a `Batch` to logits (B,), or (B, labels) with the main label first and the schema's extra labels
            after it; reads the replica's tables and holds its dense tensors.
        replica: Tables and dense tensors that follow the published versions.
        schema: What to read from requests. A version learned under another schema is refused.
        negative_rate: Share of negatives that the joiner kept, if serving is where that is corrected for; else 1.
            A version says what was done in training; correcting twice, or not at all, is refused.
        preparation: What raw requests are prepared with before the schema reads them: the statistics of the training
            rows, which a schema of prepared columns names. None: requests come as the schema has them.
        block_rows: Rows per forward pass. Larger blocks score large batches faster; scores are comparable to the bit
            only between equal sizes.

    Raises:
        ConfigError: If a setting cannot work.

    Thread-safety: any number of threads may predict while others apply.
    """

    def __init__(
        self, model: nn.Module, replica: Replica, schema: Schema, *, negative_rate: float = 1.0,
        block_rows: int = BLOCK_ROWS, preparation: PreparedStatistics | None = None,
    ) -> None:  # fmt: skip
        require(block_rows >= 1, "block_rows", got=block_rows, expected="a positive integer")
        correct_probability(0.5, negative_rate)  # refuses a rate that is none
        check_preparation(schema, preparation)
        self.model, self.replica, self.schema = model.eval(), replica, schema
        self.negative_rate, self.block_rows, self.preparation = negative_rate, block_rows, preparation
        self._served = [feature for feature in schema.features if _as_logged(feature) != feature]
        self._schemas: dict[tuple[str, ...], Schema] = {}
        replica.add_check(self._check_spec)

    @property
    def version(self) -> Version:
        """The version that answers."""
        return self.replica.version

    @property
    def request_schema(self) -> Schema:
        """What requests are checked against: the schema of raw rows where they are prepared, else the model's."""
        return self.schema if self.preparation is None else self.preparation.request_schema()

    def prepared(self, requests: Events) -> Events:
        """Return rows as the schema reads them.

        Raises:
            SchemaError: If they cannot be prepared.
        """
        return requests if self.preparation is None else self.preparation.transform(requests)

    def apply(self, change: Change) -> None:
        """Move to the change's version; see `Replica.apply`."""
        self.replica.apply(change)

    def predict(self, requests: Events) -> Events:
        """Return one row per request row: key, kind `prediction`, event_time, item, score, version (, score_logged).

        A model of several labels gives `score` for the main one and `score/<name>` for every extra label.

        Raises:
            SchemaError: If the requests do not fit the schema.
            VersionError: If there is no version yet.
            NumericError: If the model's output is not finite.

        Cost: readers do not wait for each other; they wait while a version is put in place.
        """
        answer = self.scoring(requests)
        with self.replica.reading() as version:
            return answer(version)

    def scoring(self, requests: Events) -> Callable[[Version], Events]:
        """Read rows, and return what scores them; for callers that hold the replica with `reading` themselves.

        Raises:
            SchemaError: If the requests do not fit the schema.
        """
        prepared = self.prepared(requests)
        padded = self._padded(prepared)
        served = collate(padded, self.schema, serving=True)
        real_schema, real = self._real(requests, prepared)
        logged = None if real_schema is None else self._with_real(served, padded, real_schema)

        def answer(version: Version) -> Events:
            with torch.no_grad():
                scores = self._scores(served, len(requests), version)
                logged_scores = None if logged is None else self._scores(logged, len(requests), version)
            return self._answered(requests, version, scores, None if logged_scores is None else (logged_scores, real))

        return answer

    def _answered(
        self, requests: Events, version: Version, scores: npt.NDArray[np.float32],
        logged: tuple[npt.NDArray[np.float32], Mask] | None,
    ) -> Events:  # fmt: skip
        """Return predictions row by row; `logged` are the scores at real values, and which rows have these."""
        rows = len(requests)
        columns: dict[str, pa.Array] = {
            "key": requests.column("key"), "kind": pa.array(["prediction"] * rows, pa.string()),
            "event_time": requests.column("event_time"),
        }  # fmt: skip
        if self.schema.item in requests.names:
            columns[self.schema.item] = requests.column(self.schema.item)
        columns["score"] = pa.array(scores[:, 0], pa.float32())
        for place, label in enumerate(self.schema.extra_labels[: scores.shape[1] - 1]):
            columns[f"score/{label.name}"] = pa.array(scores[:, place + 1], pa.float32())
        columns["version"] = pa.array(np.full(rows, version.number, np.int64), pa.int64())
        if logged is not None:
            columns["score_logged"] = pa.array(logged[0][:, 0], pa.float32(), mask=~logged[1])
        return Events.from_columns(columns)

    def _padded(self, requests: Events) -> Events:
        """Return the rows with the last one repeated until all blocks are full."""
        rows = len(requests)
        padded = -(-rows // self.block_rows) * self.block_rows
        if padded != rows:
            requests = requests.take(np.minimum(np.arange(padded), rows - 1))
        # Scores do not depend on example ids, and these spare one hash per row.
        return requests.with_columns({"example_id": pa.array(np.zeros(padded, np.int64), pa.int64())})

    def _scores(self, batch: Batch, rows: int, version: Version) -> npt.NDArray[np.float32]:
        """Return probabilities (rows, labels)."""
        logits = [self._forward(block) for block in batch.split(self.block_rows)] or [torch.zeros(0, 1)]
        return self._probabilities(torch.cat(logits)[:rows], version)

    def _probabilities(self, logits: Tensor, version: Version) -> npt.NDArray[np.float32]:
        if not bool(torch.isfinite(logits).all()):
            raise NumericError(f"Version {version.number}", got="a score that is NaN or infinite",
                               expected="finite scores", do="Look at the learner, or at a huge input.")  # fmt: skip
        # In double precision the correction of tiny probabilities does not round to 0.
        probabilities = torch.sigmoid(logits.double()).numpy()
        # Only the main label's negatives are sampled; `MultiTask` corrects the others in training.
        probabilities[:, 0] = correct_probability(probabilities[:, 0], self.negative_rate)
        return np.asarray(probabilities, dtype=np.float32)

    def _forward(self, block: Batch) -> Tensor:
        """Return logits (rows, 1), or (rows, labels) from a model of several labels."""
        logits, labels = self.model(block), 1 + len(self.schema.extra_labels)
        allowed = [(len(block),), (len(block), labels)] if labels > 1 else [(len(block),)]
        if not isinstance(logits, Tensor) or tuple(logits.shape) not in allowed:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            several = f" or ({len(block)}, {labels}), one column per label" if labels > 1 else ""
            raise VersionError("Model output", got=got, expected=f"logits of shape ({len(block)},){several}")
        return logits.detach().cpu().reshape(len(block), -1)

    def _real(self, requests: Events, prepared: Events) -> tuple[Schema | None, Mask]:
        """Return a schema of the features whose real value is known, and which rows have it (B,)."""
        names = set(prepared.names)
        present = [feature for feature in self._served if set(feature.columns) <= names]
        real = np.ones(len(requests), dtype=np.bool_)
        for column in {self._raw(column) for feature in present for column in feature.columns}:
            real &= np.asarray(requests.column(column).is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
        if not present or not real.any():
            return None, real
        key = tuple(feature.name for feature in present)
        if key not in self._schemas:
            self._schemas[key] = Schema(features=_touched(self.schema, key), item=self.schema.item)
        return self._schemas[key], real

    def _raw(self, column: str) -> str:
        """Return the column of a request that a column of the schema is made of."""
        return column if self.preparation is None else self.preparation.raw_column(column)

    def _with_real(self, served: Batch, rows: Events, schema: Schema) -> Batch:
        """Return the served batch with the real values of `schema`'s features in place of those that are served."""
        real, dense = collate(rows, schema, serving=True), served.dense
        if schema.dense_names:
            dense = dense.clone()
            dense[:, [self.schema.dense_names.index(name) for name in schema.dense_names]] = real.dense
        return replace(served, ids={**served.ids, **real.ids}, dense=dense)

    def _check_spec(self, change: Change) -> None:
        """Refuse versions that were learned under another schema, or whose sampling is corrected twice or never."""
        schema = change.spec.get("schema")
        if schema is not None and schema != self.schema.fingerprint():
            _check_prepared(change, self.schema)
            raise VersionError(f"Change {change.version.number}, schema", got=schema,
                               expected=f"{self.schema.fingerprint()}, the schema that is served",
                               do="Start learner and server with the same schema.")  # fmt: skip
        sampling = change.spec.get("sampling")
        if sampling is not None:
            check_applied_once(SamplingCorrection.from_spec(sampling), self.negative_rate)


def _check_prepared(change: Change, schema: Schema) -> None:
    """Say so if what differs between a version and the server is how rows are prepared."""
    learned = Schema.from_json(change.spec["schema_json"]).preparation if "schema_json" in change.spec else ""
    if learned != schema.preparation:
        raise VersionError(
            f"Change {change.version.number}, preparation", got=learned or "none",
            expected=f"{schema.preparation or 'none'}, the preparation that is held here",
            do="Load the statistics that the version was learned with; they are stored beside the prepared data.",
        )  # fmt: skip


def _touched(schema: Schema, real: Sequence[str]) -> tuple[Feature, ...]:
    """Return the features that change when those in `real` are read as logged: they, crosses of them, and parts."""
    crosses = [f for f in schema.features if isinstance(f, CrossFeature) and set(f.of) & set(real)]
    wanted = {*real, *(cross.name for cross in crosses), *(name for cross in crosses for name in cross.of)}
    return tuple(_as_logged(f) if f.name in real else f for f in schema.features if f.name in wanted)


def _as_logged(feature: Feature) -> Feature:
    """Return the feature as the log has it, without a value to be served at."""
    return replace(feature, serve_as=None) if isinstance(feature, (IdFeature, DenseFeature)) else feature
