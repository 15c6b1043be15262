"""Sweeps on a real SLURM with MLflow over HTTP, whatever happens to the cluster: nothing is lost or done twice."""

from __future__ import annotations

import functools
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("mlflow")

from launch.launcher_contract import command_line, is_alive
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_stores import MlflowServer
from slurm_cluster import SlurmCluster

from surge_sweeps.launch.base import IN_FLIGHT, LaunchResult, TaskState
from surge_sweeps.launch.driver import launch_sweeps
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.slurm import SlurmLauncher, SlurmOptions
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Scalar, Sweep
from surge_sweeps.trackers import collect, open_tracker

pytestmark = pytest.mark.slow

BUILTIN = {"workload": "digits", "model": "mlp", "optimizer": "adamw"}
#: Six trials; the two nodes have room for four of `HALF_NODE` at a time.
SWEEP = Sweep(
    lr=(0.001, 0.003, 0.01),
    batch_size=(16, 32),
    seed=(0,),
    constants=BUILTIN | {"max_steps": 40},
    name="slurm",
)
#: One trial of some seconds.
LONG = Sweep(
    lr=(0.002,), batch_size=(8,), seed=(0,), constants=BUILTIN | {"max_steps": 12_000}, name="slurm-long"
)
PATIENCE_S = 240.0
#: What a node has.
WHOLE_NODE = Resources(cpus_per_task=4)
HALF_NODE = Resources(cpus_per_task=2)


class Site:
    """A project on the session's MLflow server, and launches into it from the test's folder."""

    def __init__(self, uri: str) -> None:
        self.project = f"slurm {uuid.uuid4().hex[:8]}"
        self.target = Target.of(self.project, "mlflow", uri)
        self.store = open_tracker("mlflow", self.project, uri)
        self.launcher = make_launcher()

    def launch(self, sweep: Sweep, *, wait: bool, resources: Resources | None = None) -> LaunchResult:
        return launch_sweeps([sweep], self.target, self.store, self.launcher, resources=resources, wait=wait)

    @property
    def last(self) -> Launch:
        return Launch.all_in(self.target.working_folder)[-1]

    def states(self) -> list[TaskState]:
        found = self.launcher.status(self.last)
        return [found[task] for task in sorted(found)]

    def wait_until_ended(self) -> list[TaskState]:
        wait_for(lambda: all(state.state not in IN_FLIGHT for state in self.states()))
        return self.states()

    def log(self, task: int = 0) -> str:
        return self.launcher.logs(self.last, task)

    def runs(self) -> list[Run]:
        """Every run of a trial, as MLflow has it."""
        client = MlflowClient(self.target.uri)
        experiment = client.get_experiment_by_name(self.project)
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        return [run for run in found if "surge.trial_id" in run.data.tags]


def make_launcher(options: SlurmOptions | None = None) -> SlurmLauncher:
    launcher = SlurmLauncher(options)
    launcher.poll_seconds = 0.5
    return launcher


@pytest.fixture
def site(
    slurm: SlurmCluster, shared_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    site = Site(shared_server.uri)
    yield site
    for launch in Launch.all_in(tmp_path):
        site.launcher.cancel(launch)
    site.store.close()


def wait_for(is_so: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def pids_of(task: int, launch: Launch) -> list[int]:
    """The processes of a task that supervise it, by their arguments."""
    end = f"{launch.folder} {task}"
    lines = {int(entry.name): command_line(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
    return [pid for pid, line in lines.items() if "run_task" in line and line.strip().endswith(end)]


def job_of(launch: Launch, task: int, slurm: SlurmCluster) -> str:
    name = f"surge-{launch.plan.launch_id}"
    return f"{slurm.run('squeue', '--noheader', '--states=all', f'--name={name}', '--format=%F').split()[0]}_{task}"


def node_of(element: str, slurm: SlurmCluster) -> str:
    """Where an element is, or was last."""
    return slurm.run("squeue", "--noheader", "--states=all", f"--jobs={element}", "--format=%N").strip()


def check_undisturbed(site: Site, sweep: Sweep) -> None:
    """Every trial finished in one run, none is left open, and each has the losses of a run in this process."""
    trials = {trial.trial_id: trial for trial in sweep.trials()}
    curves = collect(site.project, tracker="mlflow", uri=site.target.uri).results()
    assert sorted(curves.runs["trial_id"]) == sorted(trials)
    assert set(curves.runs["status"]) == {"finished"}
    assert "RUNNING" not in {run.info.status for run in site.runs()}
    for run, name in zip(curves.runs["run"], curves.runs["trial_id"], strict=True):
        rows = curves.points[curves.points["run"] == run]
        assert dict(zip(rows["step"], rows["loss"], strict=True)) == undisturbed(
            tuple(trials[name].parameters.items())
        )


@functools.cache
def undisturbed(parameters: tuple[tuple[str, Scalar], ...]) -> dict[int, float]:
    """Step -> evaluation loss of a trial that nothing happens to."""
    from surge_sweeps.training import TrialConfig, limit_threads, train

    # As in the tasks: more of them than cores only wait for one another.
    limit_threads(1)
    (record,) = train([("trial", TrialConfig.from_parameters(dict(parameters)))], mode="loop")
    return dict(record.metrics["eval/loss"])


def begun(site: Site) -> bool:
    """Whether a trial is at work: its run is open, and it makes room after a step if it is asked to."""
    return any(run.info.status == "RUNNING" for run in site.runs())


def requeued(log: str) -> Sequence[str]:
    return re.findall(r"the task made room; it goes on|DUE TO (?:PREEMPTION|NODE FAILURE|TIME LIMIT)", log)


@pytest.mark.slow
def test_a_sweep_loses_no_trial_to_kills_and_cancels(site: Site, slurm: SlurmCluster) -> None:
    first = site.launch(SWEEP, wait=False, resources=HALF_NODE)
    assert (first.planned, len(first.running), first.missing) == (6, 6, 0)
    # Called again, a launch starts nothing twice.
    again = site.launch(SWEEP, wait=False, resources=HALF_NODE)
    assert again.already_done + len(again.running) == 6
    (launch,) = Launch.all_in(site.target.working_folder)
    wait_for(lambda: pids_of(0, launch) and pids_of(1, launch))
    slurm.run("scancel", job_of(launch, 5, slurm))
    os.kill(pids_of(0, launch)[0], signal.SIGKILL)
    slurm.run("scancel", job_of(launch, 1, slurm))
    states = site.wait_until_ended()
    failed = {task: state.why for task, state in enumerate(states) if state.state == "failed"}
    assert sorted(failed) == [0, 1, 5]
    assert "killed" in failed[0]
    assert failed[1] == "it was cancelled."
    # SLURM keeps no record of an element that never began.
    assert "it was cancelled or killed" in failed[5]
    result = site.launch(SWEEP, wait=True)
    assert (result.already_done, result.ended["finished"], result.missing) == (3, 3, 0)
    assert site.launch(SWEEP, wait=True).already_done == 6
    check_undisturbed(site, SWEEP)


def test_a_preempted_trial_goes_on_where_it_was(site: Site, slurm: SlurmCluster) -> None:
    import torch

    site.launch(LONG, wait=False, resources=WHOLE_NODE)
    wait_for(lambda: begun(site))
    jobs = ["--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=exec sleep 1"]
    for _ in slurm.names:
        slurm.run("sbatch", "--parsable", *jobs)
    wait_for(lambda: site.states()[0].state == "waiting")
    (kept,) = Path(".surge/checkpoints").iterdir()
    step = torch.load(kept, weights_only=True)["step"]
    assert 0 < step < 12_000
    assert site.wait_until_ended() == [TaskState("ended")]
    assert requeued(site.log()) == ["DUE TO PREEMPTION"]
    assert "starting over" not in site.log()
    check_undisturbed(site, LONG)
    assert list(Path(".surge/checkpoints").iterdir()) == []


def test_the_signal_before_a_limit_sends_a_trial_back_to_the_queue_once(
    site: Site, slurm: SlurmCluster
) -> None:
    site.launch(LONG, wait=False)
    wait_for(lambda: begun(site))
    slurm.run("scancel", "--signal=USR2", "--batch", job_of(site.last, 0, slurm))
    wait_for(lambda: site.states()[0].state == "waiting")
    assert list(Path(".surge/checkpoints").iterdir())
    assert site.wait_until_ended() == [TaskState("ended")]
    assert requeued(site.log()) == ["the task made room; it goes on"]
    assert "starting over" not in site.log()
    check_undisturbed(site, LONG)


def test_a_cancelled_trial_stays_out_of_the_queue_and_the_next_launch_goes_on(
    site: Site, slurm: SlurmCluster
) -> None:
    site.launch(LONG, wait=False)
    wait_for(lambda: begun(site))
    slurm.run("scancel", "--signal=USR2", "--batch", job_of(site.last, 0, slurm))
    # While it is on its way back to the queue.
    make_launcher().cancel(site.last)
    assert site.wait_until_ended() == [TaskState("failed", "it was cancelled.")]
    time.sleep(2)
    assert [state.state for state in site.states()] == ["failed"]
    assert pids_of(0, site.last) == []
    result = site.launch(LONG, wait=True)
    assert (result.ended["finished"], result.missing) == (1, 0)
    check_undisturbed(site, LONG)


def test_a_node_that_goes_down_gives_its_trial_to_another(site: Site, slurm: SlurmCluster) -> None:
    site.launch(LONG, wait=False, resources=WHOLE_NODE)
    wait_for(lambda: begun(site))
    (pid,) = pids_of(0, site.last)
    element = job_of(site.last, 0, slurm)
    node = node_of(element, slurm)
    slurm.stop_node(node)
    try:
        wait_for(lambda: not is_alive(pid))
        wait_for(lambda: site.states()[0].state == "waiting")
        assert site.wait_until_ended() == [TaskState("ended")]
        assert node_of(element, slurm) not in ("", node)
    finally:
        slurm.start_node(node)
    check_undisturbed(site, LONG)


@pytest.mark.slow
def test_a_time_limit_is_no_end(site: Site, slurm: SlurmCluster) -> None:
    sweep = replace(LONG, constants=BUILTIN | {"max_steps": 1_000_000})
    site.launcher = make_launcher(SlurmOptions(signal_seconds_before_limit=10))
    site.launch(sweep, wait=False, resources=Resources(time_limit_minutes=1))
    wait_for(lambda: site.states()[0].state == "running")
    wait_for(lambda: site.states()[0].state == "waiting")
    assert "the task made room" in site.log()
    assert [path.suffix for path in Path(".surge/checkpoints").iterdir()] == [".pt"]
