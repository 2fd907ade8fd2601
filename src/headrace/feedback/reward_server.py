"""Rewards from a server: completions go out as JSON, numbers come back; one that is dead is an error, and said."""

from __future__ import annotations

import os
import time
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from headrace.config import require
from headrace.errors import DataError, SchemaError, WorkerLost
from headrace.feedback.reward import COMPLETION, PROMPT
from headrace.types import Events

AGAIN_S = (0.2, 1.0, 3.0)
"""Pauses before another try; the last one is repeated."""


class ServerReward:
    """Rewards with what a server says.

    It gets `{"prompts": [...], "completions": [...]}` by `POST`, and answers `{"rewards": [...]}`, one finite number
    per completion.

    A server that cannot be reached, or answers with 5xx or 429, is tried again; then the read stops with an error,
    before anything of it was learned or logged. Whoever starts the run again goes on there.

    Args:
        url: Address; `http` or `https`.
        timeout_s: How long one try may take.
        tries: How often a batch is tried.
        token_variable: Environment variable with a bearer token for the server; None: it asks for none.

    Raises:
        ConfigError: If the address is none, or the variable is not set.
        WorkerLost: When asked, if the server does not answer; says how often it was tried, and why it failed.
        DataError: When asked, if the answer is not one number per completion.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, tries: int = 3, token_variable: str | None = None) -> None:
        require(url.startswith(("http://", "https://")), "ServerReward, url", got=url, expected="http:// or https://")
        require(timeout_s > 0, "ServerReward, timeout_s", got=timeout_s, expected="a positive number of seconds")
        require(tries >= 1, "ServerReward, tries", got=tries, expected="1 or more")
        headers = {}
        if token_variable is not None:
            token = os.environ.get(token_variable)
            require(bool(token), f"Environment variable {token_variable}", got="nothing", expected="the server's token")
            headers["authorization"] = f"Bearer {token}"
        self.url, self.tries = url, tries
        self._client = httpx.Client(timeout=timeout_s, headers=headers, trust_env=False)

    def __call__(self, requests: Events, predictions: Events) -> npt.NDArray[np.float64]:
        """Return one reward per row."""
        if COMPLETION not in predictions.names:
            raise SchemaError("Predictions", got=f"columns {predictions.names}", expected=f"a column '{COMPLETION}'",
                              do="Give the predictor a codec.")  # fmt: skip
        answers = predictions.column(COMPLETION).to_pylist()
        asked = requests.column(PROMPT).to_pylist() if PROMPT in requests.names else [""] * len(answers)
        content = self._asked({"prompts": asked, "completions": answers})
        rewards = content.get("rewards") if isinstance(content, dict) else None
        fits = isinstance(rewards, list) and len(rewards) == len(answers)
        if not fits or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in rewards or ()):
            raise DataError(f"Reward server {self.url}", got=repr(content)[:200],
                            expected=f'{{"rewards": [...]}} with {len(answers)} numbers')  # fmt: skip
        return np.asarray(rewards, dtype=np.float64)

    def _asked(self, body: dict[str, Any]) -> object:
        reason = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(AGAIN_S[min(attempt, len(AGAIN_S)) - 1])
            try:
                answer = self._client.post(self.url, json=body)
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 429 or answer.status_code >= 500:
                reason = f"status {answer.status_code}"
                continue
            if answer.status_code >= 400:
                raise DataError(f"Reward server {self.url}", got=f"status {answer.status_code}: {answer.text[:200]}",
                                expected="rewards")  # fmt: skip
            try:
                return answer.json()
            except ValueError as error:
                raise DataError(f"Reward server {self.url}", got=answer.text[:200], expected="JSON") from error
        raise WorkerLost(f"Reward server {self.url}", got=f"no answer in {self.tries} tries ({reason})",
                         expected="rewards", do="Nothing of this read was learned. Start the server, then the run "
                         "again: it goes on here.")  # fmt: skip
