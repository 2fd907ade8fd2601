"""The model that a policy's distance is measured from: another one with the same tokens, which never learns."""

from __future__ import annotations

import hashlib
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.nn import CausalModel


class _Speaker(Protocol):
    """A module that knows how many tokens it speaks."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        ...


def frozen_reference(reference: CausalModel, policy: _Speaker, what: str) -> nn.Module:
    """Return the reference as a module whose parameters never learn.

    Args:
        reference: The model that distance is measured from; it is frozen in place.
        policy: The module that learns.
        what: Whose reference it is, for errors.

    Raises:
        ConfigError: If it shares parameters with the policy, or has other tokens; nothing was frozen.
    """
    require(reference.vocabulary == policy.vocabulary, f"{what}, reference", got=reference.vocabulary,
            expected=f"{policy.vocabulary} tokens, as the policy")  # fmt: skip
    frozen, learning = cast(nn.Module, reference), cast(nn.Module, policy)
    shared = {id(one) for one in frozen.parameters()} & {id(one) for one in learning.parameters()}
    require(not shared, f"{what}, reference", got="the policy itself", expected="a copy of it",
            do="copy.deepcopy(policy)")  # fmt: skip
    return frozen.requires_grad_(False).eval()


def learned_names(model: nn.Module) -> set[str]:
    """Return the names of what changes while a model learns: parameters with a gradient, and buffers."""
    found = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return found | {name for name, _ in model.named_buffers()}


def digest(model: nn.Module) -> str:
    """Return what tells one set of weights from another."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
