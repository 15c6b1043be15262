"""Trying again while a store is away for a while: a server that restarts, a database that is locked.

MLflow's own client repeats every request to a server by itself, up to seven times in four minutes and in silence, also
a request that makes a run and whose answer was lost, which makes two runs. So inside `keep_trying` it asks once, and
what is repeated, how long and with which care is decided here. Everything that is repeated must be safe to repeat.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import tenacity

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.mlflow.shared_context import SharedContext
from surge_sweeps.trackers.mlflow.uri import display_uri, hide_credentials

#: Seconds that a store may be away before it counts as gone.
PATIENCE_S = 120.0

_SHORTEST_WAIT_S = 0.5
_LONGEST_WAIT_S = 5.0
_LOOK_S = 0.2
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
#: What a server, or a proxy before it, answers while it cannot work.
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_REFUSED_STATUS = re.compile(r"too many (\d{3}) error responses")
#: PostgreSQL's classes of errors that a second attempt may not meet: connection lost, deadlock, server starting or
#: stopping, too many connections.
_PASSING_SQLSTATE = ("08", "40", "57P", "53300")
_KEPT = "then call the same command again: what was written is kept, and it runs the rest."
_SERVER_HINT = f"See that it runs (its log says why not), {_KEPT}"
_DATABASE_HINT = f"See that it can be reached and that no other program holds it, {_KEPT}"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def wait_it_out() -> bool:
    """Nobody asks to give up."""
    return False


def keep_trying(
    uri: str,
    work: Callable[[], _T],
    patience_s: float | None = None,
    is_given_up: Callable[[], bool] = wait_it_out,
) -> _T:
    """Call `work`, again and again while the store is away, and return what it returns.

    Args:
        uri: the store. work: raises `TrackerError` from the store's own error; what it does may be done twice.
        patience_s: seconds until it is given up; None: `PATIENCE_S`; 0: a single attempt.
        is_given_up: asked a few times a second while it waits; once true, it waits no longer.

    Raises:
        TrackerError: the store stayed away, or an error that waiting does not mend.
    """
    limit_s = PATIENCE_S if patience_s is None else patience_s

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            reason = _reason(state.outcome.exception())
            _log.warning(
                "the MLflow store %s cannot be used now (%s); trying again for %.0f s",
                display_uri(uri),
                reason,
                limit_s,
            )

    is_late = tenacity.stop_after_delay(limit_s)
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        wait=tenacity.wait_random_exponential(_SHORTEST_WAIT_S, max=_LONGEST_WAIT_S),
        stop=lambda state: is_late(state) or is_given_up(),
        sleep=lambda seconds: _sleep(seconds, is_given_up),
        before_sleep=tell,
    )
    with _single_attempts():
        try:
            return retry(work)
        except tenacity.RetryError as error:
            last = error.last_attempt.exception()
            waited = f" for {limit_s:.0f} s" if limit_s and not is_given_up() else ""
            raise TrackerError(
                f"the MLflow store {display_uri(uri)} could not be used{waited}: {_reason(last)}.",
                _SERVER_HINT if uri.startswith("http") else _DATABASE_HINT,
            ) from (last and last.__cause__)


def _sleep(seconds: float, is_given_up: Callable[[], bool]) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0 and not is_given_up():
        time.sleep(min(_LOOK_S, left_s))


def may_pass(error: BaseException | None) -> bool:
    """Whether an error is of a store that may be back soon; for a `TrackerError`, whether its cause is."""
    return any(_passes(link) for link in _chain(error))


def _passes(error: BaseException) -> bool:
    if (status := _status(error)) is not None:
        return status in _PASSING_STATUS
    kinds = {kind.__module__.partition(".")[0] + "." + kind.__name__ for kind in type(error).__mro__}
    if kinds & {"requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError"}:
        return "requests.SSLError" not in kinds
    if "sqlalchemy.DBAPIError" in kinds:
        return _database_may_pass(error)
    return False


def _database_may_pass(error: Any) -> bool:
    if error.connection_invalidated:
        return True
    original = error.orig
    sqlstate = getattr(original, "sqlstate", None)
    if sqlstate is not None:
        return str(sqlstate).startswith(_PASSING_SQLSTATE)
    if type(original).__module__ == "sqlite3":
        return "locked" in str(original)
    # A driver that cannot connect has no state to tell.
    return type(original).__name__ == "OperationalError" and type(original).__module__.startswith("psycopg")


def _status(error: BaseException) -> int | None:
    """The status a server refused with; MLflow's client drops the rest of such an answer."""
    found = _REFUSED_STATUS.search(str(error)) if type(error).__name__ == "RetryError" else None
    return int(found[1]) if found else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    # MLflow raises some errors from their cause, and others merely while handling it.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException | None) -> str:
    links = list(_chain(error))
    for link in links:
        if (status := _status(link)) is not None:
            return f"its server answers {status} {HTTPStatus(status).phrase}"
    for link in links:
        if type(link).__module__.startswith("requests"):
            timed_out = "Timeout" in type(link).__name__
            return "its server does not answer in time" if timed_out else "its server does not answer"
    for link in links:
        if (original := getattr(link, "orig", None)) is not None:
            return hide_credentials(str(original).strip().splitlines()[0].rstrip("."))
    return str(error)


@contextmanager
def _without_retries() -> Iterator[None]:
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RETRIES]
        else:
            os.environ[_RETRIES] = before


_single_attempts = SharedContext(_without_retries)
