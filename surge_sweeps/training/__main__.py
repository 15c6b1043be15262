"""`python -m surge_sweeps.training`: one trial, as agents, clusters and users call it.

Flags are the parameters' own names, so that a sweep's parameters can be handed over as they are. The run is logged
while it trains; one that is interrupted is left in the tracker as crashed, with the points it had.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.sweep import Scalar, trial_id
from surge_sweeps.trackers import open_tracker

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


class _Terminated(BaseException):
    """SIGTERM: raised so that the run is closed on the way out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one trial; return the exit code: 0 for every result, a diverged one included, 1 for an error."""
    given = vars(_parser().parse_args(arguments))
    project = str(given.pop("project"))
    tracker = given.pop("tracker")
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        print(_train(given, _tracker_name(tracker), project))
    except SurgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the run is closed as crashed.", file=sys.stderr)
        return 128 + signal.SIGINT
    except _Terminated:
        print("terminated; the run is closed as crashed.", file=sys.stderr)
        return 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _train(parameters: Mapping[str, Scalar], tracker_name: str, project: str) -> str:
    """Train, log, and describe the outcome in one line."""
    torch = require("torch", "train")
    if "OMP_NUM_THREADS" not in os.environ:
        # The built-in models are too small to share between cores, and agents run several trials on one machine.
        torch.set_num_threads(1)
    from surge_sweeps.training.config import TrialConfig
    from surge_sweeps.training.trainer import run_config, train_streaming

    config = TrialConfig.from_parameters(parameters)
    opened = run_config(config)
    tracker = open_tracker(tracker_name, project)
    try:
        trace = train_streaming(config, tracker.start_run(None, trial_id(parameters), opened))
    finally:
        tracker.close()
    return f"{trace.status} after {trace.last_step} steps, eval loss {trace.last_eval_loss:.6g}"


def _tracker_name(given: str | None) -> str:
    if given is not None:
        return given
    if os.environ.get("WANDB_SWEEP_ID"):
        raise SurgeError(
            "this runs under a W&B agent (WANDB_SWEEP_ID is set), and logging to W&B is not part of this version.",
            "Pass --tracker mlflow to log to MLflow.",
        )
    return "mlflow"


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
    parser.add_argument("--tracker", help="where the run is logged: mlflow (default: mlflow)")
    parser.add_argument("--project", default=DEFAULT_PROJECT, help="MLflow experiment (default: %(default)s)")
    return parser


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
