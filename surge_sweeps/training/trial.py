"""One trial of the command line, from its options to its outcome in one line.

The first of its processes opens the run and logs; the others train along with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from surge_sweeps.curves import Status
from surge_sweeps.sweep import Scalar, trial_id
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import ResumableRun, RunWriter
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.devices import pick_device
from surge_sweeps.training.micro_batches import cut_batch
from surge_sweeps.training.options import DEFAULT_PROJECT, Options
from surge_sweeps.training.preemption import StopRequest, Terminated, ended_on_sigterm
from surge_sweeps.training.processes import Processes, Rank, joined
from surge_sweeps.training.resume import train_resumable
from surge_sweeps.training.session import Setup
from surge_sweeps.training.state import checkpoint_path, task_state_name
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.trainer import run_config, train_streaming

Say = Callable[[str], None]


def train_trial(
    parameters: Mapping[str, Scalar],
    options: Options,
    rank: Rank,
    stop: StopRequest,
    say: Say,
    loaded: Callable[[], None] = lambda: None,
) -> str:
    """Train one trial and log it; return its outcome.

    Args:
        rank: which of the trial's processes this is. stop: asks for room. say: what the user is told meanwhile.
        loaded: called once what logs the run is open.

    Raises:
        Preempted: the run made room. Terminated: it was asked to and cannot go on later, so it was closed.
        SurgeError: it cannot be trained or logged.
    """
    config = TrialConfig.from_parameters(parameters)
    opened = run_config(config)
    cut_batch(config.batch_size, options.micro_batch_size, rank.size)
    device = pick_device(options.device, rank.local)
    name = options.task.trial_id if options.task else trial_id(parameters)
    with joined(rank, device) as processes, _opened(name, opened, options, processes) as run:
        loaded()
        setup = Setup(device, options.micro_batch_size, processes)
        # What the first process was given decides for all how they are stopped.
        resumable = processes.any_of(isinstance(run, ResumableRun) and rank.number == 0)[0]
        if resumable and isinstance(run, ResumableRun):
            path = checkpoint_path(_state_name(name, run, options), options.checkpoint_dir)
            minutes = options.checkpoint_every_minutes
            trace = train_resumable(config, run, path, stop, say, setup=setup, every_minutes=minutes)
        else:
            trace = _train_without_state(config, run, stop, setup, say)
    return f"{trace.status} after {trace.last_step} steps, eval loss {trace.last_eval_loss:.6g}"


def default_tracker() -> str:
    """W&B under one of its agents, else MLflow."""
    return "wandb" if os.environ.get("WANDB_SWEEP_ID") else "mlflow"


def _train_without_state(
    config: TrialConfig, run: RunWriter, stop: StopRequest, setup: Setup, say: Say
) -> Trace:
    with ended_on_sigterm():
        if stop.requested:
            run.finish("crashed")
            raise Terminated
        return train_streaming(config, run, setup=setup, say=say)


@contextmanager
def _opened(
    name: str, config: Mapping[str, Scalar], options: Options, processes: Processes
) -> Iterator[RunWriter]:
    """The run of the trial, in the first process; the others log nothing."""
    if processes.rank.number > 0:
        yield _Unlogged()
        return
    tracker_name, project = _place(options)
    tracker = open_tracker(tracker_name, project, options.uri)
    try:
        if options.task is None:
            yield tracker.start_run(None, name, config)
        else:
            yield tracker.resume_run(options.task.sweep_id, name, config, options.task.owner)
    finally:
        tracker.close()


def _state_name(trial: str, run: ResumableRun, options: Options) -> str:
    """A task's next launch has another run: what its trial is, and where it goes, is what stays."""
    if options.task is None:
        return run.run_id
    return task_state_name(trial, *_place(options), options.uri, options.micro_batch_size)


def _place(options: Options) -> tuple[str, str]:
    tracker = options.tracker or default_tracker()
    return tracker, options.project or _default_project(tracker)


def _default_project(tracker_name: str) -> str:
    configured = os.environ.get("WANDB_PROJECT") if tracker_name == "wandb" else None
    return configured or DEFAULT_PROJECT


class _Unlogged:
    """A run that another process logs; implements `ResumableRun`."""

    run_id = ""
    logged_step = -1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The first process logs it."""

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """The first process finishes it."""

    def preempt(self) -> None:
        """The first process leaves it."""
