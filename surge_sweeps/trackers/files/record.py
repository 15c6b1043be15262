"""What a run's file says of the run, beside its points: plain JSON in the file's footer, so that it is read alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, get_args

from surge_sweeps.curves import Status
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.trackers.files.layout import FORMAT
from surge_sweeps.trackers.stored_runs import LatestPoint, StoredRun, as_status

#: `running`: a process writes it. `preempted`: it made room and waits to go on. `ended`: its process is through.
State = Literal["running", "preempted", "ended"]

#: Columns of the run table that stand in the summary.
_FROM_SUMMARY = ("start_checkpoint", "start_loss")


class MetricRows(NamedTuple):
    """How many rows of the file are one metric's, and its newest point: step, ms since 1970, value."""

    rows: int
    step: int
    time_ms: int
    value: float


@dataclass(frozen=True)
class FileRun:
    """One run.

    Attributes:
        run_id, trial_id, sweep_id, owner: whose it is; the owner is the task of an engine, empty without one.
        state: see `State`. status: as recorded; None until it has ended, and where its process just left.
        start_ms, end_ms: milliseconds since 1970. attempts: how many processes have opened it; writer: names the last.
        is_script: a program of the user's own does it, and logs elsewhere until it ends.
        is_whole: it was written at once, after its end: how long it took is not known.
        config, summary: see `RunRecord`. metrics: in the order of their rows in the file.
    """

    run_id: str
    trial_id: str
    sweep_id: str | None
    config: Mapping[str, Scalar]
    start_ms: int
    owner: str = ""
    state: State = "running"
    status: Status | None = None
    end_ms: int | None = None
    attempts: int = 1
    writer: str = ""
    is_script: bool = False
    is_whole: bool = False
    summary: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, MetricRows] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of it; `from_json` reads it back to the bit.

        >>> run = FileRun("t1-0", "t1", None, {"lr": 0.1, "clip": math.inf}, 0)
        >>> FileRun.from_json(run.to_json()) == run
        True
        """
        content = {
            "format": FORMAT,
            "run_id": self.run_id,
            "trial_id": self.trial_id,
            "sweep_id": self.sweep_id,
            "owner": self.owner,
            "state": self.state,
            "status": self.status,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "attempts": self.attempts,
            "writer": self.writer,
            "is_script": self.is_script,
            "is_whole": self.is_whole,
            "config": _encode_all(self.config),
            "summary": _encode_all(self.summary),
            "metrics": [
                [name, rows.rows, rows.step, rows.time_ms, _encode(rows.value)]
                for name, rows in self.metrics.items()
            ],
        }
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> FileRun:
        """Read the text.

        Raises:
            OtherFormatError: it is of another version. ValueError: it is no such text.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise OtherFormatError(
                    f"it is of format {content['format']!r}, and this version knows {FORMAT}"
                )
            return cls._from_dict(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it tells of no run") from error

    @classmethod
    def _from_dict(cls, content: Mapping[str, Any]) -> FileRun:
        status = as_status(content["status"])
        if content["state"] not in get_args(State) or (status is None and content["status"] is not None):
            raise ValueError("its state is none that this version knows")
        return cls(
            run_id=str(content["run_id"]),
            trial_id=str(content["trial_id"]),
            sweep_id=None if content["sweep_id"] is None else str(content["sweep_id"]),
            owner=str(content["owner"]),
            state=cast(State, content["state"]),
            status=status,
            start_ms=int(content["start_ms"]),
            end_ms=None if content["end_ms"] is None else int(content["end_ms"]),
            attempts=int(content["attempts"]),
            writer=str(content["writer"]),
            is_script=bool(content["is_script"]),
            is_whole=bool(content["is_whole"]),
            config={str(name): _decode(value) for name, value in content["config"].items()},
            summary={str(name): _decode(value) for name, value in content["summary"].items()},
            metrics={
                str(name): MetricRows(int(rows), int(step), int(time_ms), float(_decode(value)))
                for name, rows, step, time_ms, value in content["metrics"]
            },
        )

    def stored(self) -> StoredRun:
        """The run as the reading of every tracker takes it."""
        ids = {"trial_id": self.trial_id} | ({} if self.sweep_id is None else {"sweep_id": self.sweep_id})
        values = {name: self.summary[name] for name in _FROM_SUMMARY if name in self.summary}
        params = ids | {name: str(value) for name, value in {**values, **self.config}.items()}
        metrics = {
            name: LatestPoint(float(newest.step), newest.time_ms, newest.value)
            for name, newest in self.metrics.items()
        }
        ended: Status = "running" if self.state == "running" else self.status or "crashed"
        start_ms = None if self.is_whole else self.start_ms
        return StoredRun(self.run_id, self.status, ended, start_ms, self.end_ms, params, metrics)


class OtherFormatError(ValueError):
    """A file of another version of this program."""


def _encode_all(values: Mapping[str, Scalar]) -> dict[str, object]:
    return {name: _encode(value) for name, value in values.items()}


def _encode(value: Scalar) -> object:
    """A scalar as JSON, which knows neither NaN nor infinities: they stand in a list.

    >>> _encode(0.1), _encode(math.inf)
    (0.1, ['inf'])
    """
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else [str(number)]


def _decode(value: Any) -> Scalar:
    if isinstance(value, list):
        return float(value[0])
    if not isinstance(value, str | int | float):
        raise TypeError("no scalar")
    return value
