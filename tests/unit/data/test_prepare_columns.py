"""Preparations as plain data: checked, stored as JSON, named by fingerprint."""

from __future__ import annotations

import json

import pytest

from headrace.data import Categories, Category, History, LogBins, Number, Preparation, QuantileBins
from headrace.errors import ConfigError, DataError

COLUMNS = (
    Category("user", min_count=2, buckets=100), LogBins("I1", min_count=5, optional=True),
    QuantileBins("price", bins=7),
    Number("age", clip=(0.0, None), log1p=True, scale="standard", indicator=True, fill=2.0),
    Categories("tags", separator=",", max_length=3), History("seen", vocabulary="item", pooling="none"),
    Category("item", column="ad", serve_as="x"),
)  # fmt: skip


def test_json_keeps_everything() -> None:
    plan = Preparation(columns=COLUMNS, label="click", keep=("day",), extra_labels=("buy",), max_distinct=7)
    again = Preparation.from_json(plan.to_json())
    assert again == plan
    assert again.fingerprint() == plan.fingerprint()
    assert Preparation(columns=COLUMNS[:-1]).fingerprint() != plan.fingerprint()


def test_names_and_raw_columns() -> None:
    plan = Preparation(columns=COLUMNS)
    assert plan.names == ["user", "I1", "price", "age", "age_missing", "tags", "seen", "item"]
    assert plan.raw_columns == ("user", "I1", "price", "age", "tags", "seen", "ad")
    assert list(plan.vocabularies) == ["user", "I1", "tags", "item"]
    with pytest.raises(DataError, match="'price'"):
        plan.column("prise")


@pytest.mark.parametrize(("make", "said"), [
    (lambda: Preparation(columns=()), "at least one"),
    (lambda: Preparation(columns=(Category("a"), Number("a"))), "more than once"),
    (lambda: Preparation(columns=(Number("a", indicator=True), Category("a_missing"))), "more than once"),
    (lambda: Preparation(columns=(Category("a", column="label"),)), "before the label"),
    (lambda: Preparation(columns=(Category("a"),), keep=("a",)), "other names"),
    (lambda: Preparation(columns=(Category("a"), Category("b", vocabulary="a", min_count=2))), "share"),
    (lambda: Preparation(columns=(LogBins("a"), Category("b", vocabulary="a"))), "one kind"),
    (lambda: Preparation(columns=(Category("a"),), max_distinct=0), "1 or more"),
    (lambda: Category(""), "a name"), (lambda: Category("a", min_count=0), "1 or more"),
    (lambda: Category("a", buckets=0), "None, or 1"), (lambda: LogBins("a", min_count=0), "1 or more"),
    (lambda: QuantileBins("a", bins=1), "2 to"), (lambda: Number("a", scale="max"), "one of"),
    (lambda: Number("a", fill=float("nan")), "finite"), (lambda: Number("a", clip=(2.0, 1.0)), "least"),
    (lambda: Categories("a", separator=""), "not empty"), (lambda: History("a", max_length=0), "1 or more"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(make, said) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": [{"type": "Kategory", "name": "a"}]}',
                                  '{"columns": [{"type": "Category", "nam": "a"}]}'])  # fmt: skip
def test_json_of_something_else_is_refused(text) -> None:
    with pytest.raises(DataError):
        Preparation.from_json(text)
    assert json.loads(Preparation(columns=COLUMNS).to_json())["columns"][0]["type"] == "Category"
