"""The contract of every engine, on this machine's own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from launch.launcher_contract import DIGITS, SCRIPT, SWEEP, LauncherContract, MakeLauncher, Site, is_alive

from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.plan import Resources, Task

#: As the other script, of which only the first process logs.
RANKS_SCRIPT = f"""
import os, sys
open("rank-" + os.environ["RANK"] + "-of-" + os.environ["WORLD_SIZE"], "w").close()
if os.environ["RANK"] != "0":
    sys.exit()
{SCRIPT}
"""


class TestLocalLauncher(LauncherContract):
    """Two tasks at a time; the runs are written by this process."""

    @pytest.fixture
    def make_launcher(self, site: Site) -> Iterator[MakeLauncher]:
        made: list[LocalLauncher] = []

        def make() -> LocalLauncher:
            made.append(LocalLauncher(site.store, agents=2))
            return made[-1]

        yield make
        for launcher in made:
            launcher.kill()

    def test_a_killed_supervisor_takes_its_script_with_it(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        """The launching process watches its scripts itself; what else may be killed is a worker."""
        long = replace(DIGITS, lr=(0.001,), constants={**DIGITS.constants, "max_steps": 100_000})
        tasks = tuple(Task("pack", 0, (trial.trial_id,)) for trial in long.trials())
        launch, launcher = site.launch(long, tasks), make_launcher()
        launcher.submit(launch)
        self.wait_for(lambda: len(multiprocessing.active_children()) == 2)
        pids = [child.pid or 0 for child in multiprocessing.active_children()]
        os.kill(pids[0], signal.SIGKILL)
        self.wait_for(lambda: "failed" in self.states(launcher.status(launch)))
        states = self.states(launcher.status(launch))
        assert sorted(states) == ["failed", "running"]
        why = launcher.status(launch)[states.index("failed")].why
        assert "worker process was killed, probably for using too much memory" in why
        launcher.cancel(launch)
        self.wait_until_ended(launcher, launch)
        assert not is_alive(pids[1])

    def test_a_built_in_trial_that_is_not_packed_runs_as_on_a_cluster(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        sweep = replace(DIGITS, lr=(0.001,), seed=(0,))
        endless = replace(sweep, constants={**DIGITS.constants, "max_steps": 1_000_000})
        launch, long, launcher = site.launch(sweep), site.launch(endless), make_launcher()
        assert "run_task" in launcher.describe(launch)
        launcher.submit(launch)
        launcher.submit(long)
        assert self.wait_until_ended(launcher, launch) == {0: TaskState("ended")}
        assert site.runs(sweep) == {(0.001, 0): ["finished"]}
        assert "eval loss" in launcher.logs(launch, 0)
        self.wait_for(lambda: site.runs(endless)[0.001, 0] == ["running"])
        launcher.cancel(long)
        assert self.wait_until_ended(launcher, long) == {0: TaskState("failed", "it was cancelled midway")}
        # It made room: its run is closed, and has no result.
        assert site.runs(endless)[0.001, 0][0] not in ("running", "finished")

    def test_a_script_of_several_processes_runs_under_torchrun(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        site.resources = Resources(processes_per_node=2)
        launch = site.launch(SWEEP)
        (site.folder / "train.py").write_text(RANKS_SCRIPT)
        launcher = make_launcher()
        assert "--nproc-per-node=2" in launcher.describe(launch)
        launcher.submit(launch)
        ended = self.wait_until_ended(launcher, launch)
        assert ended == {0: TaskState("ended")}, launcher.logs(launch, 0)
        assert {path.name for path in site.folder.glob("rank-*")} == {"rank-0-of-2", "rank-1-of-2"}
        assert site.runs(SWEEP) == {(0.1, 0): ["finished"]}
