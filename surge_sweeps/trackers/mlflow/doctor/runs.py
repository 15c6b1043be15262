"""Runs that look open and are not, and results that contradict themselves."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from surge_sweeps.counting import counted
from surge_sweeps.curves import RESULT_STATUSES
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.trackers.assemble import STALE_AFTER_S
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS
from surge_sweeps.trackers.mlflow.client import connect, store_errors
from surge_sweeps.trackers.mlflow.doctor.facts import RunFacts
from surge_sweeps.trackers.mlflow.doctor.finding import Finding
from surge_sweeps.trackers.mlflow.record import NOT_TRIALS, TAG_KIND, TAG_PARENT, TAG_STATUS, TAG_TRIAL_ID
from surge_sweeps.trackers.stored_runs import as_status, stamp_ms

_MEND_HINT = "What was mended before stays so; call the same command again for the rest."


def run_findings(uri: str, facts: Sequence[RunFacts], *, is_launching: bool = False) -> list[Finding]:
    """What is wrong with the runs.

    Args:
        uri: the store, to mend it. facts: all runs.
        is_launching: a launch is at work in this folder, so that open runs of ours may be its own.
    """
    oldest_ms = (time.time() - STALE_AFTER_S) * 1000
    active_ms = _activity(facts)
    stale = [run for run in facts if run.is_open and active_ms[run.run] < oldest_ms]
    trials = [run for run in stale if run.tags.get(TAG_KIND) == "trial"]
    parents = [run for run in stale if run.tags.get(TAG_KIND) in NOT_TRIALS]
    foreign = [run for run in stale if TAG_KIND not in run.tags]
    found = [
        _stale_trials(uri, trials, is_launching) if trials else None,
        _stale_parents(uri, parents, is_launching) if parents else None,
        _stale_foreign(uri, foreign) if foreign else None,
        _broken_results(facts),
        _repeated(facts),
    ]
    return [finding for finding in found if finding is not None]


def _activity(facts: Sequence[RunFacts]) -> dict[str, float]:
    """When each run was last known to be at work, milliseconds since 1970; a parent is while its children are.

    Infinite where the times of its points are none: whoever may be at work is not to be ended.
    """
    own = {run.run: _seen_ms(run) for run in facts}
    parent = {run.run: run.tags[TAG_PARENT] for run in facts if TAG_PARENT in run.tags}
    found = dict(own)
    for run, at in own.items():
        seen = {run}
        above = parent.get(run)
        # A parent's parent too; ids come from tags, which may point in circles.
        while above in found and above not in seen:
            found[above] = max(found[above], at)
            seen.add(above)
            above = parent.get(above)
    return found


def _seen_ms(run: RunFacts) -> float:
    newest = stamp_ms(run.newest_ms)
    return math.inf if newest is None else max(run.start_ms or 0, run.end_ms or 0, newest)


def _stale_trials(uri: str, runs: Sequence[RunFacts], is_launching: bool) -> Finding:
    remedy = (
        "A launch is running in this folder and may be working on them: wait for it, then look again."
        if is_launching
        else "Set them to KILLED, and our own status to `crashed` where there is none. Trials still at work"
        " somewhere, with more than an hour between two points, must not be mended."
    )
    return Finding(
        "stale-trials",
        f"{counted(len(runs), 'trial')} of sweeps {_are(runs)} marked as running and logged nothing for an hour.",
        "Whatever ran them was probably killed. They count as missing, and the UI shows them as running for ever.",
        remedy,
        items=_titles(runs),
        mend=None if is_launching else lambda progress: _close(uri, runs, progress),
    )


def _stale_parents(uri: str, runs: Sequence[RunFacts], is_launching: bool) -> Finding:
    remedy = (
        "A launch is running in this folder and may be working on them: wait for it, then look again."
        if is_launching
        else "Set them to KILLED; the next launch of the sweep opens its run again."
    )
    return Finding(
        "stale-parents",
        f"{counted(len(runs), 'sweep')} {_are(runs)} marked as running, and no trial of"
        f" {'it' if len(runs) == 1 else 'them'} is at work.",
        "The launch was probably killed. The results are not touched by it; the UI shows a sweep at work.",
        remedy,
        items=_titles(runs),
        mend=None if is_launching else lambda progress: _close(uri, runs, progress),
    )


def _stale_foreign(uri: str, runs: Sequence[RunFacts]) -> Finding:
    return Finding(
        "stale-runs",
        f"{counted(len(runs), 'run')} of other programs {_are(runs)} marked as running and logged nothing for an"
        " hour.",
        "They were probably killed. Reports count them as stale, which is no result.",
        "Set them to KILLED. A program still at work that logs less than once an hour goes on logging, but its run"
        " looks ended.",
        items=_titles(runs),
        mend=lambda progress: _close(uri, runs, progress),
    )


def _close(uri: str, runs: Sequence[RunFacts], progress: ProgressCallback) -> str:
    """End the runs as the writer would have, at the time of their last sign of life."""
    client = connect(uri)
    closed = 0
    awake = 0
    for number, facts in enumerate(runs):
        progress(number, len(runs), "runs")
        with store_errors(uri, "mended", _MEND_HINT):
            run = client.get_run(facts.run)
            if run.info.status != facts.state or _newest_ms(run) > facts.newest_ms:
                # It has come to life, or somebody else has ended it, since it was looked at.
                awake += 1
                continue
            status = run.data.tags.get(TAG_STATUS)
            if status is None and run.data.tags.get(TAG_KIND) == "trial":
                client.set_tag(facts.run, TAG_STATUS, "crashed")
            # A kill between the status and the end of the run leaves a result that only looks open.
            ended = "FINISHED" if as_status(status) in RESULT_STATUSES else "KILLED"
            last = max(stamp_ms(facts.newest_ms) or 0, facts.start_ms or 0) or None
            client.set_terminated(facts.run, ended, end_time=last)
            closed += 1
    left = f"; {counted(awake, 'run')} changed meanwhile and left alone" if awake else ""
    return f"{counted(closed, 'run')} ended{left}"


def _newest_ms(run: Any) -> int:
    return max((int(point.timestamp) for point in run.data._metric_objs or []), default=0)


def _broken_results(facts: Sequence[RunFacts]) -> Finding | None:
    runs = [
        run
        for run in facts
        if run.tags.get(TAG_STATUS) == "finished" and run.broken & {TRAIN_LOSS, EVAL_LOSS}
    ]
    if not runs:
        return None
    return Finding(
        "broken-results",
        f"{counted(len(runs), 'trial')} {_are(runs)} marked as finished with a last loss that is no finite number.",
        "Such a trial has diverged. Reports trust the status that was written, and meet a NaN where they expect a"
        " loss.",
        "Not mended from here. If they diverged, set their tag: surge.status = diverged.",
        items=_titles(runs),
    )


def _repeated(facts: Sequence[RunFacts]) -> Finding | None:
    trials: defaultdict[tuple[str, str], list[RunFacts]] = defaultdict(list)
    for run in facts:
        trial = run.tags.get(TAG_TRIAL_ID)
        if trial is not None and as_status(run.tags.get(TAG_STATUS)) in RESULT_STATUSES:
            trials[run.experiment, trial].append(run)
    repeated = [run for runs in trials.values() if len(runs) > 1 for run in runs]
    if not repeated:
        return None
    count = sum(len(runs) > 1 for runs in trials.values())
    return Finding(
        "repeated-trials",
        f"{counted(count, 'trial')} ended with a result more than once: {counted(len(repeated), 'run')}.",
        "Two launches ran at the same time, or a table was written twice. Reports take the one that ended first.",
        "Nothing must be done. Delete the later ones in the UI if they disturb.",
        is_fault=False,
        items=_titles(repeated),
    )


def _titles(runs: Sequence[RunFacts]) -> tuple[str, ...]:
    return tuple(run.title for run in runs)


def _are(runs: Sequence[RunFacts]) -> str:
    return "is" if len(runs) == 1 else "are"
