"""What is handed to the cluster: a ConfigMap with the plan, and an Indexed Job with one index for each task.

The failure policy is the contract between a pod and the Job controller. Its rules are read in order and the first that
fits decides: a pod that the cluster took away is run again and so is one that made room, neither counted as a failure;
any other exit code ends the index. A loss that diverges is a result: the pod of such a trial exits 0.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml

from surge_sweeps.launch.kubernetes.options import KubernetesOptions, parse_toleration
from surge_sweeps.launch.kubernetes.pod_plan import plan_for_pods
from surge_sweeps.launch.plan import Plan, Resources
from surge_sweeps.launch.run_task import MADE_ROOM
from surge_sweeps.training.preemption import CHECKPOINT_VARIABLE

Document = dict[str, Any]

LAUNCH_LABEL = "surge-sweeps/launch"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CONTAINER = "trial"
PLAN_KEY = "plan.json"
#: Folders of the pod: of the launch, and of the list of tasks that were cancelled.
LAUNCH_PATH = "/surge-launch"
CANCELLED_PATH = "/surge-cancelled"
#: In the list of cancelled tasks: all of them were.
ALL = "all"
#: Exit code of a task that was cancelled, which the failure policy does not run again.
CANCELLED = 3
#: Of a program that TERM ended before it could handle it.
_TERMINATED = 143
_MANAGED = {"app.kubernetes.io/name": "surge-sweeps"}


def job_name(launch_id: str) -> str:
    """Of the Job and of its plan.

    >>> job_name("20261122-181500-1a2b")
    'surge-20261122-181500-1a2b'
    """
    return f"surge-{launch_id}"


def cancelled_name(launch_id: str) -> str:
    """Of the ConfigMap that lists the tasks that were cancelled; it is made by the first cancel."""
    return f"{job_name(launch_id)}-cancelled"


def manifests(plan: Plan, options: KubernetesOptions) -> list[Document]:
    """The ConfigMap and the Job.

    Raises:
        SurgeError: pods cannot carry out the plan.
    """
    travelling = plan_for_pods(plan, options)
    labels = {**_MANAGED, LAUNCH_LABEL: plan.launch_id}
    place = {"namespace": options.namespace} if options.namespace else {}
    name = job_name(plan.launch_id)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **place, "labels": labels},
        "immutable": True,
        "data": {PLAN_KEY: travelling.to_json()},
    }
    queue = {QUEUE_LABEL: options.queue} if options.queue else {}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, **place, "labels": {**labels, **queue}},
        "spec": _job_spec(plan, options, labels),
    }
    return [config, job]


def _job_spec(plan: Plan, options: KubernetesOptions, labels: dict[str, str]) -> Document:
    tasks = len(plan.tasks)
    spec: Document = {
        "completionMode": "Indexed",
        "completions": tasks,
        "parallelism": min(options.at_most or tasks, tasks),
        "backoffLimitPerIndex": options.retries,
        # A pod is replaced once it has ended, not while it still saves: no index has two at work.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules(plan.resources, options)},
    }
    if options.queue:
        spec["suspend"] = True
    if options.keep_hours is not None:
        spec["ttlSecondsAfterFinished"] = round(options.keep_hours * 3600)
    spec["template"] = {"metadata": {"labels": labels}, "spec": _pod_spec(plan, options)}
    return spec


def goes_on_after_time_limit(resources: Resources, options: KubernetesOptions) -> bool:
    """Whether a pod that its time limit ended finds its state again; else it would start over for ever."""
    return options.claim is not None or resources.time_limit_minutes is None


def _failure_rules(resources: Resources, options: KubernetesOptions) -> list[Document]:
    disrupted = {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    made_room = {"action": "Ignore", "onExitCodes": _exit_codes("In", MADE_ROOM, _TERMINATED)}
    failed = {"action": "FailIndex", "onExitCodes": _exit_codes("NotIn", MADE_ROOM, _TERMINATED)}
    if goes_on_after_time_limit(resources, options):
        return [disrupted, made_room, failed]
    return [disrupted, {**failed, "onExitCodes": _exit_codes("NotIn", 0)}]


def _exit_codes(operator: str, *codes: int) -> Document:
    return {"containerName": CONTAINER, "operator": operator, "values": list(codes)}


def _pod_spec(plan: Plan, options: KubernetesOptions) -> Document:
    spec: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace_seconds,
        # The program is then not process 1, to which TERM means nothing before it is ready to handle it.
        "shareProcessNamespace": True,
        # Else a Service called 'mlflow' would set MLFLOW_PORT, and so on.
        "enableServiceLinks": False,
        "automountServiceAccountToken": options.service_account is not None,
    }
    if plan.resources.time_limit_minutes is not None:
        spec["activeDeadlineSeconds"] = plan.resources.time_limit_minutes * 60
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        spec["tolerations"] = [parse_toleration(text) for text in options.tolerations]
    if options.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    spec["containers"] = [_container(plan, options)]
    spec["volumes"] = _volumes(plan.launch_id, options)
    return spec


def _container(plan: Plan, options: KubernetesOptions) -> Document:
    checkpoints = str(PurePosixPath(options.mount_path) / "checkpoints")
    container: Document = {
        "name": CONTAINER,
        "image": options.image,
        "command": [options.python, "-m", "surge_sweeps.launch.kubernetes.pod", LAUNCH_PATH, CANCELLED_PATH],
        "workingDir": options.working_folder,
        "env": [
            {"name": CHECKPOINT_VARIABLE, "value": checkpoints},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
        ],
        # The last words of a pod that failed are kept in its status, where they are found without its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": _resources(plan.resources, options),
        "volumeMounts": _mounts(options),
    }
    if options.env_from_secret:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in options.env_from_secret]
    return container


def _mounts(options: KubernetesOptions) -> list[Document]:
    plan_path = f"{LAUNCH_PATH}/{PLAN_KEY}"
    mounts: list[Document] = [
        {"name": "state", "mountPath": options.mount_path},
        # A task writes its last word there.
        {"name": "launch", "mountPath": LAUNCH_PATH},
        {"name": "plan", "mountPath": plan_path, "subPath": PLAN_KEY, "readOnly": True},
        {"name": "cancelled", "mountPath": CANCELLED_PATH, "readOnly": True},
    ]
    if options.shared_memory_gb is not None:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return mounts


def _volumes(launch_id: str, options: KubernetesOptions) -> list[Document]:
    claim = {"persistentVolumeClaim": {"claimName": options.claim}} if options.claim else {"emptyDir": {}}
    cancelled = {"name": cancelled_name(launch_id), "optional": True}
    volumes: list[Document] = [
        {"name": "state", **claim},
        {"name": "launch", "emptyDir": {}},
        {"name": "plan", "configMap": {"name": job_name(launch_id)}},
        {"name": "cancelled", "configMap": cancelled},
    ]
    if options.shared_memory_gb is not None:
        memory = {"medium": "Memory", "sizeLimit": _mebibytes(options.shared_memory_gb)}
        volumes.append({"name": "shared-memory", "emptyDir": memory})
    return volumes


def _resources(asked: Resources, options: KubernetesOptions) -> Document:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if asked.cpus_per_task is not None:
        # No limit: a pod may use what the node has left.
        requests["cpu"] = str(asked.cpus_per_task)
    if asked.memory_gb is not None:
        requests["memory"] = limits["memory"] = _mebibytes(asked.memory_gb)
    if asked.gpus_per_task:
        limits[options.gpu_resource] = str(int(asked.gpus_per_task))
    return {name: value for name, value in (("requests", requests), ("limits", limits)) if value}


def _mebibytes(gibibytes: float) -> str:
    return f"{max(1, round(gibibytes * 1024))}Mi"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""

    def ignore_aliases(self, data: object) -> bool:
        """Never point from one part of a manifest to another."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(documents: list[Document], comment: str) -> str:
    """As a file for `kubectl apply -f`, with a comment on top; it reads back as it was."""
    lines = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    body = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
    return lines + str(body)
