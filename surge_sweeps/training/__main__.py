"""`python -m surge_sweeps.training`: one trial, as agents, clusters and users call it.

Flags are the parameters' own names, so that a sweep's parameters can be handed over as they are. The run is logged
while it trains; one that is interrupted is left in the tracker as crashed, with the points it had. One that is asked to
make room by a scheduler (SIGTERM, SIGUSR2) saves its state and goes on when the same trial is started again: on MLflow
always (or in the run that MLFLOW_RUN_ID names), on W&B if it starts it again under its id (of an agent, or with
WANDB_RUN_ID).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.sweep import Scalar, trial_id
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import ResumableRun
from surge_sweeps.training.preemption import (
    Preempted,
    StopRequest,
    Terminated,
    ended_on_sigterm,
    room_on_signals,
)

DEFAULT_PROJECT = "surge-sweeps"

_FLAGS: tuple[tuple[str, type, str], ...] = (
    ("workload", str, "what to train on (default: digits)"),
    ("model", str, "model of the workload: mlp or cnn (default: mlp)"),
    ("optimizer", str, "optimizer (default: adamw); a wrong name lists them all"),
    ("lr", float, "learning rate, > 0; required"),
    ("batch_size", int, "examples per step; required"),
    ("seed", int, "decides the initial parameters and the order of examples (default: 0)"),
    ("beta1", float, "first moment decay; default: the optimizer's own"),
    ("beta2", float, "second moment decay; default: the optimizer's own"),
    ("eps", float, "added to the denominator; default: the optimizer's own"),
    ("momentum", float, "momentum; default: the optimizer's own"),
    ("weight_decay", float, "weight decay; default: the optimizer's own"),
    ("max_steps", int, "stop after this many steps"),
    ("max_examples", int, "stop after this many examples; this or --max_steps is required"),
    ("target_loss", float, "stop once the evaluation loss is at or below this"),
    ("init_from", str, "checkpoint file to start from, with fresh optimizer state"),
)


class _Options(NamedTuple):
    """What is no parameter of the trial."""

    tracker: str | None
    project: str | None
    checkpoint_dir: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one trial; return the exit code: 0 for every result, a diverged one included, 1 for an error.

    A run that was asked to make room, or ended by SIGTERM, returns 143, as a shell reports SIGTERM.
    """
    given = vars(_parser().parse_args(arguments))
    options = _Options(*(given.pop(name) for name in _Options._fields))
    tracker = options.tracker or _default_tracker()
    try:
        # Whether a run can make room is only known once it is open.
        with room_on_signals() as stop:
            print(_train(given, tracker, options, stop))
    except SurgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the run is closed as crashed.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Preempted as made_room:
        print(f"{made_room}; it goes on there once it is started again.", file=sys.stderr)
        return 128 + signal.SIGTERM
    except Terminated:
        print("terminated; the run is closed as crashed.", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


def _train(parameters: Mapping[str, Scalar], tracker_name: str, options: _Options, stop: StopRequest) -> str:
    """Train, log, and describe the outcome in one line."""
    torch = require("torch", "train")
    if "OMP_NUM_THREADS" not in os.environ:
        # The built-in models are too small to share between cores, and agents run several trials on one machine.
        torch.set_num_threads(1)
    from surge_sweeps.training.config import TrialConfig
    from surge_sweeps.training.resume import checkpoint_path, train_resumable
    from surge_sweeps.training.trainer import run_config, train_streaming

    config = TrialConfig.from_parameters(parameters)
    opened = run_config(config)
    tracker = open_tracker(tracker_name, options.project or _default_project(tracker_name))
    try:
        run = tracker.start_run(None, trial_id(parameters), opened)
        if isinstance(run, ResumableRun):
            trace = train_resumable(
                config, run, checkpoint_path(run.run_id, options.checkpoint_dir), stop, _say
            )
        else:
            with ended_on_sigterm():
                if stop.requested:
                    run.finish("crashed")
                    raise Terminated
                trace = train_streaming(config, run)
    finally:
        tracker.close()
    return f"{trace.status} after {trace.last_step} steps, eval loss {trace.last_eval_loss:.6g}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _default_tracker() -> str:
    return "wandb" if os.environ.get("WANDB_SWEEP_ID") else "mlflow"


def _default_project(tracker_name: str) -> str:
    configured = os.environ.get("WANDB_PROJECT") if tracker_name == "wandb" else None
    return configured or DEFAULT_PROJECT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m surge_sweeps.training",
        description="Train one trial of a built-in workload and log it.",
        epilog="Computes on one core; set OMP_NUM_THREADS for more.",
        allow_abbrev=False,
    )
    for name, kind, text in _FLAGS:
        required = name in ("lr", "batch_size")
        parser.add_argument(
            f"--{name}",
            *([f"--{name.replace('_', '-')}"] if "_" in name else []),
            dest=name,
            type=kind,
            default=argparse.SUPPRESS,
            required=required,
            metavar=kind.__name__,
            help=text,
        )
    parser.add_argument(
        "--tracker",
        help="where the run is logged: mlflow or wandb (default: wandb under a W&B agent, else mlflow)",
    )
    parser.add_argument(
        "--project",
        help=f"MLflow experiment or W&B project; under an agent its own (default: {DEFAULT_PROJECT})",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        help="where a run that is asked to make room (SIGTERM, SIGUSR2) leaves its state; shared by all machines "
        "that may go on with it (default: SURGE_CHECKPOINT_DIR, else .surge/checkpoints)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
