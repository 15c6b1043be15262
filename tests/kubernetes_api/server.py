"""The server as tests see it: start it, break it, look at what it was asked."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from kubernetes_api.controller import Controller
from kubernetes_api.store import Object, Refused, Store, merge, now

kubernetes_validate = pytest.importorskip("kubernetes_validate")

TOKEN = "token-of-the-test-cluster"
CONTEXT = "loopback"
VERSION = "1.37"

_ROUTE = re.compile(
    r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)
#: What of a Job may change once it is there; by the validation of updates in the Kubernetes sources.
_MUTABLE = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "maxFailedIndexes",
    "parallelism",
    "suspend",
    "ttlSecondsAfterFinished",
}


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class Fault:
    """How the server fails: `times` requests of a method whose path holds `path` get this answer, after a wait."""

    method: str
    path: str
    code: int = 500
    body: str = ""
    wait_s: float = 0.0
    times: int = 1
    then_answer: bool = False


class KubernetesServer:
    """An API server on a port of 127.0.0.1; a context manager.

    Args:
        folder: for its kubeconfig, its volumes and its logs. runs_pods: start the pods of Jobs as processes here.

    Attributes:
        store: its objects. asked: the requests so far. faults: answers that are no success. kubeconfig: a file.
    """

    def __init__(self, folder: Path, *, runs_pods: bool = False) -> None:
        self.store = Store()
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.controller = Controller(self.store, folder) if runs_pods else None
        self.kubeconfig = folder / "kubeconfig"
        handler = type("BoundHandler", (_Handler,), {"owner": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> KubernetesServer:
        self.write_kubeconfig()
        self._thread.start()
        if self.controller is not None:
            self.controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.controller is not None:
            self.controller.stop()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def write_kubeconfig(
        self, server: str | None = None, token: str = TOKEN, namespace: str = "default"
    ) -> None:
        """Write the file by which clients find the server."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CONTEXT,
            "clusters": [{"name": "here", "cluster": {"server": server or self.address}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [
                {"name": CONTEXT, "context": {"cluster": "here", "user": "me", "namespace": namespace}}
            ],
        }
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.write_text(yaml.safe_dump(content))

    def only(self, kind: str) -> Object:
        """The one object of a kind."""
        (found,) = self.store.all(kind)
        return found

    def add_pod(self, job: Object, index: int, phase: str, **status: Any) -> Object:
        """A pod of a Job, as its controller makes it."""
        number = sum(1 for _ in self.store.all("pods"))
        pod = {
            "metadata": {
                "name": f"{job['metadata']['name']}-{index}-{number:05d}",
                "labels": {
                    **job["spec"]["template"]["metadata"]["labels"],
                    "batch.kubernetes.io/job-completion-index": str(index),
                },
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            },
            "spec": job["spec"]["template"]["spec"],
            "status": {"phase": phase, **status},
        }
        return self.store.create("pods", job["metadata"]["namespace"], pod)

    def answer(self, asked: Asked) -> tuple[int, Object | str]:
        """The answer to a request: an object, or a log."""
        with self.store.lock:
            self.asked.append(asked)
            route = _ROUTE.fullmatch(asked.path)
            if route is None:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            namespace, kind, name = route["namespace"], route["kind"], route["name"]
            if asked.method == "POST":
                return 201, self._create(kind, namespace, asked.body)
            if asked.method == "PATCH":
                return 200, self._patch(kind, self.store.get(kind, namespace, name), asked.body)
            if asked.method == "DELETE":
                return 200, self._delete(kind, namespace, name)
            if route["log"]:
                return 200, self._log(self.store.get(kind, namespace, name))
            if name:
                return 200, self.store.get(kind, namespace, name)
            return 200, self._list(kind, namespace, asked.query)

    def _create(self, kind: str, namespace: str, given: Object) -> Object:
        try:
            kubernetes_validate.validate(given, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(
                400, "BadRequest", f"{given.get('kind')} in version is not valid: {error.message}"
            ) from error
        created = self.store.create(kind, namespace, given)
        if kind == "jobs":
            created["status"] = {}
        return created

    def _patch(self, kind: str, item: Object, change: Object) -> Object:
        changed = set(change.get("spec", {}))
        if kind == "jobs" and not changed <= _MUTABLE:
            raise Refused(422, "Invalid", f"Job is invalid: {sorted(changed)}: field is immutable")
        if kind == "configmaps" and item.get("immutable") and "data" in change:
            raise Refused(
                422, "Invalid", "ConfigMap is invalid: data: field is immutable when `immutable` is set"
            )
        merge(item, change)
        return item

    def _delete(self, kind: str, namespace: str, name: str) -> Object:
        if kind == "pods" and self.controller is not None:
            pod = self.store.get(kind, namespace, name)
            self.controller.end(pod)
            return pod
        return self.store.delete(kind, namespace, name)

    def _log(self, pod: Object) -> str:
        if pod["status"]["phase"] == "Pending":
            message = (
                f'container "trial" in pod "{pod["metadata"]["name"]}" is waiting to start: ContainerCreating'
            )
            raise Refused(400, "BadRequest", message)
        kept = pod.get("log")
        return Path(kept).read_text(errors="replace") if kept else str(pod.get("said", ""))

    def _list(self, kind: str, namespace: str, query: dict[str, str]) -> Object:
        if kind == "events":
            return {"items": list(self.store.all("events", namespace)), "metadata": {}}
        found = [item for item in self.store.all(kind, namespace) if _fits(item, query)]
        first, limit = int(query.get("continue") or 0), int(query.get("limit") or len(found) + 1)
        more = str(first + limit) if first + limit < len(found) else ""
        return {"items": found[first : first + limit], "metadata": {"continue": more} if more else {}}


def _fits(item: Object, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels", {})
    wanted = [piece.split("=", 1) for piece in query.get("labelSelector", "").split(",") if piece]
    if any(labels.get(key) != value for key, value in wanted):
        return False
    return not (
        query.get("fieldSelector") == "status.phase!=Succeeded" and item["status"]["phase"] == "Succeeded"
    )


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that gave up is no failure of the server.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    owner: KubernetesServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PATCH = do_DELETE = do_GET

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        asked = Asked(self.command, parts.path, query, body)
        fault = next(
            (one for one in self.owner.faults if one.method == asked.method and one.path in asked.path), None
        )
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.owner.faults.remove(fault)
            time.sleep(fault.wait_s)
            if fault.then_answer:
                self._answer(asked)
                self.close_connection = True
            else:
                self.owner.asked.append(asked)
                self._send(fault.code, fault.body)
            return
        code, text = self._answer(asked)
        self._send(code, text)

    def _answer(self, asked: Asked) -> tuple[int, str]:
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            code, answer = self.owner.answer(asked)
        except Refused as refused:
            code, answer = refused.code, refused.body()
        with self.owner.store.lock:
            return code, answer if isinstance(answer, str) else json.dumps(answer)

    def _send(self, code: int, text: str) -> None:
        content = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what was asked is in `asked`."""


__all__ = ["CONTEXT", "TOKEN", "Asked", "Fault", "KubernetesServer", "now"]
