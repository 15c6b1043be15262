"""What a user says about a Kubernetes cluster, with units in the names; each value is checked when it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.kubernetes.names import is_label, is_label_value, is_qualified_name, is_subdomain

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
#: In a path these would be read as something else: `$(NAME)` as a variable, `:` as the end of a mount's path.
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_PROGRAM = re.compile(r"[A-Za-z0-9._/-]+")


@dataclass(frozen=True)
class KubernetesOptions:
    """Where and how the pods of a launch run.

    Attributes:
        image: of the container: it holds Python, this package and what the trials need.
        namespace, context: None takes the kubeconfig's own. python: the interpreter in the image.
        working_folder: where the programs run in the pod; an absolute path of the image or of the claim.
        claim: a PersistentVolumeClaim that all pods may write to, for checkpoints; None: a pod that is lost takes them
            with it, and its trial starts over. mount_path: where the claim is seen in the pods. claim_is_here: for runs
            in files: the claim is seen at mount_path on this machine too, in a folder that is no mount.
        env_from_secret: names of Secrets whose entries become environment variables: MLFLOW_TRACKING_URI and its
            password, WANDB_API_KEY. image_pull_secrets: names of Secrets. service_account: a name; None: no token.
        queue: Kueue's local queue. node_selector: labels that a node must have. tolerations: of tainted nodes, written
            as kubectl writes taints, `KEY[=VALUE][:EFFECT]`. gpu_resource: what the cluster calls a GPU.
        at_most: tasks at a time; None: as many as the cluster takes. shared_memory_gb: of /dev/shm in GiB, part of the
            pod's memory; None leaves the 64 MB of the container runtime, too little for data loaders.
        grace_seconds: for saving, once a pod is asked to end. retries: of a pod that the node could not start.
        keep_hours: how long the ended job and its logs stay; None: until somebody deletes it.

    Raises:
        SurgeError: a value that Kubernetes would refuse, with what it must look like.

    >>> KubernetesOptions(image="ghcr.io/me/sweeps:1", claim="sweeps").mount_path
    '/surge'
    """

    image: str
    namespace: str | None = None
    context: str | None = None
    python: str = "python"
    working_folder: str = "/workspace"
    claim: str | None = None
    mount_path: str = "/surge"
    claim_is_here: bool = False
    env_from_secret: tuple[str, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    queue: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    gpu_resource: str = "nvidia.com/gpu"
    at_most: int | None = None
    shared_memory_gb: float | None = 1.0
    grace_seconds: int = 120
    retries: int = 3
    keep_hours: float | None = 168.0

    def __post_init__(self) -> None:
        for name, (is_good, wanted) in _RULES.items():
            value = getattr(self, name)
            items = value if isinstance(value, tuple) else () if value is None else (value,)
            for item in items:
                if not is_good(item):
                    raise SurgeError(f"{name} is {item!r}.", f"It must be {wanted}.")
        for key, value in self.node_selector.items():
            if not (is_qualified_name(key) and is_label_value(value)):
                raise SurgeError(
                    f"node_selector has {key!r}: {value!r}.",
                    "It must be a label of nodes and its value, like 'gpu-type': 'h100'; see: kubectl get nodes "
                    "--show-labels",
                )
        for toleration in self.tolerations:
            parse_toleration(toleration)


def parse_toleration(text: str) -> dict[str, str]:
    """`KEY[=VALUE][:EFFECT]` as Kubernetes writes it in a pod.

    Raises:
        SurgeError: not of that form. UnknownNameError: an unknown effect.

    >>> parse_toleration("nvidia.com/gpu=present:NoSchedule")
    {'key': 'nvidia.com/gpu', 'operator': 'Equal', 'value': 'present', 'effect': 'NoSchedule'}
    >>> parse_toleration("spot")
    {'key': 'spot', 'operator': 'Exists'}
    """
    taint, _, effect = text.partition(":")
    key, has_value, value = taint.partition("=")
    if not is_qualified_name(key) or not is_label_value(value):
        raise SurgeError(
            f"the toleration {text!r} is not of the form KEY[=VALUE][:EFFECT].", "See the node's taints."
        )
    if effect and effect not in _EFFECTS:
        raise UnknownNameError("effect of a taint", effect, _EFFECTS)
    parsed = {"key": key, "operator": "Equal" if has_value else "Exists"}
    return parsed | ({"value": value} if has_value else {}) | ({"effect": effect} if effect else {})


def _at_least(least: float) -> Callable[[Any], bool]:
    return lambda value: value >= least


_SUBDOMAIN = (is_subdomain, "a name of lower-case letters, digits, '-' and '.'")
_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "image": (
        lambda value: bool(_IMAGE.fullmatch(value)),
        "the name of an image, like 'ghcr.io/me/sweeps:1'",
    ),
    "namespace": (is_label, "a name of at most 63 lower-case letters, digits and '-'"),
    "python": (
        lambda value: bool(_PROGRAM.fullmatch(value)),
        "a program, like 'python' or '/opt/venv/bin/python'",
    ),
    "working_folder": (lambda value: value.startswith("/"), "an absolute path in the image"),
    "claim": _SUBDOMAIN,
    "mount_path": (
        lambda value: bool(_PATH.fullmatch(value)),
        "an absolute path of letters, digits and '._-'",
    ),
    "env_from_secret": _SUBDOMAIN,
    "image_pull_secrets": _SUBDOMAIN,
    "service_account": _SUBDOMAIN,
    "queue": (is_label_value, "the name of a local queue; see: kubectl get localqueues"),
    "gpu_resource": (is_qualified_name, "a resource of nodes, like 'nvidia.com/gpu'"),
    "at_most": (_at_least(1), "1 or more"),
    "shared_memory_gb": (lambda value: value > 0, "above 0"),
    "grace_seconds": (_at_least(1), "1 or more"),
    "retries": (_at_least(0), "0 or more"),
    "keep_hours": (_at_least(0), "0 or more"),
}
