"""The objects of the server: kept by kind, namespace and name, and changed as merge patches say."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]


class Refused(Exception):
    """An answer that is no success.

    Args:
        code: of HTTP. reason, message: as Kubernetes gives them.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    def body(self) -> Object:
        """A Status, the form of every refusal."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


class Store:
    """What the server holds; every use is under `lock`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.namespaces = {"default", "research"}
        self.secrets: dict[str, dict[str, str]] = {}
        self._objects: dict[tuple[str, str, str], Object] = {}

    def create(self, kind: str, namespace: str, given: Object) -> Object:
        """Add an object, completed as the server does."""
        name = given["metadata"]["name"]
        key = (kind, namespace, name)
        if namespace not in self.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        if key in self._objects:
            raise Refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
        metadata = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now(),
            **given["metadata"],
            "namespace": namespace,
        }
        self._objects[key] = {**given, "metadata": metadata}
        return self._objects[key]

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """An object; raises `Refused` where there is none."""
        try:
            return self._objects[kind, namespace, name]
        except KeyError:
            raise Refused(404, "NotFound", f'{kind} "{name}" not found') from None

    def delete(self, kind: str, namespace: str, name: str) -> Object:
        """Take an object away, and what it owns."""
        gone = self.get(kind, namespace, name)
        del self._objects[kind, namespace, name]
        uid = gone["metadata"]["uid"]
        for key, item in list(self._objects.items()):
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ())):
                self._objects.pop(key, None)
        return gone

    def all(self, kind: str, namespace: str | None = None) -> Iterator[Object]:
        """Objects of a kind, in the order they were made."""
        for (its_kind, its_namespace, _), item in list(self._objects.items()):
            if its_kind == kind and namespace in (None, its_namespace):
                yield item


def merge(into: Object, change: Object) -> None:
    """A merge patch."""
    for key, value in change.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def now() -> str:
    """The time as the API writes it, with digits enough to tell two pods of one second apart."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"
