"""A `.wandb` file read by W&B's own `wandb leet inspect --json`: slower, and of any version that the client knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from surge_sweeps.errors import TrackerError
from surge_sweeps.trackers.wandb.offline.run import OfflineFile, RunLog, number
from surge_sweeps.trackers.wandb.offline.transaction_log import Ending

_WORDS = 400  # of what the command says about a file


def inspect(path: Path) -> OfflineFile:
    """Read a file, as far as it goes.

    Raises:
        TrackerError: the command cannot be started, fails, or prints something else than records.
    """
    run = RunLog()
    with tempfile.TemporaryFile() as said:
        try:
            with subprocess.Popen(
                [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path.absolute())],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                env=os.environ | {"WANDB_ERROR_REPORTING": "false"},
            ) as process:  # fmt: skip
                for line in process.stdout or ():
                    _read(run, json.loads(line))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise _failed(path, str(error)) from error
        said.seek(0)
        words = " ".join(said.read().decode(errors="replace").split())[:_WORDS]
    if process.returncode:
        raise _failed(path, words)
    return run.close(path, Ending("torn", path.stat().st_size, words) if words else _complete(path))


def _complete(path: Path) -> Ending:
    return Ending("complete", path.stat().st_size)


def _failed(path: Path, why: str) -> TrackerError:
    return TrackerError(
        f"{str(path)!r} cannot be read, and neither can `wandb leet inspect`: {why or 'it said nothing'}.",
        "Upgrade wandb, or move the file out of the folder if it is no run.",
    )


def _read(run: RunLog, record: Mapping[str, Any]) -> None:
    kind = record["type"]
    content = record.get(kind) or {}
    if kind == "history":
        for name, value in content.get("item", {}).items():
            logged = number(value)
            if logged is not None:
                rows, values = run.column(name)
                rows.append(run.rows)
                values.append(logged)
        step = content.get("step")
        run.end_row(None if step is None else step.get("num", 0))
    elif kind == "summary":
        run.summarize(*_changes(content))
    elif kind == "config":
        run.configure(*_changes(content))
    elif kind == "run":
        names = {
            name: content.get(name, "") for name in ("run_id", "entity", "project", "sweep_id", "job_type")
        }
        run.begin(names | {"group": content.get("run_group", "")}, _start_ms(content.get("start_time")))
        run.configure(*_changes(content.get("config", {})))
        run.summarize(*_changes(content.get("summary", {})))
    elif kind == "exit":
        run.exit_code = content.get("exit_code", 0)


def _changes(content: Mapping[str, Any]) -> tuple[list[tuple[str, object]], list[str]]:
    removed = [item.get("key") or ".".join(item.get("nested_key", ())) for item in content.get("remove", ())]
    return list(content.get("update", {}).items()), removed


def _start_ms(text: str | None) -> int | None:
    return None if text is None else int(datetime.fromisoformat(text).timestamp() * 1000)
