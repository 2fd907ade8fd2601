from __future__ import annotations

import dataclasses

import pytest

from headrace.errors import ConfigError
from headrace.feedback import FEATURES, DelayPart, Place, World, WorldConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("users", 0), ("items", 1005), ("items", 10), ("candidates", -1), ("requests", 0), ("requests_per_s", 0.0),
        ("drift_s", -1.0), ("item_life_s", 0.0), ("bot_share", 1.5), ("explore", -0.1), ("bias", float("nan")),
        ("bots", 0), ("lag_s", -1.0), ("start_us", -1), ("places", ()), ("delay", ()), ("taste_dim", 2.0),
        ("places", (Place(name="a"), Place(name="a"))),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(name, value) -> None:
    with pytest.raises(ConfigError) as caught:
        WorldConfig(**{name: value})
    assert caught.value.expected


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WorldConfig().seed = 3  # type: ignore[misc]


def test_no_bots_needs_no_bot_share() -> None:
    assert WorldConfig(bots=0, bot_share=0.0).bots == 0


@pytest.mark.parametrize("part", [{"share": 0.0}, {"median_s": -1.0}, {"sigma": float("inf")}])
def test_a_delay_that_cannot_work_is_refused(part) -> None:
    with pytest.raises(ConfigError):
        DelayPart(**{"share": 1.0, "median_s": 1.0, "sigma": 1.0, **part})


def test_a_place_needs_a_name() -> None:
    with pytest.raises(ConfigError):
        Place(name="")


def test_the_features_are_columns_of_the_requests() -> None:
    requests = World(WorldConfig()).read(20)
    types = {"id": "string", "scenario": "string", "dense": "float"}
    for feature in FEATURES:
        assert str(requests.column(feature.name).type) == types[feature.kind]


def test_position_is_served_at_the_reference_that_requests_carry() -> None:
    position = next(feature for feature in FEATURES if feature.name == "position")
    assert set(World(WorldConfig()).read(50).column("position").to_pylist()) == {position.serve_as}
