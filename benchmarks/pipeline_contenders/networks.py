"""Our networks for a case, over any embedding module; what the bound and our side have in common."""

from __future__ import annotations

from torch import nn

from headrace.data import DenseFeature, IdFeature, Schema, SequenceFeature
from headrace.nn import DIN, DLRM, CrossSettings, DCNv2, DeepFM, DINSettings
from pipeline_contenders.work import PAST, Case


def width(case: Case) -> int:
    """Return the width of a row: DeepFM keeps a first-order weight before the factor."""
    return case.dim + int(case.model == "DeepFM")


def schema(case: Case) -> Schema:
    """Return the features of a case; a history shares its target's table."""
    features: list[IdFeature | SequenceFeature | DenseFeature] = [
        IdFeature(name, width(case), accepts="integer") for name in case.sizes
    ]
    if case.target:
        features.append(SequenceFeature(PAST, width(case), case.target, accepts="integer", max_length=case.longest,
                                        pooling="none"))  # fmt: skip
    return Schema(features=(*features, *(DenseFeature(name) for name in case.dense)))


def network(case: Case, embed: nn.Module) -> nn.Module:
    """Return the network of a case."""
    dense, names = len(case.dense), case.lookups
    if case.model == "DLRM":
        return DLRM(embed, names, dense, case.hidden, bottom=case.bottom)
    if case.model == "DeepFM":
        return DeepFM(embed, names, dense, case.hidden, dim=width(case))
    if case.model == "DCNv2":
        return DCNv2(embed, names, dense, case.hidden, cross=CrossSettings(layers=case.cross))
    assert case.model == "DIN"
    settings = DINSettings(attention=case.attention)
    return DIN(embed, names, dense, case.hidden, pairs={PAST: case.target}, settings=settings)


def weights(model: nn.Module) -> int:
    """Return the number of weights of a network over tables that are no parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
