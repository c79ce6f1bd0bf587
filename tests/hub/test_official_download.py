"""Files of the network are fetched whole, once, with what was there before, and nothing secret is shown."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_jepa.cli.main import main
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.download import download


CONTENT = bytes(range(256)) * 1000


class Files(BaseHTTPRequestHandler):
    """One file, as servers of files give it; the test says how it misbehaves."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer()

    def answer(self, head=False):
        server = self.server
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        server.seen.append((self.command, first, self.headers.get("Authorization")))
        if server.status != 200:
            self.send_response(server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if server.length is not None:
            self.send_header("Content-Length", str(server.length if head else len(server.content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("ETag", f'"{server.tag}"')
        self.end_headers()
        if not head:
            self.wfile.write(server.content[first:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.content, server.length, server.tag, server.status, server.seen = CONTENT, len(CONTENT), "a", 200, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_and_its_sum_is_known(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = download(f"{server.address}/a/vitl.pt?x=1", tmp_path)
    assert found.path.name == "vitl.pt" and found.path.read_bytes() == CONTENT
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    asked = len(server.seen)
    assert download(f"{server.address}/a/vitl.pt?x=1", tmp_path) == found and len(server.seen) == asked
    assert {token for *_, token in server.seen} == {None}
    assert download(f"{server.address}/b/vitl.pt", tmp_path).path != found.path  # another file of that name
    found.path.write_bytes(b"changed")
    with pytest.raises(ConversionError, match="not what was downloaded"):
        download(f"{server.address}/a/vitl.pt?x=1", tmp_path)


@pytest.mark.parametrize("changed", [False, True])
def test_an_interrupted_download_goes_on_unless_the_file_changed(server, tmp_path, changed, monkeypatch):
    real = download.__globals__["http_get"]

    def interrupted(url, file, **options):
        file.write(CONTENT[:1000])
        raise OSError("the line is dead")

    monkeypatch.setitem(download.__globals__, "http_get", interrupted)
    with pytest.raises(OSError, match="the line is dead"):
        download(f"{server.address}/vitl.pt", tmp_path)
    assert not list(tmp_path.rglob("vitl.pt"))
    monkeypatch.setitem(download.__globals__, "http_get", real)
    if changed:
        server.content, server.tag = CONTENT[::-1], "b"
    found = download(f"{server.address}/vitl.pt", tmp_path)
    assert found.path.read_bytes() == server.content
    assert [first for command, first, _ in server.seen if command == "GET"] == [0 if changed else 1000]


def test_what_is_wrong_is_said_without_secrets(server, tmp_path, monkeypatch):
    secret = f"{server.address.replace('//', '//user:password@')}/vitl.pt?token=hf_secret"
    with pytest.raises(ConversionError, match="256,000 bytes, more than the 1,000") as error:
        download(secret, tmp_path, max_bytes=1000)
    messages = [str(error.value)]
    for change, message in (
        ({"status": 404}, "404"),
        ({"status": 403}, "403"),
        ({"length": None}, "does not say how large"),
        ({"length": 1000}, "more than the 1,000 bytes that it announced"),
    ):
        with monkeypatch.context() as changes:
            for name, value in change.items():
                changes.setattr(server, name, value)
            with pytest.raises(OSError, match=message) as error:
                download(secret, tmp_path)
            messages.append(str(error.value))
    server.shutdown()
    server.server_close()
    assert not [text for text in messages if "secret" in text or "password" in text]
    assert not list(tmp_path.rglob("vitl.pt"))
    for record in tmp_path.rglob("*"):
        assert record.is_dir() or b"secret" not in record.read_bytes()


@pytest.mark.parametrize("path", ["", "/", "/..", "/a/%2e%2e", "/a/..%5cb"])
def test_addresses_without_a_name_are_refused(server, tmp_path, path):
    with pytest.raises(ConversionError, match="not the name of a file"):
        download(f"{server.address}{path}", tmp_path)
    assert server.seen == []


def test_the_command_converts_an_address(server, tmp_path, monkeypatch, capsys):
    from test_fuzz import FILES, GOLDEN

    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    server.content = (GOLDEN / FILES["data2vec_vision"] / "checkpoint.pt").read_bytes()
    server.length = len(server.content)
    url, output = f"{server.address}/base.pt?key=secret", tmp_path / "out"
    assert main(["convert", url, "--no-such-option", "--output", str(output)]) == 2 and server.seen == []
    assert main(["convert", f"--checkpoint={url}", "--output", str(output)]) == 0
    shown = capsys.readouterr()
    assert f"sha256 {hashlib.sha256(server.content).hexdigest()}" in shown.out
    assert "secret" not in shown.out + shown.err and (output / "model.safetensors").is_file()
    assert "base.pt" in (output / "README.md").read_text()
    asked = len(server.seen)
    assert main(["convert", url, "--output", str(output)]) == 2  # it is there
    assert len(server.seen) == asked
