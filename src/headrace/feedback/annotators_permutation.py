"""Do groups matter at all? Deal the groups out anew among the annotators and look how often chance does as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headrace.config import require
from headrace.errors import DataError
from headrace.feedback.annotators_confusion import count
from headrace.feedback.annotators_groups import GroupConfusions, curvature
from headrace.feedback.crowd import UNKNOWN, Answers
from headrace.feedback.randomness import Floats, Ints


@dataclass(frozen=True, slots=True)
class GroupTest:
    """Result of a permutation test.

    Attributes:
        p_value: Of all attributes together: how often dealt-out groups explain as much; small means groups matter.
        by_attribute: The same for each attribute alone. Of several, the smallest is small by chance more often.
        permutations: How often groups were dealt out.
    """

    p_value: float
    by_attribute: Mapping[str, float]
    permutations: int


def permutation_test(
    answers: Answers, model: GroupConfusions, beliefs: Floats, *, permutations: int = 999, seed: int = 0
) -> GroupTest:
    """Test whether annotators of one group err alike, more than people do who were put together by chance.

    The model must be one fitted **without** groups: then nothing it says depends on who is in which group, and the
    test is exact where groups have nothing to do with answers (nor with which or how many items people saw). The
    statistic is the score of the group effects: how much the answers of a group's annotators, added up, still differ
    from what the model expects, over what that sum would vary.

    Cost: O(R K² G) per permutation and attribute of G levels.

    Raises:
        DataError: If there are no attributes.
    """
    require(permutations >= 19, "permutation_test, permutations", got=permutations, expected="19 or more")
    if not answers.attributes:
        raise DataError("permutation_test", got="answers without groups", expected="at least one attribute",
                        do="Give groups= to Answers.encode.")  # fmt: skip
    surprise, weight = _scores(model, count(answers, beliefs))
    draw = np.random.default_rng(seed)
    codes = {name: each.codes for name, each in answers.attributes.items()}
    sizes = {name: len(each.levels) for name, each in answers.attributes.items()}
    found = {name: statistic(surprise, weight, codes[name], sizes[name]) for name in codes}
    beaten, all_beaten = dict.fromkeys(codes, 0), 0
    everybody = np.arange(len(surprise))
    for _ in range(permutations):
        order = draw.permutation(everybody)
        total = 0.0
        for name, own in codes.items():
            value = statistic(surprise, weight, own[order], sizes[name])
            beaten[name] += value >= found[name] * (1.0 - 1e-12)
            total += value
        all_beaten += total >= sum(found.values()) * (1.0 - 1e-12)
    by_attribute = {name: (1 + times) / (1 + permutations) for name, times in beaten.items()}
    return GroupTest((1 + all_beaten) / (1 + permutations), by_attribute, permutations)


def _scores(model: GroupConfusions, counts: Floats) -> tuple[Floats, Floats]:
    """Return what the model does not expect of each annotator, and its variance. Shapes: both (R, K K)."""
    surprise, weight = np.empty(counts.shape), np.empty(counts.shape)
    confusions = model.confusions
    for place in range(counts.shape[1]):
        totals = counts[:, place].sum(axis=1)
        surprise[:, place] = counts[:, place] - totals[:, None] * confusions[:, place]
        lowered = model.lowered(curvature(totals, confusions[:, place]))
        weight[:, place] = np.diagonal(lowered, axis1=1, axis2=2)
    return surprise.reshape(len(counts), -1), weight.reshape(len(counts), -1)


def statistic(surprise: Floats, weight: Floats, codes: Ints, levels: int) -> float:
    """Return the sum over groups of squared surprise over its variance; annotators of no known group are left out.

    Shapes: surprise, weight (R, F); codes (R,).

    Example:
        >>> surprise, weight = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.ones((4, 1))
        >>> [statistic(surprise, weight, np.array(codes), 2) for codes in ([0, 0, 1, 1], [0, 1, 0, 1])]
        [4.0, 0.0]
    """
    members = np.zeros((levels, len(codes)))
    known = np.flatnonzero(codes != UNKNOWN)
    members[codes[known], known] = 1.0
    total, spread = members @ surprise, members @ weight
    return float((total**2 / np.maximum(spread, 1e-12)).sum())
