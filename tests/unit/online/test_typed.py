"""Text of a command line becomes what the annotation of a parameter says."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.nn import DeepFM, LogisticRegression
from headrace.online.config import ModelFamily
from headrace.online.typed import named_family, typed


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("64, 32", tuple[int, ...], (64, 32)),
        ("", tuple[int, ...], ()),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("a/b", Path, Path("a/b")),
        ("DeepFM", ModelFamily, DeepFM),
        ("headrace.nn.ctr:LogisticRegression", ModelFamily, LogisticRegression),
    ],
)
def test_text_is_typed(text: str, hint: object, value: object) -> None:
    assert typed("x", text, hint) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DeepFN", "'DeepFM'"),
        ("no.such.module:Name", "a module"),
        ("headrace.nn:MLP", "'FM'"),
        ("headrace.nn:Tasks", "'"),
    ],
)
def test_an_unknown_model_names_what_there_is(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named_family(text)
    assert expected in caught.value.expected


def test_a_wrong_item_of_a_tuple_is_refused() -> None:
    with pytest.raises(ConfigError, match="'x'"):
        typed("hidden", "64,x", tuple[int, ...])
