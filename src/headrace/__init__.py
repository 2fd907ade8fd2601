"""Headrace: models that learn from feedback while they serve.

    requests → predictions → feedback → examples → learner → published version → predictions

The names below are the nouns (`headrace.types`), the roles (`headrace.protocols`), the three drivers (`headrace.loop`)
and the client of a server; everything else is imported from its room: `headrace.store`, `headrace.serve`... They are
imported when first used, so that `import headrace` and `headrace --help` do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.errors import HeadraceError
    from headrace.loop import EveryEventTime, EveryExamples, Loop, Never, fit, predict, run
    from headrace.protocols import (
        Feedback,
        Joiner,
        Learner,
        Metric,
        Objective,
        Placement,
        Predictor,
        Publisher,
        Source,
        Table,
        WorkQueue,
    )
    from headrace.serve.client import Client
    from headrace.serve.client_async import AsyncClient
    from headrace.types import Batch, Change, Events, Figure, Jagged, Loss, Report, RowChange, State, Version

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Batch",
    "Change",
    "Client",
    "Events",
    "EveryEventTime",
    "EveryExamples",
    "Feedback",
    "Figure",
    "HeadraceError",
    "Jagged",
    "Joiner",
    "Learner",
    "Loop",
    "Loss",
    "Metric",
    "Never",
    "Objective",
    "Placement",
    "Predictor",
    "Publisher",
    "Report",
    "RowChange",
    "Source",
    "State",
    "Table",
    "Version",
    "WorkQueue",
    "fit",
    "predict",
    "run",
]

_HOMES = ("types", "protocols", "loop", "errors", "serve")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"headrace.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'headrace' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
