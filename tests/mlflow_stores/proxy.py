"""A small reverse proxy on loopback: what stands before many servers, and may let only some requests through."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What the proxy itself answers."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Request(NamedTuple):
    """A request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


#: What to do with a request: an answer of the proxy's own, or the request to pass on.
Rule = Callable[[Request], "Answer | Request"]


class Proxy:
    """Passes requests on to a server, or not, as the rule says; a context manager.

    Attributes:
        uri: its address. requests: those that came, in order.
    """

    def __init__(self, target: str, rule: Rule, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        proxy, address = self, urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers)
                proxy.requests.append(request)
                found = rule(request)
                answer = found if isinstance(found, Answer) else self.pass_on(found, body)
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if "content-length" not in {name.lower() for name, _ in answer.headers}:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                # An answer may promise more than it holds.
                self.close_connection = isinstance(found, Answer)

            do_POST = do_GET

            def pass_on(self, request: Request, body: bytes) -> Answer:
                connection = http.client.HTTPConnection(str(address.hostname), address.port)
                connection.request(request.method, request.path, body, request.headers)
                response = connection.getresponse()
                kind = response.headers.get("Content-Type", "text/plain")
                answer = Answer(response.status, response.read(), (("Content-Type", kind),))
                connection.close()
                return answer

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.uri = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
