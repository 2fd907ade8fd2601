"""What clients of the OpenAI protocol are told: whole answers, pieces of them, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.data.text import TextCodec
from headrace.serve.openai_bodies import WritingRequest
from headrace.serve.refusals import Refusal
from headrace.serve.text_stream import PART
from headrace.serve.writing_desk import LENGTH, STOP, Order, Writing

DONE = b"data: [DONE]\n\n"
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class Saying:
    """How the answer to one request is written down.

    Attributes:
        key: Names the answer; feedback repeats it.
        created: When, in seconds since the epoch.
        model: The model's name.
        request: What was asked.
        codec: Spells tokens.
    """

    key: str
    created: int
    model: str
    request: WritingRequest
    codec: TextCodec

    def whole(self, order: Order) -> dict[str, Any]:
        """Return the answer when all is written."""
        kind = "chat.completion" if self.request.chat else "text_completion"
        choices = [self._choice(place, writing) for place, writing in enumerate(order.writings)]
        return {**self._head(kind, order), "choices": choices, "usage": self.usage(order)}

    def usage(self, order: Order) -> dict[str, int]:
        """Return how many tokens were read and written; the prompt of several choices counts once."""
        read = sum(map(len, self.request.prompts))
        written = sum(len(writing.tokens) for writing in order.writings)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def opening(self, order: Order) -> Iterator[bytes]:
        """Yield the first pieces of an answer in pieces: in a conversation, who speaks."""
        if self.request.chat:
            for place in range(len(order.writings)):
                yield self._piece(order, self._delta(place, {"role": "assistant", "content": ""}, None))

    def piece(self, order: Order, place: int, text: str, first: int, until: int) -> bytes:
        """Return one piece: new text of a choice, with its tokens from `first` to `until`."""
        writing = order.writings[place]
        told = None if self.request.top is None else self._log_probs(writing, first, until)
        content: Mapping[str, object] = {"content": text} if self.request.chat else {"text": text}
        return self._piece(order, self._delta(place, content, None, told))

    def ending(self, order: Order) -> Iterator[bytes]:
        """Yield the last pieces: why each choice ended, and how many tokens there were, if that was asked for."""
        for place, writing in enumerate(order.writings):
            content: Mapping[str, object] = {} if self.request.chat else {"text": ""}
            yield self._piece(order, self._delta(place, content, _reason(writing)))
        if self.request.include_usage:
            kind = "chat.completion.chunk" if self.request.chat else "text_completion"
            yield event({**self._head(kind, order), "choices": [], "usage": self.usage(order)})
        yield DONE

    def _head(self, kind: str, order: Order) -> dict[str, Any]:
        version = order.version.number
        return {"id": self.key, "object": kind, "created": self.created, "model": self.model,
                "system_fingerprint": f"version-{version}", "version": version}  # fmt: skip

    def _piece(self, order: Order, choice: Mapping[str, object]) -> bytes:
        kind = "chat.completion.chunk" if self.request.chat else "text_completion"
        usage = {"usage": None} if self.request.include_usage else {}
        return event({**self._head(kind, order), "choices": [choice], **usage})

    def _delta(
        self, place: int, content: Mapping[str, object], reason: str | None, told: object = None
    ) -> dict[str, object]:
        body: Mapping[str, object] = {"delta": content} if self.request.chat else content
        return {"index": place, **body, "logprobs": told, "finish_reason": reason}

    def _choice(self, place: int, writing: Writing) -> dict[str, object]:
        told = None if self.request.top is None else self._log_probs(writing, 0, len(writing.tokens))
        text = writing.text.text
        body: Mapping[str, object] = {"text": text}
        if self.request.chat:
            body = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": place, **body, "logprobs": told, "finish_reason": _reason(writing)}

    def _log_probs(self, writing: Writing, first: int, until: int) -> dict[str, object]:
        tokens, chances = writing.tokens[first:until], writing.log_probs[first:until]
        tops = writing.tops[first:until] if writing.tops else [[] for _ in tokens]
        spelled = [self.codec.spelled(token) for token in tokens]
        if self.request.chat:
            content = [{**_token(text, chance), "top_logprobs": [_token(self.codec.spelled(one), other)
                                                                 for one, other in top]}
                       for text, chance, top in zip(spelled, chances, tops, strict=True)]  # fmt: skip
            return {"content": content, "refusal": None}
        likely = [{self.codec.spelled(one): other for one, other in top} for top in tops]
        return {"tokens": spelled, "token_logprobs": chances, "top_logprobs": likely if self.request.top else None,
                "text_offset": writing.text.starts[first:until]}  # fmt: skip


def _token(text: str, chance: float) -> dict[str, object]:
    return {"token": text, "logprob": chance, "bytes": None if PART in text else list(text.encode())}


def _reason(writing: Writing) -> str:
    return STOP if writing.reason == STOP else LENGTH


def event(content: Mapping[str, object]) -> bytes:
    """Return an object as a server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_json(refusal: Refusal) -> dict[str, object]:
    """Return a refusal as clients of the protocol expect errors.

    Example:
        >>> from headrace.errors import SchemaError
        >>> error_json(Refusal(400, SchemaError("n", got=0, expected="1 or more")))["error"]["param"]
        'n'
    """
    error, status = refusal.error, refusal.status
    said, what = (text.encode("utf-8", "backslashreplace").decode() for text in (str(error), error.what))
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    named = what.replace("_", "").partition("[")[0].isalnum() and what.islower()
    param = what if named and status in (400, 404) else None
    code = refusal.more.get("code")
    rest = {name: value for name, value in refusal.more.items() if name != "code"}
    return {"error": {"message": said, "type": kind, "param": param, "code": code}, **rest}
