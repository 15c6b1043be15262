"""What runs were logged by, and which of them decide under which names a project is read: `vote`."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS, ReadOptions
from surge_sweeps.trackers.naming.frameworks import FRAMEWORKS, Framework
from surge_sweeps.trackers.naming.losses import choose_loss, deciding_runs
from surge_sweeps.trackers.naming.names import OWN_STEP, AmbiguousNameError, number
from surge_sweeps.trackers.stored_runs import StoredRun

#: What the run record of this tool is called among the frameworks.
OWN_RECORD = "this tool's run record"


class LoggedBy(NamedTuple):
    """What a run was logged by.

    Attributes:
        own: a program that this tool launched. record: it keeps the names of this tool's run record.
        framework: the training framework, if one is recognised.
    """

    own: bool
    record: bool
    framework: Framework | None

    @property
    def name(self) -> str:
        """What it is called in a message; empty where it is unknown."""
        if self.own or self.record:
            return OWN_RECORD
        return self.framework.name if self.framework else ""


def logged_by(run: StoredRun) -> LoggedBy:
    """What a run was logged by.

    Frameworks first: a script that uses one may keep our names too, and the framework's steps are its own.
    """
    named = {"lr", "batch_size"} <= run.params.keys()
    own = named and "trial_id" in run.params
    for framework in FRAMEWORKS:
        if any(mark <= run.metrics.keys() for mark in framework.signatures):
            return LoggedBy(own, False, framework)
    if named and not {EVAL_LOSS, TRAIN_LOSS}.isdisjoint(run.metrics):
        return LoggedBy(own, True, None)
    for framework in FRAMEWORKS:
        if any(mark <= run.params.keys() for mark in framework.settings):
            return LoggedBy(own, False, framework)
    return LoggedBy(own, False, None)


def vote(
    stored: Sequence[StoredRun], kinds: Mapping[str, LoggedBy], options: ReadOptions
) -> tuple[LoggedBy, Sequence[StoredRun]]:
    """Which kind of runs decides, and these runs.

    Args:
        stored: every run. kinds: what each was logged by. options: runs that lack a name asked for have no vote.

    Raises:
        AmbiguousNameError: as many runs were logged by one framework as by another.
    """
    named = [run for run in stored if _has_named(run, options)] or list(stored)
    votes = Tally(kinds[run.run].name for run in deciding_runs(named) if kinds[run.run].name)
    if not votes:
        return LoggedBy(False, False, None), named
    most = [name for name, count in votes.items() if count == max(votes.values())]
    launched = any(kinds[run.run].own for run in deciding_runs(named))
    if launched or OWN_RECORD in most:
        winner = OWN_RECORD
    elif len(most) == 1:
        winner = most[0]
    else:
        raise AmbiguousNameError(
            f"as many runs were logged by {' as by '.join(sorted(most))}.",
            "loss",
            sorted({_loss_of(name, named, kinds) for name in most}),
        )
    # Runs that name nothing known may use the names of the run record too: they are read as before.
    names = {winner, ""} if winner == OWN_RECORD else {winner}
    voters = [run for run in named if kinds[run.run].name in names]
    known = [kinds[run.run] for run in voters if kinds[run.run].name]
    return Tally([kind for kind in known if kind.own] or known).most_common(1)[0][0], voters


def _loss_of(name: str, runs: Sequence[StoredRun], kinds: Mapping[str, LoggedBy]) -> str:
    own = [run for run in runs if kinds[run.run].name == name]
    return choose_loss(own, kinds[own[0].run].framework, None, False, [])


def _has_named(run: StoredRun, options: ReadOptions) -> bool:
    metrics = [
        name for name in (options.loss, options.step, options.examples) if name not in (None, OWN_STEP)
    ]
    settings = [name for name in (options.lr, options.seed) if name is not None]
    if options.batch_size is not None:
        keys = {key.strip() for key in options.batch_size.split("*")}
        settings += [key for key in keys if number(key) is None]
    return all(name in run.metrics for name in metrics) and (
        all(name in run.params for name in settings) or options.batch_size in run.params
    )


def others_left_out(kinds: Mapping[str, LoggedBy], kind: LoggedBy) -> dict[str, str]:
    """Run -> why it is not read: it was logged by another program than the one that decided."""
    what = f"the project is read as {kind.name}"
    return {
        run: f"left out: logged by {other.name}, and {what}"
        for run, other in kinds.items()
        if kind.name and other.name not in ("", kind.name)
    }
