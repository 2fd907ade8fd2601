"""What clients of the OpenAI protocol send: bodies of completions and of chat completions, read and checked.

A field that would not be followed is refused, unless it asks for what happens anyway. So nobody is left to believe
that a penalty or a tool was in use.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.data.text import ROLES, TextCodec
from headrace.errors import DataError, SchemaError, nearest
from headrace.serve.generate import GenerateConfig
from headrace.serve.json_values import json_of, short
from headrace.serve.language_settings import LEAST_TEMPERATURE, MOST_TEMPERATURE, LanguageSettings
from headrace.serve.refusals import Refusal

MOST_STOPS, LONGEST_STOP, MOST_TOP = 4, 256, 20
_SHARED = ("model", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "stream", "stream_options", "logprobs",
           "user")  # fmt: skip
COMPLETION_FIELDS = (*_SHARED, "prompt")
CHAT_FIELDS = (*_SHARED, "messages", "max_completion_tokens", "top_logprobs")
IDLE: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (None, 0), "presence_penalty": (None, 0), "logit_bias": (None, {}), "best_of": (None, 1),
    "echo": (None, False), "suffix": (None, ""), "tools": (None, []), "tool_choice": (None, "none"),
    "response_format": (None, {"type": "text"}), "store": (None, False), "metadata": (None, {}),
    "service_tier": (None, "auto", "default"), "functions": (None, []), "parallel_tool_calls": (None, True, False),
    "modalities": (None, ["text"]),
}  # fmt: skip
"""Fields of the protocol that are not followed, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingRequest:
    """What a client wants written.

    Attributes:
        prompts: Tokens of every prompt.
        count: Completions of each.
        config: How to write them.
        seed: What the draws are made of; None: anything.
        stops: Texts that end a completion.
        top: Likeliest tokens to tell beside each; None: no log-probabilities are told.
        stream: Whether to answer piece by piece.
        include_usage: Whether the last piece tells how many tokens there were.
        chat: Whether it is a conversation.
    """

    prompts: tuple[tuple[int, ...], ...]
    count: int
    config: GenerateConfig
    seed: int | None = None
    stops: tuple[str, ...] = ()
    top: int | None = None
    stream: bool = False
    include_usage: bool = False
    chat: bool = True


class BodyReader:
    """Turns bodies into requests.

    Args:
        name: The model's name, which every request has to say.
        codec: Turns text to tokens.
        settings: Limits, and what holds where a request does not say.
        max_length: Longest sequence of the model, prompt and completion together.
        vocabulary: Tokens that the model knows.

    Raises (all methods):
        SchemaError: If a field is not what it should be; `what` is its name.
        Refusal: 404 for another model, 400 where the prompt leaves no room; with a `code` for clients.

    Thread-safety: any number of threads.
    """

    def __init__(
        self, name: str, codec: TextCodec, settings: LanguageSettings, *, max_length: int, vocabulary: int
    ) -> None:
        self.name, self.codec, self.settings = name, codec, settings
        self.max_length, self.vocabulary = max_length, vocabulary
        self._most_letters = max_length * codec.longest()

    def completion(self, body: bytes) -> WritingRequest:
        """Read the body of `POST /v1/completions`."""
        content = self._content(body, COMPLETION_FIELDS)
        top = _whole(content, "logprobs", None, 0, 5)
        prompts = self._prompts(content.get("prompt"))
        return self._request(content, prompts, _whole(content, "max_tokens", None, 1, self.settings.max_tokens), top,
                             chat=False)  # fmt: skip

    def chat(self, body: bytes) -> WritingRequest:
        """Read the body of `POST /v1/chat/completions`."""
        content = self._content(body, CHAT_FIELDS)
        longest = [_whole(content, name, None, 1, self.settings.max_tokens)
                   for name in ("max_completion_tokens", "max_tokens")]  # fmt: skip
        if None not in longest:
            raise SchemaError("max_tokens", got="max_completion_tokens as well", expected="one of the two")
        wanted, top = _flag(content, "logprobs"), _whole(content, "top_logprobs", None, 0, MOST_TOP)
        if top is not None and not wanted:
            raise SchemaError("top_logprobs", got=f"{top} without logprobs", expected="logprobs: true beside it")
        prompt = self.conversation(content.get("messages"))
        return self._request(content, (prompt,), longest[0] or longest[1], (top or 0) if wanted else None, chat=True)

    def asked(self, prompt: object, messages: object, usual: Sequence[str]) -> tuple[int, ...]:
        """Return the tokens of what somebody wants to see completions of; one of the `usual` prompts without a wish.

        Where the model converses, a prompt is what a user says.
        """
        if prompt is not None and messages is not None:
            raise SchemaError("prompt", got="messages as well", expected="one of the two")
        if messages is not None:
            return self.conversation(messages)
        if prompt is None:
            if not usual:
                raise SchemaError("prompt", got="nothing", expected="a text: this server has no prompts of its own")
            prompt = secrets.choice(usual)
        if not self.codec.converses:
            return self._prompt(_text("prompt", prompt))
        return self.conversation([{"role": "user", "content": prompt}])

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens can follow a prompt, at least one."""
        if len(prompt) >= self.max_length:
            raise self._too_long(f"{len(prompt)} tokens")
        return self.max_length - len(prompt)

    def _check_letters(self, count: int) -> None:
        """Refuse what cannot fit however it is cut into tokens, before time is spent on cutting it."""
        if count > self._most_letters:
            raise self._too_long(f"{count} letters")

    def _too_long(self, got: str) -> Refusal:
        error = DataError("prompt", got=got, expected=f"at most {self.max_length} tokens with what is to come",
                          do="Shorten it, or ask for fewer tokens.")  # fmt: skip
        return Refusal(400, error, more={"code": "context_length_exceeded"})

    def conversation(self, messages: object) -> tuple[int, ...]:
        """Return the tokens of a conversation, with the assistant's turn at its end."""
        if not self.codec.converses:
            raise SchemaError("messages", got="a model without tokens for roles", expected="a prompt",
                              do="Ask /v1/completions.")  # fmt: skip
        if not isinstance(messages, list) or not messages:
            raise SchemaError("messages", got=short(messages), expected="a list of messages, not empty")
        if len(messages) > self.max_length:
            raise self._too_long(f"{len(messages)} messages")
        read = [_message(message, place) for place, message in enumerate(messages)]
        self._check_letters(sum(len(message["content"]) for message in read))
        if self.settings.system and all(message["role"] != "system" for message in read):
            read.insert(0, {"role": "system", "content": self.settings.system})
        return tuple(self.codec.conversation(read)[0])

    def _content(self, body: bytes, known: Sequence[str]) -> dict[str, object]:
        content = json_of(body)
        if not isinstance(content, dict):
            raise SchemaError("body", got=short(content), expected="an object")
        for name, value in content.items():
            if name in IDLE:
                if not any(value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in IDLE[name]):
                    raise SchemaError(name, got=short(value), expected="nothing: this server does not follow it")
            elif name not in known:
                raise SchemaError(name[:100], got="unknown", expected=nearest(name, known))
        model = content.get("model")
        if not isinstance(model, str) or not model:
            raise SchemaError("model", got=short(model), expected=repr(self.name))
        if model != self.name:
            error = DataError("model", got=short(model), expected=repr(self.name), do="GET /v1/models lists them.")
            raise Refusal(404, error, more={"code": "model_not_found"})
        return content

    def _prompts(self, prompt: object) -> tuple[tuple[int, ...], ...]:
        """Read a text, a list of texts, a list of tokens, or a list of those."""
        if isinstance(prompt, str):
            prompt = [prompt]
        if not isinstance(prompt, list) or not prompt:
            raise SchemaError("prompt", got=short(prompt), expected="a text, tokens, or a list of them")
        if all(_is_whole(token) for token in prompt):
            prompt = [prompt]
        if len(prompt) > self.settings.max_choices:
            raise SchemaError("prompt", got=f"{len(prompt)} prompts", expected=f"at most {self.settings.max_choices}")
        return tuple(self._prompt(one) for one in prompt)

    def _prompt(self, one: object) -> tuple[int, ...]:
        if isinstance(one, str):
            begin = self.codec.begin is not None
            self._check_letters(len(one))
            tokens = self.codec.encode([_text("prompt", one)], begin=begin).values.tolist()
            if not tokens:
                raise SchemaError("prompt", got="an empty text", expected="a text with at least one token")
            return tuple(tokens)
        if not isinstance(one, list) or not one or not all(_is_whole(token) for token in one):
            raise SchemaError("prompt", got=short(one), expected="a text, tokens, or a list of them")
        if not all(0 <= token < self.vocabulary for token in one):
            raise SchemaError("prompt", got=short(one), expected=f"tokens from 0 to {self.vocabulary - 1}")
        return tuple(one)

    def _request(
        self, content: Mapping[str, object], prompts: tuple[tuple[int, ...], ...], longest: int | None,
        top: int | None, *, chat: bool,
    ) -> WritingRequest:  # fmt: skip
        settings = self.settings
        count = _whole(content, "n", 1, 1, settings.max_choices) or 1
        if count * len(prompts) > settings.max_choices:
            raise SchemaError("n", got=f"{count} completions of {len(prompts)} prompts",
                              expected=f"at most {settings.max_choices} completions in one request")  # fmt: skip
        room = self.max_length - max(map(len, prompts))
        if room < (longest or 1):
            raise self._too_long(f"{self.max_length - room} tokens and {longest or 1} to come")
        stream, options = _flag(content, "stream"), _options(content.get("stream_options"))
        if options is not None and not stream:
            raise SchemaError("stream_options", got="no stream", expected="stream: true beside it")
        user = content.get("user")
        if user is not None:
            _text("user", user)
        return WritingRequest(
            prompts=prompts, count=count, config=self._config(content, longest or min(settings.usual_tokens, room)),
            seed=_whole(content, "seed", None, -(2**63), 2**63 - 1), stops=_stops(content.get("stop")), top=top,
            stream=stream, include_usage=bool(options), chat=chat,
        )  # fmt: skip

    def _config(self, content: Mapping[str, object], longest: int) -> GenerateConfig:
        temperature = _number(content, "temperature", self.settings.temperature, 0.0, MOST_TEMPERATURE)
        if 0 < temperature < LEAST_TEMPERATURE:
            raise SchemaError("temperature", got=temperature, expected=f"0, or {LEAST_TEMPERATURE:g} and more")
        top_p = _number(content, "top_p", self.settings.top_p, 0.0, 1.0)
        if top_p == 0:
            raise SchemaError("top_p", got=0, expected="more than 0", do="temperature 0 takes the likeliest token.")
        ends = () if self.codec.end is None else (self.codec.end,)
        return GenerateConfig(max_tokens=longest, temperature=temperature, top_p=1.0 if temperature == 0 else top_p,
                              ends=ends)  # fmt: skip


def _message(message: object, place: int) -> dict[str, str]:
    what = f"messages[{place}]"
    if not isinstance(message, dict):
        raise SchemaError(what, got=short(message), expected="an object with role and content")
    for name, value in message.items():
        if name not in ("role", "content", "name") and value is not None:
            raise SchemaError(f"{what}.{name[:100]}", got="unknown", expected=nearest(name, ["role", "content"]))
    role = "system" if message.get("role") == "developer" else message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise SchemaError(f"{what}.role", got=short(role), expected=f"one of {sorted(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
                 for part in content]  # fmt: skip
        if not parts or not all(isinstance(part, str) for part in parts):
            raise SchemaError(f"{what}.content", got=short(content), expected="text, or parts of text")
        content = "".join(str(part) for part in parts)
    return {"role": role, "content": _text(f"{what}.content", content)}


def _stops(stops: object) -> tuple[str, ...]:
    if stops is None:
        return ()
    found = [stops] if isinstance(stops, str) else stops
    if not isinstance(found, list) or len(found) > MOST_STOPS:
        raise SchemaError("stop", got=short(stops), expected=f"a text, or at most {MOST_STOPS} of them")
    for stop in found:
        if not _text("stop", stop) or len(stop) > LONGEST_STOP:
            raise SchemaError("stop", got=short(stop), expected=f"texts of 1 to {LONGEST_STOP} letters")
    return tuple(found)


def _options(options: object) -> bool | None:
    """Return `include_usage`; None where there are no options."""
    if options is None:
        return None
    if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
        raise SchemaError("stream_options", got=short(options), expected='{"include_usage": true}')
    if options.get("include_obfuscation") not in (None, False):
        raise SchemaError("stream_options", got="include_obfuscation", expected="nothing: it is not followed")
    return _flag(options, "include_usage")


def _flag(content: Mapping[str, object], name: str) -> bool:
    value = content.get(name)
    if value is not None and not isinstance(value, bool):
        raise SchemaError(name, got=short(value), expected="true or false")
    return bool(value)


def _whole(content: Mapping[str, object], name: str, default: int | None, least: int, most: int) -> int | None:
    value = content.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise SchemaError(name, got=short(value), expected=f"a whole number from {least} to {most}")
    return value


def _number(content: Mapping[str, object], name: str, default: float, least: float, most: float) -> float:
    value = content.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise SchemaError(name, got=short(value), expected=f"a number from {least:g} to {most:g}")
    return float(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise SchemaError(name, got=short(value), expected="text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SchemaError(name, got="half of a surrogate pair", expected="Unicode text") from error
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
