from __future__ import annotations

import pyarrow as pa
import pytest

from headrace.data import DenseFeature, MultiIdFeature, TextFeature
from headrace.errors import ConfigError, SchemaError
from headrace.online import labelling_schema

POOL = pa.table({"item": ["a", "b", "c"], "user": ["y", "x", "y"], "body": ["one", "two", "one two"],
                 "tags": [["s"], [], ["t"]], "size": [1, 2, 3], "same": [5.0, 5.0, 5.0]})  # fmt: skip


def test_a_schema_is_made_of_the_pool() -> None:
    schema = labelling_schema(POOL, task="user", words=("body", "tags"), numbers=("size", "same"), answers=("ja", "n"))
    assert schema.scenario is not None
    assert schema.scenario.values == ("x", "y")
    body, tags, size, same = schema.features
    assert isinstance(body, TextFeature)
    assert isinstance(tags, MultiIdFeature)
    assert (body.dim, body.pooling, tags.dim, tags.pooling) == (2, "sum", 2, "sum")
    assert isinstance(size, DenseFeature)
    assert isinstance(same, DenseFeature)
    assert (size.mean, round(size.std, 3), same.std) == (2.0, 0.816, 1.0)
    assert schema.label.positive == ("ja",)
    assert labelling_schema(POOL, words=("body",)).tables == {"body": 1}


def test_pools_that_cannot_be_learned_from_are_refused() -> None:
    for options in ({"words": ("bdy",)}, {"numbers": ("body",)}, {"words": ("body",), "task": "usr"}):
        with pytest.raises(SchemaError):
            labelling_schema(POOL, **options)
    with pytest.raises(SchemaError, match="'item'"):
        labelling_schema(POOL.drop_columns(["item"]), words=("body",))
    with pytest.raises(ConfigError, match="words or of numbers"):
        labelling_schema(POOL)
    many = pa.table({"item": range(600), "user": [str(row) for row in range(600)], "x": range(600)})
    with pytest.raises(ConfigError, match="600 tasks"):
        labelling_schema(many, task="user", numbers=("x",))
