import hashlib
import logging
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace.data import download as module
from headrace.data.download import FIRST, OFFICIAL, PINNED, Archive, cache_folder, download, extract
from headrace.errors import DataError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """A web server with files, that cuts connections and forgets ranges when told to."""

    def __init__(self) -> None:
        self.files = {"/set.zip": CONTENT}
        self.cuts: list[int] = []  # bytes after which the next answers end
        self.ranges = True
        self.marked = True
        self.requests: list[tuple[str, str | None]] = []
        owner = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        mark = f'"{hashlib.md5(content).hexdigest()}"'
        same = request.headers.get("If-Range") == mark
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges and same else 0
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        if self.marked:
            request.send_header("ETag", mark)
        request.end_headers()
        stop = start + self.cuts.pop(0) if self.cuts and request.path == "/set.zip" else len(content)
        request.wfile.write(content[start:stop])
        request.close_connection = True


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def archive(server: Server, md5: str = "") -> Archive:
    return Archive(url=f"{server.url}/set.zip", md5=md5)


def test_a_file_is_downloaded_once(server, tmp_path):
    first = download(archive(server), tmp_path)
    assert first.path.read_bytes() == CONTENT
    assert first.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert download(archive(server), tmp_path) == first
    assert len(server.requests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip", "set.zip.json"]


def test_the_official_checksum_is_asked_for_and_compared(server, tmp_path):
    server.files["/set.zip.md5"] = f"MD5 (set.zip) = {MD5}\n".encode()
    assert download(archive(server, MD5), tmp_path).checked == OFFICIAL


def test_an_official_checksum_that_cannot_be_confirmed_is_marked_so(server, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = download(archive(server, MD5), tmp_path)
    assert found.checked == PINNED
    assert "could not be confirmed" in caplog.text
    assert download(archive(server, MD5), tmp_path).checked == PINNED


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    with pytest.raises(DataError) as caught:
        download(archive(server, "0" * 32), tmp_path)
    assert "MD5 " + MD5 in str(caught.value)
    assert "0" * 32 in str(caught.value)
    assert not any(path.name.startswith("set.zip") and path.suffix in (".zip", ".part") for path in tmp_path.iterdir())


def test_a_published_checksum_that_is_not_the_recorded_one_is_refused(server, tmp_path):
    server.files["/set.zip.md5"] = b"1" * 32
    with pytest.raises(DataError) as caught:
        download(archive(server, MD5), tmp_path)
    assert "1" * 32 in str(caught.value)
    assert not (tmp_path / "set.zip").exists()


def test_without_an_official_checksum_the_first_download_is_the_measure(server, tmp_path):
    assert download(archive(server), tmp_path).checked == FIRST
    (tmp_path / "set.zip").unlink()
    server.files["/set.zip"] = CONTENT + b"changed"
    with pytest.raises(DataError) as caught:
        download(archive(server), tmp_path)
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value)
    assert not (tmp_path / "set.zip").exists()


def test_a_file_that_changed_in_the_cache_is_refused(server, tmp_path):
    download(archive(server), tmp_path)
    (tmp_path / "set.zip").write_bytes(b"something else")
    with pytest.raises(DataError) as caught:
        download(archive(server), tmp_path)
    assert "Delete it" in str(caught.value)


def test_a_cut_connection_is_taken_up_where_it_ended(server, tmp_path):
    server.cuts = [1000, 5000]
    assert download(archive(server, MD5), tmp_path).path.read_bytes() == CONTENT
    assert [wanted for path, wanted in server.requests if path == "/set.zip"] == [None, "bytes=1000-", "bytes=6000-"]


def test_a_connection_that_is_cut_again_and_again_is_an_error_and_resumes_later(server, tmp_path):
    server.cuts = [1000] * module.ATTEMPTS
    with pytest.raises(DataError) as caught:
        download(archive(server, MD5), tmp_path)
    assert f"{1000 * module.ATTEMPTS} of {len(CONTENT)} bytes" in str(caught.value)
    assert not (tmp_path / "set.zip").exists()
    assert download(archive(server, MD5), tmp_path).path.read_bytes() == CONTENT
    assert server.requests[-2][1] == f"bytes={1000 * module.ATTEMPTS}-"


def test_a_file_that_changed_between_two_parts_is_downloaded_anew(server, tmp_path):
    server.cuts = [1000] * module.ATTEMPTS
    with pytest.raises(DataError):
        download(archive(server), tmp_path)
    server.files["/set.zip"] = CONTENT[::-1]
    assert download(archive(server), tmp_path).path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("lack", ["ranges", "marked"])
def test_a_server_that_cannot_resume_is_asked_for_everything(server, tmp_path, lack):
    setattr(server, lack, False)
    server.cuts = [1000]
    assert download(archive(server, MD5), tmp_path).path.read_bytes() == CONTENT


def test_a_missing_file_is_told_with_the_status(server, tmp_path):
    with pytest.raises(DataError) as caught:
        download(Archive(url=f"{server.url}/none.zip"), tmp_path)
    assert "status 404" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_told_plainly(tmp_path):
    with pytest.raises(DataError) as caught:
        download(Archive(url="http://127.0.0.1:9/set.zip"), tmp_path)
    assert "HEADRACE_DATA" in str(caught.value)


def test_only_web_addresses_are_fetched(tmp_path):
    with pytest.raises(DataError):
        download(Archive(url="file:///etc/hostname"), tmp_path)


def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        download(archive(server), tmp_path / "file" / "cache")
    assert "HEADRACE_CACHE" in str(caught.value)


def test_the_cache_is_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HEADRACE_CACHE")
    assert cache_folder().name == "headrace"


def packed(folder, members):
    path = folder / "x.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_members_are_unpacked_under_their_plain_names(tmp_path):
    path = packed(tmp_path, {"ml/ratings.csv": "a", "ml/other.csv": "b"})
    assert [found.read_text() for found in extract(path, ["ml/ratings.csv"], tmp_path / "out")] == ["a"]
    assert [found.name for found in (tmp_path / "out").iterdir()] == ["ratings.csv"]


@pytest.mark.parametrize("name", ["../evil.csv", "/evil.csv", "ml/../../evil.csv", "..\\evil.csv"])
def test_a_path_out_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(DataError):
        extract(packed(tmp_path, {name: "x"}), [name], tmp_path / "out")
    assert not list(tmp_path.rglob("evil.csv"))


def test_a_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("ml/link.csv")
    info.external_attr = 0o120777 << 16
    with pytest.raises(DataError):
        extract(packed(tmp_path, {info: "/etc/passwd"}), ["ml/link.csv"], tmp_path / "out")


def test_a_member_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNPACKED_BYTES", 10)
    with pytest.raises(DataError):
        extract(packed(tmp_path, {"a.csv": "x" * 11}), ["a.csv"], tmp_path / "out")


def test_a_missing_member_and_a_damaged_archive_are_refused(tmp_path):
    path = packed(tmp_path, {"a.csv": "x" * 100})
    with pytest.raises(DataError) as caught:
        extract(path, ["b.csv"], tmp_path)
    assert "'b.csv'" in str(caught.value)
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError):
        extract(path, ["a.csv"], tmp_path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError):
        extract(path, ["a.csv"], tmp_path)
    assert not (tmp_path / "a.csv").exists()
