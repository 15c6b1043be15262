"""The plan as it travels to the pods, and what of a plan makes no sense in one."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.kubernetes.options import KubernetesOptions
from surge_sweeps.launch.plan import Plan

#: What a ConfigMap may hold, by the server's rule.
MAX_PLAN_BYTES = 1_048_576
#: Above this an Indexed Job with a limit per index must also limit how many indexes may fail.
MAX_TASKS = 100_000


def plan_for_pods(plan: Plan, options: KubernetesOptions) -> Plan:
    """The plan with the working folder of the image, after a look at whether pods can carry it out.

    Raises:
        SurgeError: they cannot; says what to do instead.
    """
    _check_resources(plan)
    _check_store(plan, options)
    moved = replace(plan, working_folder=Path(options.working_folder))
    size = len(moved.to_json().encode())
    if size > MAX_PLAN_BYTES or len(plan.tasks) > MAX_TASKS:
        raise SurgeError(
            f"the plan of {len(plan.tasks):,} tasks is {size:,} bytes, and a ConfigMap holds {MAX_PLAN_BYTES:,}.",
            "Launch fewer sweeps at once, or cut the sweep into several files.",
        )
    return moved


def _check_resources(plan: Plan) -> None:
    asked = plan.resources
    if asked.nodes > 1:
        raise SurgeError(
            f"nodes is {asked.nodes}, and a task on Kubernetes is one pod on one node.",
            "Ask for more GPUs on one node (gpus_per_task and processes_per_node), or launch on SLURM.",
        )
    if asked.gpus_per_task != int(asked.gpus_per_task):
        raise SurgeError(
            f"gpus_per_task is {asked.gpus_per_task:g}, and Kubernetes hands out whole GPUs only.",
            "Ask for 0, 1 or more; where the cluster has slices (MIG) or shares, name their resource with gpu_resource "
            "and ask for 1.",
        )


def _check_store(plan: Plan, options: KubernetesOptions) -> None:
    if plan.tracker == "files":
        _check_files(plan.project, options)
        return
    if plan.tracker == "wandb" and not options.env_from_secret:
        raise SurgeError(
            "nothing logs the pods in to W&B.",
            "Name a Secret with WANDB_API_KEY in it (env_from_secret): kubectl create secret generic wandb "
            "--from-literal=WANDB_API_KEY=...",
        )
    if plan.tracker != "mlflow":
        return
    if plan.uri is None:
        if not options.env_from_secret:
            raise SurgeError(
                "nothing tells the pods where the MLflow server is: an address with a password in it, or one that only "
                "the environment names, is in no manifest.",
                "Put MLFLOW_TRACKING_URI into a Secret, and name that with --set env_from_secret=NAME: kubectl create "
                "secret generic NAME --from-literal=MLFLOW_TRACKING_URI=https://...  An address without a password may "
                "be given with --uri.",
            )
        return
    _check_uri(plan.uri)


def _check_files(project: str, options: KubernetesOptions) -> None:
    """Which trials have a result is read here, so the folder must be the same one here and in the pods."""
    inside = ".." not in PurePosixPath(project).parts and PurePosixPath(project).is_relative_to(
        options.mount_path
    )
    if options.claim is None or not inside:
        raise SurgeError(
            f"the runs would be written to {project!r} inside the pods, and be lost with them.",
            f"Name a claim, and a folder of it as the project: {options.mount_path}/NAME.",
        )
    here = Path(options.mount_path)
    # That there is a folder says nothing: one of this machine alone may have been made by an earlier call.
    if not (os.path.ismount(here.resolve()) or (options.claim_is_here and here.is_dir())):
        raise SurgeError(
            f"the pods would write their runs to the claim {options.claim!r}, and this machine does not see it at "
            f"{options.mount_path!r}: every launch would run all trials again.",
            f"Mount the claim's file system at {options.mount_path} here too; where it is seen there without being a "
            "mount, say so with --set claim_is_here=true. Or send the runs to an MLflow server.",
        )


def _check_uri(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host, password = parts.hostname, parts.password
    except ValueError as error:
        raise SurgeError(
            f"the tracking URI cannot be read: {error}.", "Give it as https://HOST:PORT."
        ) from error
    if password is not None:
        raise SurgeError(
            "the tracking URI holds a password, which would stand in the manifest.",
            "Put the whole address into a Secret as MLFLOW_TRACKING_URI and name that (env_from_secret).",
        )
    if parts.scheme in ("", "file") or parts.scheme.startswith("sqlite"):
        raise SurgeError(
            f"the pods cannot reach the store {uri!r}: it is a file of this machine.",
            "Start 'mlflow server' where the cluster can reach it, and give its address with --uri.",
        )
    if host is not None and _is_loopback(host):
        raise SurgeError(
            f"inside a pod {host!r} is the pod itself, so that {uri!r} leads nowhere.",
            "Give an address of the server that the cluster can reach.",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
