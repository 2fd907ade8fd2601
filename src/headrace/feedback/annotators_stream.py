"""Labels while answers still arrive: each batch moves what it touches, and settling reaches the whole's fixed point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from headrace.config import fingerprint, require
from headrace.errors import ConfigError, DataError
from headrace.feedback.annotators import LabelConfig, Labels, finish, models
from headrace.feedback.annotators_confusion import AnswerModel, FreeConfusions, count, pseudo_answers
from headrace.feedback.annotators_em import Fitted, expectation, expectation_maximisation, vote_shares
from headrace.feedback.annotators_glad import AbilityDifficulty
from headrace.feedback.annotators_groups import GroupConfusions
from headrace.feedback.annotators_truth import ClassBalance, Classifier, TruthModel
from headrace.feedback.crowd import UNKNOWN, Answers, Attribute, Column, Name
from headrace.feedback.randomness import Floats, Ints
from headrace.types import State

PASSES = 2
"""How often a batch's items are believed anew and the rates are fitted to that."""


class LabelStream:
    """Aggregates answers that arrive in batches.

    `add` takes notice of a batch at once: beliefs change for the items it touches, and rates of annotators and groups
    are fitted to the changed counts (incremental EM). `settle` goes on from there until nothing moves; it ends where
    `aggregate` ends on all the answers. Not for majority vote, which needs no stream.

    Args:
        classes: All classes; an answer outside them is refused.
        config: As for `aggregate`.
        groups: Names of the attributes that batches bring.

    Cost: `add` O(touched answers + R K³) and one look at the item of every answer so far; `settle` as `aggregate`.

    Source:
        Neal and Hinton 1998 (incremental EM).

    Example:
        >>> stream = LabelStream(["no", "yes"], LabelConfig(method="dawid-skene"))
        >>> stream.add(["a", "a"], ["ann", "bo"], ["yes", "yes"])
        >>> stream.add(["b", "b", "a"], ["ann", "bo", "cy"], ["no", "no", "no"])
        >>> stream.settle().table()["label"].to_pylist()
        ['yes', 'no']
    """

    def __init__(
        self, classes: Sequence[Name], config: LabelConfig | None = None, *, groups: Sequence[str] = ()
    ) -> None:  # fmt: skip
        self.config = config or LabelConfig()
        require(self.config.method != "majority", "LabelStream, method", got="majority", expected="a method with rates")
        require(len(set(classes)) == len(classes) >= 2, "LabelStream, classes", got=list(classes),
                expected="at least two different classes")  # fmt: skip
        nothing = np.zeros(0, dtype=np.int64)
        attributes = {name: Attribute((), nothing) for name in groups}
        self.answers = Answers(nothing, nothing, nothing, (), (), tuple(classes), attributes)
        self.beliefs: Floats = np.zeros((0, len(classes)))
        self._counts: Floats = np.zeros((0, len(classes), len(classes)))
        self._items: dict[Name, int] = {}
        self._people: dict[Name, int] = {}
        self._truth, self._model = models(self.answers, self.config)

    def add(
        self, items: Column, annotators: Column, answers: Column, *, groups: Mapping[str, Column] | None = None,
        features: tuple[Column, Floats] | None = None,
    ) -> None:  # fmt: skip
        """Take notice of a batch; arguments as for `Answers.encode`. Nothing changes when it is refused.

        Raises:
            DataError: As `Answers.encode`; or the batch contradicts an annotator's known group, has other attributes
                or other features than the batches before.
        """
        batch = Answers.encode(
            items, annotators, answers, classes=self.answers.classes, groups=groups, features=features
        )
        if set(batch.attributes) != set(self.answers.attributes):
            wanted = str(sorted(self.answers.attributes))
            raise DataError("LabelStream.add, groups", got=str(sorted(batch.attributes)), expected=wanted,
                            do="Every batch brings the same.")  # fmt: skip
        merged = self._merged(batch)
        touched = np.zeros(merged.shape[0], dtype=np.bool_)
        touched[merged.items[len(self.answers) :]] = True
        touched[len(self.beliefs) :] = True  # items that have features alone
        truth, model = self._grown(merged)
        old_rows = touched[self.answers.items]
        people = merged.shape[1]
        counts = np.zeros((people, *self._counts.shape[1:]))
        counts[: len(self._counts)] = self._counts
        if old_rows.any():
            counts[: len(self._counts)] -= count(self.answers.select(old_rows), self.beliefs)
        rows = merged.select(touched[merged.items])
        beliefs = vote_shares(merged)
        beliefs[: len(self.beliefs)] = self.beliefs
        if not len(self.answers):
            truth.fit(beliefs)
        for _ in range(PASSES):
            believed, _ = expectation(rows, truth, model)
            beliefs[touched] = believed[touched]
            after = counts + count(rows, beliefs)
            truth.fit(beliefs)
            if isinstance(model, AbilityDifficulty):
                break  # its likelihood is no function of counts; `settle` fits it
            assert isinstance(model, FreeConfusions | GroupConfusions)
            model.fit_counts(after)
        self._counts, self.answers, self.beliefs = counts + count(rows, beliefs), merged, beliefs
        self._truth, self._model = truth, model
        self._remember()

    def labels(self) -> Labels:
        """Return what is believed now, without going on to the fixed point.

        Raises:
            DataError: Before the first answer.
        """
        self._need_answers()
        return finish(self.answers, self.config, Fitted(self.beliefs, (), True), self._truth, self._model)

    def settle(self) -> Labels:
        """Go on until no belief moves, and return the labels.

        Raises:
            DataError: Before the first answer.
        """
        self._need_answers()
        fitted = expectation_maximisation(
            self.answers, self._truth, self._model, self.beliefs,
            iterations=self.config.iterations, tolerance=self.config.tolerance,
        )  # fmt: skip
        self.beliefs, self._counts = fitted.beliefs, count(self.answers, fitted.beliefs)
        return finish(self.answers, self.config, fitted, self._truth, self._model)

    def _need_answers(self) -> None:
        if not len(self.answers):
            raise DataError("LabelStream", got="no answers yet", expected="at least one batch", do="Call add first.")

    def _remember(self) -> None:
        self._items = {name: place for place, name in enumerate(self.answers.item_names)}
        self._people = {name: place for place, name in enumerate(self.answers.annotator_names)}

    def _merged(self, batch: Answers) -> Answers:
        """Return all answers so far and these; earlier names keep their codes."""
        items, things = _longer(self._items, self.answers.item_names, batch.item_names)
        annotators, people = _longer(self._people, self.answers.annotator_names, batch.annotator_names)
        attributes = {
            name: _joined(name, each, batch.attributes[name], annotators, people)
            for name, each in self.answers.attributes.items()
        }
        return Answers(
            np.concatenate([self.answers.items, items[batch.items]]),
            np.concatenate([self.answers.annotators, annotators[batch.annotators]]),
            np.concatenate([self.answers.answers, batch.answers]),
            things, people, self.answers.classes, attributes, self._features(batch, items, len(things)),
        )  # fmt: skip

    def _features(self, batch: Answers, codes: Ints, items: int) -> Floats | None:
        before, brought = self.answers.features, batch.features
        known = before.shape[1] if before is not None else None
        width = brought.shape[1] if brought is not None else None
        if len(self.answers) and known != width:
            raise DataError("LabelStream.add, features", got=f"{width} columns", expected=f"{known}, as before",
                            do="Every batch brings the same.")  # fmt: skip
        if brought is None:
            return None
        merged = np.empty((items, brought.shape[1]))
        if before is not None:
            merged[: len(before)] = before
        merged[codes] = brought
        return merged

    def _grown(self, merged: Answers) -> tuple[TruthModel, AnswerModel]:
        truth, model = models(merged, self.config)
        if isinstance(truth, ClassBalance) and isinstance(self._truth, ClassBalance):
            truth.shares = self._truth.shares
        elif isinstance(truth, Classifier) and isinstance(self._truth, Classifier):
            truth.take_over(self._truth)
        if isinstance(model, FreeConfusions) and isinstance(self._model, FreeConfusions):
            model.take_over(self._model, _stranger(self._counts))
        elif isinstance(model, GroupConfusions) and isinstance(self._model, GroupConfusions):
            model.take_over(self._model)
        elif isinstance(model, AbilityDifficulty) and isinstance(self._model, AbilityDifficulty):
            model.ability[: len(self._model.ability)] = self._model.ability
            model.ease[: len(self._model.ease)] = self._model.ease
        return truth, model

    def state(self) -> State:
        """Return everything needed to go on: names, codes, beliefs, counts and parameters."""
        answers = self.answers
        return {
            "config": fingerprint([self.config, list(answers.classes), sorted(answers.attributes)]),
            "item_names": list(answers.item_names), "annotator_names": list(answers.annotator_names),
            "codes": torch.from_numpy(np.stack([answers.items, answers.annotators, answers.answers])),
            "levels": {name: list(each.levels) for name, each in answers.attributes.items()},
            "groups": {name: torch.from_numpy(each.codes.copy()) for name, each in answers.attributes.items()},
            "features": None if answers.features is None else torch.from_numpy(answers.features.copy()),
            "beliefs": torch.from_numpy(self.beliefs.copy()), "counts": torch.from_numpy(self._counts.copy()),
            "parameters": {name: torch.from_numpy(value.copy()) for name, value in self._parameters().items()},
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Go on from a state of the same classes, groups and settings.

        Raises:
            ConfigError: If the state is another configuration's; nothing has changed then.
        """
        own = fingerprint([self.config, list(self.answers.classes), sorted(self.answers.attributes)])
        if state.get("config") != own:
            raise ConfigError("LabelStream.restore", got=f"the state of configuration {state.get('config')!r}",
                              expected=own, do="Use the classes, groups and settings it began with.")  # fmt: skip
        codes, features = _array(state["codes"]), state["features"]
        levels, groups, parameters = state["levels"], state["groups"], state["parameters"]
        assert isinstance(levels, dict)
        assert isinstance(groups, dict)
        assert isinstance(parameters, dict)
        attributes = {name: Attribute(_names(levels[name]), _array(groups[name])) for name in self.answers.attributes}
        self.answers = replace(
            self.answers, items=codes[0].copy(), annotators=codes[1].copy(), answers=codes[2].copy(),
            item_names=_names(state["item_names"]), annotator_names=_names(state["annotator_names"]),
            attributes=attributes, features=None if features is None else _array(features),
        )  # fmt: skip
        self.beliefs, self._counts = _array(state["beliefs"]), _array(state["counts"])
        self._truth, self._model = models(self.answers, self.config)
        for name, value in self._parameters().items():
            value[...] = _array(parameters[name])
        self._remember()

    def _parameters(self) -> dict[str, Floats]:
        """Return the fitted arrays themselves, by name."""
        found: dict[str, Floats] = {}
        if isinstance(self._truth, ClassBalance):
            found["shares"] = self._truth.shares
        elif isinstance(self._truth, Classifier):
            found["weights"] = self._truth.weights
        if isinstance(self._model, GroupConfusions):
            found |= {"shared": self._model.shared, "persons": self._model.persons}
        elif isinstance(self._model, FreeConfusions):
            found["confusions"] = self._model.confusions
        elif isinstance(self._model, AbilityDifficulty):
            found |= {"ability": self._model.ability, "ease": self._model.ease}
        return found


def _array(value: object) -> Any:
    assert isinstance(value, torch.Tensor)
    return value.numpy().copy()


def _names(value: object) -> tuple[Name, ...]:
    assert isinstance(value, list)
    return tuple(value)


def _longer(
    places: Mapping[Name, int], names: tuple[Name, ...], more: tuple[Name, ...]
) -> tuple[Ints, tuple[Name, ...]]:
    """Return the codes of `more` names, and all names with those that are not known yet at the end."""
    added = [name for name in more if name not in places]
    fresh = {name: len(names) + place for place, name in enumerate(added)}
    codes = [places[name] if name in places else fresh[name] for name in more]
    return np.array(codes, dtype=np.int64), (*names, *added)


def _joined(name: str, old: Attribute, brought: Attribute, annotators: Ints, people: Sequence[Name]) -> Attribute:
    places = {level: place for place, level in enumerate(old.levels)}
    levels_of, levels = _longer(places, old.levels, brought.levels)
    codes = np.full(len(people), UNKNOWN, dtype=np.int64)
    codes[: len(old.codes)] = old.codes
    known = brought.codes != UNKNOWN
    said, whose = levels_of[brought.codes[known]], annotators[known]
    wrong = (codes[whose] != UNKNOWN) & (codes[whose] != said)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"Attribute '{name}' of annotator {people[whose[place]]!r}", got=repr(levels[said[place]]),
            expected=f"{levels[codes[whose[place]]]!r}, as in earlier batches",
        )  # fmt: skip
    codes[whose] = said
    return Attribute(levels, codes)


def _stranger(counts: Floats) -> Floats:
    """Return the confusion of an annotator not seen before: that of all, with a little faith in right answers."""
    pooled = counts.sum(axis=0) + pseudo_answers(counts.shape[1], 1.0)
    return np.asarray(pooled / pooled.sum(axis=1, keepdims=True))
