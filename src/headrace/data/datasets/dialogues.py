"""Pairs of dialogues of which people chose the less harmful one: the held-out part of HH-RLHF, harmless base.

Bai et al. 2022, "Training a Helpful and Harmless Assistant". Some texts are offensive.
"""

from __future__ import annotations

from typing import NamedTuple

from headrace.data.datasets.text_rows import rows_of

FILE = "hh_rlhf_harmless_base_test.jsonl"
ADDRESS = "github.com/anthropics/hh-rlhf (harmless-base/test.jsonl.gz)"
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Choice(NamedTuple):
    """What was asked last, the answer that people chose, and the one that they did not."""

    asked: str
    chosen: str
    rejected: str


def harmless_pairs() -> list[Choice]:
    """Return the pairs that differ in their last answer alone, without what was said before the last question.

    Raises:
        DataError: If the file is missing or malformed.
    """
    table = rows_of("HH-RLHF, harmless base", FILE, ADDRESS)
    found = []
    for chosen, rejected in zip(table["chosen"].to_pylist(), table["rejected"].to_pylist(), strict=True):
        (before, answer), (other, worse) = (text.rsplit(_ASSISTANT, 1) if _ASSISTANT in text else (text, "")
                                            for text in (chosen, rejected))  # fmt: skip
        if before == other and answer.strip() and worse.strip() and answer != worse:
            asked = before.rsplit(_HUMAN, 1)[-1].strip()
            found.append(Choice(asked, answer.strip(), worse.strip()))
    return found
