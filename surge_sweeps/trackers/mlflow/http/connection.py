"""Requests to an MLflow server: mlflow's own way of asking (credentials, retries, headers), our words for failures."""

from __future__ import annotations

import contextvars
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.mlflow.asked_again import say_when_asked_again
from surge_sweeps.trackers.mlflow.http.refusals import no_json, refusal, unreachable
from surge_sweeps.trackers.mlflow.uri import probe_server

#: Requests at the same time: a server's workers are few, and its database behind them is one.
THREADS = 4

_FIRST_TIMEOUT_S = 15
_FIRST_RETRIES = 2
_BROKEN_ATTEMPTS = 3
#: What servers without a route, and proxies that let only some through, answer.
_MISSING = (401, 403, 404, 405, 414, 501)

#: What passes. Not 500, an error in the server itself, which mlflow would repeat for minutes.
_RETRIED = frozenset({408, 429, 502, 503, 504})

_Params = Sequence[tuple[str, str]]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Server:
    """An MLflow server. Its methods may be called from several threads.

    Args:
        uri: its address, with a path if it has one; may hold user and password.

    Raises:
        TrackerError: nothing listens there. MissingExtraError: mlflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        probe_server(uri)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._request = require("mlflow.utils.rest_utils", "mlflow").http_request
        self._failure = require("mlflow.exceptions", "mlflow").MlflowException
        self._broken = require("requests.exceptions", "mlflow").ChunkedEncodingError
        self._credentials = require("mlflow.utils.credentials", "mlflow").get_default_host_creds(uri)

    def call(self, method: str, path: str, *, params: _Params = (), body: object = None) -> dict[str, Any]:
        """The server's answer, read as JSON; retried as mlflow's settings say (MLFLOW_HTTP_REQUEST_MAX_RETRIES).

        Raises:
            TrackerError: no answer, or none of success.
        """
        return self._read(self._ask(method, path, params=params, body=body))

    def find(self, path: str, params: _Params) -> dict[str, Any] | None:
        """The answer to a question about one named thing, None where there is no such thing; as the first request.

        It is tried for less than a minute, since a server that is down should be said at once.
        """
        response = self._ask("GET", path, params=params, first=True)
        if response.status_code == 404 and _error_code(response) == "RESOURCE_DOES_NOT_EXIST":
            return None
        return self._read(response)

    def try_route(self, path: str, params: _Params) -> dict[str, Any] | None:
        """The answer of a route that some servers, or proxies before them, do not have: None where it is missing."""
        response = self._ask("GET", path, params=params)
        if response.status_code in _MISSING and _error_code(response) in (None, "ENDPOINT_NOT_FOUND"):
            return None
        if response.status_code == 200 and "html" in response.headers.get("Content-Type", ""):
            return None  # a proxy's login page
        return self._read(response)

    def try_call(self, path: str, params: _Params) -> dict[str, Any] | None:
        """The answer to a question that older servers refuse: None where it is refused."""
        response = self._ask("GET", path, params=params)
        return None if response.status_code == 400 else self._read(response)

    def download(self, path: str, params: _Params = ()) -> bytes | None:
        """The content of a file; None where the server does not give it. Tried once: there is another way."""
        try:
            response = self._ask("GET", path, params=params, retries=0)
        except TrackerError:
            return None
        return bytes(response.content) if response.status_code == 200 else None

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: _Params = (),
        body: object = None,
        first: bool = False,
        retries: int | None = None,
    ) -> Any:
        settings: dict[str, Any] = {
            "max_retries": retries,
            "raise_on_status": False,
            "retry_codes": _RETRIED,
        }
        if first:
            settings |= {"max_retries": _FIRST_RETRIES, "timeout": _FIRST_TIMEOUT_S, "backoff_factor": 1}
            # A server may ask for an hour.
            settings["respect_retry_after_header"] = False
        if body is not None:
            settings["json"] = body
        attempt = 1
        while True:
            try:
                with say_when_asked_again(self.uri):
                    return self._request(self._credentials, path, method, params=list(params), **settings)
            except self._failure as error:
                # mlflow's retries end where the answer begins.
                broken = isinstance(error.__cause__ or error.__context__, self._broken)
                if not broken or attempt == _BROKEN_ATTEMPTS or retries == 0:
                    raise unreachable(error, self.uri) from error
                attempt += 1

    def _read(self, response: Any) -> dict[str, Any]:
        if response.status_code != 200:
            raise refusal(response, self.uri)
        try:
            # Some routes write NaN as such, which Python's own parser takes.
            found = json.loads(response.content)
        except ValueError as error:
            raise no_json(response, self.uri) from error
        if not isinstance(found, dict):
            raise no_json(response, self.uri)
        return found


def artifact_path(artifact_uri: str, path: str) -> str | None:
    """The server's own path of an artifact that it keeps for its clients; None where it lies elsewhere.

    >>> artifact_path("mlflow-artifacts:/1/abc/artifacts", "surge/history.parquet")
    '/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/surge/history.parquet'
    >>> artifact_path("s3://bucket/1/abc", "a") is None, artifact_path("mlflow-artifacts://other/1", "a") is None
    (True, True)
    """
    parts = urlsplit(artifact_uri)
    # Another host is not ours to send credentials to.
    if parts.scheme != "mlflow-artifacts" or parts.netloc or ".." in parts.path.split("/"):
        return None
    return f"/api/2.0/mlflow-artifacts/artifacts/{quote(parts.path.strip('/'))}/{quote(path)}"


def in_threads(
    work: Callable[[_Item], _Result], take: Callable[[], _Item | None]
) -> Iterator[tuple[_Item, _Result]]:
    """Each item with what `work` makes of it, as they get done. `take` gives the next item as a thread gets free, None
    where there is none at present: it is asked again once something got done.

    An error ends it: what has not begun is not begun any more.
    """
    active: dict[Future[_Result], _Item] = {}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="surge-mlflow") as pool:
        while True:
            while len(active) < THREADS and (item := take()) is not None:
                # The workspace that a caller has set is part of its context.
                active[pool.submit(contextvars.copy_context().run, work, item)] = item
            if not active:
                return
            for future in wait(active, return_when=FIRST_COMPLETED).done:
                yield active.pop(future), future.result()


def _error_code(response: Any) -> str | None:
    try:
        found = response.json()
    except ValueError:
        return None
    code = found.get("error_code") if isinstance(found, dict) else None
    return code if isinstance(code, str) else None
