"""What a user may rely on whichever engine runs the trials: each ends once, told as it was, and what fails is told so.

`LauncherContract` runs unchanged on every engine; an engine's own tests inherit it and say how its launcher is made.
The trials are of a small script that logs to a real MLflow server, and waits while a file of the name `hold` is there.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pytest
from mlflow_stores import MlflowServer

from surge_sweeps.launch.base import IN_FLIGHT, Launcher, State, TaskState
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Plan, Resources, Task, new_launch_id
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import Tracker

MakeLauncher = Callable[[], Launcher]

#: Nothing of these may ever be written or shown; they are in the environment of every test of the contract.
SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "someone-7f3a",
    "MLFLOW_TRACKING_PASSWORD": "hunter2-9c1e",
    "MLFLOW_TRACKING_TOKEN": "token-5b8d",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}
HOSTILE = "a b;$(touch owned)`touch owned`'\"&|é"
#: Learning rates at which the script does something else than finish.
FAILING_LR, DIVERGING_LR = 0.5, 0.9

#: A user's script; over HTTP it needs no client of MLflow, which takes seconds to import.
SCRIPT = """
import argparse, json, math, os, sys, time, urllib.request
from pathlib import Path
parser = argparse.ArgumentParser()
for name, kind in (("lr", float), ("batch_size", int), ("seed", int)):
    parser.add_argument(f"--{name}", type=kind)
args = parser.parse_args()
began = Path(f"began-{args.lr}-{args.seed}")
Path(f".{began}").write_text(f"{os.getpid()} {os.getppid()}")
Path(f".{began}").rename(began)
print(f"this is lr={args.lr}", flush=True)
while Path("hold").exists() and not Path(f"release-{args.lr}-{args.seed}").exists():
    time.sleep(0.05)
if args.lr == 0.5:
    sys.exit("no such luck")
def log(step, value):
    body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "eval/loss", "value": value, "step": step,
            "timestamp": int(1000 * time.time())}
    request = urllib.request.Request(os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).close()
if not os.environ["MLFLOW_TRACKING_URI"].startswith("http"):
    import mlflow
    mlflow.start_run()
    log = lambda step, value: mlflow.log_metric("eval/loss", float(value), step=step)
for step in (1, 2, 3):
    log(step, "NaN" if args.lr == 0.9 and step == 3 else 1 / (step * args.lr))
print(f"trained lr={args.lr}", flush=True)
"""

SWEEP = Sweep(
    lr=(0.1,), batch_size=(8,), seed=(0,), command=SCRIPT_COMMAND, program="train.py", name="contract"
)
DIGITS = Sweep(
    lr=(0.001, 0.003),
    batch_size=(16,),
    seed=(0, 1),
    constants={"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 5},
    name="contract-digits",
)


@dataclass
class Site:
    """Where the launches of one test are made, and where their runs are looked at: a project of its own on MLflow.

    Attributes:
        folder: the working folder, which is made. uri: of the store. project: the experiment. resources: of each task.
    """

    folder: Path
    uri: str
    project: str
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def store(self) -> Tracker:
        """The open project, for those who write to it from this process."""
        return open_tracker("mlflow", self.project, self.uri)

    def launch(self, sweep: Sweep, tasks: tuple[Task, ...] | None = None) -> Launch:
        """A launch of a sweep, which is opened as `driver` does: by default of one task a trial, in its order."""
        if sweep.program:
            (self.folder / sweep.program).write_text(SCRIPT)
        self.store.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
        single = tuple(Task("trial", 0, (trial.trial_id,)) for trial in sweep.trials())
        return Launch.create(
            Plan(
                launch_id=new_launch_id(),
                project=self.project,
                tracker="mlflow",
                uri=self.uri,
                working_folder=self.folder,
                sweeps=(sweep,),
                tasks=tasks or single,
                resources=self.resources,
            )
        )

    def hold(self) -> None:
        """From now on scripts wait, until `release`."""
        (self.folder / "hold").touch()

    def release(self, lr: float | None = None, seed: int = 0) -> None:
        """Let one script go on, or all."""
        if lr is None:
            (self.folder / "hold").unlink()
        else:
            (self.folder / f"release-{lr}-{seed}").touch()

    def pids(self, lr: float, seed: int = 0) -> tuple[int, int] | None:
        """Process ids of a script and of what started it; None if it has not begun."""
        with suppress(FileNotFoundError):
            script, parent = (self.folder / f"began-{lr}-{seed}").read_text().split()
            return int(script), int(parent)
        return None

    def runs(self, sweep: Sweep) -> dict[tuple[float, int], list[str]]:
        """(Learning rate, seed) -> how each of its runs ended by the store; `running` where one still does."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name(self.project)
        trials = {trial.trial_id: (trial.lr, trial.seed) for trial in sweep.trials()}
        found: dict[tuple[float, int], list[str]] = {key: [] for key in trials.values()}
        for run in client.search_runs([experiment.experiment_id] if experiment else []):
            tags = run.data.tags
            if tags.get("surge.trial_id") in trials:
                is_open = run.info.status == "RUNNING"
                ended = tags.get("surge.status", "open")
                found[trials[tags["surge.trial_id"]]].append("running" if is_open else ended)
        return found

    def written(self) -> str:
        """The text of all files in the working folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(files))


class LauncherContract:
    """Inherit and give a fixture `make_launcher`; a fixture `site` too where the default does not fit.

    Written `from launch.launcher_contract import LauncherContract, MakeLauncher, Site`.

    Attributes:
        patience_s: how long anything may take on this engine, on a machine that has other work.
        trains_packs: whether it takes tasks of kind `pack`.
    """

    patience_s = 120.0
    trains_packs = True

    @pytest.fixture
    def make_launcher(self, site: Site) -> Iterator[MakeLauncher]:
        """Makes a launcher, as another process would make one too; it runs two tasks at a time or more."""
        raise NotImplementedError

    @pytest.fixture
    def site(
        self,
        tmp_path: Path,
        shared_server: MlflowServer,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> Iterator[Site]:
        """A working folder, which this process is in, and a project on the session's server.

        Asked for with the parameter `hostile`, they have names that a shell would act upon.
        """
        name = HOSTILE if getattr(request, "param", "") == "hostile" else "contract"
        site = Site(tmp_path / name, shared_server.uri, f"{name} {uuid.uuid4().hex[:8]}")
        monkeypatch.chdir(site.folder)
        for variable, value in SECRETS.items():
            # The server asks for no login; a token would go before the user and the password.
            if variable != "MLFLOW_TRACKING_TOKEN":
                monkeypatch.setenv(variable, value)
        yield site
        site.store.close()

    def test_describing_changes_nothing_and_shows_no_secret(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        # A sweep may hand such a variable on to its script.
        command = (*SCRIPT_COMMAND, "--key=${envvar:WANDB_API_KEY}")
        launch = site.launch(replace(SWEEP, lr=(0.1, 0.2), command=command))
        before = site.written()
        text = make_launcher().describe(launch)
        assert launch.plan.launch_id in text
        assert "run_task" in text or all(launch.plan.label_of(task) in text for task in (0, 1))
        assert make_launcher().describe(launch) == text
        assert site.written() == before
        assert shown_secrets(text) == []
        assert set(make_launcher().status(launch)) == {0, 1}

    def test_a_launch_that_was_never_submitted_has_failed(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        launch = site.launch(replace(SWEEP, lr=(0.1, 0.2)))
        launcher = make_launcher()
        states = launcher.status(launch)
        assert {task: state.state for task, state in states.items()} == {0: "failed", 1: "failed"}
        assert all(state.why for state in states.values())
        launcher.cancel(launch)
        assert launcher.logs(launch, 0) == ""

    def test_each_task_ends_as_it_did_and_none_disturbs_another(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        sweep = replace(SWEEP, lr=(0.1, FAILING_LR, DIVERGING_LR))
        launch, launcher = site.launch(sweep), make_launcher()
        launcher.submit(launch)
        states = self.wait_until_ended(launcher, launch)
        assert {task: state.state for task, state in states.items()} == {0: "ended", 1: "failed", 2: "ended"}
        assert states[1].why
        assert not states[0].why
        runs = site.runs(sweep)
        assert runs[0.1, 0] == ["finished"]
        assert runs[DIVERGING_LR, 0] == ["diverged"]
        assert runs[FAILING_LR, 0] == ["crashed"]
        assert "trained lr=0.1" in launcher.logs(launch, 0)
        assert "no such luck" in launcher.logs(launch, 1)
        launcher.cancel(launch)
        assert launcher.status(launch) == states
        printed = "".join(launcher.logs(launch, task) for task in range(3))
        assert shown_secrets(site.written() + printed + str(states)) == []

    def test_a_pack_is_one_run_a_trial(self, site: Site, make_launcher: MakeLauncher) -> None:
        if not self.trains_packs:
            pytest.skip("this engine takes no packs")
        pack = Task("pack", 0, tuple(trial.trial_id for trial in DIGITS.trials()))
        launch, launcher = site.launch(DIGITS, (pack,)), make_launcher()
        launcher.submit(launch)
        assert self.wait_until_ended(launcher, launch) == {0: TaskState("ended")}
        assert list(site.runs(DIGITS).values()) == [["finished"]] * 4

    def test_a_killed_script_has_failed_and_the_others_go_on(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        sweep = replace(SWEEP, lr=(0.1, 0.2))
        launch, launcher = site.launch(sweep), make_launcher()
        site.hold()
        launcher.submit(launch)
        script, _ = self.wait_for_script(site, 0.1)
        os.kill(script, signal.SIGKILL)
        self.wait_for(lambda: launcher.status(launch)[0].state == "failed")
        assert launcher.status(launch)[0].why
        assert launcher.status(launch)[1].state in IN_FLIGHT
        site.release()
        assert self.wait_until_ended(launcher, launch)[1] == TaskState("ended")
        runs = site.runs(sweep)
        assert runs[0.2, 0] == ["finished"]
        assert runs[0.1, 0] == ["crashed"]

    def test_a_killed_supervisor_takes_its_script_with_it(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        launch, launcher = site.launch(SWEEP), make_launcher()
        site.hold()
        launcher.submit(launch)
        script, supervisor = self.wait_for_script(site, 0.1)
        assert "run_task" in command_line(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        self.wait_for(lambda: launcher.status(launch)[0].state == "failed")
        assert launcher.status(launch)[0].why
        self.wait_for(lambda: not is_alive(script))
        assert "finished" not in site.runs(SWEEP)[0.1, 0]

    def test_one_task_can_be_cancelled(self, site: Site, make_launcher: MakeLauncher) -> None:
        sweep = replace(SWEEP, lr=(0.1, 0.2))
        launch, launcher = site.launch(sweep), make_launcher()
        site.hold()
        launcher.submit(launch)
        script, _ = self.wait_for_script(site, 0.1)
        assert "this is lr=0.1" in launcher.logs(launch, 0)
        for _ in range(2):
            launcher.cancel(launch, [0])
        self.wait_for(lambda: launcher.status(launch)[0].state == "failed")
        assert launcher.status(launch)[0].why
        assert not is_alive(script)
        site.release(0.2)
        assert self.wait_until_ended(launcher, launch)[1] == TaskState("ended")
        assert site.runs(sweep)[0.2, 0] == ["finished"]
        assert "finished" not in site.runs(sweep)[0.1, 0]

    def test_another_launcher_cancels_all_and_the_next_launch_does_the_trials(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        sweep = replace(SWEEP, lr=(0.1, 0.2), seed=(0, 1))
        launch, launcher = site.launch(sweep), make_launcher()
        site.hold()
        launcher.submit(launch)
        script, _ = self.wait_for_script(site, 0.1)
        # What the launching process was told it need not remember, where the tasks go on without it.
        other = make_launcher() if launcher.outlives_launch else launcher
        assert all(state.state in IN_FLIGHT for state in other.status(launch).values())
        other.cancel(launch)
        other.cancel(launch)
        states = self.wait_until_ended(launcher, launch)
        assert {state.state for state in states.values()} == {"failed"}
        assert not is_alive(script)
        site.release()
        site.store.close_stale(sweep.sweep_id, ended={launch.plan.launch_id})
        again = site.launch(replace(sweep, seed=(0,)))
        launcher.submit(again)
        assert self.states(self.wait_until_ended(launcher, again)) == ["ended", "ended"]
        runs = site.runs(sweep)
        assert [runs[0.1, 0].count("finished"), runs[0.2, 0].count("finished")] == [1, 1]
        assert all("running" not in ended for ended in runs.values())

    @pytest.mark.parametrize("site", ["hostile"], indirect=True)
    def test_names_never_reach_a_shell(self, site: Site, make_launcher: MakeLauncher, tmp_path: Path) -> None:
        sweep = replace(SWEEP, name=HOSTILE, program=f"train {HOSTILE}.py")
        launch, launcher = site.launch(sweep), make_launcher()
        assert launch.plan.launch_id in launcher.describe(launch)
        launcher.submit(launch)
        assert self.wait_until_ended(launcher, launch) == {0: TaskState("ended")}
        assert site.runs(sweep) == {(0.1, 0): ["finished"]}
        assert list(tmp_path.rglob("owned")) == []
        assert not (Path.home() / "owned").exists()

    def wait_for(self, is_so: Callable[[], object]) -> None:
        """Fails the test where it does not come to be so within `patience_s`."""
        deadline = time.monotonic() + self.patience_s
        while not is_so():
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.1)

    def wait_for_script(self, site: Site, lr: float, seed: int = 0) -> tuple[int, int]:
        """The process ids of a script and of what started it, once it has begun."""
        self.wait_for(lambda: site.pids(lr, seed))
        found = site.pids(lr, seed)
        assert found is not None
        return found

    def wait_until_ended(self, launcher: Launcher, launch: Launch) -> Mapping[int, TaskState]:
        """The states of all tasks once none is in flight."""
        self.wait_for(lambda: all(state.state not in IN_FLIGHT for state in launcher.status(launch).values()))
        return dict(launcher.status(launch))

    def states(self, found: Mapping[int, TaskState]) -> list[State]:
        """In the order of tasks."""
        return [found[task].state for task in sorted(found)]


def shown_secrets(text: str) -> list[str]:
    """Those of `SECRETS` that a text holds."""
    return [name for name, value in SECRETS.items() if value in text]


def command_line(pid: int) -> str:
    """The arguments of a process; empty where it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked after does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
