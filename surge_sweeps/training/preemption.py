"""What a scheduler's signals ask of a run: to make room, or to end. Needs no torch, so that it can listen early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: Where runs that make room leave their states: what this variable names, else this folder of the working folder.
CHECKPOINT_VARIABLE = "SURGE_CHECKPOINT_DIR"
CHECKPOINT_DIR = Path(".surge") / "checkpoints"
#: What schedulers send to a job that has to make room.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name))


class Preempted(Exception):
    """The run made room.

    Attributes:
        checkpoint: the file with its state.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"the run made room; its state is in {checkpoint}")
        self.checkpoint = checkpoint


class Terminated(BaseException):
    """SIGTERM to a run that cannot go on later: raised so that the run is closed on the way out."""


class StopRequest:
    """Whether the run was asked to make room."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Ask for it; looked at after every optimizer step."""
        self.requested = True


@contextmanager
def room_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGUSR2 into a `StopRequest` while the block runs."""
    stop = StopRequest()
    with _handled(SIGNALS, stop.request):
        yield stop


@contextmanager
def ended_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` while the block runs."""

    def end() -> None:
        raise Terminated

    with _handled((signal.SIGTERM,), end):
        yield


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], act: Callable[[], None]) -> Iterator[None]:
    """Signals handled by `act`; outside the main thread none can come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        act()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
