"""Simple rankers that learn beside the model on the same examples, so that its numbers mean something.

Each one predicts a batch with everything learned from all batches before it, and then learns it. The model is judged by
the predictions that were *served*, by a version that is a moment old: the baselines have the advantage.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from headrace.data import DenseFeature, Feature, Schema
from headrace.evaluate import ProgressiveMetric
from headrace.learn import LearnerConfig, RankLearner
from headrace.nn import LogisticRegression
from headrace.objectives import LogLoss
from headrace.online.build import embedding, open_tables
from headrace.online.config import OnlineConfig
from headrace.types import Batch, State


class _DenseColumns(nn.Module):
    """Shows a model only some of the dense columns."""

    def __init__(self, inner: nn.Module, columns: list[int]) -> None:
        super().__init__()
        self.inner = inner
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.inner(replace(batch, dense=batch.dense.index_select(1, self.columns)))
        return logits


def chosen(schema: Schema, names: set[str]) -> Schema:
    """Return the schema with only the named features, and only crosses all of whose parts are among them."""
    kept = (f for f in schema.features if f.name in names and set(getattr(f, "of", ())) <= names)
    return replace(schema, features=tuple(kept))


def _narrow(feature: Feature) -> Feature:
    return feature if isinstance(feature, DenseFeature) else replace(feature, dim=1)


class Baselines:
    """A Metric that holds three learners: logistic regression with and without position, and position alone."""

    def __init__(self, config: OnlineConfig) -> None:
        everything = {feature.name for feature in config.schema.features}
        self._sets = {"logistic_regression": everything}
        if config.position is not None:
            place = {feature.name for feature in config.schema.features if config.position in feature.columns}
            self._sets["logistic_regression_without_position"] = everything - place
            self._sets["position_only"] = place
        self._learners = {name: self._learner(config, names) for name, names in self._sets.items()}
        self._metrics = {name: ProgressiveMetric(window_s=config.metric_window_s) for name in self._sets}

    @staticmethod
    def _learner(config: OnlineConfig, names: set[str]) -> RankLearner:
        schema = chosen(config.schema, names)
        # the first column of a row is its first-order weight: one-dimensional tables are exactly a linear model
        narrow = replace(schema, features=tuple(_narrow(feature) for feature in schema.features))
        part = replace(config, schema=narrow, baselines=False)
        collection = embedding(narrow, open_tables(part))
        columns = [config.schema.dense_names.index(name) for name in narrow.dense_names]
        features = [feature.name for feature in narrow.id_features]
        model = _DenseColumns(LogisticRegression(collection, features, len(columns), prior=config.prior), columns)
        objective = LogLoss(negative_rate=config.join.negative_rate, correction=config.correction)
        return RankLearner(model, collection, torch.optim.Adam(model.parameters(), lr=0.01), objective,
                           LearnerConfig(seed=config.seed, freshness=False))  # fmt: skip

    def update(self, batch: Batch) -> None:
        """Predict, judge and learn, baseline by baseline."""
        for name, learner in self._learners.items():
            with torch.no_grad():
                probabilities = torch.sigmoid(learner.model(batch))
            self._metrics[name].update(replace(batch, predictions=probabilities, extra={}))
            learner.learn(batch)

    def compute(self) -> dict[str, float]:
        """Return each baseline's numbers, `<baseline>/<metric>`."""
        return {f"{name}/{key}": value for name, metric in self._metrics.items()
                for key, value in metric.compute().items()}  # fmt: skip

    def histories(self) -> dict[str, list[dict[str, float]]]:
        """Return each baseline's closed cohorts."""
        return {name: metric.history() for name, metric in self._metrics.items()}

    def state(self) -> State:
        """Return learners and metrics."""
        return {name: {"learner": self._learners[name].state(), "metric": self._metrics[name].state()}
                for name in self._sets}  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly."""
        for name in self._sets:
            part = state[name]
            assert isinstance(part, dict)
            self._learners[name].restore(part["learner"])  # type: ignore[arg-type]
            self._metrics[name].restore(part["metric"])  # type: ignore[arg-type]


class Metrics:
    """The progressive metric of the served model and, if wanted, the baselines, as one Metric."""

    def __init__(self, config: OnlineConfig) -> None:
        self.served = ProgressiveMetric(window_s=config.metric_window_s)
        self.baselines = Baselines(config) if config.baselines else None

    def update(self, batch: Batch) -> None:
        """Judge the batch."""
        self.served.update(batch)
        if self.baselines is not None:
            self.baselines.update(batch)

    def compute(self) -> dict[str, float]:
        """Return the model's numbers, and the baselines' under their names."""
        return self.served.compute() | (self.baselines.compute() if self.baselines else {})

    def histories(self) -> dict[str, list[dict[str, float]]]:
        """Return the closed cohorts of the model and of the baselines, for plots."""
        return {"model": self.served.history(), **(self.baselines.histories() if self.baselines else {})}

    def state(self) -> State:
        """Return everything."""
        return {"served": self.served.state(), "baselines": self.baselines.state() if self.baselines else None}

    def restore(self, state: State) -> None:
        """Continue exactly."""
        self.served.restore(state["served"])  # type: ignore[arg-type]
        if self.baselines is not None:
            self.baselines.restore(state["baselines"])  # type: ignore[arg-type]
