"""The state of a run in a file, from which a later process goes on with the same bits.

The file holds the parameters, the optimizer's state, the points so far, how far the run is on its way to the next one,
how its batches were cut, and the settings it belongs to. It is replaced as a whole; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.files import write_bytes
from surge_sweeps.trackers.identity import store_id
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.optimizers import Stepper
from surge_sweeps.training.preemption import CHECKPOINT_DIR, CHECKPOINT_VARIABLE
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.trainer import run_config

_FORMAT = 4
_PLAIN_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")

#: A state as it is read: parts by name.
State = Mapping[str, Any]


def checkpoint_path(run_id: str, folder: Path | None = None) -> Path:
    """Where the state of a run is kept.

    Args:
        run_id: the trial's id or the tracker's; one that is no plain name is replaced by its hash. folder: default
            SURGE_CHECKPOINT_DIR, else `.surge/checkpoints` in the working folder.

    >>> checkpoint_path("ab12cd34", Path("shared")).as_posix(), checkpoint_path("../x", Path("shared")).as_posix()
    ('shared/ab12cd34.pt', 'shared/id-d6b96a97d147daaa.pt')
    """
    if folder is None:
        folder = Path(os.environ.get(CHECKPOINT_VARIABLE) or CHECKPOINT_DIR)
    plain = _PLAIN_ID.fullmatch(run_id) is not None
    return folder / f"{run_id if plain else 'id-' + hashlib.sha256(run_id.encode()).hexdigest()[:16]}.pt"


def task_state_name(
    trial_id: str, tracker: str, project: str, uri: str | None, micro_batch_size: int | None
) -> str:
    """What the state of an engine's task is kept under, as `run_id` of `checkpoint_path`.

    The same for every launch that wants the same: the same trial, in the same project of the same store, cut alike.
    Launches that want something else share a folder of states and never take up each other's.

    Args:
        tracker, project, uri: see `open_tracker`. micro_batch_size: as asked for; None: nothing was.

    >>> names = {task_state_name("t1", "files", "runs", None, size) for size in (None, None, 4)}
    >>> len(names), all(name.startswith("t1-") for name in names)
    (2, True)
    """
    # A folder is its own store, by whichever name.
    named = "" if tracker == "files" else project
    wanted = json.dumps([tracker, named, store_id(tracker, project, uri), micro_batch_size])
    return f"{trial_id}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def write_state(
    path: Path,
    model: nn.Module,
    optimizer: Stepper,
    trace: Trace,
    *,
    step: int,
    sums: Tensor,
    wanted_micro_batch_size: int | None,
    micro_batch_size: int | None,
    evaluated_at_once: int,
) -> None:
    """Write the state of a run atomically.

    Args:
        step: optimizer steps done. sums: (processes, 0, 1 or 2) what each has measured since the last
            point, see `Steps.step`.
        wanted_micro_batch_size: as asked for, None: nothing was. micro_batch_size: as it is, None: batches are not cut.
        evaluated_at_once: examples of the held-out set.

    Raises:
        SurgeError: it cannot be written there; what was there before stays.
    """
    content = io.BytesIO()
    state = {
        "format": _FORMAT,
        "settings": _settings(trace.config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "points": trace.points(),
        "step": step,
        "sums": sums,
        "wanted_micro_batch_size": wanted_micro_batch_size,
        "micro_batch_size": micro_batch_size,
        "evaluated_at_once": evaluated_at_once,
    }
    torch.save(state, content)
    write_bytes(path, content.getvalue())


def read_file(path: Path) -> bytes | None:
    """The file at a path; None if there is none.

    Raises:
        TrainingError: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrainingError(
            f"the run's state {str(path)!r} cannot be read: {error.strerror or error}.",
            "See that it is a file that you may read, or choose another --checkpoint-dir.",
        ) from error


def read_state(content: bytes, config: TrialConfig, path: Path) -> State | None:
    """The state in a file's content; None if that is torn or no state.

    Raises:
        TrainingError: it belongs to a run with other settings.
    """
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        theirs = (state["format"], state["settings"])
        complete = isinstance(state, dict) and all(name in state for name in _PARTS)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError):
        return None
    if not complete or theirs[0] != _FORMAT:
        return None
    if theirs[1] != _settings(config):
        raise TrainingError(
            f"{str(path)!r} holds the state of a run with other settings.",
            "Remove it, or call with the settings of the run that was stopped.",
        )
    return dict(state)


_PARTS = (
    "model",
    "optimizer",
    "points",
    "step",
    "sums",
    "wanted_micro_batch_size",
    "micro_batch_size",
    "evaluated_at_once",
)


def _settings(config: TrialConfig) -> str:
    return json.dumps(run_config(config), sort_keys=True)
