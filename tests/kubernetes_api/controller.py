"""Runs Jobs as Kubernetes' own controller does, with a process here for each pod.

Covered: indexes, parallelism, the failure policy, the limit of retries per index, replacement of ended pods only,
deadlines of pods and of Jobs, suspension, deletion. Not covered: images, schedulers, quotas, waits between retries.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from kubernetes_api.processes import PodProcess
from kubernetes_api.store import Object, Store, now

_POLL_S = 0.03
_LIVING = ("Pending", "Running")
_INDEX = "batch.kubernetes.io/job-completion-index"


class Controller:
    """Looks after the Jobs of a store until it is stopped.

    Args:
        store: of the server. folder: for volumes and logs.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._processes: dict[str, PodProcess] = {}
        self._counted: set[str] = set()
        self._failures: dict[tuple[str, int], int] = {}
        self._started_s: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ended_well = False

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and kill what still runs; raises `RuntimeError` where it ended before, with a traceback printed."""
        self._stop.set()
        self._thread.join()
        for process in self._processes.values():
            process.kill()
        if not self._ended_well:
            raise RuntimeError("the controller of the test server ended early")

    def end(self, pod: Object) -> None:
        """Ask a pod to end, as a deletion does."""
        with self._store.lock:
            pod["metadata"].setdefault("deletionTimestamp", now())
            self._processes[pod["metadata"]["uid"]].terminate()

    def disrupt(self, pod: Object) -> None:
        """Take a pod away, as a drain of its node or a preemption does."""
        with self._store.lock:
            pod["status"].setdefault("conditions", []).append(
                {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
            )
            self.end(pod)

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            with self._store.lock:
                for job in list(self._store.all("jobs")):
                    self._sync(job)
        self._ended_well = True

    def _sync(self, job: Object) -> None:
        status, spec = job["status"], job["spec"]
        pods = [pod for pod in self._store.all("pods") if _owner(pod) == job["metadata"]["uid"]]
        for pod in pods:
            self._look_at(pod)
        if _finished(job):
            return
        living = [pod for pod in pods if pod["status"]["phase"] in _LIVING]
        completed, failed = _read(status.get("completedIndexes")), _read(status.get("failedIndexes"))
        for pod in pods:
            self._count(job, pod, completed, failed)
        status["completedIndexes"] = ",".join(map(str, sorted(completed)))
        status["failedIndexes"] = ",".join(map(str, sorted(failed)))
        status["active"] = len(living)
        uid = job["metadata"]["uid"]
        if spec.get("suspend"):
            for pod in living:
                self.end(pod)
            self._started_s.pop(uid, None)
            return
        started = self._started_s.setdefault(uid, time.monotonic())
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and time.monotonic() - started >= deadline:
            self._end_at_deadline(job, living)
        elif len(completed | failed) == spec["completions"]:
            whole = not failed
            _conclude(
                job,
                "Complete" if whole else "Failed",
                "" if whole else "FailedIndexes",
                "Job has failed indexes",
            )
        else:
            self._start_pods(job, living, completed | failed)

    def _end_at_deadline(self, job: Object, living: list[Object]) -> None:
        for pod in living:
            if "deletionTimestamp" not in pod["metadata"]:
                self.end(pod)
        if not living:
            _conclude(job, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    def _start_pods(self, job: Object, living: list[Object], done: set[int]) -> None:
        busy = {_index(pod) for pod in living}
        waiting = [index for index in range(job["spec"]["completions"]) if index not in busy | done]
        for index in waiting[: max(0, job["spec"]["parallelism"] - len(living))]:
            self._start_pod(job, index)

    def _start_pod(self, job: Object, index: int) -> None:
        template = job["spec"]["template"]
        number = sum(1 for _ in self._store.all("pods")) + len(self._counted)
        namespace = job["metadata"]["namespace"]
        pod = self._store.create(
            "pods",
            namespace,
            {
                "metadata": {
                    "name": f"{job['metadata']['name']}-{index}-{number:05d}",
                    "labels": {**template["metadata"]["labels"], _INDEX: str(index)},
                    "annotations": {_INDEX: str(index)},
                    "ownerReferences": [{"uid": job["metadata"]["uid"]}],
                },
                "spec": template["spec"],
                "status": {"phase": "Running"},
            },
        )
        folder = self._folder / "pods" / pod["metadata"]["name"]
        configs = {
            item["metadata"]["name"]: item.get("data", {})
            for item in self._store.all("configmaps", namespace)
        }
        process = PodProcess(
            template["spec"], index, folder, self._folder / "claims", configs, self._store.secrets
        )
        self._processes[pod["metadata"]["uid"]] = process
        pod["log"] = str(process.log)

    def _look_at(self, pod: Object) -> None:
        process = self._processes.get(pod["metadata"]["uid"])
        if process is None or pod["status"]["phase"] not in _LIVING:
            return
        limit = pod["spec"].get("activeDeadlineSeconds")
        if limit is not None and process.age_s > limit:
            pod["status"]["reason"] = "DeadlineExceeded"
            process.terminate()
        process.kill_after(pod["spec"]["terminationGracePeriodSeconds"])
        code = process.exit_code
        if code is None:
            return
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        ended = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "message": process.last_words() if code else "",
        }
        pod["status"]["containerStatuses"] = [{"name": "trial", "state": {"terminated": ended}}]

    def _count(self, job: Object, pod: Object, completed: set[int], failed: set[int]) -> None:
        uid, index = pod["metadata"]["uid"], _index(pod)
        if uid in self._counted or pod["status"]["phase"] in _LIVING:
            return
        self._counted.add(uid)
        if pod["status"]["phase"] == "Succeeded":
            completed.add(index)
            return
        action = _action(job["spec"]["podFailurePolicy"]["rules"], pod)
        if action == "Count":
            key = (job["metadata"]["uid"], index)
            self._failures[key] = self._failures.get(key, 0) + 1
            if self._failures[key] > job["spec"]["backoffLimitPerIndex"]:
                failed.add(index)
        elif action == "FailIndex":
            failed.add(index)
        if "deletionTimestamp" in pod["metadata"]:
            self._store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])


def _action(rules: list[Object], pod: Object) -> str:
    """The first rule that fits decides."""
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    conditions = {(item["type"], item["status"]) for item in pod["status"].get("conditions", ())}
    for rule in rules:
        codes = rule.get("onExitCodes")
        if codes is not None and code != 0 and (code in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
        if any((item["type"], item["status"]) in conditions for item in rule.get("onPodConditions", ())):
            return str(rule["action"])
    return "Count"


def _conclude(job: Object, kind: str, reason: str, message: str) -> None:
    condition = {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message if kind == "Failed" else "",
    }
    job["status"].setdefault("conditions", []).append(condition)
    job["status"]["active"] = 0


def _finished(job: Object) -> bool:
    return any(item["type"] in ("Complete", "Failed") for item in job["status"].get("conditions", ()))


def _owner(pod: Object) -> str:
    return str(pod["metadata"].get("ownerReferences", [{"uid": ""}])[0]["uid"])


def _index(pod: Object) -> int:
    return int(pod["metadata"]["annotations"][_INDEX])


def _read(indexes: str | None) -> set[int]:
    return {int(index) for index in (indexes or "").split(",") if index}
