"""Answers prompts with completions of the version that a replica holds."""

from __future__ import annotations

import threading
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from headrace.config import require
from headrace.data.hashing import example_ids, hash_text
from headrace.data.text import TextCodec
from headrace.data.token_columns import COMPLETION, ENDED, LOG_PROBS, PROMPT, number_column, token_column, tokens_of
from headrace.errors import SchemaError
from headrace.nn.causal_settings import CausalModel, Decoder
from headrace.nn.token_layout import taken
from headrace.publish.replica import Replica
from headrace.serve.generate import Completions, GenerateConfig, generate
from headrace.types import Change, Events, Jagged, Version

PROMPT_TEXT, COMPLETION_TEXT = "prompt", "completion"
BATCH_ROWS = 64


class LanguagePredictor:
    """The `Predictor` that writes: one completion per row, from one version per call.

    A row has its prompt as tokens in `prompt_ids`, or as text in `prompt` where there is a codec. Rows of one key with
    different items are different answers to one prompt: what is drawn comes from the seed, the key and the item, so
    the same request gets the same completion from the same version, whatever else is asked with it.

    A version's weights are laid out for generation when the first request after it comes. A request that is being
    answered when a version comes is answered by the version that it began with.

    Answers have, beside the columns of every prediction, `completion_ids`, `log_probs` (of every token, as drawn),
    `ended`, the prompt's tokens, and with a codec `completion` as text. `score` is the geometric mean of the
    probabilities of its tokens.

    Args:
        model: The model; holds the replica's dense tensors.
        replica: Dense tensors that follow the published versions.
        config: How to generate.
        codec: Turns text to tokens and back; None: prompts come as tokens.
        seed: Another seed, other completions.
        batch_rows: Rows that are generated together.

    Raises:
        ConfigError: If the parts do not go together.

    Thread-safety: any number of threads may predict while others apply.

    Cost: see `headrace.serve.generate`; one copy of the weights per version.
    """

    def __init__(
        self, model: CausalModel, replica: Replica, config: GenerateConfig | None = None, *,
        codec: TextCodec | None = None, seed: int = 0, batch_rows: int = BATCH_ROWS,
    ) -> None:  # fmt: skip
        require(batch_rows >= 1, "batch_rows", got=batch_rows, expected="a positive integer")
        require(codec is None or codec.vocabulary <= model.vocabulary, "codec",
                got=f"{codec.vocabulary if codec else 0} tokens", expected=f"at most {model.vocabulary}, as the model",
                do="Give the codec that the model was trained with.")  # fmt: skip
        self.config = config or GenerateConfig()
        known = all(0 <= token < model.vocabulary for token in self.config.ends)
        require(known, "ends", got=self.config.ends, expected=f"tokens from 0 to {model.vocabulary - 1}")
        self.model, self.replica, self.codec = model, replica, codec
        self.seed, self.batch_rows = seed, batch_rows
        cast(nn.Module, model).eval()
        self._packed: tuple[Version, Decoder] | None = None
        self._packing = threading.Lock()

    @property
    def version(self) -> Version:
        """The version that answers."""
        return self.replica.version

    def apply(self, change: Change) -> None:
        """Move to the change's version; see `Replica.apply`."""
        self.replica.apply(change)

    def predict(self, requests: Events) -> Events:
        """Return one row per request row: key, kind `prediction`, event_time, item, score, version, and the completion.

        Raises:
            SchemaError: If the requests have no prompts.
            DataError: If a prompt is empty, has tokens that the model does not know, or is too long.
            VersionError: If there is no version yet.
            NumericError: If the model's output is not finite.
        """
        rows = len(requests)
        prompts = self.prompts(requests)
        items = requests.column("item") if "item" in requests.names else pa.nulls(rows, pa.string())
        seeds = example_ids(requests.column("key"), items) ^ hash_text(f"language {self.seed}")
        version, decoder = self.current()
        made = self._generated(decoder, prompts, seeds.tolist())
        columns: dict[str, object] = {
            "key": requests.column("key"), "kind": pa.array(["prediction"] * rows, pa.string()),
            "event_time": requests.column("event_time"), **({"item": items} if "item" in requests.names else {}),
            "score": pa.array(_scores(made).numpy(), pa.float32()),
            "version": pa.array(np.full(rows, version.number, np.int64), pa.int64()),
            PROMPT: token_column(prompts), COMPLETION: token_column(made.tokens),
            LOG_PROBS: number_column(made.log_probs, made.tokens.offsets),
            ENDED: pa.array(made.ended.numpy(), pa.bool_()),
        }  # fmt: skip
        if self.codec is not None:
            columns[COMPLETION_TEXT] = pa.array(self.codec.decode(made.tokens), pa.string())
        return Events.from_columns(columns)

    def prompts(self, requests: Events) -> Jagged:
        """Return the prompts of requests as tokens; text begins with the codec's begin token, if it has one.

        Raises:
            SchemaError: If there are none.
        """
        if PROMPT in requests.names:
            return tokens_of(requests, PROMPT)
        if self.codec is None or PROMPT_TEXT not in requests.names:
            expected = f"'{PROMPT}'" + ("" if self.codec is None else f" or '{PROMPT_TEXT}'")
            raise SchemaError("Requests", got=f"columns {requests.names}", expected=f"a column {expected}")
        texts = requests.column(PROMPT_TEXT)
        if texts.null_count or not pa.types.is_string(texts.type):
            raise SchemaError(f"Column '{PROMPT_TEXT}'", got=f"{texts.null_count} rows without text, {texts.type}",
                              expected="text in every row")  # fmt: skip
        return self.codec.encode(texts.to_pylist(), begin=self.codec.begin is not None)

    def current(self) -> tuple[Version, Decoder]:
        """Return the version held and its weights, laid out for generation.

        Raises:
            VersionError: If there is no version yet.
        """
        with self.replica.reading() as version, self._packing:
            if self._packed is None or self._packed[0] != version:
                self._packed = (version, self.model.decoder())
            return self._packed

    def _generated(self, decoder: Decoder, prompts: Jagged, seeds: list[int]) -> Completions:
        """Generate in batches of prompts of similar length, and put the completions into the order of the prompts."""
        order = torch.argsort(prompts.offsets.diff(), stable=True)
        parts = []
        for rows in torch.split(order, self.batch_rows):
            some, _ = taken(prompts, rows)
            parts.append(generate(decoder, some, self.config, [seeds[row] for row in rows.tolist()]))
        return Completions.concat(parts).take(torch.argsort(order))


def _scores(made: Completions) -> Tensor:
    """Return the geometric mean of the probabilities of each completion's tokens, (B,)."""
    lengths_B = made.tokens.offsets.diff()
    owners_L = torch.repeat_interleave(torch.arange(len(made)), lengths_B)
    sums_B = torch.zeros(len(made), dtype=torch.float64).index_add_(0, owners_L, made.log_probs.double())
    return (sums_B / lengths_B.clamp(min=1)).exp().float()
