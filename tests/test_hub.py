"""Weights of a library's network from a server on this machine that plays the hub."""

import hashlib
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from tests.forks import programs
from tests.tiny_models import save_visual

MODEL = "timm/test_vit.r160_in1k"  # also the name of its repository
COMMIT = "1" * 40
PROGRAM = f"""
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
print(fingerprint(visual_encoder("{MODEL}", "pretrained")))
"""


class Hub(ThreadingHTTPServer):
    """Gives the files of one repository; `cut` is how many bytes of the next one it sends."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.given = files, None, 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        of_file = self.path.startswith(f"/{MODEL}/resolve/")
        names = [{"rfilename": name} for name in self.server.files]
        about = json.dumps({"id": MODEL, "sha": COMMIT, "siblings": names}).encode()
        content = self.server.files[self.path.rpartition("/")[2]] if of_file else about
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: self.server.cut if of_file else None])
        if self.command == "GET" and of_file:
            self.server.given += 1
            self.close_connection = self.server.cut is not None
            self.server.cut = None

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    save_visual(tmp_path / "saved")
    name = "pytorch_model.bin"
    server = Hub({name: (tmp_path / "saved" / name).read_bytes()})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub, cache):
    """The hash of the network's pretrained weights, in a program of its own."""
    there = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(cache)}
    done = subprocess.run(
        [str(programs() / "python"), "-c", PROGRAM],
        env=os.environ | there,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_pretrained_weights_are_downloaded_once_even_if_the_connection_breaks(hub, tmp_path):
    expected = fingerprint(visual_encoder("timm/test_vit", str(tmp_path / "saved")))
    hub.cut = 500_000
    assert load(hub, tmp_path / "cache") == expected
    assert hub.given == 2  # times: in part, then completely
    assert load(hub, tmp_path / "cache") == expected
    assert hub.given == 2
