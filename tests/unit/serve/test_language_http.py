"""A language model over HTTP: the OpenAI protocol with its own client, votes, the page, scopes and limits."""

from __future__ import annotations

import asyncio
import html.parser
import json
import math
import queue
import threading
from collections.abc import Iterator

import httpx
import pytest
import torch

from headrace.data import jagged
from headrace.errors import ConfigError
from headrace.serve import (
    AccessConfig,
    GenerateConfig,
    LanguageSettings,
    ServeConfig,
    TokenBook,
    generate,
    make_token,
    run_server,
)
from headrace.serve.language_service import Offer

openai = pytest.importorskip("openai", reason="the extra 'dev' is not installed")
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def served(make_study) -> Iterator[tuple]:
    """A study on a loopback port, and a client of the OpenAI protocol for it."""
    study, ready, stop = make_study(), queue.Queue(), threading.Event()
    thread = threading.Thread(target=run_server, args=(study.app,), kwargs={
        "port": 0, "on_ready": ready.put, "stop": stop})  # fmt: skip
    thread.start()
    url = ready.get(timeout=20)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0,
                       http_client=httpx.Client(trust_env=False)) as client:  # fmt: skip
        yield study, client
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def rows(study, key: str) -> dict[str, dict]:
    return {row["item"]: row for row in study.logged() if row["key"] == key}


def test_the_client_of_the_protocol_talks_to_it(served) -> None:
    study, client = served
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("tiny", "model")
    answer = client.chat.completions.create(model="tiny", messages=HELLO, n=2, max_tokens=6, seed=5, logprobs=True,
                                            top_logprobs=3)  # fmt: skip
    assert answer.object == "chat.completion"
    assert answer.system_fingerprint == "version-0"
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in answer.choices)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    logged = rows(study, answer.id)
    assert set(logged) == {"0", "1", "pair"}
    for choice in answer.choices:
        row, told = logged[str(choice.index)], [token.logprob for token in choice.logprobs.content]
        assert row["log_probs"] == pytest.approx(told)
        assert row["propensity"] == pytest.approx(math.exp(sum(told)), rel=1e-5)
        assert row["version"] == 0
        assert row["ended"] == (choice.finish_reason == "stop")
        assert study.service.codec.decode(jagged([row["completion_ids"]]))[0] == choice.message.content
        assert len(choice.logprobs.content[0].top_logprobs) == 3
    assert logged["pair"]["first_ids"] == logged["0"]["completion_ids"]
    assert logged["pair"]["second_ids"] == logged["1"]["completion_ids"]
    again = client.chat.completions.create(model="tiny", messages=HELLO, n=2, max_tokens=6, seed=5)
    assert [one.message.content for one in again.choices] == [one.message.content for one in answer.choices]
    other = client.chat.completions.create(model="tiny", messages=HELLO, n=2, max_tokens=6, seed=6)
    assert [one.message.content for one in other.choices] != [one.message.content for one in answer.choices]


def test_what_is_logged_is_what_a_trainer_would_say(served) -> None:
    study, client = served
    answer = client.completions.create(model="tiny", prompt="the cat", max_tokens=9, seed=1)
    row = rows(study, answer.id)["0"]
    prompt, said = row["prompt_ids"], row["completion_ids"]
    model = study.service.predictor.model
    with torch.no_grad():
        whole = torch.log_softmax(model(jagged([prompt + said])), -1)
    expected = [float(whole[len(prompt) - 1 + place, token]) for place, token in enumerate(said)]
    assert row["log_probs"] == pytest.approx(expected, abs=1e-4)
    how = GenerateConfig(max_tokens=9, ends=(study.service.codec.end,))
    assert generate(model.decoder(), jagged([prompt]), how, [1]).tokens.values.tolist() == said


def test_pieces_add_up_to_the_whole(served) -> None:
    study, client = served
    how = {"model": "tiny", "seed": 3, "max_tokens": 12, "n": 2}
    for options in ({}, {"stop": ["a", "zz"]}, {"temperature": 0.5, "top_p": 0.8}):
        whole = client.chat.completions.create(messages=HELLO, logprobs=True, **how, **options)
        pieces = list(
            client.chat.completions.create(
                messages=HELLO, logprobs=True, stream=True, stream_options={"include_usage": True}, **how, **options
            )
        )
        for place, choice in enumerate(whole.choices):
            mine = [piece.choices[0] for piece in pieces if piece.choices and piece.choices[0].index == place]
            assert mine[0].delta.role == "assistant"
            assert "".join(one.delta.content or "" for one in mine) == choice.message.content
            assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
            told = [token.logprob for one in mine if one.logprobs for token in one.logprobs.content]
            assert told == pytest.approx([token.logprob for token in choice.logprobs.content], abs=1e-4)
        assert pieces[-1].usage == whole.usage
        assert rows(study, pieces[0].id)["0"]["completion_ids"] == rows(study, whole.id)["0"]["completion_ids"]
    whole = client.completions.create(prompt=["the cat", "a dog"], logprobs=2, **how)
    pieces = list(client.completions.create(prompt=["the cat", "a dog"], logprobs=2, stream=True, **how))
    assert len(whole.choices) == 4
    for place, choice in enumerate(whole.choices):
        mine = [piece.choices[0] for piece in pieces if piece.choices[0].index == place]
        assert "".join(one.text for one in mine) == choice.text
        assert [offset for one in mine if one.logprobs for offset in one.logprobs.text_offset] == (
            choice.logprobs.text_offset)  # fmt: skip


def test_errors_are_those_of_the_protocol(served) -> None:
    _, client = served
    chat = client.chat.completions.create
    wrong = [
        (openai.NotFoundError, "model", "model_not_found", {"model": "other"}),
        (openai.BadRequestError, "prompt", "context_length_exceeded", {"messages": HELLO * 40}),
        (openai.BadRequestError, "prompt", "context_length_exceeded", {"messages": HELLO * 200}),
        (openai.BadRequestError, "prompt", "context_length_exceeded", {
            "messages": [{"role": "user", "content": "x" * 100_000}]}),
        (openai.BadRequestError, "n", None, {"n": 99}), (openai.BadRequestError, "top_p", None, {"top_p": 0}),
        (openai.BadRequestError, "tools", None, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (openai.BadRequestError, "frequency_penalty", None, {"frequency_penalty": 0.5}),
        (openai.BadRequestError, "temperature", None, {"temperature": -1}),
        (openai.BadRequestError, "max_tokens", None, {"max_tokens": 41}),
        (openai.BadRequestError, "messages[0].role", None, {"messages": [{"role": "judge", "content": "x"}]}),
        (openai.BadRequestError, "unheard_of", None, {"extra_body": {"unheard_of": 1}}),
        (openai.ConflictError, None, None, {"extra_query": {"min_version": 5}}),
    ]  # fmt: skip
    for kind, param, code, options in wrong:
        with pytest.raises(kind) as found:
            chat(**{"model": "tiny", "messages": HELLO, **options})
        assert (found.value.code, found.value.type) == (code, "invalid_request_error")
        if param is not None:
            assert param in found.value.message
    idle = {"frequency_penalty": 0, "tools": [], "response_format": {"type": "text"}, "user": "u"}
    assert chat(model="tiny", messages=HELLO, max_tokens=2, **idle).choices


def test_another_version_answers_from_its_coming_on(served) -> None:
    study, client = served
    how = {"model": "tiny", "prompt": "the cat", "max_tokens": 30, "seed": 2}
    pieces = client.completions.create(stream=True, **how)
    first = next(pieces)
    study.publish(1)
    rest = [first, *pieces]
    assert {piece.system_fingerprint for piece in rest} == {"version-0"}
    answer = client.completions.create(**how)
    assert answer.system_fingerprint == "version-1"
    assert client.completions.create(**how, extra_query={"min_version": 1}).choices
    assert answer.choices[0].text != "".join(piece.choices[0].text for piece in rest)


def test_who_leaves_a_stream_ends_the_writing_and_it_is_logged(served) -> None:
    study, client = served
    pieces = client.completions.create(model="tiny", prompt="the cat", max_tokens=40, seed=11, stream=True)
    key = next(iter(pieces)).id
    pieces.close()
    for _ in range(200):
        if key in {row["key"] for row in study.logged()}:
            break
        threading.Event().wait(0.02)
    assert 1 <= len(rows(study, key)["0"]["completion_ids"]) <= 40


async def asked(client, path: str, body: object) -> httpx.Response:
    return await client.post(path, json=body)


def test_a_vote_counts_once(make_study) -> None:
    study = make_study()

    async def vote() -> None:
        async with study.client() as client:
            shown = (await asked(client, "/v1/comparisons", {})).json()
            assert [one["item"] for one in shown["completions"]] == ["0", "1"]
            assert "cat" in shown["prompt"] or "dog" in shown["prompt"]
            for item, taken in (("1", (1, 0)), ("1", (0, 1)), ("0", (0, 1)), ("tie", (0, 1))):
                answer = await asked(client, "/v1/feedback", {"key": shown["key"], "kind": "prefer", "item": item})
                assert answer.status_code == 202
                assert (answer.json()["accepted"], answer.json()["duplicates"]) == taken
            mine = {"key": shown["key"], "kind": "reward", "item": "0", "value": 2.5}
            assert (await asked(client, "/v1/feedback", [mine])).json()["accepted"] == 1
            for wrong in (
                {"kind": "click", "item": "0"}, {"kind": "prefer", "item": "2"}, {"kind": "reward", "item": "0"},
                {"kind": "prefer", "item": "0", "value": 1}, {"kind": "reward", "item": "x", "value": 1},
            ):  # fmt: skip
                assert (await asked(client, "/v1/feedback", {"key": "k", **wrong})).status_code == 400
            own = (await asked(client, "/v1/comparisons", {"prompt": "say it"})).json()
            assert "say it" in own["prompt"]

    asyncio.run(vote())
    votes = [row for row in study.logged() if row["kind"] in ("prefer", "reward")]
    assert [(row["kind"], row["item"], row["value"]) for row in votes] == [
        ("prefer", "pair", 0.0),
        ("reward", "0", 2.5),
    ]


class Page(html.parser.HTMLParser):
    """What a page loads, which parts it has, and whether anything in it would run by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.names, self.inline = [], set(), []

    def handle_starttag(self, tag, attributes) -> None:
        held = dict(attributes)
        self.loads += [held[name] for name in ("src", "href", "action") if held.get(name)]
        self.names |= {held["id"]} if "id" in held else set()
        self.inline += [name for name in held if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag in ("style", "iframe", "object") or (tag == "script" and "src" not in held) else []


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(make_study) -> None:
    study = make_study()

    async def read() -> dict[str, httpx.Response]:
        async with study.client() as client:
            paths = ("/preferences", "/preferences/page.js", "/preferences/page.css")
            return {path: await client.get(path) for path in paths}

    found = asyncio.run(read())
    page = Page()
    page.feed(found["/preferences"].text)
    assert page.inline == []
    assert set(page.loads) == {"data:,", "/preferences/page.css", "/preferences/page.js"}
    script = found["/preferences/page.js"].text
    for needed in ("prompt", "first", "second", "choose-first", "choose-second", "choose-tie", "skip", "token", "wish"):
        assert needed in page.names
        assert f'"{needed}"' in script
    assert "innerHTML" not in script
    assert "eval(" not in script
    for path in ("/v1/comparisons", "/v1/feedback"):
        assert f'"{path}"' in script
    for answer in found.values():
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_without_a_token_only_the_page_is_there(make_study) -> None:
    _, token = make_token("reader", ["read"])
    study = make_study(AccessConfig(tokens=TokenBook([token])))

    async def ask() -> list[httpx.Response]:
        async with study.client() as client:
            posted = [await asked(client, path, {}) for path in ("/v1/chat/completions", "/v1/completions",
                                                                 "/v1/comparisons", "/v1/feedback")]  # fmt: skip
            return [*posted, await client.get("/v1/models"), await client.get("/preferences")]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [401] * 5 + [200]
    assert answers[0].json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(("who", "statuses"), [("reader", (200, 403)), ("voter", (403, 202))])
def test_a_token_opens_what_its_scope_says(make_study, who, statuses) -> None:
    secret, token = make_token(who, ["read"] if who == "reader" else ["feedback"])
    study = make_study(AccessConfig(tokens=TokenBook([token])))

    async def ask() -> tuple[int, int]:
        async with study.client(authorization=f"Bearer {secret}") as client:
            chat = await asked(client, "/v1/chat/completions", {"model": "tiny", "messages": HELLO, "max_tokens": 2})
            vote = await asked(client, "/v1/feedback", {"key": "k", "kind": "prefer", "item": "0"})
            return chat.status_code, vote.status_code

    assert asyncio.run(ask()) == statuses


def test_large_bodies_and_full_queues_are_refused_in_the_form_of_the_protocol(make_study) -> None:
    study = make_study(config=ServeConfig(max_body_bytes=2000))

    async def ask() -> list[httpx.Response]:
        async with study.client() as client:
            long = await asked(client, "/v1/completions", {"model": "tiny", "prompt": "x" * 3000})
            arrow = await client.post("/v1/completions", content=b"x", headers={
                "content-type": "application/vnd.apache.arrow.stream"})  # fmt: skip
            plain = await client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
            return [long, arrow, plain]

    for answer, status in zip(asyncio.run(ask()), (413, 415, 415), strict=True):
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_document_names_every_address(make_study) -> None:
    study = make_study()

    async def read() -> dict:
        async with study.client() as client:
            return (await client.get("/openapi.json")).json()

    document = asyncio.run(read())
    wanted = {"/v1/completions", "/v1/chat/completions", "/v1/comparisons", "/v1/feedback", "/v1/models"}
    assert wanted | {"/preferences"} <= set(document["paths"])
    chat = document["paths"]["/v1/chat/completions"]["post"]
    fields = chat["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert fields["model"]["enum"] == ["tiny"]
    assert "OpenAIError" in json.dumps(chat["responses"]["400"])
    assert "OpenAIError" in document["components"]["schemas"]


def test_comparisons_are_drawn_as_the_settings_say(make_study) -> None:
    study = make_study(temperature=0.5, top_p=0.8)

    async def compare() -> httpx.Response:
        async with study.client() as client:
            shown = await asked(client, "/v1/comparisons", {})
            study.service.offer = Offer(name="tiny", settings=LanguageSettings(temperature=0.0))
            refused = await asked(client, "/v1/comparisons", {"prompt": "the cat"})
            assert (refused.status_code, "the same" in refused.text) == (400, True)
            return shown

    shown = asyncio.run(compare())
    logged = rows(study, shown.json()["key"])
    assert {logged[item]["policy"] for item in "01"} == {"temperature=0.5 top_p=0.8"}
    with pytest.raises(ConfigError, match="both completions are the same"):
        make_study(temperature=0.0)
    for wrong in (-1.0, 1e-4, 101.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"0, or 0\.001 to 100"):
            LanguageSettings(temperature=wrong)


def test_whoever_leaves_takes_nothing_out_of_the_log(make_study) -> None:
    study = make_study()

    async def leave() -> object:
        async with study.client():
            request = study.service.bodies.completion(b'{"model": "tiny", "prompt": "the cat", "max_tokens": 9}')
            begun = study.service.begin(request)
            waiting = asyncio.wrap_future(begun.durable)
            waiting.cancel()
            await asyncio.sleep(0)
            assert not begun.durable.cancelled()
            return await asyncio.wrap_future(begun.durable), begun.saying.key

    written, key = asyncio.run(leave())
    assert written.accepted == len(rows(study, key)) == 1


def test_a_stream_whose_answer_could_not_be_logged_does_not_end_well(make_study, caplog) -> None:
    study = make_study()

    def broken(_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with study.client() as client:
            study.service.writer.submit = broken
            how = {"model": "tiny", "prompt": "the cat", "max_tokens": 3}
            return await asked(client, "/v1/completions", {**how, "stream": True}), await asked(
                client, "/v1/completions", how)  # fmt: skip

    stream, whole = asyncio.run(ask())
    lines = [line.removeprefix("data: ") for line in stream.text.splitlines() if line.startswith("data: ")]
    assert "[DONE]" not in lines
    assert json.loads(lines[-1])["error"]["type"] == "server_error"
    assert "nobody foresaw" not in stream.text
    assert "nobody foresaw" in caplog.text
    assert whole.status_code == 500
