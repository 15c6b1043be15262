"""Whether a Job's failure policy is one that the API server takes, and one that loses no trial and repeats none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surge_sweeps.launch.kubernetes.reading import Document, items, part

_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_OPERATORS = ("In", "NotIn")
_STATUSES = ("False", "True", "Unknown")
_MAX_RULES = 20
_MAX_CODES = 255
#: What `run_task` ends with where a trial has no result.
_FAILED = 1
_DISRUPTED = "DisruptionTarget"


def failure_problems(job: Document) -> Iterator[str]:
    """Sentences on what is wrong with the failure policy, the limits of retries and the restart policy."""
    spec = part(job, "spec")
    if spec.get("backoffLimitPerIndex") is None:
        yield "Job: without backoffLimitPerIndex a few failed trials end all others."
    restart = part(spec, "template", "spec").get("restartPolicy")
    if restart != "Never":
        yield f"Job: restartPolicy is {restart!r}; backoffLimitPerIndex and podFailurePolicy need 'Never'."
    if spec.get("podReplacementPolicy") not in (None, "Failed"):
        yield "Job: podReplacementPolicy must be 'Failed' with a podFailurePolicy, else two pods do one trial."
    rules = items(part(spec, "podFailurePolicy"), "rules")
    if not rules:
        yield "Job: without a podFailurePolicy a trial that failed is run again."
        return
    if len(rules) > _MAX_RULES:
        yield f"Job: podFailurePolicy has more than {_MAX_RULES} rules."
    containers = part(spec, "template", "spec")
    names = {
        str(one.get("name")) for key in ("containers", "initContainers") for one in items(containers, key)
    }
    for number, rule in enumerate(rules):
        for problem in _rule_problems(rule, names, spec):
            yield f"Job: podFailurePolicy.rules[{number}]: {problem}"
    yield from _order_problems(rules)


def _rule_problems(rule: Document, containers: set[str], spec: Document) -> Iterator[str]:
    action = rule.get("action")
    if action not in _ACTIONS:
        yield f"the action {action!r} is none of {', '.join(_ACTIONS)}."
    if action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
        yield "FailIndex needs backoffLimitPerIndex."
    codes, conditions = part(rule, "onExitCodes"), items(rule, "onPodConditions")
    if bool(codes) == bool(conditions):
        yield "it needs either onExitCodes or onPodConditions."
    if codes:
        yield from _code_problems(codes, containers)
    for condition in conditions:
        if condition.get("status", "True") not in _STATUSES:
            yield f"the status {condition.get('status')!r} must be one of {', '.join(_STATUSES)}, in quotes."


def _code_problems(codes: Document, containers: set[str]) -> Iterator[str]:
    operator, values = codes.get("operator"), codes.get("values")
    if operator not in _OPERATORS:
        yield f"the operator {operator!r} is neither In nor NotIn."
    name = codes.get("containerName")
    if name is not None and name not in containers:
        yield f"there is no container {name!r}."
    if not isinstance(values, list) or not 1 <= len(values) <= _MAX_CODES:
        yield f"it needs between 1 and {_MAX_CODES} exit codes."
    elif not all(isinstance(value, int) for value in values):
        yield "exit codes are whole numbers."
    else:
        if operator == "In" and 0 in values:
            yield "0 is no exit code of a failure."
        if values != sorted(set(values)):
            yield "its exit codes must rise."


def _order_problems(rules: list[Document]) -> Iterator[str]:
    if _action(rules, _FAILED, disrupted=False) not in ("FailIndex", None):
        yield "Job: a trial whose program failed must be FailIndex: again would not help, nor should others end."
    elif _action(rules, _FAILED, disrupted=False) is None:
        yield "Job: no rule fits a trial whose program failed, which then is run again."
    if _action(rules, 137, disrupted=True) != "Ignore":
        yield f"Job: a pod that the cluster took away ({_DISRUPTED}) must be Ignore, above all exit codes."


def _action(rules: list[Document], code: int, *, disrupted: bool) -> Any:
    """What the first rule that fits says on a container that ended with `code`; None where none fits."""
    for rule in rules:
        codes = part(rule, "onExitCodes")
        values = codes.get("values")
        if codes and isinstance(values, list) and (code in values) == (codes.get("operator") == "In"):
            return rule.get("action")
        conditions = items(rule, "onPodConditions")
        if disrupted and any(one.get("type") == _DISRUPTED for one in conditions):
            return rule.get("action")
    return None
