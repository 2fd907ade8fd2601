"""The provokers of what a server of a language model refuses in docs/how-to/errors.md; see test_errors_table.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from headrace.data import TextCodec
from headrace.errors import HeadraceError
from headrace.serve.arms import check_min_version
from headrace.serve.generate import GenerateConfig
from headrace.serve.language_settings import LanguageSettings
from headrace.serve.openai_bodies import BodyReader
from headrace.serve.refusals import Refusal
from headrace.serve.writing_desk import Task, WritingDesk


def caught(act: Callable[[], object]) -> HeadraceError:
    """Return the error of an action that has to fail."""
    with pytest.raises(HeadraceError) as found:
        act()
    return found.value


def refused(status: int, act: Callable[[], object]) -> HeadraceError:
    """Return the error of a refusal with a status."""
    with pytest.raises(Refusal) as found:
        act()
    assert found.value.status == status
    return found.value.error


@cache
def codec() -> TextCodec:
    return TextCodec.trained(["the cat sat on the mat"] * 9, 300)


def reader() -> BodyReader:
    settings = LanguageSettings(usual_tokens=8, max_tokens=16)
    return BodyReader("shop", codec(), settings, max_length=32, vocabulary=codec().vocabulary)


def body(**fields: object) -> bytes:
    return json.dumps({"model": "shop", "prompt": "the cat", **fields}).encode()


def error_61(folder: Path) -> HeadraceError:
    """A request for a model that is not served."""
    return refused(404, lambda: reader().completion(body(model="gpt-4o")))


def error_62(folder: Path) -> HeadraceError:
    """A field of the protocol that would not be followed."""
    return caught(lambda: reader().completion(body(presence_penalty=0.5)))


def error_63(folder: Path) -> HeadraceError:
    """A prompt that leaves no room."""
    return refused(400, lambda: reader().completion(body(prompt=[40] * 32)))


def error_64(folder: Path) -> HeadraceError:
    """A client has seen a newer version than this server has."""
    return refused(409, lambda: check_min_version(4, 7))


def error_65(folder: Path) -> HeadraceError:
    """More completions than may wait."""
    desk = WritingDesk(None, codec(), max_length=32, max_waiting=1)  # type: ignore[arg-type]
    desk._thread = threading.current_thread()  # so nobody writes
    task = Task(prompt=(40,), config=GenerateConfig(max_tokens=4), seed=0)
    first = desk.submit([task])
    error = caught(lambda: desk.submit([task]))
    assert desk.waiting == 1  # the first one waits on
    assert not first.done.done()
    return error


def error_66(folder: Path) -> HeadraceError:
    """A temperature that makes no sense beside top_p."""
    return caught(lambda: LanguageSettings(temperature=0, top_p=0.9))
