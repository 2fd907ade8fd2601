"""Every data set as labelled rows with its standard preparation, on rows written by hand in the documented layout."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.data import LogBins, Number, prepare
from headrace.data.datasets import avazu, criteo, frappe, ipinyou, movielens, movielens_tag, trivago
from headrace.data.prepare import fit
from headrace.errors import ConfigError, DataError

FRAPPE = ["label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city",
          "0,451,4149,5041,5046,5053,5055,5058,5060,5069,5149", "1,4,1127,5044,5050,5054,5055,5058,5062,5070,5150",
          "0,451,1127,5041,5046,5053,5055,5058,5060,5069,5149"]  # fmt: skip
AGENT = "mozilla/4.0 (compatible; msie 6.0; Windows nt 5.1; sv1)"
IPINYOU = {
    "click": "1", "weekday": "4", "hour": "00", "bidid": "fc2d", "timestamp": "20130606000104008", "logtype": "1",
    "ipinyouid": "Vh27", "useragent": AGENT, "IP": "118.81.189.*", "region": "15", "city": "16", "adexchange": "2",
    "domain": "e80f", "url": "null", "urlid": "null", "slotid": "mm_1", "slotwidth": "250", "slotheight": "250",
    "slotvisibility": "FirstView", "slotformat": "Na", "slotprice": "5", "creative": "c938", "bidprice": "300",
    "payprice": "54", "keypage": "0f95", "advertiser": "2259", "usertag": "10057,10024",
}  # fmt: skip


def columns(examples) -> dict[str, list]:
    batches = list(examples)
    return {name: [value for batch in batches for value in batch[name].to_pylist()] for name in batches[0].schema.names}


def test_frappe_csv_and_libfm_are_the_same_rows(tmp_path) -> None:
    (tmp_path / "frappe.csv").write_text("\n".join(FRAPPE) + "\n")
    rows = [line.split(",") for line in FRAPPE[1:]]
    lines = [" ".join(["1" if row[0] == "1" else "-1", *(f"{value}:1" for value in row[1:])]) for row in rows]
    (tmp_path / "frappe.train.libfm").write_text("\n".join(lines) + "\n")
    from_csv = columns(frappe.examples(tmp_path / "frappe.csv"))
    from_libfm = columns(frappe.examples(tmp_path / "frappe.train.libfm"))
    assert from_csv["label"] == from_libfm["label"] == [0.0, 1.0, 0.0]
    assert from_csv["user"] == ["451", "4", "451"]
    assert {name: [str(value) for value in values] for name, values in from_libfm.items() if name != "label"} == {
        name: values for name, values in from_csv.items() if name != "label"}  # fmt: skip
    one, two = (fit(frappe.examples(tmp_path / name), frappe.preparation()).fingerprint()
                for name in ("frappe.csv", "frappe.train.libfm"))  # fmt: skip
    assert one == two
    (tmp_path / "short.libfm").write_text("1 3:1 4:1\n")
    with pytest.raises(DataError, match="2 ids, expected 10"):
        list(frappe.examples(tmp_path / "short.libfm"))


def test_ipinyou_log_rows(tmp_path) -> None:
    other = IPINYOU | {"click": "0", "useragent": "mozilla/5.0 (iphone; cpu iphone os 6_1) applewebkit safari, ios",
                       "slotprice": "120", "usertag": "null", "domain": "null"}  # fmt: skip
    third = IPINYOU | {"click": "0", "useragent": "curl", "slotprice": "0", "usertag": "10024"}
    lines = ["\t".join(IPINYOU), *("\t".join(row.values()) for row in (IPINYOU, other, third))]
    (tmp_path / "train.log.txt").write_text("\n".join(lines) + "\n")
    assert tuple(IPINYOU) == ipinyou.LOG_COLUMNS
    found = columns(ipinyou.examples(tmp_path / "train.log.txt"))
    assert found["label"] == [1.0, 0.0, 0.0]
    assert found["system"] == ["windows", "ios", "other"]
    assert found["browser"] == ["ie", "safari", "other"]
    assert found["price_floor"] == ["1-10", "101+", "0"]
    assert found["domain"] == ["e80f", None, "e80f"]
    data = prepare(ipinyou.examples(tmp_path / "train.log.txt"), ipinyou.preparation(), tmp_path / "out")
    batch = next(data.batches("train", 3))
    assert (batch.ids["usertag"].values.tolist(), batch.ids["usertag"].offsets.tolist()) == ([4, 3, 3], [0, 2, 2, 3])
    assert batch.ids["domain"].values.tolist() == [3, 2, 3]


def test_ipinyou_one_hot_rows(tmp_path) -> None:
    (tmp_path / "train.yzx.txt").write_text("0 50 1:1 5:1 9:1\n1\t20 1:1 7:1\n0 3\n")
    found = columns(ipinyou.examples(tmp_path / "train.yzx.txt"))
    assert found == {"label": [0.0, 1.0, 0.0], "pay_price": [50.0, 20.0, 3.0], "features": [[1, 5, 9], [1, 7], []]}
    statistics = fit(ipinyou.examples(tmp_path / "train.yzx.txt"), ipinyou.preparation(one_hot=True))
    assert statistics.known("features").texts.to_pylist() == ["1", "5", "7", "9"]


@pytest.mark.parametrize("header", [False, True])
def test_criteo_rows_with_and_without_a_header(tmp_path, header) -> None:
    path = tmp_path / ("train.tsv" if header else "train.txt")
    rows = [["1", "3", "-1", "", *["7"] * 10, "68fd1e64", "", *["aa"] * 24], ["0", "100", *["0"] * 12, *["bb"] * 26]]
    lines = [["day", *criteo.COLUMNS], *(["1", *row] for row in rows)] if header else rows
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    statistics = fit(criteo.examples(path), criteo.preparation(min_count=1))
    assert statistics.known("I1").texts.to_pylist() == ["1", "21"]  # floor(ln(3)²), floor(ln(100)²)
    assert statistics.known("C2").texts.to_pylist() == ["bb"]
    assert [type(column) for column in statistics.preparation.columns[:14]].count(LogBins) == 13
    scaled = fit(criteo.examples(path), criteo.preparation(numbers="min_max"))
    made = scaled.transform_batch(next(iter(criteo.examples(path))))
    assert (made["I1"].to_pylist(), made["I3"].to_pylist()) == ([0.0, 1.0], [0.0, 0.0])
    assert sum(isinstance(column, Number) for column in criteo.preparation(numbers="log1p").columns) == 13
    with pytest.raises(ConfigError, match="'log1p'"):
        criteo.preparation(numbers="log")


def test_avazu_rows_have_a_calendar(tmp_path) -> None:
    names = ["id", "click", "hour", *avazu.CATEGORIES[:13], "C14", *avazu.CATEGORIES[13:]]
    rows = [["1", "0", "14102100", *["x"] * 21], ["2", "1", "14102523", *["y"] * 21]]
    (tmp_path / "train.csv").write_text("".join(",".join(row) + "\n" for row in [names, *rows]))
    found = columns(avazu.examples(tmp_path / "train.csv"))
    assert (found["hour_of_day"], found["weekday"], found["is_weekend"]) == ([0, 23], [1, 5], [0, 1])
    assert "id" not in found
    assert len(avazu.preparation().columns) == 24
    assert fit(avazu.examples(tmp_path / "train.csv"), avazu.preparation(min_count=1)).vocabulary_size("C14") == 5


def test_movielens_rows_with_what_is_known_of_user_and_movie(tmp_path) -> None:
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n2::20::3::978300761\n2::10::4::978300762\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    (tmp_path / "movies.dat").write_bytes(
        "10::Amélie (2001)::Comedy|Romance\n20::Heat (1995)::Action\n".encode("latin-1")
    )
    found = columns(movielens.examples(tmp_path / "ratings.dat"))
    assert (found["label"], found["user_id"], found["item"]) == ([1.0, 0.0, 1.0], ["1", "2", "2"], ["10", "20", "10"])
    assert (found["gender"], found["zip_code"]) == (["F", "M", "M"], ["48067", "70072", "70072"])
    assert found["genres"] == ["Comedy|Romance", "Action", "Comedy|Romance"]
    assert found["timestamp"] == [978300760, 978300761, 978300762]
    statistics = fit(movielens.examples(tmp_path / "ratings.dat"), movielens.preparation(variant="1m"))
    assert statistics.known("genres").texts.to_pylist() == ["Comedy", "Romance", "Action"]
    (tmp_path / "users.dat").unlink()
    assert columns(movielens.examples(tmp_path / "ratings.dat"))["gender"] == [None] * 3


def test_movielens_plots_may_hold_the_separator(tmp_path) -> None:
    (tmp_path / "ml1m_ratings_5fold.csv").write_text("fold,user_id,movie_id,rating\n1,7,10,4\n5,8,11,2\n")
    row = "::".join(["10", "Heat", "1995", "R", "1995", "Action, Crime", "M. Mann", "M. Mann", "A. Pacino", "a::b::c"])
    (tmp_path / "ml1m_movies_extrainfos.dat").write_text(row + "\n")
    found = columns(movielens.examples(tmp_path / "ml1m_ratings_5fold.csv"))
    assert (found["genres"], found["year"], found["fold"]) == (["Action|Crime", None], ["1995", None], ["1", "5"])


def test_movielens_tags(tmp_path) -> None:
    (tmp_path / "tags.csv").write_text("label,user_id,item_id,tag_id\n0,5,2,3\n1,6,2,4\n")
    assert columns(movielens_tag.examples(tmp_path / "tags.csv"))["label"] == [0.0, 1.0]
    assert (
        fit(movielens_tag.examples(tmp_path / "tags.csv"), movielens_tag.preparation()).vocabulary_size("tag_id") == 5
    )


def test_trivago_rows(tmp_path) -> None:
    header = "click,user_id,session_id,timestamp,step,platform,city,device,position,item_id,price,n_impressions"
    rows = [
        '1,U,s,1541548955,1,AU,"Bendigo, Australia",tablet,1,31,77,2',
        '0,U,s,1541548955,1,AU,"Bendigo, Australia",tablet,2,10,89,2',
    ]
    (tmp_path / "trivago.csv").write_text("\n".join([header, *rows]) + "\n")
    found = columns(trivago.examples(tmp_path / "trivago.csv"))
    assert (found["item"], found["price"], found["city"]) == (["31", "10"], [77.0, 89.0], ["Bendigo, Australia"] * 2)
    data = prepare(trivago.examples(tmp_path / "trivago.csv"), trivago.preparation(), tmp_path / "out")
    batch = next(data.batches("train", 2))
    assert np.allclose(batch.dense[:, 0].numpy(), [-1, 1])
    assert data.schema().feature("position").serve_as == 3
    (tmp_path / "sessions.csv").write_text("user_id,session_id\na,b\n")
    with pytest.raises(DataError, match="Read session files with `load`"):
        trivago.examples(tmp_path / "sessions.csv")


@pytest.mark.parametrize("module", [avazu, criteo, frappe, ipinyou, movielens, movielens_tag, trivago])
def test_a_missing_file_is_named(module, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setattr("headrace.data.datasets.recorded.cache_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"none of .*Get it from"):
        module.examples()


@pytest.mark.parametrize(("module", "name", "ids"), [
    (criteo, "criteo_kaggle_head80k_hashed.tsv.zst", 39), (avazu, "avazu_sample9k.csv.zst", 24),
    (movielens, "ml1m_ratings_5fold.csv.zst", 8), (movielens_tag, "movielenslatest_tag_200k.csv.zst", 3),
    (trivago, "trivago_clickout_impressions_ctr.csv.zst", 6),
])  # fmt: skip
def test_real_files_are_prepared(data_file, tmp_path, module, name, ids) -> None:
    examples = module.examples(data_file(name), rows=3000)
    plan = module.preparation(variant="1m") if module is movielens else module.preparation()
    data = prepare(examples, plan, tmp_path / "out")
    batch = next(data.batches("train", 3000))
    assert (len(batch), len(batch.ids)) == (3000, ids)
    assert 0 < batch.labels.mean() < 1
    assert all(int(values.values.min()) >= 1 for values in batch.ids.values())
