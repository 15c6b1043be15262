"""`python -m surge_sweeps.training`: one trial, as agents, clusters and users call it.

Flags are the parameters' own names, so that a sweep's parameters can be handed over as they are. The run is logged
while it trains; one that is interrupted is left in the tracker as crashed, with the points it had. One that is asked to
make room by a scheduler (SIGTERM, SIGUSR2) saves its state and goes on when the same trial is started again: on MLflow
always (or in the run that MLFLOW_RUN_ID names), on W&B if it starts it again under its id (of an agent, or with
WANDB_RUN_ID), for a task of an engine (--sweep-id, --trial-id, --owner) on every tracker, also after it was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from surge_sweeps.collector import collected_lightly
from surge_sweeps.errors import SurgeError
from surge_sweeps.extras import require
from surge_sweeps.sweep import Scalar
from surge_sweeps.training.options import Options, parse
from surge_sweeps.training.preemption import Preempted, StopRequest, Terminated, room_on_signals


def main(arguments: Sequence[str] | None = None, loaded: Callable[[], None] = lambda: None) -> int:
    """Train one trial; return the exit code: 0 for every result, a diverged one included, 1 for an error.

    A run that was asked to make room, or ended by SIGTERM, returns 143, as a shell reports SIGTERM.

    Args:
        arguments: of the command line; None: this process's. loaded: called once what logs the run is open.
    """
    parameters, options = parse(arguments)
    try:
        # Whether a run can make room is only known once it is open.
        with room_on_signals() as stop:
            _train(parameters, options, stop, loaded)
    except SurgeError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the run is closed as crashed.")
        return 128 + signal.SIGINT
    except Preempted:
        return 128 + signal.SIGTERM
    except Terminated:
        _say("terminated; the run is closed as crashed.")
        return 128 + signal.SIGTERM
    return 0


def _train(
    parameters: Mapping[str, Scalar], options: Options, stop: StopRequest, loaded: Callable[[], None]
) -> None:
    """Train, log, and say the outcome in one line; of several processes the first one says it."""
    torch = require("torch", "train")
    if "OMP_NUM_THREADS" not in os.environ:
        # The built-in models are too small to share between cores, and agents run several trials on one machine.
        torch.set_num_threads(1)
    from surge_sweeps.training.processes import this_rank
    from surge_sweeps.training.trial import train_trial

    rank = this_rank()
    say = _say if rank.number == 0 else _say_nothing
    try:
        outcome = train_trial(parameters, options, rank, stop, say, loaded)
    except Preempted as made_room:
        say(f"{made_room}; it goes on there once it is started again.")
        raise
    if rank.number == 0:
        print(outcome)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _say_nothing(_: str) -> None:
    pass


if __name__ == "__main__":
    with collected_lightly() as loaded:
        sys.exit(main(loaded=loaded))
