"""The launcher contract on Kubernetes: a loopback API server that runs the pods' commands as processes.

It shows that manifests, exit codes, the failure policy and the client fit together. It is no Kubernetes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kubernetes_api import KubernetesServer
from kubernetes_api.store import Object
from launch.launcher_contract import (
    FAILING_LR,
    HOSTILE,
    SCRIPT,
    SECRETS,
    SWEEP,
    LauncherContract,
    MakeLauncher,
    Site,
)
from mlflow_stores import MlflowServer

from surge_sweeps.launch.base import IN_FLIGHT, TaskState
from surge_sweeps.launch.driver import launch_sweeps
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.kubernetes import KubernetesLauncher, KubernetesOptions
from surge_sweeps.launch.plan import Resources, Task
from surge_sweeps.launch.target import Target
from surge_sweeps.sweep import Sweep

pytest.importorskip("kubernetes")

pytestmark = pytest.mark.slow


class PodSite(Site):
    """The store's address is on loopback, which no manifest may name: it comes to the pods by a Secret."""

    def launch(self, sweep: Sweep, tasks: tuple[Task, ...] | None = None) -> Launch:
        made = super().launch(sweep, tasks)
        return Launch.create(replace(made.plan, uri=None, engine="kubernetes"))


@pytest.fixture
def cluster(
    tmp_path: Path, shared_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path / "cluster", runs_pods=True) as server:
        server.store.secrets["mlflow"] = {"MLFLOW_TRACKING_URI": shared_server.uri}
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


@pytest.fixture
def site(
    tmp_path: Path,
    shared_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    name = HOSTILE if getattr(request, "param", "") == "hostile" else "contract"
    site = PodSite(tmp_path / name, shared_server.uri, f"{name} {uuid.uuid4().hex[:8]}")
    monkeypatch.chdir(site.folder)
    for variable, value in SECRETS.items():
        if variable != "MLFLOW_TRACKING_TOKEN":
            monkeypatch.setenv(variable, value)
    yield site
    site.store.close()


def options(site: Site, claim: str | None = "sweeps") -> KubernetesOptions:
    return KubernetesOptions(
        image="surge:test",
        working_folder=str(site.folder),
        env_from_secret=("mlflow",),
        claim=claim,
        grace_seconds=60,
    )


class TestKubernetes(LauncherContract):
    @pytest.fixture
    def site(self, site: Site) -> Site:
        return site

    @pytest.fixture
    def make_launcher(self, site: Site, cluster: KubernetesServer) -> MakeLauncher:
        return lambda: KubernetesLauncher(options(site))


def wait_for(is_so: Callable[[], object], patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def living(cluster: KubernetesServer) -> list[Object]:
    return [pod for pod in cluster.store.all("pods") if pod["status"]["phase"] == "Running"]


#: Keeps its state and then waits for its end; where it finds a state it goes on.
RESUMING = """
import os, time
from pathlib import Path
state = Path(os.environ["SURGE_CHECKPOINT_DIR"]) / "state"
if not state.exists():
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text("step 3")
    Path("saved").touch()
    time.sleep(600)
print("goes on from", state.read_text(), flush=True)
"""


def submit_resuming(
    site: Site, launcher: KubernetesLauncher, cluster: KubernetesServer, ending: str = "disrupt"
) -> Launch:
    """A launch of one trial whose script has just saved its state, and whose pod is then taken away, or deleted."""
    launch = site.launch(SWEEP)
    (site.folder / "train.py").write_text(RESUMING + SCRIPT)
    launcher.submit(launch)
    wait_for((site.folder / "saved").exists)
    (site.folder / "saved").unlink()
    (pod,) = living(cluster)
    assert cluster.controller is not None
    {"disrupt": cluster.controller.disrupt, "delete": cluster.controller.end}[ending](pod)
    return launch


@pytest.mark.parametrize("ending", ["disrupt", "delete"])
def test_a_pod_that_was_taken_away_goes_on_in_the_next_and_counts_not_as_failed(
    site: Site, cluster: KubernetesServer, ending: str
) -> None:
    launcher = KubernetesLauncher(replace(options(site), retries=0))
    launch = submit_resuming(site, launcher, cluster, ending)
    wait_for(lambda: launcher.status(launch)[0].state not in IN_FLIGHT)
    assert launcher.status(launch) == {0: TaskState("ended")}
    assert "goes on from step 3" in launcher.logs(launch, 0)
    assert site.runs(SWEEP)[0.1, 0].count("finished") == 1


def test_without_a_claim_it_starts_over(site: Site, cluster: KubernetesServer) -> None:
    launcher = KubernetesLauncher(options(site, claim=None))
    launch = submit_resuming(site, launcher, cluster)
    wait_for((site.folder / "saved").exists)
    assert launcher.status(launch)[0].state == "running"
    launcher.cancel(launch)
    wait_for(lambda: launcher.status(launch)[0].state == "failed")


def test_without_a_claim_a_trial_whose_time_limit_came_has_failed(
    site: Site, cluster: KubernetesServer
) -> None:
    site.resources = Resources(time_limit_minutes=1)
    launch = site.launch(SWEEP)
    site.hold()
    launcher = KubernetesLauncher(options(site, claim=None))
    launcher.submit(launch)
    wait_for(lambda: site.pids(0.1))
    (pod,) = living(cluster)
    with cluster.store.lock:
        # A minute is long for a test.
        pod["spec"] = {**pod["spec"], "activeDeadlineSeconds": 1}
    wait_for(lambda: launcher.status(launch)[0].state == "failed")
    assert "time limit" in launcher.status(launch)[0].why
    assert "claim" in launcher.status(launch)[0].why


def test_no_more_tasks_run_at_a_time_than_asked_for(site: Site, cluster: KubernetesServer) -> None:
    launch = site.launch(replace(SWEEP, lr=(0.1, 0.2, 0.3)))
    site.hold()
    launcher = KubernetesLauncher(replace(options(site), at_most=1))
    launcher.submit(launch)
    wait_for(lambda: site.pids(0.1))
    states = launcher.status(launch)
    assert [states[task].state for task in range(3)] == ["running", "waiting", "waiting"]
    launcher.cancel(launch, [2])
    assert launcher.status(launch)[2] == TaskState("failed", "it was cancelled.")
    site.release()
    wait_for(lambda: all(state.state not in IN_FLIGHT for state in launcher.status(launch).values()))
    assert [state.state for state in launcher.status(launch).values()] == ["ended", "ended", "failed"]
    assert site.pids(0.3) is None


def test_what_a_launch_made_goes_with_its_job(site: Site, cluster: KubernetesServer) -> None:
    launch, launcher = site.launch(SWEEP), KubernetesLauncher(options(site))
    launcher.submit(launch)
    wait_for(lambda: launcher.status(launch)[0].state == "ended")
    with cluster.store.lock:
        job = cluster.only("jobs")
        cluster.store.delete("jobs", "default", job["metadata"]["name"])
        assert list(cluster.store.all("configmaps")) == []
        assert list(cluster.store.all("pods")) == []
    assert "was deleted" in launcher.status(launch)[0].why


def test_a_second_launch_does_what_the_first_left(site: Site, cluster: KubernetesServer) -> None:
    sweep = replace(SWEEP, lr=(0.1, FAILING_LR))
    (site.folder / "train.py").write_text(SCRIPT)
    target = Target(site.project, "mlflow", None, site.folder)
    launcher = KubernetesLauncher(options(site))
    launcher.poll_seconds = 0.2
    result = launch_sweeps([sweep], target, site.store, launcher)
    assert result.ended == {"finished": 1}
    (why,) = result.failures.values()
    assert "exit code 1" in why or "no such luck" in why
    (site.folder / "train.py").write_text(SCRIPT.replace("args.lr == 0.5", "False"))
    result = launch_sweeps([sweep], target, site.store, launcher)
    assert (result.already_done, result.ended) == (1, {"finished": 1})
    assert [job["spec"]["completions"] for job in cluster.store.all("jobs")] == [2, 1]
    assert {name: ended.count("finished") for name, ended in site.runs(sweep).items()} == {
        (0.1, 0): 1,
        (FAILING_LR, 0): 1,
    }
