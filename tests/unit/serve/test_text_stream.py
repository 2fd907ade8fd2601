from __future__ import annotations

import random

import pytest

from headrace.data import TextCodec
from headrace.serve.text_stream import TextStream


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec.trained(["the cat sat on the mat", "a dog and a cat are glad"] * 9, 300)


def streamed(codec: TextCodec, tokens: list[int], stops=()) -> tuple[str, TextStream]:
    stream = TextStream(codec, stops)
    given = []
    for token in tokens:
        given.append(stream.push(token))
        if stream.stopped:
            break
    return "".join([*given, stream.finish()]), stream


def test_what_comes_in_pieces_is_what_comes_at_once(codec) -> None:
    for text in ("the cat", "żółw 🐢 and łąka", "a\n\tb", "", "\u202e x"):
        given, stream = streamed(codec, codec.encode([text]).values.tolist())
        assert given == stream.text == text


def test_letters_are_given_out_whole(codec) -> None:
    stream, given = TextStream(codec), []
    for token in codec.encode(["🐢🐢"]).values.tolist():
        given.append(stream.push(token))
    assert all("\ufffd" not in piece for piece in given)
    assert "".join(given) == "🐢🐢"


def test_bytes_that_are_no_letters_are_not_held_for_ever(codec) -> None:
    turtle = codec.encode(["🐢"]).values.tolist()
    given, stream = streamed(codec, [turtle[0]] * 40 + codec.encode(["cat"]).values.tolist())
    assert given.endswith("cat")
    assert stream.text == given


def test_nothing_is_given_out_from_a_stop_on(codec) -> None:
    tokens = codec.encode(["the cat sat on the mat"]).values.tolist()
    for stops, left in ((["sat"], "the cat "), (["zzz"], "the cat sat on the mat"), ([" mat", "on"], "the cat sat "),
                        (["t"], ""), (["the mat "], "the cat sat on the mat")):  # fmt: skip
        given, stream = streamed(codec, tokens, stops)
        assert given == stream.text == left
        assert stream.stopped == (left != "the cat sat on the mat")


def test_cuts_of_random_texts_and_stops_agree_with_a_plain_search(codec) -> None:
    draw = random.Random(5)
    for _ in range(200):
        text = "".join(draw.choice("ab é🐢") for _ in range(draw.randrange(25)))
        stops = ["".join(draw.choice("ab é") for _ in range(draw.randrange(1, 4))) for _ in range(draw.randrange(3))]
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        given, _ = streamed(codec, codec.encode([text]).values.tolist(), stops)
        # Stops are looked for after each token: one that ends earlier may come before one that begins earlier.
        assert any(given == text[:place] for place in places) if places else given == text


def test_every_token_knows_where_its_text_began(codec) -> None:
    tokens = codec.encode(["the cat sat"]).values.tolist()
    _, stream = streamed(codec, tokens)
    assert stream.starts[0] == 0
    assert len(stream.starts) == len(tokens)
    assert stream.starts == sorted(stream.starts)
