"""What a language model can do in general: how well it foretells held-out text, and small choices made from it.

A choice is answered with the likelihood of its options, so that a model of any size has an answer and none has to
be parsed. All are made from passages of real text that the model has not seen, and chance is one half: whether a
passage goes on as it did or as another one does, which of two orders is the written one, which word comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from headrace.config import require
from headrace.types import Jagged

Likelihood: TypeAlias = Callable[[Jagged, Jagged], Tensor]
"""(prompts, completions) to the log-probability of each whole completion, (B,)."""
BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """Questions with two options each, of which the first is the right one.

    Shapes: prompts (B, P), right and wrong (B, Q), tokens.
    """

    prompts: Tensor
    right: Tensor
    wrong: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


def choices(passages_BT: Tensor, owners_B: Tensor, seed: int = 0) -> dict[str, Choice]:
    """Return three kinds of choices from passages.

    `continuation`: the second half of a passage, or that of a passage of another text. `order`: the second half, or the
    same with two neighbouring tokens exchanged. `next_token`: the last token, or the last one of a passage of another
    text; a question whose two options are equal is left out.

    Args:
        passages_BT: Passages of held-out text; the first token is the one before every text.
        owners_B: Which text each is of, (B,) int64; at least two different ones.
        seed: Draws the others and the exchanges.

    Raises:
        ConfigError: If there are fewer than four tokens in a passage, or all are of one text.
    """
    rows, length = passages_BT.shape
    require(length >= 4, "choices, passages", got=f"{length} tokens", expected="4 or more")
    require(len(set(owners_B.tolist())) > 1, "choices, owners", got="one text", expected="passages of several texts")
    draw = torch.Generator().manual_seed(seed)
    others_B = _of_others(owners_B, draw)
    middle = length // 2
    found = {"continuation": (passages_BT[:, :middle], passages_BT[:, middle:], passages_BT[others_B, middle:])}
    exchanged_BT = passages_BT.clone()
    at_B1 = torch.randint(middle, length - 1, (rows, 1), generator=draw)
    exchanged_BT.scatter_(1, at_B1, passages_BT.gather(1, at_B1 + 1))
    exchanged_BT.scatter_(1, at_B1 + 1, passages_BT.gather(1, at_B1))
    found["order"] = (passages_BT[:, :middle], passages_BT[:, middle:], exchanged_BT[:, middle:])
    found["next_token"] = (passages_BT[:, :-1], passages_BT[:, -1:], passages_BT[others_B, -1:])
    made = {}
    for name, (prompts, right, wrong) in found.items():
        differ_B = (right != wrong).any(1)
        made[name] = Choice(prompts[differ_B], right[differ_B], wrong[differ_B])
    return made


def _of_others(owners_B: Tensor, draw: torch.Generator) -> Tensor:
    """Return for every passage one of another text, (B,)."""
    rows = len(owners_B)
    found_B = torch.randint(rows, (rows,), generator=draw)
    while bool((same_B := owners_B[found_B] == owners_B).any()):
        found_B[same_B] = torch.randint(rows, (int(same_B.sum()),), generator=draw)
    return found_B


@torch.no_grad()
def accuracy(likelihood: Likelihood, choice: Choice) -> float:
    """Return the share of questions whose right option is the likelier one.

    Cost: both options once, prompts twice.
    """
    right, wrong = (_sums(likelihood, choice.prompts, option) for option in (choice.right, choice.wrong))
    return float(((right > wrong).double() + 0.5 * (right == wrong).double()).mean())


@torch.no_grad()
def cross_entropy(likelihood: Likelihood, passages_BT: Tensor) -> float:
    """Return the mean negative log-probability of a token of held-out passages, the first given; in nats."""
    sums_B = _sums(likelihood, passages_BT[:, :1], passages_BT[:, 1:])
    return -float(sums_B.double().sum()) / (passages_BT.shape[0] * (passages_BT.shape[1] - 1))


def general_ability(
    likelihood: Likelihood, texts: Mapping[str, tuple[Tensor, Mapping[str, Choice]]]
) -> dict[str, float]:
    """Return what a model can do, kind of text by kind of text.

    Args:
        likelihood: The model.
        texts: By name, held-out passages and the choices made from them.

    Returns:
        `<text>/cross_entropy`, and `<text>/<choice>` for each kind of choice; `cross_entropy` and `choices` are means.
    """
    found: dict[str, float] = {}
    for text, (passages_BT, asked) in texts.items():
        found[f"{text}/cross_entropy"] = cross_entropy(likelihood, passages_BT)
        found |= {f"{text}/{name}": accuracy(likelihood, choice) for name, choice in asked.items()}
    losses = [value for name, value in found.items() if name.endswith("cross_entropy")]
    right = [value for name, value in found.items() if not name.endswith("cross_entropy")]
    means = {"cross_entropy": sum(losses) / len(losses)} | ({"choices": sum(right) / len(right)} if right else {})
    return found | means


def _sums(likelihood: Likelihood, prompts_BP: Tensor, options_BQ: Tensor) -> Tensor:
    parts = [likelihood(_rows(prompts), _rows(options)) for prompts, options in zip(
        torch.split(prompts_BP, BATCH_ROWS), torch.split(options_BQ, BATCH_ROWS), strict=True)]  # fmt: skip
    return torch.cat(parts)


def _rows(tokens_BT: Tensor) -> Jagged:
    rows, length = tokens_BT.shape
    return Jagged(tokens_BT.reshape(-1), torch.arange(rows + 1) * length)
