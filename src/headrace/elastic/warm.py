"""What the processes of an elastic run import, and do for the first time; a fork server does it once for all of them.

It must start no thread: the fork server would then be of no use. So nothing here goes backward or opens a socket.
"""

from __future__ import annotations

import importlib

import torch

ROOMS = (
    "headrace.elastic.async_worker", "headrace.elastic.head", "headrace.elastic.server", "headrace.elastic.worker",
    "headrace.ranking.recipes",
)  # fmt: skip


def warm_up() -> None:
    """Import all, and take a step with an optimiser: the first one of a process imports torch's compiler."""
    for room in ROOMS:
        importlib.import_module(room)
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    torch.optim.Adagrad([weight], lr=0.1).step()


warm_up()
