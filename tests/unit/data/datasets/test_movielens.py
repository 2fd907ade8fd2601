import hashlib
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace.data import FileSource, collate
from headrace.data.datasets import movielens
from headrace.data.download import OFFICIAL, Archive
from headrace.errors import ConfigError, DataError, SourceEnded

RATINGS = [("1", "10", 5, 300), ("2", "10", 3, 100), ("1", "11", 4, 200), ("2", "12", 1, 300)]
WRITTEN = {
    "u.data": "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in RATINGS),
    "ml100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in RATINGS),
    "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\n"
    + "".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in RATINGS),
    "ml-25m/ratings.csv": "userId,movieId,rating,timestamp\n"
    + "".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in RATINGS),
    "ratings.dat": "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in RATINGS),
    "ml1m_ratings_5fold.csv": "fold,user_id,movie_id,rating\n" + "".join(f"1,{u},{i},{r}\n" for u, i, r, _ in RATINGS),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, request):
    if "data_file" in request.fixturenames:  # these look at the real folder
        return tmp_path
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def put(folder, name: str):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WRITTEN[name])
    return path


def rows(source) -> list[dict]:
    found = []
    while True:
        try:
            found.extend(source.read(3).batch.to_pylist())
        except SourceEnded:
            return found


TIMED = [name for name in WRITTEN if "5fold" not in name]


@pytest.mark.parametrize("name", TIMED)
def test_every_edition_gives_the_same_examples_in_order_of_time(folder, name):
    log = movielens.load(put(folder, name))
    found = [(row["user_id"], row["item"], row["label"], row["event_time"]) for row in rows(log.examples())]
    assert found == [("2", "10", 0.0, 100_000_000), ("1", "11", 1.0, 200_000_000), ("1", "10", 1.0, 300_000_000),
                     ("2", "12", 0.0, 300_000_000)]  # fmt: skip


@pytest.mark.parametrize("name", list(WRITTEN))
def test_every_edition_replays_from_its_file(folder, name):
    path = put(folder, name)
    found = rows(FileSource(path, movielens.layout(path)))
    assert sorted((row["user_id"], row["item"], row["label"]) for row in found) == [
        ("1", "10", 1.0), ("1", "11", 1.0), ("2", "10", 0.0), ("2", "12", 0.0)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"),
    [("u.data", "100k"), ("ml100k.inter", "100k"), ("ml-latest-small/ratings.csv", "latest-small"),
     ("ml-25m/ratings.csv", "25m"), ("ratings.dat", "1m"), ("ml1m_ratings_5fold.csv", "1m")],
)  # fmt: skip
def test_editions_are_found_by_their_names(folder, name, variant):
    path = put(folder, name)
    assert movielens.find() == movielens.find(variant) == path
    assert movielens.load(variant=variant).variant == variant


def test_ratings_are_a_click_stream_too(folder):
    kinds = [row["kind"] for row in rows(movielens.load(put(folder, "u.data")).source())]
    assert kinds.count("impression") == 4
    assert kinds.count("click") == 2


def test_the_least_rating_of_a_click_can_be_chosen(folder):
    log = movielens.load(put(folder, "u.data"), positive_from=5)
    assert sum(row["label"] for row in rows(log.examples())) == 1.0
    path = folder / "u.data"
    assert sum(row["label"] for row in rows(FileSource(path, movielens.layout(path, positive_from=3)))) == 3.0


def test_the_schema_reads_the_log(folder):
    batch = collate(movielens.load(put(folder, "u.data")).examples().read(4), movielens.schema(4))
    assert batch.dense[:, 0].exp().sub(1).round().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert len(batch.ids["user_id"].values) == 4


def test_ratings_without_times_are_shuffled_by_the_seed_and_the_report_says_so(folder):
    path = put(folder, "ml1m_ratings_5fold.csv")
    path.write_text("fold,user_id,movie_id,rating\n" + "".join(f"1,{n},{n},5\n" for n in range(50)))
    first, again, other = (movielens.load(path, seed=seed) for seed in (0, 0, 1))
    keys = [[row["key"] for row in rows(log.examples())] for log in (first, again, other)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    assert sorted(keys[0]) == sorted(keys[2])
    assert "no times" in first.notes[-1]


def test_an_unknown_edition_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        movielens.load(variant="100K")
    assert "'100k'" in str(caught.value)


def test_a_missing_file_is_told_with_names_and_address_when_it_may_not_be_downloaded():
    with pytest.raises(DataError) as caught:
        movielens.load(variant="1m", may_download=False)
    assert "ml-1m/ratings.dat" in str(caught.value)
    assert "https://files.grouplens.org/datasets/movielens/ml-1m.zip" in str(caught.value)


def test_a_malformed_rating_is_refused_with_file_and_line(folder):
    path = put(folder, "ratings.dat")
    path.write_text("1::2::5::100\n1::3::good::100\n")
    with pytest.raises(DataError) as caught:
        movielens.load(path)
    assert "ratings.dat, line 2" in str(caught.value)


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A server that stands for the official one."""
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "ml-100k.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", WRITTEN["u.data"])
        archive.writestr("ml-100k/README", "x")
    digest = hashlib.md5((site / "ml-100k.zip").read_bytes()).hexdigest()
    (site / "ml-100k.zip.md5").write_text(f"MD5 (ml-100k.zip) = {digest}\n")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given, **named):
            super().__init__(*given, directory=str(site), **named)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    archive = Archive(url=f"http://127.0.0.1:{server.server_port}/ml-100k.zip", md5=digest)
    edition = movielens.EDITIONS["100k"]
    monkeypatch.setitem(movielens.EDITIONS, "100k", movielens.Edition(
        names=edition.names, member=edition.member, archive=archive))  # fmt: skip
    yield site
    server.shutdown()
    server.server_close()


def test_without_a_file_the_official_archive_is_downloaded_checked_and_used(official, folder):
    log = movielens.load()
    assert log.path == folder / "cache" / "ml-100k" / "u.data"
    assert log.rows == 4
    assert OFFICIAL in log.notes[0]
    (official / "ml-100k.zip").unlink()
    assert movielens.load().notes == log.notes


def test_a_download_with_a_wrong_checksum_gives_no_log(official, folder):
    (official / "ml-100k.zip").write_bytes(b"something else")
    with pytest.raises(DataError) as caught:
        movielens.load()
    assert "MD5" in str(caught.value)
    assert not (folder / "cache" / "ml-100k").exists()


def test_the_addresses_are_the_official_ones():
    for edition in movielens.EDITIONS.values():
        assert edition.archive.url.startswith("https://files.grouplens.org/datasets/movielens/")


@pytest.mark.parametrize(
    ("name", "count"),
    [("ml100k.inter.zst", 100_000), ("ml_latest_small_ratings.csv.zst", 100_836),
     ("ml1m_ratings_5fold.csv.zst", 1_000_209)],
)  # fmt: skip
def test_the_real_files_are_whole(data_file, name, count):
    assert movielens.load(data_file(name)).rows == count
