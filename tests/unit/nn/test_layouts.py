"""Every family says where its parameters depend on the features, so that none is silently moved to the wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from headrace import nn as families
from headrace.nn import InputLayout
from headrace.types import Batch

FAMILIES = {
    "LogisticRegression": {}, "FM": {}, "FwFM": {}, "WideDeep": {}, "DeepFM": {}, "XDeepFM": {}, "DCN": {},
    "DCNv2": {}, "DLRM": {}, "AutoInt": {}, "MaskNet": {}, "FinalMLP": {}, "GDCN": {}, "SharedBottom": {}, "MMoE": {},
    "PLE": {}, **{family: {"pairs": {"past": "item"}} for family in ("DIN", "DIEN", "BST")},
}  # fmt: skip
WIDTH = 4


class Zeros(nn.Module):
    """Embeds every feature as zeros; histories have no entries."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: torch.zeros(0 if name == "past" else len(batch), WIDTH) for name in self.names}


def built(family: str, more: int, dense: int) -> nn.Module:
    names = ("item", *(("past",) if FAMILIES[family] else ()), *(f"f{number}" for number in range(more)))
    make: Callable[..., nn.Module] = getattr(families, family)
    return make(Zeros(names), names, dense, **FAMILIES[family])


def layouts(model: nn.Module) -> dict[str, InputLayout]:
    found: dict[str, InputLayout] = {}
    for prefix, module in model.named_modules():
        told = getattr(module, "input_axes", None)
        if callable(told):
            found |= {f"{prefix}.{name}" if prefix else name: layout for name, layout in told().items()}
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_that_depends_on_the_features_has_a_layout(family: str) -> None:
    small, large = built(family, 2, 2), built(family, 3, 3)
    told, names = layouts(small), {name for name, _ in small.named_parameters()}
    assert set(told) <= names, "a layout of a parameter that there is not"
    if () in told.values():
        return  # refused as a whole
    others = dict(large.state_dict())
    for name, tensor in small.state_dict().items():
        if tensor.shape != others[name].shape:
            assert name in told, f"{name} has shape {tuple(tensor.shape)} or {tuple(others[name].shape)}"


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_add_up_to_the_axes_they_are_about(family: str) -> None:
    model = built(family, 2, 2)
    features = len(model.features) if hasattr(model, "features") else 3 + bool(FAMILIES[family])
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, layout in layouts(model).items():
        for axis in layout if isinstance(layout, tuple) else (layout,):
            assert shapes[name][axis.axis] == features * axis.per_feature + 2 * axis.per_dense
