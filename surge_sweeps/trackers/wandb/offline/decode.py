"""The records of a `.wandb` file decoded with the schema that the wandb package brings (protocol buffers).

Most of a file is of no use here: two summaries for each row of the history, system metrics, console output. They are
told by their first bytes and passed over undecoded.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from surge_sweeps.extras import require
from surge_sweeps.trackers.wandb.offline.run import OfflineFile, RunLog, number
from surge_sweeps.trackers.wandb.offline.transaction_log import TransactionLog, UnknownLogError
from surge_sweeps.trackers.wandb.record import SUMMARY

_RECORDS = "wandb.proto.wandb_internal_pb2"
_SUMMARY_MARK = SUMMARY.encode()
#: Kinds of records that tell nothing that is asked here.
_UNUSED = ("output", "files", "stats", "artifact", "tbrecord", "alert", "telemetry", "metric", "output_raw")
_UPGRADE = "Upgrade wandb and surge-sweeps."


def decode(path: Path) -> OfflineFile:
    """Read a file, as far as it goes.

    Raises:
        UnknownLogError: no `.wandb` file, or of a kind that this reader or the installed wandb does not know.
        MissingExtraError: wandb is not installed.
        OSError: the file cannot be read.
    """
    schema = _schema()
    log = TransactionLog(path)
    decoder = _Decoder(schema)
    # DecodeError: google.protobuf comes with wandb and is not imported before it is needed.
    broken = (importlib.import_module("google.protobuf.message").DecodeError, ValueError)
    try:
        for data in log.records():
            decoder.read(data)
    except broken as error:
        raise UnknownLogError(
            f"{str(path)!r} holds a record that the installed wandb cannot decode ({error}).", _UPGRADE
        ) from error
    if decoder.unknown_values:
        decoder.run.problems.append(
            f"{decoder.unknown_values} logged values are in a form that the installed wandb does not know: upgrade it"
        )
    if log.ending is None:
        raise RuntimeError("the log has come to no end")
    return decoder.run.close(path, log.ending)


def _schema() -> Any:
    require("wandb", "wandb")
    try:
        schema = importlib.import_module(_RECORDS)
    except ImportError as error:
        raise UnknownLogError(
            f"the installed wandb brings no schema of its files ({error}).", _UPGRADE
        ) from error
    if not hasattr(schema, "Record"):
        raise UnknownLogError("the installed wandb brings another schema of its files.", _UPGRADE)
    return schema


class _Decoder:
    """Takes in records one by one; what they told is in `run`."""

    def __init__(self, schema: Any) -> None:
        self.run = RunLog()
        self.unknown_values = 0
        self._parse = schema.Record.FromString
        fields = schema.Record.DESCRIPTOR.fields_by_name
        # The first byte of a field below number 16 that holds a message: its number and wire type 2.
        self._unused = frozenset(fields[kind].number << 3 | 2 for kind in _UNUSED if kind in fields)
        self._summary = fields["summary"].number << 3 | 2
        self._typed = "value" in schema.HistoryItem.DESCRIPTOR.oneofs_by_name

    def read(self, data: bytes) -> None:
        """Take in one record."""
        first = _after_number(data)
        if first in self._unused or (first == self._summary and _SUMMARY_MARK not in data):
            return
        record = self._parse(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self._history(record.history)
        elif kind == "summary":
            self.run.summarize(*_changes(record.summary))
        elif kind == "config":
            self.run.configure(*_changes(record.config))
        elif kind == "run":
            self._begin(record.run)
        elif kind == "exit":
            self.run.exit_code = record.exit.exit_code

    def _begin(self, run: Any) -> None:
        names = {name: getattr(run, name) for name in ("run_id", "entity", "project", "sweep_id", "job_type")}
        start = run.start_time
        start_ms = start.seconds * 1000 + start.nanos // 1_000_000 if run.HasField("start_time") else None
        self.run.begin(names | {"group": run.run_group}, start_ms)
        self.run.configure(*_changes(run.config))
        self.run.summarize(*_changes(run.summary))

    def _history(self, history: Any) -> None:
        # The one hot loop: a call for each value would double the time.
        row, columns = self.run.rows, self.run.series
        for item in history.item:
            nested = item.nested_key
            name = nested[0] if len(nested) == 1 else _name(item)
            text = item.value_json
            try:
                value = float(text)
            except ValueError:
                other = self._other_value(item, text)
                if other is None:
                    continue
                value = other
            rows, values = columns.get(name) or self.run.column(name)
            rows.append(row)
            values.append(value)
        self.run.end_row(history.step.num if history.HasField("step") else None)

    def _other_value(self, item: Any, text: str) -> float | None:
        if text:
            # Only text can be a number in W&B's words; a list may be long and is not decoded.
            return number(json.loads(text)) if text[0] == '"' else None
        kind = item.WhichOneof("value") if self._typed else None
        if kind is None:
            self.unknown_values += 1
        return number(getattr(item, kind)) if kind in ("integer", "number", "text") else None


def _after_number(data: bytes) -> int:
    """The first byte after the record's own number, which comes first where there is one."""
    at = 0
    if data[:1] == b"\x08":
        at = 1
        while at < len(data) and data[at] & 0x80:
            at += 1
        at += 1
    return data[at] if at < len(data) else -1


def _changes(record: Any) -> tuple[list[tuple[str, object]], list[str]]:
    return _values(record.update), [_name(item) for item in record.remove]


def _values(items: Iterable[Any]) -> list[tuple[str, object]]:
    return [(_name(item), json.loads(item.value_json)) for item in items]


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
