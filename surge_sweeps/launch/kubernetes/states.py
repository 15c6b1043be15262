"""How the tasks of a launch stand, by what a Job says of its indexes and what its pods say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

from surge_sweeps.launch.base import TaskState
from surge_sweeps.launch.kubernetes.manifest import ALL, CANCELLED, CONTAINER
from surge_sweeps.launch.kubernetes.reading import Document, items, last_line, parse_indexes, part
from surge_sweeps.launch.one_line import one_line

#: On the Job: which tasks were cancelled.
CANCELLED_ANNOTATION = "surge-sweeps/cancelled"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

_WAS_CANCELLED = "it was cancelled."
#: A container that waits for these does so as a matter of course.
_HARMLESS = ("ContainerCreating", "PodInitializing")


def cancelled_of(job: Document, tasks: int) -> set[int]:
    """The tasks that were cancelled."""
    noted = part(job, "metadata", "annotations").get(CANCELLED_ANNOTATION)
    return set(range(tasks)) if noted == ALL else parse_indexes(noted)


def task_states(
    job: Document, pods: Sequence[Document], tasks: int, warning: str = ""
) -> dict[int, TaskState]:
    """How each task stands.

    Args:
        job, pods: as the cluster tells them. tasks: how many there are. warning: what keeps pods from being made.
    """
    status, by_task = part(job, "status"), _newest_pods(pods)
    completed, failed = (
        parse_indexes(status.get("completedIndexes")),
        parse_indexes(status.get("failedIndexes")),
    )
    cancelled, over = cancelled_of(job, tasks), _how_it_ended(job)
    states: dict[int, TaskState] = {}
    for task in range(tasks):
        pod = by_task.get(task)
        if task in completed or over == "":
            states[task] = TaskState("ended")
        elif task in failed:
            states[task] = TaskState("failed", _why_failed(pod, cancelled=task in cancelled))
        elif pod is not None and _phase(pod) in ("Pending", "Running", "Unknown"):
            states[task] = _of_living(pod)
        elif task in cancelled:
            states[task] = TaskState("failed", _WAS_CANCELLED)
        elif over is not None:
            states[task] = TaskState("failed", f"its job ended early: {over}")
        else:
            states[task] = TaskState("waiting", _held_back(job) or warning)
    return states


def has_living_pods(pods: Sequence[Document]) -> bool:
    """Whether any pod runs or is about to."""
    return any(_phase(pod) in ("Pending", "Running", "Unknown") for pod in pods)


def is_over(job: Document) -> bool:
    """Whether no pod of it will be started any more."""
    return _how_it_ended(job) is not None


def task_of(pod: Document) -> int | None:
    """The task that a pod works on."""
    index = part(pod, "metadata", "annotations").get(INDEX_ANNOTATION)
    return int(index) if isinstance(index, str) and index.isdecimal() else None


def _newest_pods(pods: Sequence[Document]) -> dict[int, Document]:
    """Of each task the pod that tells how it stands: one that lives, else the one that was made last."""
    ranked = sorted(
        pods,
        key=lambda pod: (has_living_pods([pod]), str(part(pod, "metadata").get("creationTimestamp"))),
    )
    return {task: pod for pod in ranked if (task := task_of(pod)) is not None}


def _phase(pod: Document) -> str:
    return str(part(pod, "status").get("phase"))


def _how_it_ended(job: Document) -> str | None:
    """Empty where all went well, a sentence where not, None where it goes on."""
    for condition in items(part(job, "status"), "conditions"):
        if condition.get("status") != "True":
            continue
        if condition.get("type") == "Complete":
            return ""
        if condition.get("type") == "Failed":
            return one_line(condition.get("message") or condition.get("reason") or "it gives no reason")
    return None


def _held_back(job: Document) -> str:
    if part(job, "spec").get("suspend") is True:
        return "its job is suspended: its queue has no room for it yet."
    return ""


def _of_living(pod: Document) -> TaskState:
    if _phase(pod) != "Pending" or part(pod, "metadata").get("deletionTimestamp"):
        return TaskState("running")
    return TaskState("waiting", _what_it_waits_for(pod))


def _what_it_waits_for(pod: Document) -> str:
    """A sentence where something is in the way."""
    status = part(pod, "status")
    for container in (*items(status, "initContainerStatuses"), *items(status, "containerStatuses")):
        waiting = part(container, "state", "waiting")
        reason = str(waiting.get("reason") or "")
        if reason and reason not in _HARMLESS:
            said = f": {one_line(waiting['message'])}" if waiting.get("message") else ""
            return f"its container cannot start, {one_line(reason)}{said}. {_advice(reason)}".strip()
    for condition in items(status, "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"no node has room for it: {one_line(condition.get('message') or condition.get('reason'))}"
    return ""


def _advice(reason: str) -> str:
    if "Image" in reason:
        return "Check the image's name, and image_pull_secrets where its registry asks for a login."
    if reason == "CreateContainerConfigError":
        return "Check the names of the Secrets (env_from_secret)."
    return ""


def _why_failed(pod: Document | None, *, cancelled: bool) -> str:
    """A sentence on an index that failed, by its last pod."""
    if cancelled:
        return _WAS_CANCELLED
    if pod is None:
        return "its pod failed and is gone."
    status = part(pod, "status")
    own = [one for one in items(status, "containerStatuses") if one.get("name") == CONTAINER]
    ended = part(own[0], "state", "terminated") if own else {}
    code, reason = ended.get("exitCode"), str(ended.get("reason") or "")
    if reason == "OOMKilled":
        return "it was killed for want of memory: give it more memory_gb, or a smaller micro_batch_size."
    words = last_line(ended.get("message") or "")
    if code is None:
        said = one_line(status.get("message") or status.get("reason") or "it gives no reason")
        return f"its pod could not run: {said}"
    if status.get("reason") == "DeadlineExceeded":
        return f"its time limit came and no claim keeps its state: name a claim, or give it more time. {words}".strip()
    if code == CANCELLED and not words:
        return _WAS_CANCELLED
    if words and reason in ("", "Error"):
        return words
    killed = " (killed)" if code == 137 else ""
    return f"it ended with exit code {one_line(code)}{killed}{': ' + words if words else ''}"
