"""Text to tokens and back: byte-level pairs trained on the user's own corpus, and a frame for conversations."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import torch

from headrace.config import require
from headrace.errors import ConfigError, CorruptSnapshot, DataError, nearest
from headrace.types import Jagged

BEGIN, END, USER, ASSISTANT, SYSTEM = "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL = (BEGIN, END, USER, ASSISTANT, SYSTEM)
"""Tokens that text can never contain; they have the first numbers of a trained vocabulary, in this order."""
ROLES = {"user": USER, "assistant": ASSISTANT, "system": SYSTEM}
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SMALLEST = 256 + len(SPECIAL)
_TEMPLATE = (
    "{{ '" + BEGIN + "' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '"
    + END + "' }}{% endfor %}{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)  # fmt: skip


class TextCodec:
    """Text to tokens and back.

    Whatever stands in a text stays text: `<|end|>` typed by a user is seven characters, and never the token that ends
    a turn. Only `encode` with `begin` or `end`, and `conversation`, put such tokens in.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
        begin: The token before every text; None: the tokenizer has none.
        end: The token behind every text, which ends a completion; None: it has none.

    Raises:
        ConfigError: If a token is not in the vocabulary.

    Thread-safety: any number of threads.

    Example:
        >>> codec = TextCodec.trained(["the cat sat on the mat"] * 9, 300)
        >>> codec.decode(codec.encode(["the cat", "a żółw"]))
        ['the cat', 'a żółw']
        >>> codec.encode(["<|end|>"]).values.tolist().count(codec.end)
        0
    """

    def __init__(self, tokenizer: Any, *, begin: str | None = BEGIN, end: str | None = END) -> None:
        tokenizer.encode_special_tokens = True  # text is text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocabulary = int(tokenizer.get_vocab_size(with_added_tokens=True))
        self.begin = None if begin is None else self.token(begin)
        self.end = None if end is None else self.token(end)
        self._roles = {role: tokenizer.token_to_id(name) for role, name in ROLES.items()}

    @staticmethod
    def trained(texts: Iterable[str], vocabulary: int = 1024) -> TextCodec:
        """Return a codec with byte pairs learned from texts: it can write any text, and any text can be written in it.

        Args:
            texts: The corpus; read once.
            vocabulary: Tokens in all, special ones and the 256 bytes included. A small corpus may give fewer.

        Raises:
            ConfigError: If the vocabulary is too small, or the package tokenizers is not installed.

        Cost: seconds for some ten megabytes.
        """
        require(vocabulary >= SMALLEST, "vocabulary", got=vocabulary, expected=f"{SMALLEST} or more")
        tokenizers = _package()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        tokenizer.train_from_iterator(texts, trainer)
        return TextCodec(tokenizer)

    @staticmethod
    def read(folder: Path | str) -> TextCodec:
        """Return the codec of a folder: one of ours, or the `tokenizer.json` of a published model.

        Raises:
            ConfigError: If there is no tokenizer in the folder, or the package tokenizers is not installed.
            CorruptSnapshot: If a file is damaged.
        """
        folder = Path(folder)
        if not (folder / TOKENIZER).is_file():
            raise ConfigError(f"Folder {folder}", got="no tokenizer", expected=TOKENIZER,
                              do="Write the codec there, or name the model's folder.")  # fmt: skip
        settings: Mapping[str, Any] = {}
        tokenizers = _package()
        try:
            if (folder / TOKENIZER_CONFIG).is_file():
                settings = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the package raises plain exceptions
            raise CorruptSnapshot(f"Tokenizer in {folder}", got=str(error), expected="a whole tokenizer") from error
        return TextCodec(tokenizer, begin=_content(settings.get("bos_token")), end=_content(settings.get("eos_token")))

    def write(self, folder: Path | str) -> Path:
        """Write `tokenizer.json` and what `transformers` needs beside it; return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"bos_token": self.begin, "eos_token": self.end, "pad_token": self.end}
        settings: dict[str, object] = {key: self._tokenizer.id_to_token(token) for key, token in names.items()
                                       if token is not None}  # fmt: skip
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if all(token is not None for token in self._roles.values()):
            settings["chat_template"] = _TEMPLATE
        _write(folder / TOKENIZER_CONFIG, json.dumps(settings, indent=2) + "\n")
        _write(folder / TOKENIZER, self._tokenizer.to_str(pretty=False))
        return folder

    def token(self, name: str) -> int:
        """Return the number of a token.

        Raises:
            ConfigError: If there is none of that name.
        """
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise ConfigError("Token", got=repr(name), expected=nearest(name, self._tokenizer.get_vocab()))
        return int(found)

    def encode(self, texts: Sequence[str], *, begin: bool = False, end: bool = False) -> Jagged:
        """Return the tokens of texts.

        Args:
            texts: Texts.
            begin: Put the begin token before each.
            end: Put the end token behind each.

        Raises:
            ConfigError: If a token is asked for that the tokenizer does not have.
        """
        first, last = self._marks(begin, end)
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return jagged([[*first, *one.ids, *last] for one in found])

    def decode(self, tokens: Jagged) -> list[str]:
        """Return texts; special tokens are left out, and bytes that are no text become U+FFFD."""
        rows = np.split(tokens.values.cpu().numpy(), tokens.offsets[1:-1].cpu().numpy()) if len(tokens) else []
        texts: list[str] = self._tokenizer.decode_batch([row.tolist() for row in rows], skip_special_tokens=True)
        return texts

    def spelled(self, token: int) -> str:
        """Return how one token is written: its text, or its own name where it is a special one.

        A token that is a part of a letter is written as U+FFFD.
        """
        text = str(self._tokenizer.decode([token], skip_special_tokens=True))
        return text or str(self._tokenizer.id_to_token(token) or "")

    def longest(self) -> int:
        """Return the most letters that one token stands for: a text has at least its length over this in tokens."""
        return max(len(name) for name in self._tokenizer.get_vocab())

    @property
    def converses(self) -> bool:
        """Whether it has tokens for the roles of a conversation."""
        return self.end is not None and None not in self._roles.values()

    def conversation(
        self, messages: Sequence[Mapping[str, str]], *, answer: bool = True
    ) -> tuple[list[int], list[int]]:
        """Return the tokens of a conversation, and 1 for those that the assistant has to say (0 for all others).

        Args:
            messages: `role` (`user`, `assistant`, `system`) and `content` of each.
            answer: Whether it is the assistant's turn at the end: then its token stands last.

        Raises:
            DataError: If a message is none.
            ConfigError: If the tokenizer has no tokens for roles.

        Example:
            >>> codec = TextCodec.trained(["hello there"], 300)
            >>> tokens, taught = codec.conversation([{"role": "user", "content": "hello"}])
            >>> tokens[-1] == codec.token("<|assistant|>"), sum(taught)
            (True, 0)
        """
        if not self.converses:
            raise ConfigError("Conversation", got="a tokenizer without tokens for roles", expected=f"{sorted(ROLES)}",
                              do="Train a codec with TextCodec.trained, or make prompts of plain text.")  # fmt: skip
        tokens = [] if self.begin is None else [self.begin]
        taught = [0] * len(tokens)
        for place, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            if role not in self._roles or not isinstance(content, str):
                raise DataError(f"Message {place}", got=repr(dict(message))[:200],
                                expected=f"a role of {sorted(ROLES)} and a content of text")  # fmt: skip
            said = [*self._tokenizer.encode(content, add_special_tokens=False).ids, self.end]
            tokens += [self._roles[role], *said]
            taught += [0, *([int(role == "assistant")] * len(said))]
        if answer:
            tokens, taught = [*tokens, self._roles["assistant"]], [*taught, 0]
        return tokens, taught

    def _marks(self, begin: bool, end: bool) -> tuple[list[int], list[int]]:
        asked = {"begin": (begin, self.begin), "end": (end, self.end)}
        for name, (wanted, token) in asked.items():
            require(not wanted or token is not None, f"encode, {name}", got="a tokenizer without such a token",
                    expected=f"one with a token for the {name}")  # fmt: skip
        first, last = ([token] if wanted and token is not None else [] for wanted, token in asked.values())
        return first, last


def jagged(rows: Sequence[Sequence[int]]) -> Jagged:
    """Return rows of ids as one run with offsets.

    Example:
        >>> jagged([[4], [], [5, 6]]).offsets.tolist()
        [0, 1, 1, 3]
    """
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    values = np.fromiter((value for row in rows for value in row), np.int64, int(lengths.sum()))
    return Jagged(torch.from_numpy(values), torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])))


def _content(token: object) -> str | None:
    """Return a token's text: files have it as text, or as an object around it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _package() -> Any:
    try:
        for part in ("models", "decoders", "trainers", "pre_tokenizers"):
            importlib.import_module(f"tokenizers.{part}")
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError("Package tokenizers", got="not installed", expected="installed",
                          do="pip install 'headrace[language]'") from error  # fmt: skip


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.unfinished")  # two may write the same
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
