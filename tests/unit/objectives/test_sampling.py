"""Sampling correction: one place, the right size, and never twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.objectives import SamplingCorrection, check_applied_once, correct_logit, correct_probability


@given(p=st.floats(0.001, 0.999), rate=st.floats(0.001, 1.0))
def test_corrected_probability_undoes_the_odds_of_the_sample(p: float, rate: float) -> None:
    sampled = p / (p + rate * (1 - p))
    assert correct_probability(sampled, rate) == pytest.approx(p, rel=1e-9)


@given(z=st.floats(-20, 20), rate=st.floats(0.001, 1.0))
def test_probability_and_logit_corrections_agree(z: float, rate: float) -> None:
    through_logit = 1 / (1 + math.exp(-correct_logit(z, rate)))
    assert correct_probability(1 / (1 + math.exp(-z)), rate) == pytest.approx(through_logit, rel=1e-6)


def test_certainties_stay_certain() -> None:
    assert correct_probability(np.array([0.0, 1.0]), 0.1).tolist() == [0.0, 1.0]


def test_tensors_stay_tensors() -> None:
    torch.testing.assert_close(correct_probability(torch.tensor([0.5]), 0.25), torch.tensor([0.2]))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, True, "0.1"])
def test_a_rate_outside_its_range_is_refused(rate: object) -> None:
    with pytest.raises(ConfigError, match="negative_rate"):
        SamplingCorrection(rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["both", "", "Training", ("training", "serving"), None])
def test_no_value_of_where_means_two_places(where: object) -> None:
    with pytest.raises(ConfigError, match="correction"):
        SamplingCorrection(0.1, where)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["training", "weights", "serving"])
def test_exactly_one_side_corrects(where: str) -> None:
    correction = SamplingCorrection(0.1, where)  # type: ignore[arg-type]
    sides = [correction.training_shift != 0.0, where == "weights", correction.serving_rate != 1.0]
    assert sum(sides) == 1


@pytest.mark.parametrize("where", ["training", "weights"])
def test_correcting_in_serving_what_training_corrected_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match="Apply it once"):
        check_applied_once(SamplingCorrection(0.1, where), 0.1)  # type: ignore[arg-type]


def test_correcting_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected rate 0\.1"):
        check_applied_once(SamplingCorrection(0.1, "serving"), 1.0)


def test_correcting_for_another_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected rate 0\.1"):
        check_applied_once(SamplingCorrection(0.1, "serving"), 0.2)


@pytest.mark.parametrize(("where", "serving"), [("training", 1.0), ("weights", 1.0), ("serving", 0.1)])
def test_a_server_that_completes_the_training_is_accepted(where: str, serving: float) -> None:
    check_applied_once(SamplingCorrection(0.1, where), serving)  # type: ignore[arg-type]


def test_the_correction_travels_as_text() -> None:
    correction = SamplingCorrection(1 / 3, "serving")
    assert SamplingCorrection.from_spec(correction.spec()) == correction


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"negative_rate": null, "where": "training"}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Sampling correction of a version"):
        SamplingCorrection.from_spec(text)
