"""Launches for the tests of Kubernetes, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.kubernetes import KubernetesOptions
from surge_sweeps.launch.kubernetes.manifest import manifests
from surge_sweeps.launch.plan import Plan, Resources, Task
from surge_sweeps.sweep import Sweep

LAUNCH_ID = "20261122-181500-1a2b"
JOB = f"surge-{LAUNCH_ID}"
OPTIONS = KubernetesOptions(image="ghcr.io/me/sweeps:1")
FULL = KubernetesOptions(
    image="ghcr.io/me/sweeps@sha256:" + "0" * 64,
    namespace="research",
    claim="sweeps",
    env_from_secret=("mlflow", "wandb"),
    image_pull_secrets=("registry",),
    service_account="trainer",
    queue="gpu-queue",
    node_selector={"nvidia.com/gpu.product": "H100"},
    tolerations=("nvidia.com/gpu:NoSchedule", "spot=true"),
    at_most=2,
)
ASKED = Resources(gpus_per_task=1, cpus_per_task=4, memory_gb=15.5, time_limit_minutes=90)


def plan(
    lrs: tuple[float, ...] = (0.1, 0.2, 0.4), resources: Resources | None = None, **changes: Any
) -> Plan:
    """A plan of one task a trial."""
    sweep = Sweep(lr=lrs, batch_size=(8,), seed=(0,), name=changes.pop("name", "digits"))
    tasks = tuple(Task("trial", 0, (trial.trial_id,)) for trial in sweep.trials())
    made = Plan(
        launch_id=LAUNCH_ID,
        project="digits",
        tracker="mlflow",
        uri="https://mlflow.example.org",
        working_folder=Path("/home/me/project"),
        sweeps=(sweep,),
        tasks=tasks,
        resources=resources or Resources(),
        engine="kubernetes",
    )
    return replace(made, **changes)


def launch(folder: Path, given: Plan | None = None) -> Launch:
    """A launch with its folder under `folder`."""
    return Launch.create(replace(given or plan(), working_folder=folder))


def job_of(given: Plan | None = None, options: KubernetesOptions = OPTIONS) -> dict[str, Any]:
    """The Job of a plan."""
    return manifests(given or plan(), options)[1]
