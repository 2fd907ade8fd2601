from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from headrace.errors import SchemaError
from headrace.feedback import WorldConfig
from headrace.feedback.population import Population
from headrace.feedback.rows import impressions, names, numbers, parse


@pytest.fixture
def people() -> Population:
    return Population(WorldConfig())


def test_what_was_written_is_read_back(people) -> None:
    shown = people.rows(95, 1234)
    back = parse(people, impressions(people, shown))
    for name in ("requests", "users", "items", "places", "times"):
        assert (getattr(back, name) == getattr(shown, name)).all()


def test_ages_are_hours_since_birth(people) -> None:
    shown = people.rows(0, 100)
    ages = impressions(people, shown).column("age_h").to_numpy()
    assert ages == pytest.approx((shown.times - people.born(shown.items)) / 3.6e9)
    assert ages.min() >= 0


@pytest.mark.parametrize("name", ["x1", "u1x", None, "u"])
def test_strange_names_are_refused(name) -> None:
    with pytest.raises(SchemaError, match="column 'user'"):
        numbers("u", pa.array([name], pa.string()), "column 'user'")


@pytest.mark.parametrize(("column", "value"), [("user", "u999999"), ("item", "i-4"), ("scenario", "cellar")])
def test_rows_of_another_world_are_refused(people, column, value) -> None:
    events = impressions(people, people.rows(0, 1)).with_columns({column: pa.array([value])})
    with pytest.raises(SchemaError):
        parse(people, events)


def test_a_missing_column_is_named(people) -> None:
    events = impressions(people, people.rows(0, 3))
    bare = type(events)(events.batch.drop_columns(["user"]))
    with pytest.raises(SchemaError, match="'user'"):
        parse(people, bare)


def test_no_rows_are_rows_too(people) -> None:
    assert len(parse(people, impressions(people, people.rows(0, 0))).items) == 0


def test_names_of_large_numbers() -> None:
    assert numbers("i", names("i", np.array([2**62])), "item").tolist() == [2**62]
