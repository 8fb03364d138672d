"""Downloads from a server on this machine that plays what servers on the network do."""

import contextlib
import gzip
import hashlib
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cace.system import downloads
from cace.system.downloads import RemoteFile, fetch
from cace.system.errors import UserError

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TWO_TRIES = (0.0,)
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>
</body></html>"""
VIRUS_SCAN = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>
<p class="uc-warning-subcaption">Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="{url}" method="get"><input type="hidden" name="confirm" \
value="t"></form></html>"""


class Server(ThreadingHTTPServer):
    """Gives CONTENT; `plays` contains what it does with the next requests instead."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plays, self.asked, self.has_ranges = [], [], True
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    """An action answers a request by (status, headers, body, bytes that are really sent)."""

    def do_GET(self):
        range_ = self.headers["Range"]
        self.server.asked.append((self.path, range_))
        if self.server.plays:
            return self.server.plays.pop(0)(self)
        self.give_file()

    def give_file(self, cut_after=None):
        range_ = self.headers["Range"]
        if not (range_ and self.server.has_ranges):
            return self.answer(200, CONTENT, cut_after=cut_after)
        start = int(range_.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(CONTENT)}"})
        given = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        self.answer(206, CONTENT[start:], given, cut_after)

    def answer(self, status, body, headers=None, cut_after=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut_after])
        self.close_connection = True

    def log_message(self, *_):
        pass


def cut(after):
    return lambda handler: handler.give_file(cut_after=after)


def says(status, body=b"", **headers):
    return lambda handler: handler.answer(
        status, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )


def page(text, status=200):
    return says(status, text.encode(), Content_Type="text/html; charset=utf-8")


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CACE_DATA", str(tmp_path))
    return tmp_path


def file_of(server, sha256=SHA256, name="a.bin"):
    return RemoteFile(name, server.url, "0.3 MB", sha256)


def files_in(folder):
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def refused(file, pauses=TWO_TRIES):
    with pytest.raises(UserError) as caught:
        fetch([file], pauses)
    return str(caught.value)


def test_a_file_is_fetched_once(server, folder):
    for _ in range(2):
        (path,) = fetch([file_of(server)])
        assert path.read_bytes() == CONTENT
    assert server.asked == [("/file", None)]
    assert files_in(folder) == {"a.bin"}


def test_after_a_cut_only_the_rest_is_asked_for(server):
    server.plays = [cut(after=200_000)]
    (path,) = fetch([file_of(server)], TWO_TRIES)
    assert path.read_bytes() == CONTENT
    start = int(server.asked[1][1].removeprefix("bytes=").removesuffix("-"))
    assert 130_000 < start <= 200_000


def test_a_later_run_resumes_a_killed_one(server, folder):
    (folder / "a.bin.part").write_bytes(CONTENT[:123_456])
    (path,) = fetch([file_of(server)])
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/file", "bytes=123456-")]


def test_a_part_that_is_complete_already_is_used(server, folder):
    (folder / "a.bin.part").write_bytes(CONTENT)
    (path,) = fetch([file_of(server)])
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/file", "bytes=300000-")]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server, folder):
    (folder / "a.bin.part").write_bytes(CONTENT + b"more")
    (path,) = fetch([file_of(server)], TWO_TRIES)
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_gives_the_file_from_its_start(server, folder):
    server.has_ranges = False
    (folder / "a.bin.part").write_bytes(b"x" * 1000)
    (path,) = fetch([file_of(server)])
    assert path.read_bytes() == CONTENT


def test_as_long_as_data_comes_patience_does_not_end(server):
    server.plays = [cut(after=70_000) for _ in range(4)]  # more than the tries of one failure
    (path,) = fetch([file_of(server)], TWO_TRIES)
    assert path.read_bytes() == CONTENT


def test_a_server_that_always_cuts_at_the_same_byte_is_given_up(server):
    server.has_ranges, server.plays = False, [cut(after=200_000) for _ in range(10)]
    assert "IncompleteRead" in refused(file_of(server))
    assert len(server.asked) == 2


def test_wrong_bytes_are_refused_with_both_hashes_and_not_kept(server, folder):
    wrong = CONTENT[::-1]
    server.plays = [says(200, wrong)]
    message = refused(file_of(server))
    assert f"expected sha256 {SHA256}, got {hashlib.sha256(wrong).hexdigest()}" in message
    assert files_in(folder) == set()


def test_the_beginning_of_a_hash_is_enough(server):
    fetch([file_of(server, sha256=SHA256[:8])])


def test_a_file_that_is_there_is_checked_and_never_overwritten(server, folder):
    (folder / "a.bin").write_bytes(b"the user's own")
    assert "remove that file to download it again" in refused(file_of(server))
    assert (folder / "a.bin").read_bytes() == b"the user's own"
    assert server.asked == []


def test_what_is_not_there_is_not_asked_for_again(server):
    server.plays = [says(404)]
    assert "HTTP 404 Not Found" in refused(file_of(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, status):
    server.plays = [says(status)]
    (path,) = fetch([file_of(server)], TWO_TRIES)
    assert path.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up_after_all_pauses(server):
    server.plays = [says(429) for _ in range(10)]
    assert "429" in refused(file_of(server), pauses=(0, 0, 0))
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7), ("0", 2), ("Wed, 21 Oct 2026 07:28:00 GMT", 2), ("9999999", 2)]
)
def test_a_server_may_ask_for_a_longer_pause(server, monkeypatch, asked, waited):
    slept = []
    monkeypatch.setattr(downloads.time, "sleep", slept.append)
    server.plays = [says(429, Retry_After=asked)]
    fetch([file_of(server)], pauses=(2,))
    assert slept == [waited]


@pytest.mark.parametrize("asked", ["9" * 5000, "-1", "1e9", "\u0663", "soon", ""])
def test_a_pause_that_is_no_number_counts_as_none(server, monkeypatch, asked):
    slept = []
    monkeypatch.setattr(downloads.time, "sleep", slept.append)
    server.plays = [lambda handler: sends(handler, 503, f"Retry-After: {asked}".encode(), b"")]
    fetch([file_of(server)], pauses=(2,))
    assert slept == [2]


def sends(handler, status, header, body):
    """An answer with one raw header line, without a length."""
    handler.wfile.write(b"HTTP/1.0 %d x\r\n%b\r\n\r\n%b" % (status, header, body))
    handler.close_connection = True


@pytest.mark.parametrize("length", ["many", "9" * 5000, "-5", "1.5", "\xb2"])
def test_a_length_that_is_no_number_counts_as_none(server, length):
    header = f"Content-Length: {length}".encode("latin-1")
    server.plays = [lambda handler: sends(handler, 200, header, CONTENT)] * 2
    (path,) = fetch([file_of(server)], TWO_TRIES)
    assert path.read_bytes() == CONTENT


def test_two_lengths_are_one_message(server):
    header = b"Content-Length: 300000\r\nContent-Length: 5"
    server.plays = [lambda handler: sends(handler, 200, header, CONTENT)] * 2
    assert "a.bin: " in refused(file_of(server))


@pytest.mark.parametrize(
    "address",
    [
        *("http://[::1", "http://a..b/", "http://127.0.0.1:9999999999/", "file:///etc/passwd"),
        *("http://" + "a" * 300 + ".org/", "http://a\xe9" + "b" * 70 + "/"),
        *("ftp://127.0.0.1/", "http://127.0.0.1:port/", "http://*/"),
    ],
)
def test_a_redirect_to_an_address_that_is_none_is_one_message(server, folder, address):
    header = f"Location: {address}\r\nContent-Length: 0".encode("latin-1")
    server.plays = [lambda handler: sends(handler, 302, header, b"")] * 2
    assert refused(file_of(server)).startswith("a.bin: ")
    assert files_in(folder) == set()


def endless(handler, status=200, header=b"Content-Type: application/zip"):
    """Sends until the other side hangs up."""
    sends(handler, status, header, b"")
    handler.server.sent = 0
    with contextlib.suppress(OSError):
        while handler.server.sent < 1 << 30:
            handler.server.sent += handler.connection.send(bytes(1 << 20))


def test_a_redirect_is_followed_whatever_comes_with_it(server):
    server.plays = [lambda handler: endless(handler, 302, b"Location: /there")]
    (path,) = fetch([file_of(server)])
    assert path.read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/file", "/there"]
    assert server.sent < 30e6


def test_redirects_without_an_end_are_given_up(server):
    server.plays = [lambda handler: sends(handler, 302, b"Location: /file", b"")] * 99
    assert "more than 10 redirects" in refused(file_of(server))
    assert len(server.asked) == 11


def test_an_answer_without_an_end_is_cut_at_the_known_size(server, folder):
    server.plays = [endless]
    message = refused(file_of(server)._replace(most=1e6))
    assert message.startswith("a.bin: expected at most 1 MB, got 1.0 MB or more")
    assert files_in(folder) == set()
    assert server.sent < 30e6  # what sockets hold, too


def test_an_announced_size_over_the_known_one_is_refused_at_once(server, folder):
    server.plays = [lambda handler: sends(handler, 200, b"Content-Length: 99999999999", b"x")]
    assert "expected at most 1 MB, got 100000.0 MB" in refused(file_of(server)._replace(most=1e6))
    assert files_in(folder) == set()


@pytest.mark.parametrize("play", [endless, Handler.give_file])
def test_a_download_leaves_room_on_the_disk(server, monkeypatch, folder, play):
    server.plays = [play]
    usage = shutil.disk_usage(folder)._replace(free=downloads.ROOM + 100_000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    assert "MB or more of free space in" in refused(file_of(server))
    assert downloads._size(folder / "a.bin.part") <= 100_000


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br, gzip", "x"])
def test_a_compressed_answer_is_refused_before_it_is_read(server, folder, coding):
    bomb = gzip.compress(bytes(10_000_000))
    (folder / "a.bin.part").write_bytes(CONTENT[:1000])
    server.plays = [says(200, bomb, Content_Encoding=coding)]
    assert f"got it compressed with '{coding}'" in refused(file_of(server))
    assert (folder / "a.bin.part").read_bytes() == CONTENT[:1000]


def test_a_folder_for_downloads_of_an_unknown_user_is_named(monkeypatch, server):
    monkeypatch.setenv("CACE_DATA", "~nosuchuser/data")
    assert refused(file_of(server)).startswith("CACE_DATA: expected a path, got '~nosuchuser/data'")


def test_a_server_that_does_not_answer_is_a_reason_and_no_traceback():
    message = refused(RemoteFile("a.bin", "http://127.0.0.1:9/file", "1 MB"))
    assert "refused" in message


@pytest.mark.parametrize("status", [200, 403])
def test_the_quota_page_is_named_and_leaves_the_part_as_it_is(server, folder, status):
    (folder / "a.bin.part").write_bytes(CONTENT[:1000])
    server.plays = [page(QUOTA, status)]
    assert "download quota for this file is used up; try again after 24" in refused(file_of(server))
    assert (folder / "a.bin.part").read_bytes() == CONTENT[:1000]


def test_the_virus_scan_page_is_answered(server):
    server.plays = [page(VIRUS_SCAN.format(url=server.url + "?id=1"))]
    (path,) = fetch([file_of(server)])
    assert path.read_bytes() == CONTENT
    assert server.asked[1] == ("/file?id=1&confirm=t", None)


def test_a_download_after_the_virus_scan_page_resumes_too(server, folder):
    (folder / "a.bin.part").write_bytes(CONTENT[:1000])
    server.plays = [page(VIRUS_SCAN.format(url=server.url))]
    (path,) = fetch([file_of(server)])
    assert path.read_bytes() == CONTENT
    assert server.asked[1][1] == "bytes=1000-"


def test_a_virus_scan_page_that_comes_again_is_named(server):
    server.plays = [page(VIRUS_SCAN.format(url=server.url)) for _ in range(9)]
    assert "virus-scan page, again" in refused(file_of(server))
    assert len(server.asked) == 2


@pytest.mark.parametrize("headers", [{"Content_Type": "text/html"}, {}])
def test_another_page_is_named_by_its_title(server, folder, headers):
    server.plays = [says(200, b"\n<HTML><title>Please\n sign in</title>", **headers)]
    message = refused(file_of(server, sha256=""))
    assert "expected the file, got a web page, titled 'Please sign in'" in message
    assert files_in(folder) == set()


def test_a_failure_lists_all_that_is_missing_with_link_size_hash_and_place(server, folder):
    files = [
        file_of(server, name="first.bin"),
        RemoteFile("gone.zip", server.url + "/gone", "2 GB"),
        file_of(server, name="here.bin"),
        RemoteFile("later.pth", server.url + "/later", "98 MB", "11ad3fa6"),
    ]
    (folder / "here.bin").write_bytes(CONTENT)
    server.plays = [lambda handler: handler.give_file(), says(404)]
    with pytest.raises(UserError) as caught:
        fetch(files)
    reason, *lines = str(caught.value).splitlines()
    assert reason.startswith("gone.zip: HTTP 404")
    assert lines == [
        f"  gone.zip (2 GB, sha256 unknown): {server.url}/gone",
        f"  later.pth (98 MB, sha256 11ad3fa6...): {server.url}/later",
        f"and put it into {folder} (CACE_DATA sets another folder)",
    ]
    assert files_in(folder) == {"first.bin", "here.bin"}


def test_two_runs_that_want_the_same_file_fetch_it_once(server):
    server.plays = [lambda handler: (time.sleep(0.1), handler.give_file())]
    with ThreadPoolExecutor(2) as runs:
        for (path,) in runs.map(fetch, [[file_of(server)]] * 2):
            assert path.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_log_shows_how_much_has_come_and_how_fast(server, capsys):
    fetch([file_of(server)])
    assert "a.bin: 300kB of 300kB, " in capsys.readouterr().out


def test_without_cace_data_downloads_outlive_a_changed_source_in_the_workspace(monkeypatch):
    monkeypatch.delenv("CACE_DATA")
    monkeypatch.setenv("DVC_ROOT", "/project")
    assert str(downloads.downloads_folder()) == "/project/.work/downloads"
