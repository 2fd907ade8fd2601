from __future__ import annotations

import threading
import time

import pytest
import torch

from headrace.data import jagged
from headrace.errors import CapacityError, NumericError, StoreError
from headrace.serve import GenerateConfig, generate
from headrace.serve.writing_desk import GONE, LENGTH, STOP, Task, WritingDesk
from headrace.types import Version


class Weights:
    """Holds one version; another may be put in its place."""

    def __init__(self, model) -> None:
        self.set(0, model)
        self.gate = threading.Event()
        self.gate.set()

    def set(self, number: int, model) -> None:
        self.now = (Version(number, number - 1), model.decoder())

    def current(self):
        self.gate.wait(10)
        return self.now


@pytest.fixture
def parts(language):
    codec, model = language
    torch.set_num_threads(1)
    return codec, model


@pytest.fixture
def make_desk(parts):
    codec, model = parts
    opened = []

    def make(**settings: int) -> tuple[WritingDesk, Weights]:
        weights = Weights(model(0))
        desk = WritingDesk(weights, codec, max_length=96, **settings)
        desk.start()
        opened.append(desk)
        return desk, weights

    yield make
    for desk in opened:
        desk.close()


def task(codec, text: str, seed: int, *, stops=(), top: int = 0, **how) -> Task:
    config = GenerateConfig(**{"max_tokens": 10, "ends": (codec.end,), **how})
    return Task(prompt=tuple(codec.encode([text], begin=True).values.tolist()), config=config, seed=seed, stops=stops,
                top=top)  # fmt: skip


def alone(weights: Weights, one: Task):
    return generate(weights.current()[1], jagged([one.prompt]), one.config, [one.seed])


def test_each_is_written_as_if_it_were_alone(make_desk, parts) -> None:
    codec, _ = parts
    desk, weights = make_desk()
    texts = ["the cat", "a dog and a cat are", "k", "words are warm and the cat sat on"]
    hows = [{}, {"temperature": 0.0}, {"max_tokens": 25, "top_p": 0.9, "temperature": 0.7}, {"max_tokens": 3}]
    tasks = [task(codec, texts[row % 4], row, **hows[row % 3 if row % 5 else 3]) for row in range(24)]
    orders = []
    for one in tasks:  # they join each other while they run
        orders.append(desk.submit([one]))
        time.sleep(0.001)
    for one, order in zip(tasks, orders, strict=True):
        (writing,) = order.done.result(timeout=30).writings
        made = alone(weights, one)
        assert writing.tokens == made.tokens.values.tolist()
        assert writing.log_probs == pytest.approx(made.log_probs.tolist(), abs=2e-4)
        assert writing.ended == bool(made.ended[0])
        assert writing.reason == (STOP if writing.ended else LENGTH)
    assert desk.steps < sum(len(order.writings[0].tokens) for order in orders)  # not one after the other
    assert (desk.running, desk.waiting) == (0, 0)


def test_sequences_join_and_leave_at_any_place(parts) -> None:
    _, model = parts
    decoder = model(0).decoder()
    torch.manual_seed(0)
    rows, whole = {}, {}
    running, names = None, []
    for turn in range(30):
        if turn % 4 == 0:
            tokens = torch.randint(5, 60, (1 + turn % 7,)).tolist()
            rows[turn], whole[turn] = 6 + turn % 5, tokens
            fresh = decoder.begin(jagged([tokens]), rows[turn])
            running = fresh if running is None else running.joined(fresh)
            names.append(turn)
        for place, name in enumerate(names):
            expected = decoder.begin(jagged([whole[name]]), 0).logits[0]
            assert torch.allclose(running.logits[place], expected, atol=2e-5)
        drawn = torch.randint(5, 60, (len(names),))
        for name, token in zip(names, drawn.tolist(), strict=True):
            whole[name] = [*whole[name], token]
            rows[name] -= 1
        held = [place for place, name in enumerate(names) if rows[name] > 0]
        running.keep(held)
        names = [names[place] for place in held]
        if not names:
            running = None
            continue
        running.step(drawn[held])


def test_a_version_that_comes_stops_nothing(make_desk, parts) -> None:
    codec, model = parts
    desk, weights = make_desk()
    long = task(codec, "the cat", 1, max_tokens=60, ends=())
    seen = threading.Event()
    first = desk.submit([long], on_text=lambda place, text, until: seen.set())
    assert seen.wait(10)
    before = alone(weights, long)
    weights.set(1, model(7))
    second = desk.submit([long])
    assert first.done.result(30).writings[0].tokens == before.tokens.values.tolist()
    assert second.done.result(30).writings[0].tokens == alone(weights, long).tokens.values.tolist()
    assert (first.version.number, second.version.number) == (0, 1)


def test_stops_cut_the_text_and_end_the_writing(make_desk, parts) -> None:
    codec, _ = parts
    desk, _ = make_desk()
    whole = desk.submit([task(codec, "the cat", 4, max_tokens=30, ends=())]).done.result(30).writings[0]
    stop = whole.text.text[8:10]
    cut = desk.submit([task(codec, "the cat", 4, max_tokens=30, ends=(), stops=(stop,))]).done.result(30).writings[0]
    assert cut.text.text == whole.text.text[: whole.text.text.index(stop)]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert cut.reason == STOP
    assert len(cut.tokens) < len(whole.tokens)


def test_the_likeliest_tokens_are_those_that_could_be_drawn(make_desk, parts) -> None:
    codec, _ = parts
    desk, _ = make_desk()
    for how, most in (({}, 5), ({"temperature": 0.0}, 5), ({"top_p": 0.02}, 5)):
        writing = desk.submit([task(codec, "the cat", 3, top=5, **how)]).done.result(30).writings[0]
        assert len(writing.tops) == len(writing.tokens)
        for token, chance, top in zip(writing.tokens, writing.log_probs, writing.tops, strict=True):
            assert 1 <= len(top) <= most
            chances = [one for _, one in top]
            assert chances == sorted(chances, reverse=True)
            found = dict(top)
            assert token not in found or found[token] == pytest.approx(chance, abs=1e-5)
            if how.get("temperature") == 0.0:
                assert token == top[0][0]


def test_who_goes_away_leaves_room_and_what_was_written(make_desk, parts) -> None:
    codec, _ = parts
    desk, _ = make_desk(max_running=1)
    seen = threading.Event()
    first = desk.submit([task(codec, "the cat", 1, max_tokens=80, ends=())], on_text=lambda *_: seen.set())
    never = desk.submit([task(codec, "a dog", 1, max_tokens=80, ends=())])
    never.cancel()
    assert seen.wait(10)
    first.cancel()
    (writing,) = first.done.result(10).writings
    assert writing.reason == GONE
    assert 1 <= len(writing.tokens) < 80
    assert never.done.result(10).writings[0].tokens == []


def test_too_many_are_refused(make_desk, parts) -> None:
    codec, _ = parts
    desk, weights = make_desk(max_running=1, max_waiting=2)
    weights.gate.clear()
    orders = [desk.submit([task(codec, "the cat", 1)])]
    until = time.monotonic() + 5
    while desk.waiting and time.monotonic() < until:
        time.sleep(0.001)
    orders += [desk.submit([task(codec, "the cat", 1)]) for _ in range(2)]
    with pytest.raises(CapacityError, match="wait for their turn"):
        desk.submit([task(codec, "the cat", 1)])
    weights.gate.set()
    assert all(order.done.result(30) for order in orders)


def test_a_listener_that_fails_takes_nobody_along(make_desk, parts) -> None:
    codec, _ = parts
    desk, _ = make_desk()

    def broken(*_: object) -> None:
        raise RuntimeError("the loop is closed")

    bad = desk.submit([task(codec, "the cat", 1, max_tokens=60, ends=())], on_text=broken)
    good = desk.submit([task(codec, "a dog", 1)])
    assert good.done.result(30).writings[0].reason in (STOP, LENGTH)
    assert bad.done.result(30).writings[0].reason == GONE


def test_weights_that_are_not_finite_are_said_and_the_desk_goes_on(make_desk, parts) -> None:
    codec, model = parts
    desk, weights = make_desk()
    broken = model(3)
    with torch.no_grad():
        broken.embedding.weight.fill_(float("nan"))
    weights.set(1, broken)
    with pytest.raises(NumericError, match="NaN or infinite"):
        desk.submit([task(codec, "the cat", 1)]).done.result(30)
    weights.set(2, model(3))
    assert desk.submit([task(codec, "the cat", 1)]).done.result(30).version.number == 2


def test_after_the_end_nothing_is_taken(make_desk, parts) -> None:
    codec, _ = parts
    desk, _ = make_desk()
    order = desk.submit([task(codec, "the cat", 1)])
    desk.close()
    assert order.done.done()
    with pytest.raises(StoreError, match="after the end"):
        desk.submit([task(codec, "the cat", 1)])
