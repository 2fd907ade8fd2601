"""Objectives of retrieval: tell the item that was chosen from others, corrected for how those were sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from headrace.config import known_name, require
from headrace.errors import ConfigError, DataError
from headrace.objectives.supervised import check_examples
from headrace.types import Batch, Loss


class _Towers(Protocol):
    """Users (B, K), items (B, K) and the items' ids (B,)."""

    users: Tensor
    items: Tensor
    item_ids: Tensor


class _Transitions(Protocol):
    """What came next at N places, and candidates; see `headrace.nn.Transitions`."""

    states: Tensor
    items: Tensor
    ids: Tensor
    examples: Tensor
    candidates: Tensor
    candidate_ids: Tensor


@dataclass(frozen=True, slots=True)
class SampledSoftmax:
    """Softmax of each positive example's item among all items of the batch, corrected for their popularity.

    A batch holds popular items more often, so a plain softmax over it teaches that they are unlikely, and finds them
    too rarely. Taking the log of an item's chance to be in a batch from its logit undoes that exactly: the posterior
    of the right item, given which items are there, is proportional to `P(item | user) / chance(item)`.

    Each distinct item is one candidate, however many examples have it, so an item is never its own negative; other
    items of the same user are. Examples of label 0 give candidates and are no cases themselves
    (`headrace.objectives.with_item_rows`).

    The total is `sum w_b l_b / B` over positives, as that of `LogLoss`.

    Attributes:
        corrected: Subtract the log-chance, from the model's `frequencies`. Without it scores are relative to
            popularity.

    Raises:
        ConfigError: When called, if the model has no towers, or no frequencies and `corrected` is on.

    Shapes:
        The model is a `headrace.nn.TwoTower`; labels (B,), of which those above 0 are positives.

    Source:
        Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations". We differ in
        taking each distinct item once; the paper takes it as often as it occurs and masks nothing.
    """

    corrected: bool = True

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss; `logits` are those of the examples' own items, not corrected, as they are to be served."""
        check_examples(batch)
        towers = cast(_Towers, _method(model, "towers")(batch))
        temperature = cast(float, model.temperature)
        places, first = _distinct(towers.item_ids)
        cases = torch.nonzero(batch.labels > 0).squeeze(1)
        scores_NU = towers.users[cases] @ towers.items[first].T / temperature
        if self.corrected:
            scores_NU = scores_NU - self._log_chance(model, towers.item_ids[first])
        losses_N = cross_entropy(scores_NU, places[cases], reduction="none")
        total = (losses_N * batch.weights[cases]).sum() / len(batch)
        logits_B = (towers.users * towers.items).sum(1) / temperature
        return Loss(total, {"sampled_softmax": float(total.detach())}, logits_B.detach())

    @staticmethod
    def _log_chance(model: nn.Module, ids_U: Tensor) -> Tensor:
        frequencies = getattr(model, "frequencies", None)
        if not callable(frequencies):
            raise ConfigError("SampledSoftmax", got="a model without frequencies", expected="a correction to apply",
                              do="Give the model StreamingFrequencies, or set corrected=False.")  # fmt: skip
        return cast(Tensor, frequencies(ids_U))


@dataclass(frozen=True, slots=True)
class NextItem:
    """The next item of a history, at every place of it, against sampled or all items.

    `binary` is the log-loss of the right item against one candidate for each case, as in the paper; `softmax` is the
    cross-entropy of the right item among itself and all candidates. Candidates are drawn uniformly, so no correction
    is due; with the whole catalogue as candidates it is the full softmax. A candidate that is the right item itself
    does not count.

    The total is a mean over all cases of the batch, each with the weight of its example.

    Attributes:
        candidates: Feature of the candidates; `headrace.objectives.with_candidates` puts it into a batch.
        loss: `binary` or `softmax`.

    Raises:
        ConfigError: If the loss has another name, or the model has no transitions.
        DataError: When called, if there are no candidates.

    Source:
        Kang and McAuley 2018, "Self-Attentive Sequential Recommendation" (`binary`). Klenitskiy and Vasilev 2023,
        "Turning Dross Into Gold Loss", on what the softmax gains.
    """

    candidates: str = "candidates"
    loss: Literal["binary", "softmax"] = "binary"

    def __post_init__(self) -> None:
        require(self.candidates != "", "candidates", got="", expected="the name of a feature")
        known_name("loss", self.loss, ["binary", "softmax"])

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss; `logits` are those of the examples' own targets."""
        check_examples(batch)
        logits_B, found = cast("tuple[Tensor, _Transitions]", _method(model, "transitions")(batch, self.candidates))
        if not len(found.candidate_ids):
            raise DataError(f"Feature '{self.candidates}'", got="no candidates", expected="at least one",
                            do="Put some into the batch with with_candidates.")  # fmt: skip
        own_N = (found.states * found.items).sum(1)
        losses_N = self._binary(found, own_N) if self.loss == "binary" else self._softmax(found, own_N)
        total = (losses_N * batch.weights[found.examples]).sum() / max(len(losses_N), 1)
        return Loss(total, {"next_item": float(total.detach())}, logits_B.detach())

    @staticmethod
    def _binary(found: _Transitions, own_N: Tensor) -> Tensor:
        chosen = torch.arange(len(own_N), device=own_N.device) % len(found.candidate_ids)
        other_N = (found.states * found.candidates[chosen]).sum(1)
        counts_N = (found.candidate_ids[chosen] != found.ids).to(own_N.dtype)
        right_N = binary_cross_entropy_with_logits(own_N, torch.ones_like(own_N), reduction="none")
        wrong_N = binary_cross_entropy_with_logits(other_N, torch.zeros_like(own_N), reduction="none")
        return right_N + counts_N * wrong_N

    @staticmethod
    def _softmax(found: _Transitions, own_N: Tensor) -> Tensor:
        others_NC = found.states @ found.candidates.T
        itself_NC = found.candidate_ids == found.ids.unsqueeze(1)
        others_NC = others_NC.masked_fill(itself_NC, float("-inf"))
        right_N = torch.zeros(len(own_N), dtype=torch.int64, device=own_N.device)
        return cross_entropy(torch.cat([own_N.unsqueeze(1), others_NC], dim=1), right_N, reduction="none")


def _distinct(ids_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's place among the distinct ids (B,), and the first row of each of these (U,)."""
    distinct, places = torch.unique(ids_B, return_inverse=True)
    rows = torch.arange(len(ids_B), device=ids_B.device)
    first = torch.full_like(distinct, len(ids_B)).scatter_reduce(0, places, rows, "amin")
    return places, first


def _method(model: nn.Module, name: str) -> Callable[..., object]:
    found = getattr(model, name, None)
    if not callable(found):
        raise ConfigError("Objective, model", got=f"a {type(model).__name__} without '{name}'",
                          expected="a model that has it, as those of headrace.nn for this objective do")  # fmt: skip
    return cast("Callable[..., object]", found)
