"""Choosing all names of a project at once: `choose_names`."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from surge_sweeps.curves import Problem
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS, ReadOptions
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.axis import (
    Counter,
    ReadSeries,
    Scale,
    choose_axis,
    counters_of,
    tells_nothing_more,
)
from surge_sweeps.trackers.naming.frameworks import FRAMEWORKS, PROCESS_KEYS, Framework
from surge_sweeps.trackers.naming.losses import choose_loss, deciding_runs
from surge_sweeps.trackers.naming.names import (
    OWN_STEP,
    AmbiguousNameError,
    ReadNames,
    StepAxis,
    number,
    unit_metric,
)
from surge_sweeps.trackers.naming.parameters import (
    Settings,
    choose_batch,
    choose_lr,
    choose_seed,
    choose_sequence_length,
)
from surge_sweeps.trackers.stored_runs import StoredRun

#: What the run record of this tool is called among the frameworks.
OWN_RECORD = "this tool's run record"


class _Kind(NamedTuple):
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
        if self.own or self.record:
            return OWN_RECORD
        return self.framework.name if self.framework else ""


def choose_names(
    stored: Sequence[StoredRun], options: ReadOptions, *, own_step: bool, read: ReadSeries
) -> ReadNames:
    """What a project's runs call the things that are read.

    What the user named decides; then this tool's own run record, where runs have it; then the framework whose metrics
    most runs have; then names in common use. One set of names serves the whole project: runs that lack them are left
    out by whoever reads.

    Args:
        stored: every run. options: what the user named, and the batch unit.
        own_step: the store's own step is the optimizer step whoever logged it.
        read: the series of a few runs, for a look at what the store's own step counts.

    Raises:
        UnknownNameError: a name asked for that no run has, or nothing of a known name.
        AmbiguousNameError: several names that are not the same thing; the message lists them and the flag to give.
        SurgeError: nothing tells the optimizer step.
    """
    kinds = {run.run: _kind_of(run) for run in stored}
    kind, voters = _vote(stored, kinds, options)
    settings = Settings(voters, kind.own, kind.framework)
    problems: list[Problem] = []
    lr = choose_lr(settings, options.lr)
    seed = choose_seed(settings, options.seed)
    batch = choose_batch(settings, options.batch_size, options.batch_unit)
    length = choose_sequence_length(settings)

    usable = [
        run for run in voters if number(run.params.get(lr)) is not None and batch.of(run.params) is not None
    ]
    loss = choose_loss(usable, kind.framework, options.loss, kind.own, problems)
    decisive = [run for run in deciding_runs(usable) if loss in run.metrics]
    scale = Scale(batch, "tokens" if options.batch_unit == "tokens" else "examples", length)
    counters = counters_of(decisive, kind.framework, options.examples, options.batch_unit)
    axis, why = choose_axis(
        decisive,
        kind.framework,
        options.step,
        counters,
        scale,
        problems,
        own=kind.own,
        trusted=own_step,
        read=read,
    )
    seen = _seen(decisive, kind.framework, counters, axis, scale, options)
    names = ReadNames(
        loss=loss,
        lr=lr,
        batch=batch,
        seed=seed,
        step=axis,
        batch_counts=scale.counts,
        sequence_length=length,
        examples=seen,
        ignored=_ignored(settings, lr, seed, batch.keys),
        foreign=not kind.own and (kind.framework is not None or (lr, *batch.keys) != ("lr", "batch_size")),
        problems=tuple(problems),
        left_out={} if own_step or options.step is not None else _of_others(kinds, kind),
    )
    return replace(names, read_as=_in_words(names, kind, why, settings)) if stored else names


def _kind_of(run: StoredRun) -> _Kind:
    """Frameworks first: a script that uses one may keep our names too, and the framework's steps are its own."""
    named = {"lr", "batch_size"} <= run.params.keys()
    own = named and "trial_id" in run.params
    for framework in FRAMEWORKS:
        if any(mark <= run.metrics.keys() for mark in framework.signatures):
            return _Kind(own, False, framework)
    if named and not {EVAL_LOSS, TRAIN_LOSS}.isdisjoint(run.metrics):
        return _Kind(own, True, None)
    for framework in FRAMEWORKS:
        if any(mark <= run.params.keys() for mark in framework.settings):
            return _Kind(own, False, framework)
    return _Kind(own, False, None)


def _vote(
    stored: Sequence[StoredRun], kinds: Mapping[str, _Kind], options: ReadOptions
) -> tuple[_Kind, Sequence[StoredRun]]:
    """Which kind of runs decides, and these runs."""
    named = [run for run in stored if _has_named(run, options)] or list(stored)
    votes = Tally(kinds[run.run].name for run in deciding_runs(named) if kinds[run.run].name)
    if not votes:
        return _Kind(False, False, None), named
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


def _loss_of(name: str, runs: Sequence[StoredRun], kinds: Mapping[str, _Kind]) -> str:
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


def _seen(
    runs: Sequence[StoredRun],
    framework: Framework | None,
    counters: Sequence[Counter],
    axis: StepAxis,
    scale: Scale,
    options: ReadOptions,
) -> str | None:
    """The metric that counts what was seen; None where steps times batch size say the same.

    A counter that is only called like one may serve to find the step, but is not taken at its word here.
    """
    own = unit_metric(options.batch_unit)
    if options.examples is None and (
        framework is None or own in {name for run in runs for name in run.metrics}
    ):
        return None if axis.metric == own else own
    declared = (*framework.examples, *framework.tokens) if framework else ()
    for counter in counters:
        if counter.counts == scale.counts and counter.metric in (options.examples, *declared):
            return None if tells_nothing_more(runs, counter, axis, scale) else counter.metric
    return None


def _ignored(settings: Settings, lr: str, seed: str, factors: Sequence[str]) -> frozenset[str]:
    """Settings that say again, or in parts, what the learning rate, the batch size and the seed are."""
    again = {name for name in settings.find(aliases.LR) if settings.same(lr, name)}
    again |= {name for name in settings.find(aliases.SEED) if settings.same(seed, name)}
    parts = (
        aliases.GLOBAL_BATCH,
        aliases.PLAIN_BATCH,
        aliases.MICRO_BATCH,
        aliases.ACCUMULATION,
        PROCESS_KEYS,
    )
    again |= {name for keys in parts for name in settings.find(keys)}
    return frozenset(again - {lr, seed, *factors, "lr", "batch_size", "seed"})


def _of_others(kinds: Mapping[str, _Kind], kind: _Kind) -> dict[str, str]:
    what = f"the project is read as {kind.name}"
    return {
        run: f"left out: logged by {other.name}, and {what}"
        for run, other in kinds.items()
        if kind.name and other.name not in ("", kind.name)
    }


def _in_words(names: ReadNames, kind: _Kind, why: str, settings: Settings) -> dict[str, str]:
    seed = names.seed if names.seed in settings.names else "not recorded"
    written = any(names.examples in run.metrics for run in settings.runs)
    logged_by = [OWN_RECORD] if kind.own else []
    logged_by += [kind.framework.name] if kind.framework else []
    return {
        "logged by": " and ".join(logged_by) or "unknown",
        "loss": names.loss,
        "learning rate": names.lr,
        "batch size": str(names.batch),
        "seed": seed,
        "step": why,
        "examples": names.examples if names.examples is not None and written else "step * batch size",
    }
