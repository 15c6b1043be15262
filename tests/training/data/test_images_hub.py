"""Files of a Hugging Face data set at a commit: fetched once by the hub's own client, then found without a network."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.data.hub import hub_files
from surge_sweeps.training.data.images import read_images

constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789" * 4
HERE = f"hf:owner/pictures@{COMMIT}"


def table(*values: int) -> bytes:
    rows = []
    for value in values:
        content = io.BytesIO()
        Image.new("RGB", (4, 4), (value, value, value)).save(content, "PNG")
        rows.append({"bytes": content.getvalue(), "path": "x.png"})
    file = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": [value % 2 for value in values]}), file)
    return file.getvalue()


FILES = {
    "README.md": b"# pictures",
    "data/test-00000-of-00001.parquet": table(8, 9),
    "data/train-00000-of-00002.parquet": table(1, 2),
    "data/train-00001-of-00002.parquet": table(3),
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for to list files and to fetch them."""

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        path = self.path.partition("?")[0]
        listing, files = (
            f"/api/datasets/owner/pictures/tree/{COMMIT}",
            f"/datasets/owner/pictures/resolve/{COMMIT}/",
        )
        if path.startswith(listing):
            found = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in FILES.items()
            ]
            self._send(json.dumps(found).encode(), "application/json", with_content)
        elif path.startswith(files) and path.removeprefix(files) in FILES:
            self._send(FILES[path.removeprefix(files)], "application/octet-stream", with_content)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, kind: str, with_content: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    running = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_address[1]}")
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def test_named_files_are_fetched_once_and_that_is_told(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = read_images(f"{HERE}/data/train-*.parquet", f"{HERE}/data/test-*.parquet")
    assert pair.train.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert pair.held_out is not None
    assert pair.held_out.labels.tolist() == [0, 1]
    hub.shutdown()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = read_images(f"{HERE}/data/train-*.parquet", f"{HERE}/data/test-*.parquet")
    assert again.train.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fetching")]
    kept = f"once; it is kept in {constants.HF_HUB_CACHE!r} (HF_HOME)."
    counts = ("2 files", "1 file")
    assert told == [
        f"fetching {count} of 'owner/pictures' from the Hugging Face hub, {kept}" for count in counts
    ]


def test_all_files_of_both_parts(hub: ThreadingHTTPServer) -> None:
    pair = read_images(f"{HERE}/data/*.parquet")
    assert pair.train.labels.tolist() == [1, 0, 1]
    assert pair.held_out is not None
    assert pair.held_out.images[:, 0, 0, 0].tolist() == [8, 9]


def test_what_is_not_there_is_told(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(TrainingError, match=r"no file .* is called 'x\*'.*data/test-00000-of-00001.parquet"):
        hub_files(f"{HERE}/x*")
    with pytest.raises(TrainingError, match="the hub has no data set 'owner/other'"):
        hub_files(f"hf:owner/other@{COMMIT}/*.parquet")
    with pytest.raises(TrainingError, match=r"'README.md', which is no Parquet file"):
        read_images(f"{HERE}/*")


def test_without_a_network_the_command_is_told(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client tries long before it gives up a server that it does not reach.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TrainingError, match="cannot be fetched from the hub") as caught:
        hub_files(f"{HERE}/data/train-*.parquet")
    assert "hf download --repo-type dataset --revision" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["hf:owner/pictures", "hf:owner/pictures@main/a.parquet", f"hf:owner/pictures@{COMMIT}", "hf:@/"]
)
def test_a_commit_and_files_must_be_named(text: str) -> None:
    with pytest.raises(TrainingError, match="hf:OWNER/NAME@COMMIT/PATTERN"):
        read_images(text)
