import numpy as np
import pyarrow.compute as pc
import pytest

from headrace.data import collate
from headrace.data.datasets import trivago
from headrace.data.datasets.trivago_history import last_before, list_features, touch_features, user_features
from headrace.errors import DataError, SourceEnded

HEADER = "click,user_id,session_id,timestamp,step,platform,city,device,position,item_id,price,n_impressions\n"
LISTS = [  # user, session, second, step, [(item, price, clicked)]
    ("u1", "s1", 1000, 1, [(7, 50, 1), (8, 40, 0), (9, 60, 0)]),
    ("u2", "s2", 1010, 4, [(7, 55, 0), (9, 55, 1)]),
    ("u1", "s1", 5000, 6, [(8, 40, 1), (7, 50, 0)]),
]


def table_text(lists=LISTS) -> str:
    lines = [
        f'{click},{user},{session},{second},{step},AU,"Bendigo, Australia",mobile,{place},{item},{price},{len(shown)}'
        for user, session, second, step, shown in lists
        for place, (item, price, click) in enumerate(shown, 1)
    ]
    return HEADER + "\n".join(lines) + "\n"


def sessions_text() -> str:
    """The official layout: the same lists among other steps, ordered by session."""
    head = "user_id,session_id,timestamp,step,action_type,reference,platform,city,device,current_filters"
    head += ",impressions,prices"
    lines = [head, 'u1,s1,900,0,interaction item image,8,AU,"Bendigo, Australia",mobile,,,']
    for user, session, second, step, shown in sorted(LISTS, key=lambda entry: entry[1]):
        clicked = next(item for item, _, click in shown if click)
        items, prices = ("|".join(str(row[at]) for row in shown) for at in (0, 1))
        place = f'AU,"Bendigo, Australia",mobile,,{items},{prices}'
        lines.append(f"{user},{session},{second},{step},clickout item,{clicked},{place}")
        lines.append(
            f"{user},{session},{second + 1},{step + 1},filter selection,Focus on Distance,AU,Bendigo,mobile,,,"
        )
        if session == "s1" and step == 1:
            lines.append('u1,s1,1900,3,interaction item rating,7,AU,"Bendigo, Australia",mobile,,,')
    return "\n".join(lines) + "\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "trivago_clickout_impressions_ctr.csv"
    path.write_text(table_text())
    return trivago.load(path)


def rows(source) -> list[dict]:
    found = []
    while True:
        try:
            found.extend(source.read(4).batch.to_pylist())
        except SourceEnded:
            return found


def test_a_row_per_shown_hotel_with_one_time_and_key_per_list(log):
    found = rows(log.impressions())
    assert [row["key"] for row in found] == ["s1/1/1000"] * 3 + ["s2/4/1010"] * 2 + ["s1/6/5000"] * 2
    assert [row["event_time"] for row in found[2:4]] == [1000_000_000, 1010_000_000]
    assert [row["item"] for row in found[:3]] == ["7", "8", "9"]
    assert [row["position"] for row in found] == [1, 2, 3, 1, 2, 1, 2]


def test_each_clicked_row_yields_one_click_after_its_delay(log):
    clicks = [row for row in rows(log.source()) if row["kind"] == "click"]
    assert [(row["key"], row["item"]) for row in clicks] == [("s1/1/1000", "7"), ("s2/4/1010", "9"), ("s1/6/5000", "8")]
    seconds = {"s1/1/1000": 1000, "s2/4/1010": 1010, "s1/6/5000": 5000}
    assert all(row["event_time"] > seconds[row["key"]] * 1_000_000 for row in clicks)


def test_labels_are_the_clicks(log):
    assert [row["label"] for row in rows(log.examples())] == [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def test_the_schema_reads_the_log_and_serves_a_reference_position(log):
    schema = trivago.schema(4)
    batch = collate(log.examples().read(7), schema)
    assert batch.ids["position"].values.tolist() == [1, 2, 3, 1, 2, 1, 2]
    served = collate(log.impressions().read(7), schema, serving=True)
    assert served.ids["position"].values.tolist() == [1] * 7
    at = schema.dense_names.index("position_log")
    assert served.dense[:, at].unique().numpy() == pytest.approx(np.log(2.0))


def test_the_report_says_what_the_log_is(log):
    text = "; ".join(log.notes)
    for told in ("7 shown hotels in 3 lists, 42.86% clicked", "only lists with a click", "drawn, not recorded",
                 "seed 0", "scored, not chosen", "reference value 1"):  # fmt: skip
        assert told in text


def test_the_official_session_file_gives_the_same_lists(log, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(sessions_text())
    other = trivago.load(path)
    assert other.variant == "sessions"
    names = ["key", "item", "event_time", "position", "price", "price_rank", "clicked_before", "label", "user_id"]
    assert [[row[name] for name in names] for row in rows(other.examples())] == [
        [row[name] for name in names] for row in rows(log.examples())]  # fmt: skip


def test_the_session_file_tells_which_hotels_were_touched(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(sessions_text())
    found = rows(trivago.load(path).examples())
    assert [row["touched"] for row in found] == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert [row["touched_last"] for row in found] == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    collate(trivago.load(path).examples().read(7), trivago.schema(4, sessions=True))


def test_lists_that_are_out_of_order_are_sorted_and_stay_together(tmp_path, log):
    path = tmp_path / "shuffled.csv"
    path.write_text(table_text([LISTS[2], LISTS[0], LISTS[1]]))
    assert rows(trivago.load(path).examples()) == rows(log.examples())


def test_a_missing_log_is_told_with_its_names_and_address(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    assert trivago.find() is None
    with pytest.raises(DataError) as caught:
        trivago.load()
    for told in ("trivago_clickout_impressions_ctr.csv", "train.csv", "recsys.trivago.cloud", "HEADRACE_DATA"):
        assert told in str(caught.value)


def test_the_log_is_found_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    (tmp_path / "trivago").mkdir()
    (tmp_path / "trivago" / "train.csv").write_text(sessions_text())
    assert trivago.find() == tmp_path / "trivago" / "train.csv"


@pytest.mark.parametrize(
    ("text", "told"),
    [("a,b\n1,2\n", "columns ['a', 'b']"), (table_text().replace(",1000,", ",soon,"), "timestamp"),
     (HEADER.replace(",price", ""), "no rows"), (HEADER.replace(",price", "") + "1,u,s,1,1,AU,c,m,1,7,1\n", "'price'")],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path, text, told):
    path = tmp_path / "trivago.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        trivago.load(path)
    assert told in str(caught.value)


def test_prices_are_ranked_within_their_list():
    found = list_features(np.array([0, 0, 0, 1]), np.array([50, 40, 50, 9], dtype=np.float32))
    assert found["price_rank"].tolist() == [2, 1, 3, 1]
    assert found["list_length"].tolist() == [3, 3, 3, 1]
    assert found["price_over_mean"][3] == 0.0


def slow_user_features(users, items, times, arrivals, position, price):
    """The specification, row by row."""
    result = []
    for row in range(len(users)):
        mine = [other for other in range(len(users)) if users[other] == users[row]]
        same = [other for other in mine if items[other] == items[row]]
        clicks = [other for other in mine if 0 <= arrivals[other] < times[row]]
        last = max(clicks, key=lambda other: (arrivals[other], other), default=None)
        step = 0.0 if last is None else float(np.clip(np.log1p(price[row]) - np.log1p(price[last]), -2, 2))
        result.append((
            float(any(times[other] < times[row] for other in same)),
            float(any(0 <= arrivals[other] < times[row] for other in same)),
            float(last is not None), 0.0 if last is None else float(position[last]), step, abs(step),
        ))  # fmt: skip
    return result


@pytest.mark.parametrize("seed", range(5))
def test_user_features_equal_their_specification(seed):
    rng = np.random.default_rng(seed)
    count = 60
    users, items = rng.integers(0, 4, count), rng.integers(0, 6, count)
    times = np.sort(rng.integers(0, 40, count))
    arrivals = np.where(rng.random(count) < 0.3, times + rng.integers(0, 9, count), -1)
    position, price = rng.integers(1, 26, count), rng.integers(5, 500, count).astype(np.float64)
    found = user_features(users, items, times, arrivals, position, price)
    names = ("shown_before", "clicked_before", "has_clicked", "last_position", "price_step", "price_distance")
    expected = np.array(slow_user_features(users, items, times, arrivals, position, price))
    np.testing.assert_allclose(np.stack([found[name] for name in names], axis=1), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_touches_equal_their_specification(seed):
    rng = np.random.default_rng(seed)
    groups, items, steps = rng.integers(0, 3, 40), rng.integers(0, 5, 40), rng.integers(0, 30, 40)
    seen = (rng.integers(0, 3, 25), rng.integers(0, 5, 25), rng.permutation(30)[:25])
    found = touch_features(groups, items, steps, seen)
    for row in range(40):
        before = [at for at in range(25) if seen[0][at] == groups[row] and seen[2][at] < steps[row]]
        assert found["touched"][row] == sum(seen[1][at] == items[row] for at in before)
        last = max(before, key=lambda at: seen[2][at], default=None)
        assert found["touched_last"][row] == (last is not None and seen[1][last] == items[row])


def test_nothing_came_before_when_there_are_no_events():
    empty = np.array([], dtype=np.int64)
    assert last_before(empty, empty, np.array([1, 2]), np.array([5, 6])).tolist() == [-1, -1]


def test_the_real_log_is_what_its_description_says(data_file):
    log = trivago.load(data_file("trivago_clickout_impressions_ctr.csv.zst"))
    assert log.rows == 312_539
    assert log.notes[0] == "312539 shown hotels in 13597 lists, 4.35% clicked"


def test_the_real_session_file_holds_the_same_impressions(data_file):
    lists = trivago.load(data_file("trivago_clickout_impressions_ctr.csv.zst"))
    sessions = trivago.load(data_file("trivago_sessions_100k.csv.zst"))

    def content(log):
        table = log.table.select(names)
        return table.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names])).to_pydict()

    names = ["time", "step", "position", "item", "price", "clicked"]
    assert content(sessions) == content(lists)
