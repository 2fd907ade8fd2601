"""What Bayesian flow networks learn from: how much messages about the data tell that the network could not guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.errors import DataError
from headrace.objectives.supervised import check_examples
from headrace.types import Batch, Loss


class _Flow(Protocol):
    """How the data come into view; see `headrace.nn.ContinuousFlow` and `headrace.nn.DiscreteFlow`."""

    start: float

    def check(self, data: Tensor) -> Tensor: ...

    def noise_like(self, data: Tensor) -> Tensor: ...


@runtime_checkable
class _FlowModel(Protocol):
    """What the loss needs of a model; see `headrace.nn.BayesianFlow`."""

    flow: _Flow
    shape: tuple[int, ...]

    def condition(self, batch: Batch) -> Tensor | None: ...

    def losses(self, data: Tensor, time: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class FlowLoss:
    """The continuous-time loss of a Bayesian flow network, at one time per example.

    It is the expected number of nats, per dimension, that a sender tells a receiver who knows what the network knows:
    a bound on the negative log-likelihood, for continuous data from the flow's `start` on, without the cost of what is
    left at time 1. Times are spread evenly over the batch, with one random shift: less noise than independent times.

    Times and noise come from torch's own generator, which a learner sets to its own state before every step.

    Attributes:
        data: Where the examples are: empty for the dense columns, else a name in `Batch.extra`, or a feature with the
            same number of ids in every example.

    Raises:
        ConfigError: When called, if the model is no Bayesian flow network.

    Shapes:
        The model is a `headrace.nn.BayesianFlow`; weights (B,); labels are not read.

    Source:
        Graves et al. 2023, "Bayesian Flow Networks", sections 4.4 and 6.7. We differ in time: continuous data start
        at `start` and not at 0, where the guess of noise has no bound, and times are stratified.
    """

    data: str = ""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of the model on the batch.

        Raises:
            DataError: If there are no examples, or they do not have the model's shape or the flow's range.
        """
        require(isinstance(model, _FlowModel), "Model", got=type(model).__name__, expected="a BayesianFlow")
        check_examples(batch)
        flowing = cast(_FlowModel, model)
        data = flowing.flow.check(self._data(batch, flowing.shape))
        rows = torch.arange(len(batch), dtype=torch.float32, device=data.device)
        even = (rows + torch.rand(1, device=data.device)) / len(batch)
        time = flowing.flow.start + (1.0 - flowing.flow.start) * even
        nats_B = flowing.losses(data, time, flowing.flow.noise_like(data), flowing.condition(batch))
        total = (nats_B * batch.weights).sum() / len(batch)
        return Loss(total, {"flow_nats": float(nats_B.detach().mean())})

    def _data(self, batch: Batch, shape: tuple[int, ...]) -> Tensor:
        """Return the examples (B, *shape)."""
        what = f"Flow data '{self.data}'" if self.data else "Flow data, dense columns"
        if not self.data:
            found = batch.dense
        elif self.data in batch.extra:
            found = batch.extra[self.data]
        elif self.data in batch.ids:
            jagged = batch.ids[self.data]
            if not bool((jagged.offsets.diff() == shape[0]).all()):
                raise DataError(what, got="examples of several lengths", expected=f"{shape[0]} ids in each",
                                do="Cut the sequences into windows of that length.")  # fmt: skip
            found = jagged.values
        else:
            raise DataError(what, got="nothing of that name", expected=f"one of {sorted([*batch.extra, *batch.ids])}")
        wanted = (len(batch), *shape)
        if found.numel() != torch.Size(wanted).numel():
            raise DataError(what, got=f"shape {tuple(found.shape)}", expected=f"{wanted}",
                            do="Give the model the shape of the data.")  # fmt: skip
        return found.reshape(wanted)
