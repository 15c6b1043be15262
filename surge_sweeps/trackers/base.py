"""What every tracker promises, writing and reading; nothing in this file knows a particular one.

Writing: a sweep is opened once, then each trial is one run. A run holds its configuration, its metrics by optimizer
step and one final status. Reading gives `LossCurves`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol, runtime_checkable

from surge_sweeps.curves import LossCurves, Status

Scalar = str | int | float | bool

#: Metric names of the run record, the same on every tracker.
TRAIN_LOSS = "train/loss"
EVAL_LOSS = "eval/loss"
EXAMPLES = "examples"
TOKENS = "tokens"
#: What a mixture of experts adds to the loss of training; no part of any other loss that is logged.
BALANCE_LOSS = "train/balance_loss"


@dataclass(frozen=True)
class RunRecord:
    """One finished run, whole: what an ensemble hands over for each of its trials.

    Attributes:
        config: the run record's configuration (`lr`, `batch_size`, `seed`, `optimizer`, ...).
        trial_id: the trial's stable id.
        status: how it ended.
        metrics: metric name -> [(step, value), ...], steps ascending and unique; values may be NaN or infinite.
        summary: scalars known at the end (`last_finite_step`, `start_checkpoint`, `start_loss`, ...).
    """

    config: Mapping[str, Scalar]
    trial_id: str
    status: Status
    metrics: Mapping[str, Sequence[tuple[int, float]]]
    summary: Mapping[str, Scalar] = field(default_factory=dict)


class RunWriter(Protocol):
    """One open run. Points are buffered and written in batches, each stamped with the time it was logged."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record metric values at an optimizer step; steps never go down. May raise `TrackerError` late."""
        ...

    def finish(self, status: Status, summary: Mapping[str, Scalar] | None = None) -> None:
        """Write what is buffered, then the status. After this the run is closed; a second call does nothing."""
        ...


@runtime_checkable
class ResumableRun(RunWriter, Protocol):
    """An open run that a later process may be given again, to go on where this one was stopped."""

    @property
    def run_id(self) -> str:
        """The store's own id, the same for every process that is given the run."""
        ...

    @property
    def logged_step(self) -> int:
        """The last step that earlier processes logged, -1 if none: `log` passes over steps up to it."""
        ...

    def preempt(self) -> None:
        """Write what is buffered and close the run as one that was asked to make room and will go on."""
        ...


class ScriptRun(Protocol):
    """One open run into which a program of the user's own logs, through the tracker's own client."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables to start the program with, so that it logs into this run."""
        ...

    def finish(self, exit_code: int | None) -> Status:
        """Close the run after the program ended and return its status; None: it was killed or never started.

        On exit code 0 the newest value of the trial's loss decides: `finished` if finite, else `diverged`. Without it,
        or on another exit code: `diverged` if the newest value of that loss, or of the loss of training batches, is
        not finite, else `crashed`.
        """
        ...

    def preempt(self) -> None:
        """Leave the run, whose program was asked to make room, as one that the same task will go on with."""
        ...

    def store_is_away(self) -> str:
        """What a program that logs now meets where the store does not answer, one sentence; empty where it does.

        Asked from any thread; takes a few seconds at most.
        """
        ...

    @property
    def problem(self) -> str:
        """After `finish`: why a program that exited with 0 counts as crashed (it logged no loss); else empty."""
        ...


class Tracker(Protocol):
    """A place where runs are written.

    Promises: `open_sweep` and `write_runs` may be called again after a kill at any moment: a sweep of the same id is
    found again, not doubled. A trial counts as done only once its status is written, which is the last thing written.
    Every method raises `TrackerError` with the next step when the store is away. One process writes a sweep.
    """

    def open_sweep(self, sweep_id: str, name: str, definition: Mapping[str, object]) -> None:
        """Make the place where the trials of this sweep go, or find it again; a second call changes nothing there."""
        ...

    def done_trials(self) -> Mapping[str, Status]:
        """Trial id -> status of every trial of the project, of whatever sweep, that ended with a result.

        Changes and makes nothing; a project that is not there yet has none.
        """
        ...

    def result_of(self, trial_id: str) -> Status | None:
        """How one trial ended, if it has a result anywhere in the project; None where it has none.

        As `done_trials` for a single trial, at the cost of one small question: a thousand tasks that begin at once do
        not list a thousand runs each. Changes and makes nothing.
        """
        ...

    def busy_trials(self, sweep_id: str, ended: Collection[str] = ()) -> Mapping[str, str]:
        """Trial id -> run id of the runs without a result that a task of an engine seems to be at work on now.

        This is how a launch learns of tasks that were launched elsewhere: from another folder, or another machine. Such
        a run names its task, and was written to within the last minutes, or made room then, see `busy`. A task whose
        program logs more seldom is not seen. Changes and makes nothing; a sweep that is not there yet has none. On W&B
        a user's own program is not seen until it has ended: its run names neither its sweep nor its trial before.

        Args:
            ended: ids of launches that are known to be over: their tasks are at work on nothing.
        """
        ...

    def close_stale(
        self,
        sweep_id: str,
        in_flight: Collection[str] = (),
        ended: Collection[str] = (),
        *,
        only_whole: bool = False,
    ) -> int:
        """Mark runs that an earlier, killed process left open as crashed; return how many. Call before writing.

        Runs that `busy_trials` lists stay as they are.

        Args:
            in_flight: ids of trials that an engine still works on; their runs stay as they are. ended: ids of launches
                that are known to be over: what their tasks left is closed however lately it was written.
            only_whole: only runs that `write_runs` had begun: for a caller that writes nothing else, as an import
                does, and so cannot know who is at work on the others.
        """
        ...

    def start_run(self, sweep_id: str | None, trial_id: str, config: Mapping[str, Scalar]) -> RunWriter:
        """Open the run of one trial; `sweep_id` None writes a run that belongs to no sweep."""
        ...

    def resume_run(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], owner: str
    ) -> ResumableRun:
        """Open the run of one trial for one task of an engine, or go on with the run that this task left open.

        The sweep was opened by the launch. Tasks of one sweep call this side by side on many machines, so nothing of
        the sweep's own is written. An engine restarts a task only once its process is gone, so that a run of this
        owner is taken up at once, whether its process made room or was killed; a run of another owner never is.

        Args:
            owner: names the task: the launch's id and the task's number.
        """
        ...

    def start_script(
        self, sweep_id: str, trial_id: str, config: Mapping[str, Scalar], loss: str, owner: str = ""
    ) -> ScriptRun:
        """Open the run of one trial that a program of the user's own will do.

        Args:
            loss: the metric it must log. owner: of a task of an engine, see `resume_run`: the run that it left open is
                taken up again, and the sweep's own place is left alone; empty for a launch that runs programs itself.
        """
        ...

    def write_runs(self, sweep_id: str, records: Sequence[RunRecord]) -> None:
        """Write finished runs, whole; a run that cannot be written stops it, and those written stay."""
        ...

    def give_up_when(self, is_given_up: Callable[[], bool]) -> None:
        """From now on wait for a store that is away only until `is_given_up`; it is asked often, from any thread."""
        ...

    def close(self) -> None:
        """Write what is buffered and let go of the store."""
        ...


def column_flag(name: str) -> str:
    """How the command line calls an option that names a column.

    >>> column_flag("steps_to_goal")
    '--steps-to-goal-column'
    """
    return f"--{name.replace('_', '-')}-column"


@dataclass(frozen=True)
class TableColumns:
    """What the columns of a CSV or Parquet table are; a tracker has none of this.

    At most one of `steps_to_goal`, `gain`, `optimal_lr` and the step of `ReadOptions` may be given; with none of them
    each row is a run and holds its final loss.

    Attributes:
        group_by: the hyper-parameters that tell groups of runs apart, () for a single group; None guesses them.
        run: with a step, the name of the run; default the column `run` where there is one.
        steps_to_goal: steps to a fixed goal. gain: loss decrease over a fixed number of steps, larger is better.
        optimal_lr: a learning rate tuned elsewhere.
    """

    group_by: tuple[str, ...] | None = None
    run: str | None = None
    steps_to_goal: str | None = None
    gain: str | None = None
    optimal_lr: str | None = None

    def given(self) -> list[str]:
        """The attributes that were set, as the command line calls them.

        >>> TableColumns(group_by=("optimizer",), steps_to_goal="steps").given()
        ['--group-by', '--steps-to-goal-column']
        """
        names = [item.name for item in fields(self) if getattr(self, item.name) is not None]
        return ["--group-by" if name == "group_by" else column_flag(name) for name in names]


@dataclass(frozen=True)
class ReadOptions:
    """What to read and under which names. A name that is None: the run record's own where runs have it, else on a
    tracker the one that the runs' training framework uses.

    Attributes:
        loss: metric to read; default `eval/loss` if every run has it, else `train/loss`. Of a table: the column,
            default the one of `loss`, `eval/loss` and `train/loss` that is there.
        lr, batch_size, seed: configuration keys, or columns of a table, that hold them. A batch size on a tracker may
            be a product: `micro_batch * accumulation`.
        step: the metric that counts optimizer steps, `_step` for W&B's own count of log calls and for the step that
            a program gave with each point on MLflow; of a table the column with the optimizer step, which makes its
            rows points of loss curves.
        examples: the metric that counts examples seen (of batch unit tokens: tokens).
        filters: which runs of a W&B project, in W&B's own query language; None reads all.
        batch_unit: what the batch size counts.
        cache_dir: folder for the cache; None reads afresh and keeps nothing. Tables are not cached.
        table: the other columns of a table.
    """

    loss: str | None = None
    lr: str | None = None
    batch_size: str | None = None
    seed: str | None = None
    step: str | None = None
    examples: str | None = None
    filters: Mapping[str, object] | None = None
    batch_unit: str = "examples"
    cache_dir: Path | None = None
    table: TableColumns = field(default_factory=TableColumns)


class Reader(Protocol):
    """A place where runs are read from. Reading never writes to the user's store."""

    def collect(self, project: str, options: ReadOptions) -> LossCurves:
        """Read a project. Raises `TrackerError` or `UnknownNameError`, never returns a silently partial table."""
        ...
