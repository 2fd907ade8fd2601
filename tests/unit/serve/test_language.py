"""The predictor that writes: columns, text, versions that follow, and requests that are refused."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from headrace.data import TextCodec, numbers_of, token_column, tokens_of
from headrace.data.text import jagged
from headrace.errors import ConfigError, DataError, SchemaError, VersionError
from headrace.nn import CausalSettings, CausalTransformer, LoRASettings, with_lora
from headrace.objectives.tokens import completion_log_probs, joined
from headrace.publish import Replica
from headrace.serve import GenerateConfig, LanguagePredictor
from headrace.types import Change, Events, Version

SIZES = CausalSettings(vocabulary=300, width=16, layers=1, heads=2, max_length=40)
CONFIG = GenerateConfig(max_tokens=8, ends=(1,))


def change(number: int, model: CausalTransformer) -> Change:
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    return Change(version=Version(number, number - 1), dense=dense, full=number == 0)


def predictor(config: GenerateConfig = CONFIG, **settings) -> LanguagePredictor:
    model = CausalTransformer(SIZES, seed=99)
    return LanguagePredictor(model, Replica({}, model), config, **settings)


def asked(*rows: list[int], items: bool = True) -> Events:
    count = len(rows)
    columns = {"key": [f"k{row}" for row in range(count)], "kind": ["impression"] * count,
               "event_time": list(range(count)), "prompt_ids": token_column(jagged(rows))}  # fmt: skip
    return Events.from_columns(columns | ({"item": ["a"] * count} if items else {}))


def test_an_answer_has_what_was_asked_and_what_was_drawn() -> None:
    one, model = predictor(), CausalTransformer(SIZES, seed=1)
    one.apply(change(0, model))
    requests = asked([5], [7, 8, 9], [5])
    answers = one.predict(requests)
    prompts, made = tokens_of(answers, "prompt_ids"), tokens_of(answers, "completion_ids")
    log_probs, _ = numbers_of(answers, "log_probs")
    assert prompts.values.tolist() == [5, 7, 8, 9, 5]
    forced = completion_log_probs(model, joined(prompts, made)).detach()
    assert float((forced - log_probs).abs().max()) < 1e-4
    first = made.offsets.tolist()[1]
    mean = float(log_probs[:first].double().mean().exp())
    assert answers.column("score").to_pylist()[0] == pytest.approx(mean, abs=1e-6)
    assert answers.column("version").to_pylist() == [0, 0, 0]
    assert made.values[: made.offsets[1]].tolist() != made.values[made.offsets[2] :].tolist()  # other keys, other draws
    assert "item" not in one.predict(asked([5], items=False)).names


def test_batches_of_any_size_give_the_same_rows() -> None:
    requests = asked(*[[5] * (1 + row % 4) for row in range(9)])
    found = []
    for batch_rows in (1, 4, 64):
        one = predictor(batch_rows=batch_rows)
        one.apply(change(0, CausalTransformer(SIZES, seed=1)))
        found.append(one.predict(requests).column("completion_ids").to_pylist())
    assert found[0] == found[1] == found[2]


def test_text_goes_in_and_comes_out() -> None:
    pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")
    codec = TextCodec.trained(["the cat sat on the mat"] * 9, 290)
    one = predictor(codec=codec)
    one.apply(change(0, CausalTransformer(SIZES, seed=1)))
    rows = {"key": ["a", "b"], "kind": ["impression"] * 2, "event_time": [0, 0]}
    answers = one.predict(Events.from_columns({**rows, "prompt": ["the cat", ""]}))
    assert tokens_of(answers, "prompt_ids").values.tolist()[-1] == codec.begin
    assert answers.column("completion").to_pylist() == codec.decode(tokens_of(answers, "completion_ids"))
    with pytest.raises(SchemaError, match="1 rows without text"):
        one.predict(Events.from_columns({**rows, "prompt": pa.array(["a", None])}))


def test_a_version_changes_the_answers_and_an_adapter_is_enough_of_one() -> None:
    plain = CausalTransformer(SIZES, seed=99)
    model = with_lora(plain, LoRASettings(rank=2))
    one = LanguagePredictor(model, Replica({}, model), GenerateConfig(max_tokens=20))
    one.apply(change(0, model))
    before = one.predict(asked([5, 6]))
    moved = {name: value + 0.5 for name, value in model.state_dict().items() if ".up." in name}
    one.apply(Change(version=Version(1, 0), dense=moved))
    after = one.predict(asked([5, 6]))
    assert after.column("version").to_pylist() == [1]
    assert before.column("completion_ids").to_pylist() != after.column("completion_ids").to_pylist()
    forced = completion_log_probs(model, joined(tokens_of(after, "prompt_ids"), tokens_of(after, "completion_ids")))
    assert float((forced.detach() - numbers_of(after, "log_probs")[0]).abs().max()) < 1e-4


def test_a_version_that_comes_meanwhile_waits_for_nobody_and_mixes_with_nothing() -> None:
    one = predictor(GenerateConfig(max_tokens=30))
    models = [CausalTransformer(SIZES, seed=seed) for seed in range(2)]
    one.apply(change(0, models[0]))
    expected = one.predict(asked([5, 6])).column("completion_ids").to_pylist()
    begun, go_on = threading.Event(), threading.Event()
    decoder = one.current()[1]
    begin = decoder.begin

    def slowly(prompts, room):
        begun.set()
        assert go_on.wait(10)
        return begin(prompts, room)

    decoder.begin = slowly
    found = []
    thread = threading.Thread(target=lambda: found.append(one.predict(asked([5, 6]))))
    thread.start()
    assert begun.wait(10)
    one.apply(change(1, models[1]))  # would wait for ever if the request held the version
    go_on.set()
    thread.join()
    assert found[0].column("version").to_pylist() == [0]
    assert found[0].column("completion_ids").to_pylist() == expected
    assert one.predict(asked([5, 6])).column("version").to_pylist() == [1]


def test_what_cannot_be_answered_is_refused() -> None:
    one = predictor()
    with pytest.raises(VersionError, match="no version yet"):
        one.predict(asked([5]))
    one.apply(change(0, CausalTransformer(SIZES, seed=1)))
    with pytest.raises(DataError, match="no tokens"):
        one.predict(asked([5], []))
    with pytest.raises(DataError, match="token 300"):
        one.predict(asked([300]))
    with pytest.raises(DataError, match="in all"):
        one.predict(asked([5] * 36))
    with pytest.raises(SchemaError, match="prompt_ids"):
        one.predict(Events.from_columns({"key": ["a"], "kind": ["impression"], "event_time": [0]}))
    assert len(one.predict(asked())) == 0
    with pytest.raises(ConfigError, match="ends"):
        predictor(GenerateConfig(ends=(300,)))
