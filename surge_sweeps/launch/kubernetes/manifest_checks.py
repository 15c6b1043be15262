"""What a server refuses in a manifest, or takes and does the wrong thing with, though its schema allows it.

Run on every manifest before it is applied, and meant for one that a person edited too. The rules are those of the API
server's own validation of Jobs, and those of a sweep: no trial is lost, and none is run twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from surge_sweeps.launch.kubernetes.failure_checks import failure_problems
from surge_sweeps.launch.kubernetes.manifest import PLAN_KEY, QUEUE_LABEL
from surge_sweeps.launch.kubernetes.names import is_label, is_label_value, is_qualified_name, is_subdomain
from surge_sweeps.launch.kubernetes.pod_checks import pod_problems
from surge_sweeps.launch.kubernetes.pod_plan import MAX_PLAN_BYTES, MAX_TASKS
from surge_sweeps.launch.kubernetes.reading import Document, part

MAX_PARALLELISM = 100_000


def check_manifest(documents: Sequence[object]) -> list[str]:
    """Sentences on what is wrong with the documents of a manifest; none if it can be applied.

    Args:
        documents: as `yaml.safe_load_all` reads them, or as `manifests` makes them.

    >>> check_manifest([])
    ['there is no Job in it.', 'there is no ConfigMap with the plan in it.']
    """
    found = [document for document in documents if isinstance(document, dict)]
    jobs = [item for item in found if (item.get("apiVersion"), item.get("kind")) == ("batch/v1", "Job")]
    configs = [item for item in found if (item.get("apiVersion"), item.get("kind")) == ("v1", "ConfigMap")]
    problems = [] if len(jobs) == 1 else [f"there is {'no' if not jobs else 'more than one'} Job in it."]
    plans = [config for config in configs if PLAN_KEY in part(config, "data")]
    if not plans:
        problems.append("there is no ConfigMap with the plan in it.")
    for document in (*configs, *jobs):
        problems += _metadata_problems(document)
    for plan in plans:
        problems += _plan_problems(plan)
    for job in jobs:
        problems += _job_problems(job, plans)
        problems += failure_problems(job)
        problems += pod_problems(job, {str(part(plan, "metadata").get("name")) for plan in plans})
    return problems


def _metadata_problems(document: Document) -> Iterator[str]:
    metadata, kind = part(document, "metadata"), document["kind"]
    name = metadata.get("name")
    if not isinstance(name, str) or not is_subdomain(name):
        yield f"{kind}: metadata.name {name!r} is no name of lower-case letters, digits, '-' and '.'."
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and is_label(namespace)):
        yield f"{kind}: metadata.namespace {namespace!r} is no name of a namespace."
    yield from _label_problems(f"{kind}: metadata.labels", part(metadata, "labels"))


def _label_problems(where: str, labels: Document) -> Iterator[str]:
    for key, value in labels.items():
        if not is_qualified_name(str(key)):
            yield f"{where}: {key!r} is no name of a label."
        if not isinstance(value, str) or not is_label_value(value):
            yield f"{where}: {value!r} (of {key!r}) is no label; at most 63 letters, digits and '._-' in quotes."


def _plan_problems(plan: Document) -> Iterator[str]:
    size = sum(len(str(value).encode()) for value in part(plan, "data").values())
    if size > MAX_PLAN_BYTES:
        yield f"ConfigMap: {size:,} bytes of data are more than the {MAX_PLAN_BYTES:,} that it may hold."


def _planned_tasks(plans: Sequence[Document]) -> int | None:
    try:
        return len(json.loads(part(plans[0], "data")[PLAN_KEY])["tasks"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _job_problems(job: Document, plans: Sequence[Document]) -> Iterator[str]:
    spec, metadata = part(job, "spec"), part(job, "metadata")
    if spec.get("completionMode") != "Indexed":
        yield "Job: completionMode must be Indexed: each index is one task."
    completions, parallelism = spec.get("completions"), spec.get("parallelism")
    if completions is None or not _is_whole(completions, 1):
        yield "Job: completions must be the number of tasks."
        return
    tasks = _planned_tasks(plans)
    if plans and tasks is None:
        yield f"ConfigMap: {PLAN_KEY} is no plan of a launch."
    if tasks is not None and completions != tasks:
        yield f"Job: completions is {completions}, and the plan has {tasks} tasks."
    if parallelism is None or not _is_whole(parallelism, 1):
        yield "Job: parallelism must be 1 or more, or no task ever runs."
    elif parallelism > MAX_PARALLELISM:
        yield f"Job: parallelism is above {MAX_PARALLELISM:,}."
    longest = f"{metadata.get('name')}-{completions - 1}"
    if not is_label(longest):
        yield f"Job: the pods could not be named: {longest!r} is longer than 63 characters, or holds a '.'."
    yield from _limit_problems(spec, completions)
    labels = part(metadata, "labels")
    if spec.get("suspend") is True and QUEUE_LABEL not in labels:
        yield f"Job: it is suspended, and without the label {QUEUE_LABEL} nothing will start it."
    yield from _label_problems("Job: labels of the pods", part(spec, "template", "metadata", "labels"))


def _limit_problems(spec: Document, completions: int) -> Iterator[str]:
    for name, least in (
        ("backoffLimit", 0),
        ("backoffLimitPerIndex", 0),
        ("maxFailedIndexes", 0),
        ("activeDeadlineSeconds", 1),
        ("ttlSecondsAfterFinished", 0),
    ):
        if spec.get(name) is not None and not _is_whole(spec[name], least):
            yield f"Job: {name} must be a whole number of {least} or more."
    failed = spec.get("maxFailedIndexes")
    if failed is None and completions > MAX_TASKS:
        yield f"Job: more than {MAX_TASKS:,} tasks need maxFailedIndexes."
    elif failed is not None and _is_whole(failed, 0) and failed > completions:
        yield "Job: maxFailedIndexes is above completions."
    if failed is not None and spec.get("backoffLimitPerIndex") is None:
        yield "Job: maxFailedIndexes needs backoffLimitPerIndex."


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
