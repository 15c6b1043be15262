"""What every engine promises, and what befalls a cluster: on a real Ray of one node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from launch.launcher_contract import SWEEP, LauncherContract, MakeLauncher, Site, is_alive
from ray_cluster import GPUS, LOOPBACK, RayCluster, command_of, kill, processes_of, ray_missing

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.base import LaunchResult, TaskState
from surge_sweeps.launch.driver import launch_sweeps
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.plan import Resources
from surge_sweeps.launch.ray import RayLauncher, RayOptions, known
from surge_sweeps.launch.ray.board import Board
from surge_sweeps.launch.ray.cluster import LocalCluster
from surge_sweeps.launch.ray.jobs import JobsClient
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep
from surge_sweeps.trackers import collect, open_tracker

pytestmark = [
    pytest.mark.skipif(bool(ray_missing()), reason=ray_missing() or "Ray is here"),
    pytest.mark.slow,
]

#: Two trials more than the cluster has room for at a time; too few of a batch size to be trained as one stack.
DIGITS = Sweep(
    lr=(0.001, 0.003, 0.01),
    batch_size=(16, 32),
    seed=(0,),
    constants={"workload": "digits", "model": "mlp", "optimizer": "adamw", "max_steps": 3000},
    name="faults",
)
#: Keeps how far it is where it is told to, and goes on there; says which GPU it was given.
STEPS_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import mlflow

kept = Path(os.environ["SURGE_CHECKPOINT_DIR"]) / "step"
kept.parent.mkdir(parents=True, exist_ok=True)
first = int(kept.read_text()) if kept.exists() else 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(f"from step {first}", flush=True)
with mlflow.start_run():
    for step in range(first, 5):
        mlflow.log_metric("eval/loss", 1 / (step + 1), step=step)
        kept.write_text(str(step + 1))
        while step == 2 and Path("hold").exists():
            time.sleep(0.02)
"""
GPU_SCRIPT = """
import os, time
from pathlib import Path
Path(f"gpu-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
while Path("hold").exists():
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """One for this file: it takes long to start, and idle it costs what other tests need."""
    with RayCluster() as cluster:
        yield cluster


@pytest.fixture
def address(ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the cluster, whose token the environment names."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in ray_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return ray_cluster.address


class TestRay(LauncherContract):
    @pytest.fixture
    def make_launcher(self, site: Site, address: str) -> MakeLauncher:
        return lambda: RayLauncher(RayOptions(address=address))

    def test_a_lost_worker_is_replaced_and_its_script_goes_on(
        self, site: Site, make_launcher: MakeLauncher
    ) -> None:
        sweep = replace(SWEEP, program="steps.py")
        launch, launcher = site.launch(sweep), make_launcher()
        (site.folder / "steps.py").write_text(STEPS_SCRIPT)
        site.hold()
        launcher.submit(launch)
        kept = site.folder / ".surge" / "checkpoints" / f"{launch.plan.launch_id}-0" / "step"
        self.wait_for(lambda: kept.exists() and kept.read_text() == "3")
        worker = worker_of(launch, 0)
        kill(worker)
        assert launcher.status(launch)[0].state == "running"
        self.wait_for(lambda: "from step 3" in launcher.logs(launch, 0))
        assert worker_of(launch, 0) != worker
        site.release()
        assert self.wait_until_ended(launcher, launch) == {0: TaskState("ended")}
        assert site.runs(sweep) == {(0.1, 0): ["finished"]}
        curves = collect(site.project, tracker="mlflow", uri=site.uri, step="_step")
        assert list(curves.points["step"]) == [0, 1, 2, 3, 4]

    def test_tasks_share_a_gpu(self, site: Site, make_launcher: MakeLauncher) -> None:
        sweep = replace(SWEEP, lr=(0.1, 0.2, 0.3, 0.4), program="gpu.py")
        site.resources = Resources(gpus_per_task=0.5)
        launch, launcher = site.launch(sweep), make_launcher()
        (site.folder / "gpu.py").write_text(GPU_SCRIPT)
        site.hold()
        launcher.submit(launch)

        def seen() -> list[str]:
            return [path.read_text() for path in site.folder.glob("gpu-*")]

        self.wait_for(lambda: len(seen()) == 4 and all(seen()))
        assert Counter(seen()) == {"0": 2, "1": 2}
        launcher.cancel(launch)
        self.wait_until_ended(launcher, launch)

    def test_a_token_that_is_not_the_clusters_is_refused(
        self, site: Site, make_launcher: MakeLauncher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launch, launcher = site.launch(SWEEP), make_launcher()
        monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
        with pytest.raises(SurgeError, match=r"refuses its token.*RAY_AUTH_TOKEN_PATH") as raised:
            launcher.submit(launch)
        assert "hunter2" not in str(raised.value)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
        monkeypatch.delenv("RAY_AUTH_MODE")
        with pytest.raises(SurgeError, match="asks for a token"):
            launcher.submit(launch)

    def test_more_gpus_than_the_node_has_are_refused(self, site: Site, make_launcher: MakeLauncher) -> None:
        site.resources = Resources(gpus_per_task=GPUS + 1)
        launch, launcher = site.launch(SWEEP), make_launcher()
        with pytest.raises(SurgeError, match=f"no node of the Ray cluster has more than {GPUS}"):
            launcher.submit(launch)
        assert launcher.status(launch)[0].state == "failed"


def test_a_sweep_through_a_lost_worker_and_a_stopped_job_has_the_bits_of_an_undisturbed_one(
    address: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{store}"
    faults: list[str] = []

    def disturb(launch: Launch, states: Mapping[int, TaskState]) -> None:
        running = [task for task, state in states.items() if state.state == "running"]
        if not faults and (task := mid_training(launch, running)) is not None:
            kill(worker_of(launch, task))
            faults.append("a worker")
        elif len(faults) == 1 and any(state.state == "ended" for state in states.values()):
            JobsClient(address).stop(f"surge-{launch.plan.launch_id}")
            faults.append("the job")

    first = launched("disturbed", uri, lambda: RayLauncher(RayOptions(address=address)), disturb)
    assert faults == ["a worker", "the job"]
    assert first.missing > 0
    assert set(first.failures.values()) == {"it was cancelled."}
    second = launched("disturbed", uri, lambda: RayLauncher(RayOptions(address=address)))
    assert second.already_done == first.ended["finished"] > 0
    assert second.already_done + second.ended["finished"] == second.planned == 6
    launched("undisturbed", uri, None)

    runs = collect("disturbed", tracker="mlflow", uri=uri).runs
    assert "running" not in set(runs["status"])
    finished = runs[runs["status"] == "finished"]
    assert sorted(finished["trial_id"]) == sorted(trial.trial_id for trial in DIGITS.trials())
    pd.testing.assert_frame_equal(points("disturbed", uri), points("undisturbed", uri), check_exact=True)


def test_a_cluster_of_our_own_is_on_loopback_and_ends_with_its_launch(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    # What the environment says of some other cluster is not about this one.
    monkeypatch.setenv("RAY_ADDRESS", "http://192.0.2.1:8265")
    site = Site(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "own")
    launch = site.launch(replace(SWEEP, lr=(0.1, 0.2)))
    site.hold()
    launcher = RayLauncher(RayOptions(local_cpus=2, local_gpus=0))
    launcher.submit(launch)
    cluster = launcher.own_cluster
    assert cluster is not None
    assert cluster.pid is not None
    group = cluster.pid
    wait_for(lambda: site.pids(0.1))
    assert Board(launch).started() == {0, 1} or launcher.status(launch)[0].state == "running"
    # Another process cannot ask that cluster, but sees how the launch stands, and what it prints.
    other = RayLauncher.of(launch)
    assert not other.outlives_launch
    assert other.status(launch)[0].state == "running"
    site.release()
    wait_for(lambda: all(state.state == "ended" for state in launcher.status(launch).values()))
    assert launcher.own_cluster is None
    assert processes_of(group) == []
    assert not cluster.folder.exists()
    assert set(other.status(launch).values()) == {TaskState("ended")}


def test_nobody_else_may_enter_the_folder_of_its_token_and_its_sockets(ray_cluster: RayCluster) -> None:
    assert ray_cluster.folder.stat().st_mode & 0o777 == 0o700
    assert (ray_cluster.folder / "token").stat().st_mode & 0o777 == 0o600
    # What Ray opens to everybody lies inside.
    assert list((ray_cluster.folder / "r").glob("session_*/sockets"))


def test_another_process_asks_with_the_token_only_where_the_user_launched(
    address: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    site = Site(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "known")
    launch = site.launch(SWEEP)
    RayLauncher(RayOptions(address=address)).submit(launch)
    wait_for(lambda: RayLauncher.of(launch).status(launch)[0] == TaskState("ended"))
    known.list_file().unlink()
    with pytest.raises(SurgeError, match="only the launch's folder names that address"):
        RayLauncher.of(launch).status(launch)


def test_every_listener_is_on_loopback(ray_cluster: RayCluster) -> None:
    found = ray_cluster.listeners()
    assert found
    assert found <= LOOPBACK


def test_a_killed_launch_leaves_nothing_of_its_own_cluster(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    site = Site(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "own")
    launch = site.launch(SWEEP)
    site.hold()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from surge_sweeps.launch.folder import Launch\n"
        "from surge_sweeps.launch.ray import RayLauncher, RayOptions\n"
        "launcher = RayLauncher(RayOptions(local_cpus=1, local_gpus=0))\n"
        "launcher.submit(Launch.read(Path(sys.argv[1])))\n"
        "Path('cluster').write_text(str(launcher.own_cluster.folder))\n"
        "Path('group').write_text(str(launcher.own_cluster.pid))\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(launch.folder)])
    try:
        wait_for(lambda: site.pids(0.1) and (tmp_path / "group").exists())
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    script, _ = site.pids(0.1) or (0, 0)
    group = int((tmp_path / "group").read_text())
    wait_for(lambda: not is_alive(script) and not processes_of(group))
    # The task's own program goes a moment after its script, and is at work until then.
    wait_for(lambda: RayLauncher.of(launch).status(launch)[0].state == "failed")
    shutil.rmtree((tmp_path / "cluster").read_text())


def test_a_cluster_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "not a number")
    with pytest.raises(SurgeError, match=r"Ray ended at its start: .*Try: ray start"):
        LocalCluster(cpus=1)


def launched(
    project: str,
    uri: str,
    make_launcher: Callable[[], RayLauncher] | None,
    on_status: Callable[[Launch, Mapping[int, TaskState]], object] = lambda launch, states: None,
) -> LaunchResult:
    """Launch the digits on Ray; without a launcher on this machine, the trials of a batch size together."""
    store = open_tracker("mlflow", project, uri)
    try:
        launcher = make_launcher() if make_launcher else LocalLauncher(store, 2)
        target = Target.of(project, "mlflow", uri)
        packed = make_launcher is None
        return launch_sweeps([DIGITS], target, store, launcher, packed=packed, on_status=on_status)
    finally:
        store.close()


def points(project: str, uri: str) -> pd.DataFrame:
    """The losses of every trial at every step."""
    curves = collect(project, tracker="mlflow", uri=uri).results()
    trials = curves.runs.set_index("run")[["lr", "batch_size", "seed"]]
    table = curves.points.join(trials, on="run").drop(columns="run")
    return table.sort_values(["lr", "batch_size", "seed", "step"], ignore_index=True)


def mid_training(launch: Launch, running: list[int]) -> int | None:
    """A running task that has been at work for some seconds."""
    for task in running:
        log = launch.log_file(task)
        if log.exists() and time.time() - log.stat().st_ctime > 3 and program_of(launch, task):
            return task
    return None


def program_of(launch: Launch, task: int) -> int | None:
    """The process id of a task's program; None if none is at work."""
    wanted = f"-m surge_sweeps.launch.run_task {launch.folder} {task}"
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and command_of(int(entry.name)).endswith(wanted):
            return int(entry.name)
    return None


def worker_of(launch: Launch, task: int) -> int:
    """The process id of the Ray worker that a task's program belongs to."""
    deadline = time.monotonic() + 30
    while (program := program_of(launch, task)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
