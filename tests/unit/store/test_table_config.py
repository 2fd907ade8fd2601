from __future__ import annotations

import json

import pytest

from headrace.errors import ConfigError
from headrace.store import Normal, TableConfig, Uniform


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""}, {"dim": 0}, {"dim": 2.0}, {"dim": True}, {"dim": 10**6}, {"rule": "adagrad"}, {"init": 0.5},
        {"seed": -1}, {"seed": 2**63}, {"admission": 3}, {"ttl_s": 0.0}, {"ttl_s": -5.0}, {"transforms": (3,)},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TableConfig(**{"name": "t", "dim": 4, **settings})  # type: ignore[arg-type]


def test_spec_holds_what_replicas_must_agree_on_and_nothing_else() -> None:
    one = TableConfig(name="t", dim=4, seed=3, init=Normal(0.5))
    assert json.loads(one.spec())["seed"] == 3
    assert one.spec() == TableConfig(name="t", dim=4, seed=3, init=Normal(0.5), ttl_s=5.0).spec()
    for other in ({"seed": 4}, {"dim": 5}, {"name": "u"}, {"init": Uniform()}):
        settings = {"name": "t", "dim": 4, "seed": 3, "init": Normal(0.5), **other}
        assert TableConfig(**settings).spec() != one.spec()  # type: ignore[arg-type]
