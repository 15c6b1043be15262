"""What is shown while a launch runs: worked out from the plan and the states alone, and drawn at any width."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from surge_sweeps.cli import console, launch_table
from surge_sweeps.cli.launch_table import AtWork, Follower, LaunchView, draw
from surge_sweeps.curves import Status
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Plan, Task
from surge_sweeps.sweep import Sweep

SWEEP = Sweep(
    lr=(0.1, 0.2),
    batch_size=(8, 64),
    seed=(0,),
    constants={"workload": "digits", "max_steps": 10},
    name="small",
)
WAITING, RUNNING, ENDED, FAILED = (
    TaskState("waiting"),
    TaskState("running"),
    TaskState("ended"),
    TaskState("failed", "exit code 1"),
)


class Clock:
    """Stands still until told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def launch_of(sweep: Sweep, *tasks: Task) -> Launch:
    """Nothing of it is written."""
    single = tuple(Task("trial", 0, (trial.trial_id,)) for trial in sweep.trials())
    return Launch(Plan("x", "p", "mlflow", None, Path(), (sweep,), tasks or single), Path("/x"))


def drawn(view: LaunchView, width: int = 80) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(draw(view))
    return text.getvalue()


def test_trials_are_counted_by_batch_size_and_by_what_became_of_them() -> None:
    launch = launch_of(SWEEP)
    at = {(trial.lr, trial.batch_size): number for number, trial in enumerate(SWEEP.trials())}
    ids = {key: launch.plan.tasks[number].trials[0] for key, number in at.items()}
    results: dict[str, Status] = {ids[0.1, 8]: "finished", ids[0.2, 8]: "diverged"}
    states = {at[0.1, 8]: ENDED, at[0.2, 8]: ENDED, at[0.1, 64]: FAILED, at[0.2, 64]: RUNNING}
    view = Follower(lambda: results).look(launch, states)
    assert view.rows == {8: {"finished": 1, "diverged": 1}, 64: {"failed": 1, "running": 1}}
    assert view.line() == "3 of 4 trials ended: 1 finished, 1 diverged, 1 failed; 1 running"
    assert [item.label for item in view.at_work] == ["lr=0.2 batch=64 seed=0"]
    # An engine that cannot tell a diverged trial from a finished one says that it ended.
    assert Follower().look(launch, states).rows[8] == {"ended": 2}


def test_a_pack_counts_as_its_trials_and_an_agent_as_one() -> None:
    ids = tuple(trial.trial_id for trial in SWEEP.trials() if trial.batch_size == 8)
    launch = launch_of(SWEEP, Task("pack", 0, ids), Task("agent", 0, agent="e/p/s"))
    view = Follower().look(launch, {0: RUNNING, 1: WAITING})
    assert view.rows == {0: {"waiting": 1}, 8: {"running": 2}}
    assert "agents" in drawn(view)


def test_the_time_left_goes_by_the_examples_that_are_left() -> None:
    clock = Clock()
    follower, launch = Follower(clock=clock), launch_of(SWEEP)
    sizes = {number: trial.batch_size for number, trial in enumerate(SWEEP.trials())}
    start = dict.fromkeys(sizes, WAITING)
    assert follower.look(launch, start).seconds_left is None
    clock.now += 60
    states: Mapping[int, TaskState] = {
        number: ENDED if size == 8 else RUNNING for number, size in sizes.items()
    }
    left = follower.look(launch, states).seconds_left
    # A step costs its examples and as much as 32 more: 96 to 40.
    assert left == pytest.approx(60 * 96 / 40)
    clock.now += 30
    assert [item.seconds for item in follower.look(launch, states).at_work] == [30, 30]


def test_a_script_without_a_known_length_counts_as_one_trial() -> None:
    clock = Clock()
    follower = Follower(clock=clock)
    launch = launch_of(replace(SWEEP, constants={}))
    follower.look(launch, dict.fromkeys(range(4), RUNNING))
    clock.now += 10
    assert follower.look(launch, {0: ENDED, 1: RUNNING, 2: RUNNING, 3: RUNNING}).seconds_left == 30


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_the_terminal_and_shows_names_as_they_are(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_table, "err", Console(file=io.StringIO(), width=width))
    label = "lr=1e-05 batch=1048576 seed=12 " + "x" * 300
    view = LaunchView(
        "[red]:smile:[/red] " + "name, " * 40 + "on slurm",
        {
            2**number: {"waiting": 100_000, "running": 3, "finished": 12_345, "capped": 1}
            for number in range(21)
        },
        [AtWork(label, 3601.0)] * 7,
        90_000.0,
        12.0,
    )
    lines = drawn(view, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("[red]:smi")
    assert "about 0:00:12 left" in lines[0]
    if width >= 80:
        assert len(lines) == 2 + launch_table.MAX_ROWS + 1 + launch_table.MAX_RUNNING + 1
        assert lines[2].split() == ["1", "100,000", "3", "12,345", ".", "1", "."]
        assert "10 more" in lines[1 + launch_table.MAX_ROWS]
        assert lines[2 + launch_table.MAX_ROWS].split()[:3] == ["all", "2,100,000", "63"]
        assert lines[-2].startswith("1:00:01  lr=1e-05 batch=1048576 seed=12 x")
        assert lines[-1] == "and 3 more at work"


def test_without_a_terminal_the_last_line_tells_all_and_quiet_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = io.StringIO()
    written = Console(file=text, width=200)
    monkeypatch.setattr(console, "err", written)
    monkeypatch.setattr(launch_table, "err", written)
    states = dict.fromkeys(range(4), ENDED)
    with launch_table.launch_table(quiet=True) as show:
        show(launch_of(SWEEP), states)
    assert text.getvalue() == ""
    with launch_table.launch_table(quiet=False) as show:
        show(launch_of(SWEEP), dict.fromkeys(range(4), RUNNING))
        show(launch_of(SWEEP), states)
    assert text.getvalue() == "training: 100%, 4 of 4 trials ended: 4 ended\n"
