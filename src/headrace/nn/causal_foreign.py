"""Language models that `transformers` computes, behind the face that ours have; and the door for models on disk."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, DataError
from headrace.nn.causal import CausalTransformer
from headrace.nn.causal_files import INDEX, WEIGHTS, causal_settings, read_config, read_own, read_weights
from headrace.nn.lora import merge_lora
from headrace.nn.token_layout import Layout, check_tokens
from headrace.types import Jagged


def load_causal(folder: Path | str, *, own: bool = True) -> CausalTransformer | TransformersCausal:
    """Return the language model of a local folder; nothing is downloaded, and no code of the folder is run.

    Models of the LLaMA family (LLaMA, Mistral, Qwen 2 and 3) are read straight into our own implementation; others,
    such as GPT-2, are computed by `transformers`.

    Args:
        folder: Holds `config.json` and safetensors.
        own: Whether to use our own implementation where it can compute the model.

    Raises:
        ConfigError: If the folder has no model, other weights than safetensors, or a model that needs `transformers`
            where that is not installed.
        CorruptSnapshot: If a file is damaged.
    """
    settings = causal_settings(read_config(folder)) if own else "own=False"
    return read_own(folder, settings) if not isinstance(settings, str) else _foreign(Path(folder), settings)


def _foreign(folder: Path, why: str) -> TransformersCausal:
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        read_weights(folder)  # says what is there instead
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"Model in {folder}", got=f"{why}, and no package transformers",
                          expected="a model of the LLaMA family, or the package",
                          do="pip install 'headrace[language]'") from error  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    return TransformersCausal(model)


class TransformersCausal(nn.Module):
    """A causal model of `transformers`; implements `CausalModel`.

    Dropout is off in training too: log-probabilities have to be those that completions were drawn with.

    Adapters: `with_lora` for layers that are `nn.Linear`, or those of `peft`, put in by
    `peft.inject_adapter_in_model(config, model)` before the model is given here.

    Args:
        model: A `transformers` model with an output layer over the vocabulary.

    Raises:
        ConfigError: If its logits are not its output layer applied to its last states (some models scale or bend
            them): what is learned here would then not be what it says.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()
        config = cast(Any, model).config
        self.vocabulary, self.max_length = int(config.vocab_size), int(config.max_position_embeddings)
        probe = Jagged(torch.arange(3) % self.vocabulary, torch.tensor([0, 3]))
        with torch.no_grad():
            whole = self.model(input_ids=probe.values[None]).logits[0]
            apart = (whole - self.logits(self.states(probe))).abs().max()
        if not bool(apart <= 1e-4 * whole.abs().max().clamp(min=1.0)):
            raise ConfigError(f"Model {type(model).__name__}", got=f"logits that are {float(apart):.3g} off",
                              expected="the output layer applied to the last states")  # fmt: skip

    def train(self, mode: bool = True) -> TransformersCausal:
        """Set the mode of this module; the model inside stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def states(self, tokens: Jagged) -> Tensor:
        """Return the state after each token, (L, D).

        Raises:
            DataError: If a sequence is longer than the model allows, or a token is not in the vocabulary.
        """
        check_tokens(tokens, self.vocabulary, self.max_length)
        layout = Layout(tokens)
        mask_BT = layout.beside(torch.ones_like(tokens.values))
        found = cast(Any, self.model).base_model(input_ids=layout.beside(tokens.values), attention_mask=mask_BT,
                                                 use_cache=False)  # fmt: skip
        return layout.in_a_row(cast(Tensor, found.last_hidden_state))

    def logits(self, states: Tensor) -> Tensor:
        """Return what comes after each state, (..., V)."""
        return cast(Tensor, cast(Any, self.model).get_output_embeddings()(states))

    def forward(self, tokens: Jagged) -> Tensor:
        """Return what comes after each token, (L, V)."""
        return self.logits(self.states(tokens))

    def decoder(self) -> ForeignDecoder:
        """Return the present weights for generation; later training does not change them."""
        return ForeignDecoder(merge_lora(copy.deepcopy(self.model)).requires_grad_(False), self.max_length)


class ForeignDecoder:
    """The weights of a model of `transformers` at one moment; implements `Decoder`.

    Args:
        model: The model; nobody else may change it.
        max_length: Longest sequence.
    """

    def __init__(self, model: nn.Module, max_length: int) -> None:
        self.model, self.max_length = model, max_length

    def begin(self, prompts: Jagged, room: int) -> ForeignDecoding:
        """Read prompts, none of them empty, and make room for `room` more tokens each.

        Raises:
            DataError: If a prompt is empty, or there is no room for it and what follows.
        """
        lengths_B = prompts.offsets.diff()
        longest, shortest = (int(lengths_B.max()), int(lengths_B.min())) if len(lengths_B) else (0, 1)
        if shortest == 0 or longest + room > self.max_length:
            got = "an empty prompt" if shortest == 0 else f"{longest} tokens and {room} to come"
            raise DataError("Prompts", got=got, expected=f"1 to {self.max_length} tokens in all",
                            do="Cut the prompt, or ask for fewer tokens.")  # fmt: skip
        return ForeignDecoding(self.model, *left_padded(prompts))


class ForeignDecoding:
    """Sequences that are being continued; implements `Decoding`.

    Args:
        model: The model.
        tokens_BT: Prompts, padded on the left.
        mask_BT: 1 where there is a token.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, tokens_BT: Tensor, mask_BT: Tensor) -> None:
        self._model, self._mask_BT = model, mask_BT
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        found = model(input_ids=tokens_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=True)
        self._past, self.logits = found.past_key_values, cast(Tensor, found.logits[:, -1])

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to every sequence and return the next logits (B, V)."""
        self._mask_BT = torch.cat((self._mask_BT, self._mask_BT.new_ones(len(tokens_B), 1)), 1)
        places_B1 = self._mask_BT.sum(1, keepdim=True) - 1
        found = self._model(input_ids=tokens_B[:, None], attention_mask=self._mask_BT, position_ids=places_B1,
                            past_key_values=self._past, use_cache=True)  # fmt: skip
        self._past, self.logits = found.past_key_values, cast(Tensor, found.logits[:, -1])
        return self.logits

    def keep(self, rows: list[int]) -> None:
        """Go on with these sequences only; row i is the former row `rows[i]`."""
        places = torch.tensor(rows, dtype=torch.int64)
        self._past.batch_select_indices(places)
        self._mask_BT, self.logits = self._mask_BT[places], self.logits[places]


def left_padded(tokens: Jagged, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Return sequences side by side, padded on the left, and 1 where there is a token; both (B, T) int64.

    Example:
        >>> left_padded(Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 3])))[0].tolist()
        [[0, 7], [8, 9]]
    """
    layout, lengths_B = Layout(tokens), tokens.offsets.diff()
    shift_B1 = (layout.longest - lengths_B).unsqueeze(1)
    places_BT = torch.arange(layout.longest, device=tokens.values.device) - shift_B1
    mask_BT = places_BT >= 0
    values_BT = layout.beside(tokens.values).gather(1, places_BT.clamp(min=0))
    return values_BT.where(mask_BT, fill), mask_BT.long()
