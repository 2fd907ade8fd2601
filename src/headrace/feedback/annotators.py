"""Labels from a crowd: majority vote, Dawid-Skene, GLAD, LFC and GroupAnno, with what is known of the annotators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from headrace.config import known_name, require
from headrace.feedback.annotators_confusion import AnswerModel, FreeConfusions, count, pseudo_answers
from headrace.feedback.annotators_em import Fitted, expectation, expectation_maximisation, vote_shares
from headrace.feedback.annotators_glad import AbilityDifficulty
from headrace.feedback.annotators_groups import Cells, GroupConfusions
from headrace.feedback.annotators_permutation import GroupTest, permutation_test
from headrace.feedback.annotators_rates import Rates, counted_variances, modelled_variances, pooled_rates, rates
from headrace.feedback.annotators_truth import ClassBalance, Classifier, TruthModel, UniformTruth, log_softmax
from headrace.feedback.crowd import Answers
from headrace.feedback.randomness import Floats, Ints

Method = Literal["majority", "dawid-skene", "glad", "lfc", "groupanno"]
METHODS: tuple[Method, ...] = ("majority", "dawid-skene", "glad", "lfc", "groupanno")
COUNTED = 1.0
"""Pseudo-answers per cell, on average, where confusions are counted and nothing else holds them."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How labels are inferred.

    Attributes:
        method: `majority`; `dawid-skene` (a confusion per annotator); `glad` (ability and difficulty); `lfc`
            (Dawid-Skene with a classifier on the items' features); `groupanno` (confusions of groups and of persons,
            with the classifier where there are features).
        smoothing: Pseudo-answers per cell of a confusion, pseudo-items per class; None: 1 for `dawid-skene` and
            `lfc`, 0 for `groupanno`, whose priors do that work.
        individual_sd: GroupAnno: standard deviation of the log-odds that a person adds.
        group_sd: GroupAnno: the same for a group.
        l2: Ridge of the classifier.
        iterations: EM steps at most.
        tolerance: EM ends when no belief moves by more.
        confidence: Of all intervals.
    """

    method: Method = "groupanno"
    smoothing: float | None = None
    individual_sd: float = 0.7071
    group_sd: float = 3.1623
    l2: float = 1.0
    iterations: int = 500
    tolerance: float = 1e-4
    confidence: float = 0.95

    def __post_init__(self) -> None:
        known_name("LabelConfig, method", self.method, METHODS)
        require(self.smoothing is None or self.smoothing >= 0, "LabelConfig, smoothing", got=self.smoothing,
                expected="0 or more, or None")  # fmt: skip
        require(self.individual_sd >= 0, "LabelConfig, individual_sd", got=self.individual_sd, expected="0 or more")
        require(self.group_sd > 0, "LabelConfig, group_sd", got=self.group_sd, expected="a positive number")
        require(self.l2 > 0, "LabelConfig, l2", got=self.l2, expected="a positive number")
        require(self.iterations >= 1, "LabelConfig, iterations", got=self.iterations, expected="1 or more")
        require(self.tolerance > 0, "LabelConfig, tolerance", got=self.tolerance, expected="a positive number")
        require(0 < self.confidence < 1, "LabelConfig, confidence", got=self.confidence, expected="in (0, 1)")

    @property
    def pseudo_answers(self) -> float:
        """The smoothing that holds for the method."""
        if self.smoothing is not None:
            return self.smoothing
        return 0.0 if self.method == "groupanno" else COUNTED


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What a crowd's answers say, and how well its members answer.

    Shapes: shared (K, K), p(answer | class) of anybody.

    Attributes:
        answers: What was aggregated.
        config: How.
        fitted: Beliefs (I, K), the log-likelihood's course, whether it converged.
        truth: The fitted model of classes; None for majority vote.
        model: The fitted model of answers; None for majority vote.
        annotators: Rates of each annotator.
        groups: Rates of a typical annotator of each level, by attribute.
        shared: Confusion of an annotator of whom nothing is known.
        notes: What a reader must know.
    """

    answers: Answers
    config: LabelConfig
    fitted: Fitted
    truth: TruthModel | None
    model: AnswerModel | None
    annotators: Rates
    groups: Mapping[str, Rates]
    shared: Floats
    notes: tuple[str, ...]

    @property
    def beliefs(self) -> Floats:
        """p(class | everything), (I, K)."""
        return self.fitted.beliefs

    @property
    def codes(self) -> Ints:
        """The likeliest class of each item, (I,); the first of equals."""
        return np.asarray(self.beliefs.argmax(axis=1))

    @property
    def entropy(self) -> Floats:
        """How uncertain each label is, in nats, (I,); 0 is certain, log K knows nothing."""
        return entropy(self.beliefs)

    def table(self) -> pa.Table:
        """Return one row per item: label, its probability, entropy, number of answers, and p(class) for each class."""
        names, codes = self.answers.classes, self.codes
        columns: dict[str, object] = {
            "item": list(self.answers.item_names), "label": [names[code] for code in codes],
            "probability": self.beliefs.max(axis=1), "entropy": self.entropy,
            "answers": np.bincount(self.answers.items, minlength=len(codes)),
        }  # fmt: skip
        columns |= {f"p_{name}": self.beliefs[:, place] for place, name in enumerate(names)}
        return pa.table(columns)

    def predicted_answers(self, items: Ints, annotators: Ints, *, groups_for_strangers: bool = False) -> Floats:
        """Return p(answer) of annotators about items, (N, K).

        An annotator who gave no answer answers as anybody does. With `groups_for_strangers` GroupAnno uses their
        groups; on real data that has made it worse, so check it on annotators held out before you use it.
        """
        found = np.array(confusions_of(self))
        strangers = np.bincount(self.answers.annotators, minlength=len(found)) == 0
        if not (groups_for_strangers and isinstance(self.model, GroupConfusions)):
            found[strangers] = self.shared
        return np.asarray(np.einsum("nk,nkl->nl", self.beliefs[items], found[annotators]))


def aggregate(answers: Answers, config: LabelConfig | None = None) -> Labels:
    """Infer labels and rates from a crowd's answers.

    Cost: O(N K) per EM step for `dawid-skene` and `glad`; see `GroupConfusions` and `Classifier` for theirs.

    Example:
        >>> answers = Answers.encode(list("aaabbb"), ["x", "y", "z"] * 2, [1, 1, 0, 0, 0, 0])
        >>> aggregate(answers, LabelConfig(method="dawid-skene")).table()["label"].to_pylist()
        [1, 0]
    """
    settings = config or LabelConfig()
    if settings.method == "majority":
        return finish(answers, settings, Fitted(vote_shares(answers), (), True), None, None)
    truth, model = models(answers, settings)
    beliefs = vote_shares(answers)
    if isinstance(model, AbilityDifficulty):
        beliefs, _ = expectation(answers, truth, model)
    fitted = expectation_maximisation(
        answers, truth, model, beliefs, iterations=settings.iterations, tolerance=settings.tolerance
    )
    return finish(answers, settings, fitted, truth, model)


def groups_test(
    answers: Answers, config: LabelConfig | None = None, *, permutations: int = 999, seed: int = 0
) -> GroupTest:
    """Fit GroupAnno without groups and test by permutation whether the groups matter; see `permutation_test`."""
    settings = replace(config or LabelConfig(), method="groupanno")
    plain = aggregate(replace(answers, attributes={}), settings)
    assert isinstance(plain.model, GroupConfusions)
    return permutation_test(answers, plain.model, plain.beliefs, permutations=permutations, seed=seed)


def models(answers: Answers, config: LabelConfig) -> tuple[TruthModel, AnswerModel]:
    """Return the two unfitted models of a method."""
    items, people, classes = answers.shape
    smoothing = config.pseudo_answers
    truth: TruthModel = ClassBalance(classes, smoothing)
    if config.method == "glad":
        return UniformTruth(classes), AbilityDifficulty(people, items, classes)
    if answers.features is not None and config.method in ("lfc", "groupanno"):
        truth = Classifier(answers.features, classes, config.l2)
    if config.method == "groupanno":
        cells = Cells.of(answers.attributes, people)
        return truth, GroupConfusions(cells, classes, group_sd=config.group_sd, individual_sd=config.individual_sd,
                                      smoothing=smoothing)  # fmt: skip
    return truth, FreeConfusions(people, classes, smoothing)


def finish(
    answers: Answers, config: LabelConfig, fitted: Fitted, truth: TruthModel | None, model: AnswerModel | None
) -> Labels:
    """Add rates, intervals and notes to what EM found."""
    beliefs = fitted.beliefs
    if model is None:  # a vote's share says who is in doubt; the rates are against the winner
        beliefs = (beliefs == beliefs.max(axis=1, keepdims=True)) * 1.0
        beliefs /= beliefs.sum(axis=1, keepdims=True)
    counts, doubt = count(answers, beliefs), count(answers, beliefs * (1.0 - beliefs))
    said = np.bincount(answers.annotators, minlength=answers.shape[1])
    met = beliefs[np.bincount(answers.items, minlength=len(beliefs)) > 0]
    shares = met.mean(axis=0) if len(met) else np.full(answers.shape[2], 1.0 / answers.shape[2])
    if isinstance(model, GroupConfusions):
        people, groups, shared = _modelled(answers, config, model, counts, doubt, said, shares)
    else:
        people, groups, shared = _counted(answers, config, counts, doubt, said, shares)
    notes = []
    if model is not None and not fitted.converged:
        notes.append(f"EM stopped after {len(fitted.trace)} steps before the beliefs stood still.")
    if config.method == "lfc" and answers.features is None:
        notes.append("There are no features of items: LFC is Dawid-Skene.")
    if config.method == "groupanno" and not answers.attributes:
        notes.append("There are no groups: each annotator is held towards what all share.")
    repeated = len(answers) - len(np.unique(answers.items * np.int64(answers.shape[1]) + answers.annotators))
    if repeated:
        notes.append(f"{repeated} answers repeat an annotator and an item; each counts.")
    return Labels(answers, config, fitted, truth, model, people, groups, shared, tuple(notes))


def _counted(
    answers: Answers, config: LabelConfig, counts: Floats, doubt: Floats, said: Ints, shares: Floats
) -> tuple[Rates, dict[str, Rates], Floats]:
    own = _smoothed(counts, config)
    recall = np.diagonal(own / own.sum(axis=2, keepdims=True), axis1=1, axis2=2)
    people = rates(answers.annotator_names, said, recall, counted_variances(own, doubt, recall), shares,
                   config.confidence)  # fmt: skip
    groups = {
        name: pooled_rates(each.levels, each.codes, said, counts, shares, config.confidence)
        for name, each in answers.attributes.items()
    }
    together = counts.sum(axis=0) + pseudo_answers(counts.shape[1], COUNTED)
    return people, groups, together / together.sum(axis=1, keepdims=True)


def _smoothed(counts: Floats, config: LabelConfig) -> Floats:
    # rates need a little smoothing even where the labels were found without, or intervals would have no width
    return np.asarray(counts + pseudo_answers(counts.shape[1], max(config.pseudo_answers, 1e-6)))


def _modelled(
    answers: Answers, config: LabelConfig, model: GroupConfusions, counts: Floats, doubt: Floats, said: Ints,
    shares: Floats,
) -> tuple[Rates, dict[str, Rates], Floats]:  # fmt: skip
    design = model.cells.design[model.cells.cells]
    everybody = design.mean(axis=0)
    typical, sizes = [everybody], {}
    for name, attribute in answers.attributes.items():
        start, width = model.cells.starts[name], len(attribute.levels)
        for level in range(width):
            row = everybody.copy()
            row[start : start + width] = np.eye(width)[level]
            typical.append(row)
        sizes[name] = width
    levels = np.stack(typical)
    persons, groups = modelled_variances(model, counts, doubt, levels)
    recall = np.diagonal(model.confusions, axis1=1, axis2=2)
    people = rates(answers.annotator_names, said, recall, persons, shares, config.confidence)
    chances = np.exp(log_softmax(levels @ model.shared)).transpose(1, 0, 2)
    found, place = {}, 1
    for name, attribute in answers.attributes.items():
        cut = slice(place, place + sizes[name])
        known = attribute.codes >= 0
        total = np.bincount(attribute.codes[known], weights=said[known], minlength=sizes[name]).astype(np.int64)
        own = np.diagonal(chances[cut], axis1=1, axis2=2)
        found[name] = rates(attribute.levels, total, own, groups[cut], shares, config.confidence)
        place += sizes[name]
    return people, found, chances[0]


def confusions_of(labels: Labels) -> Floats:
    """Return p(answer | class) of each annotator, (R, K, K); for GLAD and majority vote as counted."""
    if isinstance(labels.model, GroupConfusions | FreeConfusions):
        return labels.model.confusions
    counts = _smoothed(count(labels.answers, labels.beliefs), labels.config)
    return np.asarray(counts / counts.sum(axis=2, keepdims=True))


def entropy(beliefs: Floats) -> Floats:
    """Return the entropy of each row in nats.

    Example:
        >>> entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(4).tolist()
        [0.0, 0.6931]
    """
    return np.asarray(-(beliefs * np.log(np.maximum(beliefs, 1e-300))).sum(axis=1)) + 0.0
