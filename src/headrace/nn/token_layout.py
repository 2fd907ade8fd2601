"""Where tokens stand: one run of tokens with offsets, the same side by side, and their positions."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.errors import DataError
from headrace.nn.causal_settings import CausalSettings
from headrace.types import Jagged


class Layout:
    """Where the tokens of B sequences stand when these lie side by side, each from the left, padded on the right.

    Args:
        tokens: The sequences.

    Shapes:
        `positions` (L,) int64: each token's place in its sequence.
    """

    def __init__(self, tokens: Jagged) -> None:
        lengths_B = tokens.offsets.diff()
        self.rows, self.longest = len(lengths_B), int(lengths_B.max()) if len(lengths_B) else 0
        count = int(tokens.values.numel())
        owners_L = torch.repeat_interleave(torch.arange(self.rows, device=lengths_B.device), lengths_B)
        self.positions = torch.arange(count, device=lengths_B.device) - tokens.offsets[:-1][owners_L]
        self._even = count == self.rows * self.longest
        self._places_L = owners_L * self.longest + self.positions

    def beside(self, values_L: Tensor) -> Tensor:
        """Return values (L, ...) as (B, T, ...), zeros where a sequence has ended."""
        if self._even:
            return values_L.view(self.rows, self.longest, *values_L.shape[1:])
        padded = values_L.new_zeros(self.rows * self.longest, *values_L.shape[1:])
        return padded.index_copy(0, self._places_L, values_L).view(self.rows, self.longest, *values_L.shape[1:])

    def in_a_row(self, values_BT: Tensor) -> Tensor:
        """Return what `beside` returned as (L, ...) again."""
        flat = values_BT.reshape(self.rows * self.longest, *values_BT.shape[2:])
        return flat if self._even else flat.index_select(0, self._places_L)


def turns(settings: CausalSettings) -> Tensor:
    """Return the rotation of every pair of numbers at every position, (max_length, head_width / 2, 2): cosine, sine."""
    half = settings.head_width // 2
    rates = settings.rotary_period ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.outer(torch.arange(settings.max_length, dtype=torch.float32), rates)
    return torch.stack((angles.cos(), angles.sin()), -1)


def turned(values: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs of numbers that lie side by side: values (L, H, 2R), rotation (L, R, 2)."""
    pairs = torch.view_as_complex(torch.unflatten(values.float(), -1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(rotation).unsqueeze(1)).flatten(-2).to(values.dtype)


def check_tokens(tokens: Jagged, vocabulary: int, max_length: int) -> None:
    """Refuse sequences that are too long, and tokens that the vocabulary does not have.

    Raises:
        DataError: Names the longest sequence, or the token.
    """
    lengths_B = tokens.offsets.diff()
    longest = int(lengths_B.max()) if len(lengths_B) else 0
    if longest > max_length:
        raise DataError(f"Sequence {int(lengths_B.argmax())}", got=f"{longest} tokens",
                        expected=f"{max_length} or fewer",
                        do="Cut it, or build the model with a larger max_length.")  # fmt: skip
    if tokens.values.numel():
        low, high = (int(value) for value in tokens.values.aminmax())
        if low < 0 or high >= vocabulary:
            raise DataError("Tokens", got=f"token {low if low < 0 else high}", expected=f"0 to {vocabulary - 1}",
                            do="Encode the text with the tokenizer of this model.")  # fmt: skip


def taken(tokens: Jagged, rows: Tensor) -> tuple[Jagged, Tensor]:
    """Return some sequences, or all in another order, and where their tokens stood: places (L,).

    Example:
        >>> some, places = taken(Jagged(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 3])), torch.tensor([1]))
        >>> some.values.tolist(), places.tolist()
        ([8, 9], [1, 2])
    """
    starts_B, lengths_B = tokens.offsets[:-1][rows], tokens.offsets.diff()[rows]
    offsets = torch.cat((lengths_B.new_zeros(1), lengths_B.cumsum(0)))
    shifts_B = starts_B - offsets[:-1]
    places = torch.arange(int(offsets[-1]), device=lengths_B.device) + torch.repeat_interleave(shifts_B, lengths_B)
    return Jagged(tokens.values[places], offsets), places
