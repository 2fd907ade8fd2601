"""Tokens to text while they come: whole letters only, and nothing behind the text that ends a completion."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.data.text import TextCodec, jagged

PART = "\ufffd"
"""What a codec writes for bytes that are no whole letter."""
LONGEST_LETTER = 4
"""Bytes of the longest letter in UTF-8: what is no letter with so many tokens will not become one."""


class TextStream:
    """The text of one completion while it grows.

    A token may be a part of a letter: its text is given out when the letter is whole. What could be the beginning of
    one of the `stops` is held back until it is known, so that nothing given out has to be taken back.

    Args:
        codec: Turns tokens to text.
        stops: Texts that end the completion; the text is cut before the first of them.

    Attributes:
        text: All text so far; cut, once `stopped`.
        starts: For every token, where in the text it began.
        stopped: Whether one of the stops has come.

    Cost: decodes a few tokens per token.

    Thread-safety: none.

    Example:
        >>> codec = TextCodec.trained(["one two three"] * 9, 300)
        >>> stream = TextStream(codec, [" th"])
        >>> "".join(stream.push(token) for token in codec.encode(["one two three"]).values.tolist()), stream.stopped
        ('one two', True)
    """

    def __init__(self, codec: TextCodec, stops: Sequence[str] = ()) -> None:
        self._codec, self._stops = codec, tuple(stops)
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._tokens: list[int] = []
        self._from = self._to = self._given = 0
        self.text, self.stopped = "", False
        self.starts: list[int] = []

    def push(self, token: int) -> str:
        """Take a token and return the text that may be given out now."""
        self.starts.append(len(self.text))
        self._tokens.append(token)
        # Tokens are decoded with some before them: in some vocabularies a token's text depends on the one before.
        before, whole = self._decoded(self._from, self._to), self._decoded(self._from, None)
        if not whole.endswith(PART) or len(self._tokens) - self._to >= LONGEST_LETTER:
            self.text += whole[len(before) :]
            self._from, self._to = self._to, len(self._tokens)
        return self._fresh(final=False)

    def finish(self) -> str:
        """Return what was held back; nothing comes behind it."""
        if not self.stopped:
            before, whole = self._decoded(self._from, self._to), self._decoded(self._from, None)
            self.text += whole[len(before) :]
            self._from, self._to = self._to, len(self._tokens)
        return self._fresh(final=True)

    def _decoded(self, start: int, stop: int | None) -> str:
        tokens = self._tokens[start:stop]
        return self._codec.decode(jagged([tokens]))[0] if tokens else ""

    def _fresh(self, *, final: bool) -> str:
        if not self.stopped:
            look = max(self._given - self._longest, 0)
            places = [place for stop in self._stops if (place := self.text.find(stop, look)) >= 0]
            if places:
                self.text, self.stopped = self.text[: min(places)], True
        until = len(self.text) if final or self.stopped else len(self.text) - self._held()
        fresh, self._given = self.text[self._given : until], max(until, self._given)
        return fresh

    def _held(self) -> int:
        """Return how many last letters could be the beginning of a stop."""
        for count in range(min(self._longest - 1, len(self.text)), 0, -1):
            end = self.text[-count:]
            if any(stop.startswith(end) for stop in self._stops):
                return count
        return 0
