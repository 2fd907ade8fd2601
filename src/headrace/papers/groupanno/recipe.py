"""What GroupAnno is tried on: worlds with planted group bias, POPQUORN, and three sets with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.datasets.recorded import find_in, missing, read_table
from headrace.data.layout import Layout
from headrace.feedback import Answers
from headrace.feedback.randomness import Floats, Ints

POPQUORN = "popquorn_offensiveness.csv"
POPQUORN_ADDRESS = "github.com/Jiaxin-Pei/Potato-Prolific-Dataset (dataset/offensiveness/raw_data.csv)"
ATTRIBUTES = ("gender", "race", "age", "education")
OFFENSIVE = 2.0
"""Ratings from 1 to 5; this one and more is `offensive`."""

TRUTH_ADDRESS = "github.com/zhydhkcws/crowd_truth_infer (datasets/)"
SETS = {"duck": "d_Duck_Identification", "face": "s4_Face_Sentiment_Identification", "emotion": "f201_Emotion_FULL"}
STRONG_EMOTION = 10
"""Emotion scores go from 0 to 100; this one and more is class 1."""

RIGHT_LOG_ODDS = 1.2
EFFECTS = ((-1.0, 1.0), (-0.8, 0.0, 0.8))
"""What the levels of the two planted attributes add to the log-odds of a right answer on class 0, and take from it on
class 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """A world whose truth is known. Shapes: truth (I,); rates (R, K), how often each annotator is right on a class."""

    answers: Answers
    truth: Ints
    rates: Floats


def planted(
    *, annotators: int, items: int = 2000, each: int = 3, effect: float = 1.0, individual_sd: float = 0.3, seed: int = 0
) -> Planted:
    """Draw items with 20 features and a logistic truth, and `each` answers per item by annotators of 2 x 3 groups."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(items, 20))
    truth = (draw.random(items) < 1.0 / (1.0 + np.exp(-features @ draw.normal(size=20)))).astype(np.int64)
    groups = [draw.integers(0, len(levels), annotators) for levels in EFFECTS]
    shift = effect * sum(np.array(levels)[own] for levels, own in zip(EFFECTS, groups, strict=True))
    odds = RIGHT_LOG_ODDS + np.stack([shift, -shift], axis=1) + individual_sd * draw.normal(size=(annotators, 2))
    rates = 1.0 / (1.0 + np.exp(-odds))
    asked = np.repeat(np.arange(items), each)
    people = np.concatenate([draw.choice(annotators, each, replace=False) for _ in range(items)])
    right = draw.random(len(asked)) < rates[people, truth[asked]]
    said = np.where(right, truth[asked], 1 - truth[asked])
    columns = {f"attribute_{place}": own[people] for place, own in enumerate(groups)}
    answers = Answers.encode(asked, people, said, classes=[0, 1], groups=columns, features=(np.arange(items), features))
    return Planted(answers, truth, rates[np.array(answers.annotator_names, dtype=np.int64)])


def popquorn(path: Path | None = None) -> Answers:
    """Return POPQUORN's ratings of comments as offensive or not, with what annotators said of themselves.

    Raises:
        DataError: If the file is missing.
    """
    found = path or find_in((POPQUORN,))
    if found is None:
        raise missing("POPQUORN offensiveness", (POPQUORN,), POPQUORN_ADDRESS)
    table = read_table(found, Layout(format="csv", types={"offensiveness": "float64"}))
    said = pc.if_else(pc.greater_equal(table["offensiveness"], OFFENSIVE), "offensive", "not")
    groups = {name: table[name] for name in ATTRIBUTES}
    return Answers.encode(table["instance_id"], table["user_id"], said, groups=groups)


@dataclass(frozen=True, slots=True, eq=False)
class Gold:
    """Answers with the truth of some items. Shapes: items, truth (G,), codes of `answers`."""

    answers: Answers
    items: Ints
    truth: Ints


def truth_inference(name: str) -> Gold:
    """Return one of `SETS`, answers and truth.

    Raises:
        DataError: If a file is missing.
    """
    columns = {}
    for part in ("answer", "truth"):
        file = f"crowd_{SETS[name]}_{part}.csv"
        found = find_in((file,))
        if found is None:
            raise missing(f"crowd answers, {name}", (file,), TRUTH_ADDRESS)
        table = read_table(found, Layout(format="csv", types={part: "float64"}))
        columns[part] = table.set_column(table.column_names.index(part), part, _classes(name, table[part]))
    table, truth = columns["answer"], columns["truth"]
    answers = Answers.encode(table["question"], table["worker"], table["answer"])
    places = {item: place for place, item in enumerate(answers.item_names)}
    rows = [row for row, item in enumerate(truth["question"].to_pylist()) if item in places]
    items = [places[truth["question"][row].as_py()] for row in rows]
    codes = [answers.classes.index(truth["truth"][row].as_py()) for row in rows]
    return Gold(answers, np.array(items, dtype=np.int64), np.array(codes, dtype=np.int64))


def _classes(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if name == "emotion":
        values = pc.greater_equal(values, STRONG_EMOTION)
    return values.cast(pa.int64())
