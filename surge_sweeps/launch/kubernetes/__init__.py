"""Kubernetes: an Indexed Job for a launch, one index for a task; written as YAML, applied and watched."""

from surge_sweeps.launch.kubernetes.launcher import KubernetesLauncher
from surge_sweeps.launch.kubernetes.manifest_checks import check_manifest
from surge_sweeps.launch.kubernetes.options import KubernetesOptions

__all__ = ["KubernetesLauncher", "KubernetesOptions", "check_manifest"]
