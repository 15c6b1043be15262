"""The client half: what is asked of a server, what is made of its answers, and what is said where it refuses.

The server is on loopback and answers after the API's documentation; the refusals are those that real servers give.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_api import KubernetesServer
from kubernetes_api.server import CONTEXT, TOKEN, Fault
from kubernetes_api.store import Object, now
from launch.kubernetes_launches import JOB, LAUNCH_ID, OPTIONS, launch, plan

from surge_sweeps.errors import MissingExtraError, SurgeError, UnknownNameError
from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.engines import launcher_of
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.kubernetes import KubernetesLauncher, cluster, connection

pytest.importorskip("kubernetes")

BATCH = "/apis/batch/v1/namespaces/default/jobs"
CORE = "/api/v1/namespaces/default"
WAITING = TaskState("waiting")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path / "cluster") as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


@pytest.fixture
def made(tmp_path: Path) -> Launch:
    return launch(tmp_path / "work")


@pytest.fixture
def submitted(server: KubernetesServer, made: Launch) -> Launch:
    KubernetesLauncher(OPTIONS).submit(made)
    server.asked.clear()
    return made


def status_of(submitted: Launch) -> dict[int, TaskState]:
    return dict(KubernetesLauncher.of(submitted).status(submitted))


def refusal(code: int, reason: str, message: str) -> str:
    return json.dumps(
        {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}
    )


def condition(kind: str, **more: str) -> dict[str, str]:
    return {"type": kind, "status": "True", **more}


def terminated(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    ended = {"exitCode": code, "reason": reason, **({"message": message} if message else {})}
    return {"containerStatuses": [{"name": "trial", "state": {"terminated": ended}}]}


def blocked(reason: str, message: str) -> dict[str, Any]:
    return {
        "containerStatuses": [{"name": "trial", "state": {"waiting": {"reason": reason, "message": message}}}]
    }


# Handing over


def test_submitting_makes_what_was_described(server: KubernetesServer, made: Launch) -> None:
    launcher = KubernetesLauncher(OPTIONS)
    launcher.submit(made)
    posted = [(asked.path, asked.body) for asked in server.asked if asked.method == "POST"]
    config, job = yaml.safe_load_all(launcher.describe(made))
    # The plan first: a pod that begins at once finds it.
    assert posted == [(f"{CORE}/configmaps", config), (BATCH, job)]
    owner = server.only("configmaps")["metadata"]["ownerReferences"]
    assert [item["uid"] for item in owner] == [server.only("jobs")["metadata"]["uid"]]


def test_submitting_again_makes_nothing_twice(server: KubernetesServer, submitted: Launch) -> None:
    KubernetesLauncher(OPTIONS).submit(submitted)
    assert server.only("jobs")["metadata"]["name"] == JOB
    assert [asked.method for asked in server.asked].count("POST") == 2


def test_a_launch_is_found_by_its_folder_alone(
    server: KubernetesServer, made: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    KubernetesLauncher(replace(OPTIONS, namespace="research")).submit(made)
    assert server.only("jobs")["metadata"]["namespace"] == "research"
    found = launcher_of(Launch.read(made.folder))
    assert found.status(made) == {0: WAITING, 1: WAITING, 2: WAITING}
    assert server.asked[-1].path.startswith("/api/v1/namespaces/research")
    written = "".join(path.read_text() for path in made.folder.rglob("*") if path.is_file())
    assert TOKEN not in written


def test_the_namespace_of_the_kubeconfig_is_taken(server: KubernetesServer, made: Launch) -> None:
    server.write_kubeconfig(namespace="research")
    KubernetesLauncher(OPTIONS).submit(made)
    assert server.only("jobs")["metadata"]["namespace"] == "research"


def test_a_job_that_is_refused_leaves_no_plan(server: KubernetesServer, made: Launch) -> None:
    quota = (
        f'jobs.batch "{JOB}" is forbidden: exceeded quota: small, requested: count/jobs.batch=1, limited: 5'
    )
    server.faults.append(Fault("POST", "/jobs", 403, refusal(403, "Forbidden", quota)))
    with pytest.raises(SurgeError, match="exceeded quota: small") as caught:
        KubernetesLauncher(OPTIONS).submit(made)
    assert "kubectl describe quota -n default" in caught.value.hint
    assert list(server.store.all("configmaps")) == []
    assert {state.state for state in status_of(made).values()} == {"failed"}


def test_a_lost_answer_loses_no_job(server: KubernetesServer, made: Launch) -> None:
    server.faults.append(Fault("POST", "/jobs", then_answer=True))
    with pytest.raises(SurgeError, match="does not answer"):
        KubernetesLauncher(OPTIONS).submit(made)
    assert server.only("configmaps")["metadata"]["name"] == JOB
    assert set(status_of(made).values()) == {WAITING}
    KubernetesLauncher(OPTIONS).submit(made)
    assert server.only("configmaps")["metadata"]["ownerReferences"]


# How tasks stand


def test_indexes_are_told_apart(server: KubernetesServer, tmp_path: Path) -> None:
    made = launch(tmp_path / "work", plan(tuple(0.001 * 2**k for k in range(10))))
    KubernetesLauncher(OPTIONS).submit(made)
    server.asked.clear()
    job = server.only("jobs")
    job["status"] = {"completedIndexes": "0,2-4", "failedIndexes": "1,9", "active": 2}
    server.add_pod(job, 1, "Failed", **terminated(1, message="began\nValueError: no such layer\n"))
    server.add_pod(job, 5, "Running")
    server.add_pod(job, 6, "Pending")
    assert status_of(made) == {
        0: TaskState("ended"),
        1: TaskState("failed", "ValueError: no such layer"),
        **dict.fromkeys((2, 3, 4), TaskState("ended")),
        5: TaskState("running"),
        6: WAITING,
        7: WAITING,
        8: WAITING,
        9: TaskState("failed", "its pod failed and is gone."),
    }
    assert [asked.method for asked in server.asked] == ["GET", "GET"]


def test_a_pod_that_is_run_again_counts_not_as_failed(server: KubernetesServer, submitted: Launch) -> None:
    job = server.only("jobs")
    server.add_pod(job, 0, "Failed", conditions=[condition("DisruptionTarget")], **terminated(137))
    assert status_of(submitted)[0] == WAITING
    server.add_pod(job, 0, "Running")
    assert status_of(submitted)[0] == TaskState("running")


def test_a_pod_that_is_being_deleted_still_runs(server: KubernetesServer, submitted: Launch) -> None:
    pod = server.add_pod(server.only("jobs"), 0, "Running")
    pod["metadata"]["deletionTimestamp"] = now()
    assert status_of(submitted)[0] == TaskState("running")


def test_a_job_that_ended_leaves_nothing_in_flight(server: KubernetesServer, submitted: Launch) -> None:
    job = server.only("jobs")
    job["status"] = {"conditions": [condition("Complete")], "completedIndexes": "0-2"}
    assert set(status_of(submitted).values()) == {TaskState("ended")}
    message = "Job was active longer than specified deadline"
    job["status"] = {
        "conditions": [condition("Failed", reason="DeadlineExceeded", message=message)],
        "completedIndexes": "1",
    }
    states = status_of(submitted)
    assert [states[task].state for task in range(3)] == ["failed", "ended", "failed"]
    assert message in states[0].why


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (
            blocked("ImagePullBackOff", 'Back-off pulling image "x"'),
            "ImagePullBackOff: Back-off pulling image",
        ),
        (blocked("ErrImagePull", "unauthorized"), "image_pull_secrets"),
        (blocked("CreateContainerConfigError", 'secret "mlflow" not found'), 'secret "mlflow" not found'),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                    }
                ]
            },
            "3 Insufficient nvidia.com/gpu",
        ),
    ],
    ids=["image", "login", "secret", "no room"],
)
def test_what_a_pod_waits_for_is_told(
    server: KubernetesServer, submitted: Launch, status: dict[str, Any], says: str
) -> None:
    server.add_pod(server.only("jobs"), 0, "Pending", **status)
    state = status_of(submitted)[0]
    assert state.state == "waiting"
    assert says in state.why


def test_a_container_that_is_being_made_is_no_matter(server: KubernetesServer, submitted: Launch) -> None:
    server.add_pod(server.only("jobs"), 0, "Pending", **blocked("ContainerCreating", ""))
    assert status_of(submitted)[0] == WAITING


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (terminated(137, "OOMKilled"), "micro_batch_size"),
        (terminated(137), "exit code 137 (killed)"),
        (terminated(128, "StartError", 'exec: "python": not found'), 'exec: "python": not found'),
        ({"reason": "UnexpectedAdmissionError", "message": "no GPU left"}, "no GPU left"),
        (terminated(1, message="bad \x1b[31mred\x1b[0m \x07 text"), "bad red text"),
        ({**terminated(85), "reason": "DeadlineExceeded"}, "name a claim"),
        (terminated(1, message="x" * 4000), "..."),
    ],
    ids=["memory", "killed", "start", "node", "escapes", "deadline", "long"],
)
def test_why_a_task_failed_is_told(
    server: KubernetesServer, submitted: Launch, status: dict[str, Any], says: str
) -> None:
    job = server.only("jobs")
    job["status"] = {"failedIndexes": "0"}
    server.add_pod(job, 0, "Failed", **status)
    state = status_of(submitted)[0]
    assert state.state == "failed"
    assert says in state.why
    assert state.why.isprintable()
    assert len(state.why) < 500


def test_a_quota_that_keeps_pods_from_being_made_is_told(server: KubernetesServer, submitted: Launch) -> None:
    message = 'Error creating: pods "x" is forbidden: exceeded quota: gpus, used: requests.nvidia.com/gpu=8'
    event = {"metadata": {"name": "e1"}, "message": message, "lastTimestamp": now()}
    server.store.create("events", "default", event)
    states = status_of(submitted)
    assert {state.state for state in states.values()} == {"waiting"}
    assert "exceeded quota: gpus" in states[0].why
    query = next(asked.query for asked in server.asked if asked.path.endswith("/events"))
    assert JOB in query["fieldSelector"]


def test_a_queue_without_room_is_told(server: KubernetesServer, made: Launch) -> None:
    KubernetesLauncher(replace(OPTIONS, queue="gpu-queue")).submit(made)
    assert "queue" in status_of(made)[0].why


def test_many_pods_come_in_pages(
    server: KubernetesServer, submitted: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PAGE", 10)
    job = server.only("jobs")
    for number in range(25):
        server.add_pod(job, 0, "Failed" if number < 24 else "Running")
    assert status_of(submitted)[0] == TaskState("running")
    assert [asked.query.get("continue") for asked in server.asked[1:]] == [None, "10", "20"]


def test_a_job_that_was_deleted_is_told(server: KubernetesServer, submitted: Launch) -> None:
    server.store.delete("jobs", "default", JOB)
    states = status_of(submitted)
    assert {state.state for state in states.values()} == {"failed"}
    assert "was deleted" in states[0].why


# Cancelling and logs


def test_cancelling_all_sets_the_deadline_once(server: KubernetesServer, submitted: Launch) -> None:
    job = server.only("jobs")
    job["status"] = {"completedIndexes": "0", "active": 1}
    pod = server.add_pod(job, 1, "Running")
    launcher = KubernetesLauncher.of(submitted)
    for _ in range(2):
        launcher.cancel(submitted)
    assert job["spec"]["activeDeadlineSeconds"] == 1
    assert status_of(submitted) == {
        0: TaskState("ended"),
        1: TaskState("running"),
        2: TaskState("failed", "it was cancelled."),
    }
    pod["status"]["phase"] = "Failed"
    assert status_of(submitted)[1] == TaskState("failed", "it was cancelled.")
    job["status"]["conditions"] = [condition("Failed", message="deadline")]
    server.asked.clear()
    launcher.cancel(submitted)
    assert [asked.method for asked in server.asked] == ["GET"]


def test_cancelling_a_job_that_queues_takes_it_out_of_the_queue(
    server: KubernetesServer, made: Launch
) -> None:
    launcher = KubernetesLauncher(replace(OPTIONS, queue="gpu-queue"))
    launcher.submit(made)
    for _ in range(2):
        launcher.cancel(made)
    assert list(server.store.all("jobs")) == []
    (deleted,) = [asked for asked in server.asked if asked.method == "DELETE"]
    assert deleted.query == {"propagationPolicy": "Foreground"}
    assert {state.state for state in status_of(made).values()} == {"failed"}


def test_cancelling_one_lists_it_for_its_next_pod(server: KubernetesServer, submitted: Launch) -> None:
    job = server.only("jobs")
    job["status"] = {"completedIndexes": "0", "active": 2}
    pods = [server.add_pod(job, index, "Running") for index in (1, 2)]
    launcher = KubernetesLauncher.of(submitted)
    launcher.cancel(submitted, [0, 1])
    names = [asked.path.rpartition("/")[2] for asked in server.asked if asked.method == "DELETE"]
    assert names == [pods[0]["metadata"]["name"]]
    listed = server.store.get("configmaps", "default", f"{JOB}-cancelled")
    assert listed["data"] == {"1": ""}
    volumes: list[Object] = job["spec"]["template"]["spec"]["volumes"]
    assert {"name": f"{JOB}-cancelled", "optional": True} in [volume.get("configMap") for volume in volumes]
    assert "activeDeadlineSeconds" not in job["spec"]
    states = status_of(submitted)
    assert states[0] == TaskState("ended")
    assert states[2] == TaskState("running")
    launcher.cancel(submitted, [2])
    assert listed["data"] == {"1": "", "2": ""}
    assert job["metadata"]["annotations"]["surge-sweeps/cancelled"] == "1-2"


def test_what_has_ended_is_not_cancelled(server: KubernetesServer, submitted: Launch) -> None:
    server.only("jobs")["status"] = {"completedIndexes": "0-1", "failedIndexes": "2"}
    KubernetesLauncher.of(submitted).cancel(submitted)
    KubernetesLauncher.of(submitted).cancel(submitted, [1, 2])
    assert {asked.method for asked in server.asked} == {"GET"}


def test_logs_are_those_of_the_newest_pod(server: KubernetesServer, submitted: Launch) -> None:
    job = server.only("jobs")
    launcher = KubernetesLauncher.of(submitted)
    assert launcher.logs(submitted, 0) == ""
    server.add_pod(job, 0, "Failed")["said"] = "first"
    server.add_pod(job, 0, "Succeeded")["said"] = "second é"
    server.add_pod(job, 1, "Pending")
    assert launcher.logs(submitted, 0) == "second é"
    assert launcher.logs(submitted, 1) == ""


# What can go wrong


@pytest.mark.parametrize(
    ("code", "body", "says", "hint"),
    [
        (401, refusal(401, "Unauthorized", "Unauthorized"), "Unauthorized", "Log in"),
        (
            403,
            refusal(403, "Forbidden", 'jobs.batch is forbidden: User "me" cannot get resource "jobs"'),
            'User "me" cannot get',
            "kubectl auth can-i",
        ),
        (
            422,
            refusal(422, "Invalid", 'Job.batch "x" is invalid: spec.completions'),
            "is invalid",
            "--dry-run",
        ),
        (
            404,
            refusal(404, "NotFound", 'namespaces "default" not found'),
            "namespaces",
            "create namespace default",
        ),
        (500, "<html>\n<h1>Bad\x1b[2J gateway</h1></html>", "Bad gateway", "call again"),
        (503, "", "gives no reason", "call again"),
        (200, "<html>welcome</html>", "did not answer as a Kubernetes server", "address"),
    ],
    ids=["401", "403", "422", "404", "500", "503", "no cluster"],
)
def test_a_refusal_is_a_sentence(
    server: KubernetesServer, submitted: Launch, code: int, body: str, says: str, hint: str
) -> None:
    server.faults.append(Fault("GET", "/jobs", code, body, times=5))
    with pytest.raises(SurgeError) as caught:
        status_of(submitted)
    assert says in caught.value.what
    assert hint in caught.value.hint
    assert caught.value.what.isprintable()


def test_a_namespace_that_is_not_there_is_told(server: KubernetesServer, made: Launch) -> None:
    with pytest.raises(SurgeError, match='namespaces "nowhere" not found') as caught:
        KubernetesLauncher(replace(OPTIONS, namespace="nowhere")).submit(made)
    assert "kubectl create namespace nowhere" in caught.value.hint


def test_a_wrong_token_is_told(server: KubernetesServer, made: Launch) -> None:
    server.write_kubeconfig(token="wrong")
    with pytest.raises(SurgeError, match="Unauthorized") as caught:
        KubernetesLauncher(OPTIONS).submit(made)
    assert "Log in" in caught.value.hint
    assert "wrong" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_told_soon(server: KubernetesServer, made: Launch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server.write_kubeconfig(server=f"http://127.0.0.1:{unused.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(SurgeError, match="does not answer") as caught:
            KubernetesLauncher(OPTIONS).submit(made)
        assert time.monotonic() - began < 10
    assert f"kubectl --context {CONTEXT} get nodes" in caught.value.hint


def test_a_cluster_that_hangs_is_told(
    server: KubernetesServer, submitted: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    server.faults.append(Fault("GET", "/jobs", 200, "{}", wait_s=1.0, times=5))
    with pytest.raises(SurgeError, match="does not answer"):
        status_of(submitted)


def test_a_failure_that_passes_is_only_that(server: KubernetesServer, submitted: Launch) -> None:
    server.faults.append(Fault("GET", "/jobs", 503))
    with pytest.raises(SurgeError):
        status_of(submitted)
    assert set(status_of(submitted).values()) == {WAITING}


def test_without_a_kubeconfig_there_is_no_cluster(
    made: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SurgeError, match="no cluster to talk to") as caught:
        KubernetesLauncher(OPTIONS).submit(made)
    assert "KUBECONFIG" in caught.value.hint
    assert KubernetesLauncher(OPTIONS).describe(made)


@pytest.mark.parametrize(
    "text", ["{token: hunter2", "apiVersion: v1", "- 1", "contexts: 3\ncurrent-context: x"]
)
def test_a_broken_kubeconfig_is_told(
    made: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(SurgeError) as caught:
        KubernetesLauncher(OPTIONS).submit(made)
    assert "kubectl config" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_an_unknown_context_is_told_with_those_there_are(server: KubernetesServer, made: Launch) -> None:
    with pytest.raises(UnknownNameError, match=CONTEXT):
        KubernetesLauncher(replace(OPTIONS, context="lopback")).submit(made)


def test_without_the_package_the_pip_line_is_told(
    server: KubernetesServer, made: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "kubernetes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert LAUNCH_ID in KubernetesLauncher(OPTIONS).describe(made)
    with pytest.raises(MissingExtraError, match=r"surge-sweeps\[kubernetes\]"):
        KubernetesLauncher(OPTIONS).submit(made)


def test_inside_a_pod_the_service_account_is_used(
    made: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = tmp_path / "namespace"
    namespace.write_text("research\n")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setattr(connection, "_OWN_NAMESPACE", namespace)
    assert connection.Place.named(None, None) == connection.Place(None, "research")
    # There is no token here: the official client says so, and it is told.
    with pytest.raises(SurgeError, match="no cluster to talk to"):
        KubernetesLauncher(OPTIONS).submit(made)


def test_a_record_that_is_spoilt_is_told(server: KubernetesServer, submitted: Launch) -> None:
    (submitted.folder / "kubernetes.json").write_text("{")
    with pytest.raises(SurgeError, match="cannot be read"):
        status_of(submitted)
