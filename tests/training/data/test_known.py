"""Known data sets: found where they belong, fetched whole or not at all, checked, and told about where they are not."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.data.fetch import fetch
from surge_sweeps.training.data.known import KNOWN, RemoteFile, find_known, known

CONTENT = bytes(range(256)) * 2000
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))


@dataclass
class Server:
    """A file server. It may break off after so many bytes, and may know no ranges."""

    url: str = ""
    content: bytes = CONTENT
    breaks_after_bytes: int | None = None
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/gone":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.knows_ranges else 0
            if start and start >= len(state.content):
                self.send_error(416)
                return
            rest = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: state.breaks_after_bytes])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{running.server_address[1]}"
    yield state
    running.shutdown()
    running.server_close()
    thread.join()


def a_file(server: Server, checksum: str | None = CHECKSUM, size: int | None = len(CONTENT)) -> RemoteFile:
    return RemoteFile("set/part.bin", f"{server.url}/part.bin", size, checksum)


def lies_there(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "set").iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once_and_told_how_far_it_is(server: Server, tmp_path: Path) -> None:
    told: list[float] = []
    assert fetch(a_file(server), tmp_path, lambda done, total, text: told.append(done / total))
    assert (tmp_path / "set" / "part.bin").read_bytes() == CONTENT
    assert told[-1] == 1
    assert not fetch(a_file(server), tmp_path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_an_interrupted_fetch_goes_on_where_it_stopped(
    server: Server, tmp_path: Path, knows_ranges: bool
) -> None:
    server.breaks_after_bytes = 1000
    with pytest.raises(TrainingError, match=r"after 1,000 of 512,000 bytes.*curl -fL") as caught:
        fetch(a_file(server), tmp_path)
    assert str(tmp_path / "set" / "part.bin") in caught.value.hint
    assert lies_there(tmp_path) == ["part.bin.part"]
    server.breaks_after_bytes, server.knows_ranges = None, knows_ranges
    assert fetch(a_file(server), tmp_path)
    assert server.ranges == [None, "bytes=1000-"]
    assert lies_there(tmp_path) == ["part.bin"]
    assert (tmp_path / "set" / "part.bin").read_bytes() == CONTENT


def test_without_a_checksum_a_fetch_begins_anew(server: Server, tmp_path: Path) -> None:
    server.breaks_after_bytes = 1000
    with pytest.raises(TrainingError):
        fetch(a_file(server, None, None), tmp_path)
    server.breaks_after_bytes, server.content = None, b"changed" * 1000
    assert fetch(a_file(server, None, None), tmp_path)
    assert server.ranges == [None, None]
    assert (tmp_path / "set" / "part.bin").read_bytes() == server.content


def test_all_of_it_may_be_there_before_it_has_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part.bin.part").write_bytes(CONTENT)
    assert fetch(a_file(server), tmp_path)
    assert (tmp_path / "set" / "part.bin").read_bytes() == CONTENT


def test_another_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(TrainingError, match=r"is not the expected file.*sha256"):
        fetch(a_file(server), tmp_path)
    assert lies_there(tmp_path) == []
    with pytest.raises(TrainingError, match="512,000 bytes and should have 7"):
        fetch(a_file(server, None, 7), tmp_path)
    assert lies_there(tmp_path) == []


def test_a_file_that_is_there_is_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part.bin").write_bytes(b"half")
    with pytest.raises(TrainingError, match=r"has 4 bytes and should have 512,000.*Delete it"):
        fetch(a_file(server), tmp_path)


def test_where_there_is_no_network_the_command_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the server answers 404"):
        fetch(RemoteFile("set/part.bin", f"{server.url}/gone"), tmp_path)
    nowhere = RemoteFile("set/part.bin", "http://127.0.0.1:9/part.bin")
    with pytest.raises(TrainingError, match="cannot be fetched") as caught:
        fetch(nowhere, tmp_path)
    assert (
        f"curl -fL --create-dirs -o {tmp_path}/set/part.bin http://127.0.0.1:9/part.bin" in caught.value.hint
    )


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"a file")
    with pytest.raises(TrainingError, match="cannot be written"):
        fetch(a_file(server), tmp_path)


def test_several_fetches_at_once_give_one_file(server: Server, tmp_path: Path) -> None:
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(a_file(server), tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]
    assert (tmp_path / "set" / "part.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_known_set_is_whole(name: str) -> None:
    data = known(name)
    fetched = {file.path for file in data.files}
    for file in data.files:
        assert file.url.startswith(("https://", "http://"))
        assert not Path(file.path).is_absolute()
        assert ".." not in Path(file.path).parts
        if file.checksum is not None:
            kind, _, digest = file.checksum.partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[kind]
            assert file.size_bytes
    # What is fetched makes the first form.
    for path in data.forms[0].paths:
        assert any(file == path or Path(path) in Path(file).parents for file in fetched)
    if data.kind == "images":
        assert all(len(form.train) == len(form.held_out) == 1 for form in data.forms)


def test_a_known_set_is_found_in_any_of_its_forms(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"is not in .*surge-sweep data cifar10 .*cifar10-train.zip"):
        find_known("cifar10", "images")
    (tmp_path / "cifar10").mkdir()
    for name in ("cifar10-train.zip", "cifar10-test.zip"):
        (tmp_path / "cifar10" / name).touch()
    found = find_known("cifar10", "images")
    assert found.train == (tmp_path / "cifar10" / "cifar10-train.zip",)
    assert found.held_out == (tmp_path / "cifar10" / "cifar10-test.zip",)
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").touch()
    with pytest.raises(TrainingError, match="more than once"):
        find_known("cifar10", "images")


def test_a_set_that_is_half_fetched_is_not_there(tmp_path: Path) -> None:
    paths = [tmp_path / file.path for file in known("fashion-mnist").files]
    paths[0].parent.mkdir()
    for path in paths[:-1]:
        path.touch()
    with pytest.raises(TrainingError, match="is not in"):
        find_known("fashion-mnist", "images")
    # As other tools leave it, unpacked.
    paths[-1].with_suffix("").touch()
    assert find_known("fashion-mnist", "images").train == (tmp_path / "fashion-mnist",)


def test_wrong_names_and_kinds_are_told() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data set 'cifar'\. Valid: .*Did you mean 'cifar10'"):
        known("cifar")
    with pytest.raises(TrainingError, match=r"is text, and images are needed\. Known images: cifar10, "):
        find_known("tinyshakespeare", "images")
    with pytest.raises(TrainingError, match=r"is images, and text is needed\."):
        find_known("cifar10", "text")
