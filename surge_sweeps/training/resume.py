"""A run that is asked to make room: its state goes to a file, and a later process goes on with the same bits.

The file holds the parameters, the optimizer's state, the points so far, how far the run is on its way to the next one,
and the settings it belongs to. Where it is missing (another machine, no shared disk) the run starts over: the same
settings give the same run, so only the steps that are not logged yet have to be logged.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.files import write_bytes
from surge_sweeps.trackers.base import ResumableRun
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.loop import Begun, continue_loop
from surge_sweeps.training.optimizers import Stepper, build_optimizer
from surge_sweeps.training.preemption import Preempted, StopRequest
from surge_sweeps.training.start import starts
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.trainer import run_config
from surge_sweeps.training.workloads import load_workload

#: Where the files go: SURGE_CHECKPOINT_DIR, else this folder of the working folder.
CHECKPOINT_DIR = Path(".surge") / "checkpoints"
CHECKPOINT_VARIABLE = "SURGE_CHECKPOINT_DIR"

_FORMAT = 1
_PLAIN_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")


def checkpoint_path(run_id: str, folder: Path | None = None) -> Path:
    """Where the state of a run is kept.

    Args:
        run_id: the tracker's id; one that is no plain name is replaced by its hash. folder: default
            SURGE_CHECKPOINT_DIR, else `.surge/checkpoints` in the working folder.

    >>> checkpoint_path("ab12cd34", Path("shared")).as_posix(), checkpoint_path("../x", Path("shared")).as_posix()
    ('shared/ab12cd34.pt', 'shared/id-d6b96a97d147daaa.pt')
    """
    if folder is None:
        folder = Path(os.environ.get(CHECKPOINT_VARIABLE) or CHECKPOINT_DIR)
    plain = _PLAIN_ID.fullmatch(run_id) is not None
    return folder / f"{run_id if plain else 'id-' + hashlib.sha256(run_id.encode()).hexdigest()[:16]}.pt"


def train_resumable(
    config: TrialConfig,
    run: ResumableRun,
    path: Path,
    stop: StopRequest,
    say: Callable[[str], None] = lambda _: None,
) -> Trace:
    """Train a run to its end, going on from the state at `path` if there is one; see `train_streaming`.

    Args:
        config, run: what to train and where to log it. path: see `checkpoint_path`; removed once the run has ended.
        stop: when it is requested, the state is saved and the run closed as preempted. say: told of a run that starts
            over.

    Raises:
        Preempted: the run made room. TrainingError, MissingExtraError: see `train_streaming`; or the state belongs to
            other settings. TrackerError: the store is away.
    """
    try:
        workload = load_workload(config.workload)
        start = starts(workload, [config])[config.seed]
        model = copy.deepcopy(start.model)
        optimizer = build_optimizer(
            config.optimizer, model.parameters(), config.lr, config.hyper_parameters()
        )
        saved = _load(path, config)
        if saved is None:
            if run.logged_step >= 0:
                say(
                    f"no state of run {run.run_id} at {path}: starting over from step 0; the steps up to "
                    f"{run.logged_step} are logged already."
                )
            trace, begun = Trace(config, start.loss, start.checkpoint, run.log), None
        else:
            trace, begun = _restore(saved, config, start.checkpoint, model, optimizer, run)

        def make_room(begun: Begun) -> None:
            if stop.requested:
                _save(path, config, model, optimizer, trace, begun)
                raise Preempted(path)

        continue_loop(workload, model, optimizer, trace, begun=begun, on_step=make_room)
        run.finish(trace.status or "crashed", trace.summary())
    except Preempted:
        run.preempt()
        raise
    finally:
        # Does nothing after a line above.
        run.finish("crashed")
    path.unlink(missing_ok=True)
    return trace


def _save(
    path: Path, config: TrialConfig, model: nn.Module, optimizer: Stepper, trace: Trace, begun: Begun
) -> None:
    content = io.BytesIO()
    state = {
        "format": _FORMAT,
        "settings": _settings(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "points": trace.points(),
        "step": begun.step,
        "loss_sum": begun.loss_sum,
    }
    torch.save(state, content)
    write_bytes(path, content.getvalue())


def _load(path: Path, config: TrialConfig) -> dict[str, Any] | None:
    """The state at a path, or None if there is none. Nothing in the file is executed."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        theirs = (state["format"], state["settings"])
    except FileNotFoundError:
        return None
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        raise TrainingError(
            f"{str(path)!r} holds no state of a run, or it is torn ({type(error).__name__}).",
            "Remove it: the run then starts over and gives the same result.",
        ) from error
    if theirs != (_FORMAT, _settings(config)):
        raise TrainingError(
            f"{str(path)!r} holds the state of a run with other settings.",
            "Remove it, or call with the settings of the run that was stopped.",
        )
    return dict(state)


def _restore(
    saved: dict[str, Any],
    config: TrialConfig,
    start_checkpoint: str | None,
    model: nn.Module,
    optimizer: Stepper,
    run: ResumableRun,
) -> tuple[Trace, Begun]:
    """Put a state back; its points are logged again, and the run passes over those that it has."""
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    (_, start_loss, _), *points = saved["points"]
    trace = Trace(config, start_loss, start_checkpoint, run.log)
    for step, eval_loss, train_loss in points:
        trace.add(step, eval_loss, train_loss)
    return trace, Begun(saved["step"], saved["loss_sum"])


def _settings(config: TrialConfig) -> str:
    return json.dumps(run_config(config), sort_keys=True)
