"""What is wrong with the pods of a Job that its schema lets pass: volumes, secrets in the open, amounts, deadlines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from surge_sweeps.launch.kubernetes.manifest import CONTAINER
from surge_sweeps.launch.kubernetes.names import is_label, is_quantity
from surge_sweeps.launch.kubernetes.reading import Document, items, part

_SECRET = re.compile(r"key|token|passw|secret|credential", re.IGNORECASE)
_PASSWORD_IN_ADDRESS = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def pod_problems(job: Document, plans: set[str]) -> Iterator[str]:
    """Sentences on what is wrong with a Job's pods.

    Args:
        plans: names of the ConfigMaps that hold the plan.
    """
    spec = part(job, "spec", "template", "spec")
    containers = items(spec, "containers")
    names = [str(container.get("name")) for container in containers]
    if CONTAINER not in names:
        yield f"Pod: there is no container {CONTAINER!r}, whose exit code tells how a trial ended."
    if len(set(names)) < len(names) or not all(is_label(name) for name in names):
        yield "Pod: the containers' names must be different, of lower-case letters, digits and '-'."
    for name in ("activeDeadlineSeconds", "terminationGracePeriodSeconds"):
        value = spec.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            yield f"Pod: {name} must be 1 or more."
    volumes = items(spec, "volumes")
    declared = [str(volume.get("name")) for volume in volumes]
    if len(set(declared)) < len(declared):
        yield "Pod: two volumes have one name."
    if not any(part(volume, "configMap").get("name") in plans for volume in volumes):
        yield "Pod: no volume is the ConfigMap with the plan."
    for container in containers:
        for problem in _container_problems(container, set(declared)):
            yield f"Pod: container {container.get('name')!r}: {problem}"


def _container_problems(container: Document, volumes: set[str]) -> Iterator[str]:
    if not container.get("image"):
        yield "it needs an image."
    paths = [str(mount.get("mountPath", "")) for mount in items(container, "volumeMounts")]
    for mount, path in zip(items(container, "volumeMounts"), paths, strict=True):
        if str(mount.get("name")) not in volumes:
            yield f"there is no volume {mount.get('name')!r}."
        if not path.startswith("/") or ":" in path:
            yield f"the mountPath {path!r} must be absolute, without ':'."
    if len(set(paths)) < len(paths):
        yield "two volumes are mounted at one path."
    for variable in items(container, "env"):
        name, value = str(variable.get("name")), str(variable.get("value") or "")
        if value and (_SECRET.search(name) or _PASSWORD_IN_ADDRESS.search(value)):
            yield f"the variable {name!r} would show a secret to whoever reads the Job: put it into a Secret (envFrom)."
    yield from _amount_problems(part(container, "resources"))


def _amount_problems(resources: Document) -> Iterator[str]:
    requests, limits = part(resources, "requests"), part(resources, "limits")
    for name, value in (*requests.items(), *limits.items()):
        if not is_quantity(value):
            yield f"{value!r} is no amount of {name}."
        # Resources with a domain are devices: handed out whole, and never more of them than asked for.
        elif "/" in str(name) and not str(value).isdecimal():
            yield f"{value!r} of {name}: whole ones only."
    for name, value in requests.items():
        if "/" in str(name) and limits.get(name) != value:
            yield f"{name}: requests and limits must be the same."
