"""HTTP: GraphQL, file_stream, uploads and downloads, with the faults that are planned for them."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from wandb_server.faults import Faults
from wandb_server.filestream import stream
from wandb_server.graphql import answer, parse_call
from wandb_server.oplog import Logged, OperationLog
from wandb_server.store import Store
from wandb_server.values import JsonObject, parse_json

STREAM = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass
class Backend:
    """What every request needs."""

    store: Store
    api_key: str
    faults: Faults
    operations: OperationLog


@dataclass(frozen=True)
class Answer:
    """A status, a body and headers."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(status: int, value: JsonObject, *headers: tuple[str, str]) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(value).encode(), (("Content-Type", "application/json"), *headers))


def injected(status: int, seconds: float) -> Answer:
    """The answer of a planned error; too many requests come with the time to wait."""
    headers = [("Retry-After", str(math.ceil(seconds)))] if status == 429 else []
    return json_answer(status, {"error": "injected"}, *headers)


def corrupted(answer: Answer) -> Answer:
    """The same answer with every byte of its body changed."""
    return Answer(answer.status, bytes(255 - byte for byte in answer.body), answer.headers)


class Handler(BaseHTTPRequestHandler):
    """One connection; ``backend`` is set by the server that makes the class."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body leave in one write: two would cost 40 ms for each request
    disable_nagle_algorithm = True
    backend: Backend

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def do_POST(self) -> None:
        """GraphQL and file_stream."""
        path, body = self._path(), self._body()
        if path == "/graphql":
            call = parse_call(body)
            self._serve(call.name, call.variables, lambda: json_answer(*answer(self.backend.store, call)))
        elif match := STREAM.fullmatch(path):
            content = parse_json(body) if body else {}
            self._serve("file_stream", {"path": path, **content}, lambda: self._stream(match, content))
        else:
            missing = json_answer(404, {"error": f"no such address {path}"})
            self._serve("POST", {"path": path}, lambda: missing)

    def do_PUT(self) -> None:
        """Uploads: addresses are signed on W&B, so no key is asked for."""
        path, body = self._path(), self._body()
        variables = {"path": path, "bytes": len(body)}
        self._serve("PUT", variables, lambda: self._store_file(path, body), key=False)

    def do_GET(self) -> None:
        """Downloads, whole or in ranges."""
        path = self._path()
        variables = {"path": path, "range": self.headers.get("Range")}
        self._serve(self.command, variables, lambda: self._file(path), key=False)

    do_HEAD = do_GET

    def _serve(self, name: str, variables: JsonObject, act: Callable[[], Answer], key: bool = True) -> None:
        """Carry out one request, with its fault if one is planned, log it and send the answer."""
        if key and not self._authorized():
            body = {"errors": [{"message": "user is not logged in"}], "data": None}
            self._log_and_send(Logged(name, variables, 401), json_answer(401, body))
            return
        fault = self.backend.faults.take(name, variables)
        kind = fault.kind if fault else None
        if fault and isinstance(kind, int):
            result: Answer | None = injected(kind, fault.seconds)
        elif kind == "drop":
            result = None
        else:
            if fault and kind == "slow":
                time.sleep(fault.seconds)
            done = act()
            result = None if kind == "drop_after" else corrupted(done) if kind == "corrupt" else done
        status = result.status if result else 0
        self._log_and_send(Logged(name, variables, status, kind), result, half=kind == "truncate")

    def _log_and_send(self, entry: Logged, result: Answer | None, half: bool = False) -> None:
        self.backend.operations.add(entry)
        if result is None:
            self.close_connection = True
            return
        self.send_response(result.status)
        for header, value in result.headers:
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(result.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(result.body[: len(result.body) // 2] if half else result.body)
        self.close_connection |= half

    def _authorized(self) -> bool:
        expected = base64.b64encode(f"api:{self.backend.api_key}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _stream(self, match: re.Match[str], content: JsonObject) -> Answer:
        store = self.backend.store
        with store.lock:
            return json_answer(*stream(store, match[1], match[2], match[3], content))

    def _store_file(self, path: str, body: bytes) -> Answer:
        with self.backend.store.lock:
            self.backend.store.files[path] = body
        return Answer(200, b"", (("ETag", '"0"'),))

    def _file(self, path: str) -> Answer:
        with self.backend.store.lock:
            blob = self.backend.store.files.get(path)
        if blob is None:
            return json_answer(404, {"error": f"no file {path}"})
        kind = (("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes"))
        wanted = RANGE.match(self.headers.get("Range") or "")
        if wanted is None:
            return Answer(200, blob, kind)
        first, last = wanted.groups()
        low = int(first) if first else max(0, len(blob) - int(last))
        high = min(int(last), len(blob) - 1) if first and last else len(blob) - 1
        place = ("Content-Range", f"bytes {low}-{high}/{len(blob)}")
        return Answer(206, blob[low : high + 1], (*kind, place))
