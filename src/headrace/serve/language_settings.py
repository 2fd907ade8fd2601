"""Settings of a server of a language model."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.config import require

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 100.0
"""Logits divided by less are no numbers any more; 0 takes the likeliest token, and divides by nothing."""


@dataclass(frozen=True, kw_only=True)
class LanguageSettings:
    """What a client may ask of a language model, and what it gets where it does not ask.

    Attributes:
        max_tokens: Longest completion that may be asked for.
        usual_tokens: Longest completion where the request does not say.
        temperature: Where the request does not say: 0, or 0.001 to 100. What people compare is written with it, too.
        top_p: Where the request does not say, and for what people compare.
        max_choices: Completions that one request may ask for, over all its prompts.
        max_running: Completions that are written at a time, over all requests.
        max_waiting: Completions that may wait for their turn; further ones get 503.
        system: A message of the system that stands before every conversation which has none; empty: nothing.

    Raises:
        ConfigError: If a value cannot work.
    """

    max_tokens: int = 512
    usual_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    max_choices: int = 16
    max_running: int = 64
    max_waiting: int = 256
    system: str = ""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "usual_tokens", "max_choices", "max_running"):
            require(getattr(self, name) >= 1, f"LanguageSettings.{name}", got=getattr(self, name),
                    expected="a positive integer")  # fmt: skip
        require(self.max_waiting >= 0, "LanguageSettings.max_waiting", got=self.max_waiting, expected="0 or more")
        require(self.usual_tokens <= self.max_tokens, "LanguageSettings.usual_tokens", got=self.usual_tokens,
                expected=f"at most max_tokens, {self.max_tokens}")  # fmt: skip
        drawn = LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE
        require(self.temperature == 0 or drawn, "LanguageSettings.temperature", got=self.temperature,
                expected=f"0, or {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}")  # fmt: skip
        require(0 < self.top_p <= 1, "LanguageSettings.top_p", got=self.top_p, expected="a share in (0, 1]")
        ignored = self.temperature == 0 and self.top_p < 1
        require(not ignored, "LanguageSettings.top_p", got=self.top_p, expected="1 with temperature 0")
