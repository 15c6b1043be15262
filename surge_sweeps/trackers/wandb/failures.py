"""What W&B's client says when something fails, as sentences; and reads repeated while a server does not answer.

Who repeats what: the client repeats a request that was dropped, refused for its rate (429) or failed (5xx), a few
times. `read_again` repeats a whole read after that, and where the client does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import tenacity

from surge_sweeps.errors import TrackerError
from surge_sweeps.extras import require
from surge_sweeps.trackers.wandb.session import hide_key, host, mailbox_closed, shown

#: How often a read is done at most, and the longest wait between two, in seconds.
ATTEMPTS = 4
LONGEST_WAIT_S = 20.0
_MESSAGE_LIMIT = 300

_GIVEN_UP = re.compile(
    r"did not respond in time|giving up after|deadline exceeded|connection|EOF", re.IGNORECASE
)
_REFUSED_KEY = re.compile(r"not logged in|relogin|error 401|invalid api key", re.IGNORECASE)
_REFUSED_ACCESS = re.compile(r"error 403|permission denied|forbidden", re.IGNORECASE)
_TOO_MANY = re.compile(r"HTTP 429|429 Too Many", re.IGNORECASE)
#: How W&B's client begins the message of an answer that says no, as opposed to no answer.
_ANSWERED_NO = "input:"
_SERVICE_GONE = "the service process is not running"

_T = TypeVar("_T")


@contextmanager
def wandb_errors(doing: str) -> Iterator[None]:
    """Turn W&B's failures into a `TrackerError` with the next step; `doing`: what could not be done, as a participle.

    `ValueError`, by which W&B says that a project does not exist, passes.
    """
    failures: tuple[type[Exception], ...] = (*_failures(), OSError)
    try:
        yield
    except failures as error:
        raise _explain(error, doing) from None


def read_again(doing: str, read: Callable[[], _T], after_failure: Callable[[], None] = lambda: None) -> _T:
    """What `read` returns, repeated with growing waits while W&B's server does not answer.

    Args:
        doing: as in `wandb_errors`. read: reads and changes nothing, so that it may be done again.
        after_failure: called before each repeat.

    Raises:
        TrackerError: it failed each time, or the server said no.
    """
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_passing),
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=LONGEST_WAIT_S),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=lambda _state: after_failure(),
        reraise=True,
    )
    with wandb_errors(doing):
        return again(read)


def _failures() -> tuple[type[Exception], ...]:
    wandb = require("wandb", "wandb")
    # Not one of wandb.errors, though the public API lets it pass.
    service = require("wandb.sdk.lib.service.service_connection", "wandb")
    return wandb.errors.Error, service.WandbApiFailedError, mailbox_closed()


def _is_passing(error: BaseException) -> bool:
    """Whether the same read may succeed a little later."""
    wandb = require("wandb", "wandb")
    said_no = (TrackerError, wandb.errors.UsageError, wandb.errors.AuthenticationError)
    if (
        _is_service_gone(error)
        or isinstance(error, said_no)
        or not isinstance(error, (*_failures(), OSError))
    ):
        return False
    status, cause = _http_status(error), _cause(error)
    if status:
        return status == 429 or status >= 500
    return not (cause.startswith(_ANSWERED_NO) or _REFUSED_KEY.search(cause) or _REFUSED_ACCESS.search(cause))


def _explain(error: Exception, doing: str) -> TrackerError:
    wandb = require("wandb", "wandb")
    if _is_service_gone(error):
        return TrackerError(
            f"W&B cannot be {doing}: its client's own process (wandb-core) has ended.",
            "Call the same command again; what is on the server is kept.",
        )
    server, cause = shown(host()), hide_key(_cause(error))
    status = _http_status(error)
    if isinstance(error, wandb.errors.UsageError):
        return TrackerError(
            f"W&B cannot be {doing}: {cause}.", "Log in with `wandb login`, or set WANDB_API_KEY."
        )
    if status == 401 or _REFUSED_KEY.search(cause):
        return TrackerError(
            f"the W&B server {server} does not know your key.",
            f"Make one at {server}/authorize, then set WANDB_API_KEY or call `wandb login --relogin`.",
        )
    if status == 403 or _REFUSED_ACCESS.search(cause):
        return TrackerError(
            f"W&B cannot be {doing}: your key may not do that ({cause}).",
            "Ask the project's owner for access, or log in as someone else with `wandb login --relogin`.",
        )
    if isinstance(error, wandb.errors.AuthenticationError) and "API key" in cause:
        return TrackerError(
            f"your W&B key cannot be used: {cause}.",
            "Copy it anew: `wandb login --relogin`, or WANDB_API_KEY.",
        )
    if status == 429 or _TOO_MANY.search(cause):
        return TrackerError(
            f"W&B cannot be {doing}: the server {server} refuses more requests for now ({cause}).",
            "Wait some minutes, then call the same command again.",
        )
    if not status and _GIVEN_UP.search(cause):
        return TrackerError(
            f"W&B cannot be {doing}: the server {server} does not answer ({cause}).",
            "See that it can be reached (WANDB_BASE_URL, the network), then call the same command again.",
        )
    return TrackerError(f"W&B cannot be {doing}: {cause}.", "Check the name, `wandb login` and the network.")


def _is_service_gone(error: BaseException) -> bool:
    """Whether the process that does the client's requests has died, as when a signal hit it too."""
    return isinstance(error, mailbox_closed()) or _SERVICE_GONE in str(error)


def _http_status(error: BaseException) -> int:
    """The status of the answer that made W&B's client fail, 0 where there was none or the client does not say."""
    for failure in _chain(error):
        response = getattr(failure, "response", None)
        status = getattr(response, "http_status", 0)
        if isinstance(status, int) and status:
            return status
    return 0


def _cause(error: BaseException) -> str:
    """The innermost message, on one line."""
    messages = [text for failure in _chain(error) if (text := " ".join(str(failure).split()))]
    text = messages[-1].rstrip(".") if messages else type(error).__name__
    return text if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]}..."


def _chain(error: BaseException) -> Iterator[BaseException]:
    failures = _failures()
    failure: BaseException | None = error
    while failure is not None and (failure is error or isinstance(failure, failures)):
        yield failure
        failure = failure.__cause__
