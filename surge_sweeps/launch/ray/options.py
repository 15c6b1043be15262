"""What a user may choose about Ray, and what a task asks of a node: checked before anything is handed over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.plan import Resources

GIB = 1024**3
#: Ray counts resources in ten-thousandths.
_SMALLEST_SHARE = 1e-4
_TOKEN_HINT = (
    "Give it as http://HEAD:8265, and set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token."
)
#: What Ray calls a resource -> what we call it.
_NAMES = {"CPU": "cores", "GPU": "GPUs", "memory": "GiB of memory"}


@dataclass(frozen=True)
class RayOptions:
    """How Ray is used.

    Attributes:
        address: of a running cluster's dashboard, `http://HEAD:8265`; None: a cluster of our own on this machine, which
            ends with the launch.
        max_retries: how often a task is run again after its worker or its node was lost; -1: always. Programs that fail
            are never run again.
        python: the interpreter on the cluster that has Ray and surge_sweeps; None: the path of this one.
        local_cpus, local_gpus: of a cluster of our own; None: all that this machine has.
        autoscaling: the cluster adds nodes when asked for more than it has, so asking for more is no mistake.
    """

    address: str | None = None
    max_retries: int = 3
    python: str | None = None
    local_cpus: int | None = None
    local_gpus: int | None = None
    autoscaling: bool = False

    def __post_init__(self) -> None:
        if self.address is not None:
            check_address(self.address)
        if self.max_retries < -1:
            raise SurgeError(f"max_retries is {self.max_retries}.", "It must be -1 (always), 0 or more.")
        for name, least in (("local_cpus", 1), ("local_gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SurgeError(f"{name} is {value}.", f"It must be {least} or more.")
            if value is not None and self.address is not None:
                raise SurgeError(
                    f"{name} is for a Ray cluster of our own, and the one at {self.address} is running already.",
                    "Leave one of the two away.",
                )


def check_address(address: str) -> None:
    """Raises `SurgeError` for what is not the address of a Ray dashboard, or holds a password.

    >>> check_address("http://head:8265")
    >>> check_address("ray://head:10001")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.SurgeError: 'ray://head:10001' is not the address of a Ray dashboard. Give it as ...
    """
    hint = "Give it as http://HEAD:8265, with the name of the cluster's head node."
    # By the text itself: an address that cannot be read may hold one too.
    if "@" in address:
        raise SurgeError("the address of the Ray cluster holds a user or a password.", _TOKEN_HINT)
    plain = re.split(r"[?#]", address)[0]
    if plain != address:
        raise SurgeError(
            f"the address of the Ray cluster goes on after {plain!r}, with what may be a token.", _TOKEN_HINT
        )
    try:
        parts = urlsplit(address)
        is_plain = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_plain = False
    if not is_plain or not address.isprintable() or " " in address:
        raise SurgeError(f"{address!r} is not the address of a Ray dashboard.", hint)


def task_options(resources: Resources, max_retries: int) -> dict[str, float | int]:
    """What Ray is told about each task: its place, and how often it is tried again where its worker is lost.

    Raises:
        SurgeError: Ray cannot give a task this.

    >>> task_options(Resources(gpus_per_task=0.5, memory_gb=2), 3)
    {'num_cpus': 1, 'num_gpus': 0.5, 'max_retries': 3, 'memory': 2147483648}
    """
    gpus = resources.gpus_per_task
    if resources.nodes > 1:
        raise SurgeError(
            f"each trial asks for {resources.nodes} nodes, and a Ray task has one.",
            "Launch with --on slurm, or give each trial one node.",
        )
    if (gpus > 1 and gpus != int(gpus)) or 0 < gpus < _SMALLEST_SHARE:
        raise SurgeError(
            f"each task asks for {gpus:g} GPUs, which Ray cannot give.",
            "Ask for a share of one GPU (0.5), or for a whole number of them.",
        )
    options: dict[str, float | int] = {
        "num_cpus": resources.cpus_per_task or 1,
        "num_gpus": int(gpus) if gpus == int(gpus) else gpus,
        "max_retries": max_retries,
    }
    if resources.memory_gb is not None:
        options["memory"] = int(resources.memory_gb * GIB)
    return options


def check_fits(options: Mapping[str, float | int], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises `SurgeError` where no node could ever run a task: it would wait for ever.

    Args:
        options: of `task_options`. nodes: what each node has in all, by Ray's names.

    >>> check_fits(task_options(Resources(gpus_per_task=4), 3), [{"CPU": 8, "GPU": 2}])
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.SurgeError: each task asks for 4 GPUs, and no node of the Ray cluster has more than 2. Ask ...
    """
    asked = {
        "CPU": options["num_cpus"],
        "GPU": options["num_gpus"],
        "memory": options.get("memory", 0),
    }
    if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        return
    hint = "Ask for less, or say that the cluster adds nodes by itself (autoscaling)."
    for name, amount in asked.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if amount > most:
            unit = GIB if name == "memory" else 1
            has = f"more than {most / unit:.4g}" if most else "any"
            raise SurgeError(
                f"each task asks for {amount / unit:.4g} {_NAMES[name]}, and no node of the Ray cluster has {has}.",
                hint,
            )
    text = " and ".join(f"{options[key]:g} {_NAMES[name]}" for name, key in _ASKED.items() if options[key])
    raise SurgeError(f"each task asks for {text}, and no node of the Ray cluster has all of it.", hint)


_ASKED = {"CPU": "num_cpus", "GPU": "num_gpus"}
