"""Answers requests with samples of a Bayesian flow network, from the version that a replica holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headrace.config import require
from headrace.data.collate import collate
from headrace.data.features import Schema
from headrace.data.hashing import example_ids, hash_text
from headrace.errors import NumericError
from headrace.nn.bayesian_flow import BayesianFlow, DiscreteFlow
from headrace.publish.replica import Replica
from headrace.serve.samplers import Drawn, SamplerConfig, sample
from headrace.serve.solver_steps import RowNoise
from headrace.types import Change, Events, Version

BLOCK_ROWS = 16


class FlowPredictor:
    """The `Predictor` that draws: one sample per row, from one version per call.

    The noise of a row is made from the seed, the request's key and its item. So the same request gets the same sample
    from the same version, whatever else is asked with it, on every replica; another key gets another sample. Rows are
    drawn in blocks of exactly `block_rows`, because a matrix product of another shape may round differently.

    `score` says how settled a sample is (`headrace.serve.Drawn`), `sample` is the sample: a list of numbers, a list of
    class codes, or text where there is an alphabet.

    Args:
        model: The network.
        replica: Tables (if the model has any) and dense tensors that follow the published versions.
        config: How to sample.
        schema: What the model's features are read from requests with; None: it draws without being asked for anything.
        alphabet: What the classes are called; one string per class.
        seed: Another seed, other samples.
        block_rows: Rows per forward pass.

    Raises:
        ConfigError: If the parts do not go together.

    Thread-safety: any number of threads may predict while others apply.

    Cost: `config.evaluations` forward passes per block.
    """

    def __init__(
        self, model: BayesianFlow, replica: Replica, config: SamplerConfig | None = None, *,
        schema: Schema | None = None, alphabet: Sequence[str] = (), seed: int = 0, block_rows: int = BLOCK_ROWS,
    ) -> None:  # fmt: skip
        require(block_rows >= 1, "block_rows", got=block_rows, expected="a positive integer")
        require(bool(model.features) == (schema is not None), "FlowPredictor, schema", got=schema,
                expected="a schema exactly where the model has features")  # fmt: skip
        classes = model.flow.classes if isinstance(model.flow, DiscreteFlow) else 0
        require(not alphabet or len(alphabet) == classes, "FlowPredictor, alphabet", got=f"{len(alphabet)} strings",
                expected=f"{classes}, one per class")  # fmt: skip
        self.config = config or SamplerConfig()
        require(not self.config.matched or model.knows_moments, "SamplerConfig.matched", got=True,
                expected="a model with moments")  # fmt: skip
        self.model, self.replica, self.schema = model.eval(), replica, schema
        self.alphabet, self.seed, self.block_rows = tuple(alphabet), seed, block_rows

    @property
    def version(self) -> Version:
        """The version that answers."""
        return self.replica.version

    def apply(self, change: Change) -> None:
        """Move to the change's version; see `Replica.apply`."""
        self.replica.apply(change)

    def predict(self, requests: Events) -> Events:
        """Return one row per request row: key, kind `prediction`, event_time, item, score, version, sample.

        Raises:
            SchemaError: If the requests do not fit the schema.
            VersionError: If there is no version yet.
            NumericError: If a sample is not finite.
        """
        rows = len(requests)
        items = requests.column("item") if "item" in requests.names else pa.nulls(rows, pa.string())
        padded = -(-rows // self.block_rows) * self.block_rows
        places = np.minimum(np.arange(padded), max(rows - 1, 0))
        seeds = (example_ids(requests.column("key"), items) ^ hash_text(f"flow {self.seed}"))[places]
        with self.replica.reading() as version, torch.no_grad():
            conditions = self._conditions(requests.take(places))
            drawn = [self._block(seeds[at : at + self.block_rows], None if conditions is None else
                                 conditions[at : at + self.block_rows])
                     for at in range(0, padded, self.block_rows)]  # fmt: skip
        values = torch.cat([one.values for one in drawn])[:rows] if drawn else torch.zeros(0, *self.model.shape)
        settled = torch.cat([one.settled for one in drawn])[:rows] if drawn else torch.zeros(0)
        if not bool(torch.isfinite(values).all() & torch.isfinite(settled).all()):
            raise NumericError(f"Version {version.number}", got="a sample that is NaN or infinite",
                               expected="finite samples", do="Look at the learner.")  # fmt: skip
        columns: dict[str, object] = {
            "key": requests.column("key"), "kind": pa.array(["prediction"] * rows, pa.string()),
            "event_time": requests.column("event_time"), **({"item": items} if "item" in requests.names else {}),
            "score": pa.array(settled.numpy(), pa.float32()),
            "version": pa.array(np.full(rows, version.number, np.int64), pa.int64()),
            "sample": self._written(values),
        }  # fmt: skip
        return Events.from_columns(columns)

    def _conditions(self, requests: Events) -> Tensor | None:
        """Return what rows ask for, (B, C). Called while the replica stands still."""
        if self.schema is None:
            return None
        named = requests.with_columns({"example_id": pa.array(np.zeros(len(requests), np.int64), pa.int64())})
        batch = collate(named, self.schema, serving=True)
        blocks = [self.model.condition(block) for block in batch.split(self.block_rows)]
        return torch.cat([block for block in blocks if block is not None])

    def _block(self, seeds: np.ndarray[tuple[int], np.dtype[np.int64]], condition: Tensor | None) -> Drawn:
        shape = (len(seeds), *self.model.state_shape)
        moments = (self.model.get_buffer("mean"), float(self.model.get_buffer("variance")))
        return sample(self.model.asked(condition), self.model.flow, shape, RowNoise(seeds.tolist()), self.config,
                      moments=moments)  # fmt: skip

    def _written(self, values: Tensor) -> pa.Array:
        if self.alphabet:
            return pa.array(["".join(self.alphabet[code] for code in row) for row in values.long().tolist()],
                            pa.string())  # fmt: skip
        kind = pa.int64() if isinstance(self.model.flow, DiscreteFlow) else pa.float32()
        return pa.array(values.flatten(1).tolist(), pa.list_(kind))
