"""One launch from sweeps to results, the same on every engine.

The tracker is the truth about what is done, and the engines about what is still in their hands: only the trials that
have no result and are in no engine's hands are planned and handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from surge_sweeps.errors import TrackerError
from surge_sweeps.launch.base import IN_FLIGHT, Interrupted, Launcher, LaunchResult
from surge_sweeps.launch.checks import Check, check_trials, no_check
from surge_sweeps.launch.command import expand_command
from surge_sweeps.launch.folder import Launch
from surge_sweeps.launch.lock import one_launch
from surge_sweeps.launch.packs import make_packs
from surge_sweeps.launch.plan import Plan, Resources, Task, new_launch_id
from surge_sweeps.launch.recorded import InFlight, in_flight, over_launches
from surge_sweeps.launch.stop import Stopped, stop_signals
from surge_sweeps.launch.target import Target
from surge_sweeps.launch.watch import OnStatus, Watch, tell_nobody
from surge_sweeps.progress import ProgressCallback, no_progress
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.base import Tracker

#: Trials of a pack at most: bounds what a kill can lose and how long nothing seems to move.
TRIALS_PER_PACK = 96

_AGAIN = "Call the same command again to run the missing trials."


def launch_sweeps(
    sweeps: Sequence[Sweep],
    target: Target,
    store: Tracker,
    launcher: Launcher,
    *,
    packed: bool = False,
    resources: Resources | None = None,
    wait: bool = True,
    progress: ProgressCallback = no_progress,
    on_status: OnStatus = tell_nobody,
    on_submitted: Callable[[], object] = lambda: None,
    check: Check = no_check,
) -> LaunchResult:
    """Run every trial of `sweeps` that has no result, and that no engine is at work on.

    Args:
        target: where the runs go. store: the same, open. packed: train the trials of a batch size together where they
            call the built-in trainer. resources: for each task. wait: return when every task has ended; else when the
            engine has them. on_status: told how the tasks stand, again and again. on_submitted: called once the sweeps
            count as launched: the engine has what was to do, or nothing was. check: of each sweep's trials that are to
            be done, before anything is written; it may raise.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP. Tasks that do not outlive the launch have ended, others go on.
        TrackerError: the store is away. SurgeError: the sweeps cannot run, or the engine refuses them.
    """
    _check(sweeps)
    planned = {trial.trial_id: (sweep, trial) for sweep in sweeps for trial in sweep.trials()}
    result = LaunchResult(len(planned), 0)
    with one_launch(), stop_signals() as stop:
        store.give_up_when(lambda: stop.is_requested)
        try:
            engines = in_flight(target, is_alone=True)
            over = over_launches(target.working_folder)

            def look() -> tuple[set[str], InFlight, list[Work]]:
                """What is done, what is in hand, and what is left to do."""
                done = planned.keys() & store.done_trials().keys()
                busy = _with_others(engines, store, sweeps, over)
                return done, busy, _pending(planned, done | busy.trials.keys())

            done, busy, pending = look()
            result = _before(planned, done, busy)
            for work in pending:
                check(work.sweep, work.trials, stop)
            stop.check()
            if pending:
                # Data may have been made ready for minutes, while another machine began.
                done, busy, pending = look()
                result = _before(planned, done, busy)
            for sweep in sweeps:
                store.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
                store.close_stale(sweep.sweep_id, busy.trials.keys(), over)
            stop.check()
            tasks = plan_tasks(pending, packed=packed)
            if tasks:
                launch = Launch.create(_plan(target, pending, tasks, resources or Resources(), launcher))
                watch = Watch(launch, launcher, progress, on_status, on_submitted)
                try:
                    watch.run(stop, wait=wait)
                except (Stopped, KeyboardInterrupt):
                    _conclude(watch, store, done, result)
                    raise
                _conclude(watch, store, done, result)
            else:
                on_submitted()
        except (Stopped, KeyboardInterrupt) as error:
            raise Interrupted(f"stopped. {result.summary()}.", _AGAIN) from error
        except TrackerError as error:
            if not stop.is_requested:
                raise
            # The store was away when the user stopped waiting for it.
            raise Interrupted(
                f"stopped. {result.summary()}. {error.what[:1].upper()}{error.what[1:]}",
                f"What was written is kept. {_AGAIN}",
            ) from error
    return result


class Work(NamedTuple):
    """Trials of a sweep that are to be done."""

    sweep: Sweep
    trials: Sequence[Trial]


def plan_tasks(pending: Sequence[Work], *, packed: bool) -> list[Task]:
    """Cut work into tasks: one a trial, or where `packed` packs of the trials of a batch size, the cheapest first.

    Trials of a user's own script are never packed.
    """
    packs = [
        (pack.cost, Task("pack", number, tuple(trial.trial_id for trial in pack.trials)))
        for number, work in enumerate(pending)
        if packed and work.sweep.is_builtin
        for pack in make_packs(work.sweep, work.trials, TRIALS_PER_PACK)
    ]
    # The cheapest first: where one process writes them all, it then has work from the start.
    packs.sort(key=lambda item: item[0])
    single = [
        Task("trial", number, (trial.trial_id,))
        for number, work in enumerate(pending)
        if not (packed and work.sweep.is_builtin)
        for trial in work.trials
    ]
    return [task for _, task in packs] + single


def preview(
    sweeps: Sequence[Sweep],
    target: Target,
    store: Tracker,
    launcher: Launcher,
    *,
    packed: bool = False,
    resources: Resources | None = None,
) -> str:
    """What `launch_sweeps` would hand to the engine now, as its `describe` shows it; nothing is written anywhere."""
    _check(sweeps)
    planned = {trial.trial_id: (sweep, trial) for sweep in sweeps for trial in sweep.trials()}
    busy = in_flight(target, is_alone=False)
    done = planned.keys() & store.done_trials().keys()
    busy = _with_others(busy, store, sweeps, over_launches(target.working_folder))
    pending = _pending(planned, done | busy.trials.keys())
    tasks = plan_tasks(pending, packed=packed)
    if not tasks:
        return f"Nothing would be submitted: {_before(planned, done, busy).summary()}."
    plan = _plan(target, pending, tasks, resources or Resources(), launcher)
    return launcher.describe(Launch.at_home(plan))


def _with_others(busy: InFlight, store: Tracker, sweeps: Sequence[Sweep], over: Collection[str]) -> InFlight:
    """What is in flight, and the trials that launches made elsewhere are at work on, by what their runs tell."""
    others = {
        trial: f"the run {run}"
        for sweep in sweeps
        for trial, run in store.busy_trials(sweep.sweep_id, over).items()
    }
    return InFlight({**others, **busy.trials}, busy.launches)


def _check(sweeps: Sequence[Sweep]) -> None:
    for sweep in sweeps:
        check_trials(sweep)
        if not sweep.is_builtin:
            expand_command(sweep, sweep.trials()[0])


def _before(planned: Collection[str], done: Collection[str], busy: InFlight) -> LaunchResult:
    """The result of a launch that found nothing to do."""
    result = LaunchResult(len(planned), len(done))
    result.running.update((trial, where) for trial, where in busy.trials.items() if trial in planned)
    if result.running:
        result.launches.update(busy.launches)
    return result


def _pending(planned: Mapping[str, tuple[Sweep, Trial]], taken: Collection[str]) -> list[Work]:
    """What is left to do, each trial in one sweep only."""
    sweeps = {sweep.sweep_id: sweep for sweep, _ in planned.values()}
    left = [(sweep.sweep_id, trial) for sweep, trial in planned.values() if trial.trial_id not in taken]
    work = [
        Work(sweep, [trial for own, trial in left if own == sweep_id]) for sweep_id, sweep in sweeps.items()
    ]
    return [item for item in work if item.trials]


def _plan(
    target: Target, pending: Sequence[Work], tasks: Sequence[Task], resources: Resources, launcher: Launcher
) -> Plan:
    return Plan(
        new_launch_id(),
        target.project,
        target.tracker,
        target.uri,
        target.working_folder,
        tuple(work.sweep for work in pending),
        tuple(tasks),
        resources,
        launcher.name,
        target.store_id,
    )


def _conclude(watch: Watch, store: Tracker, done_before: Collection[str], result: LaunchResult) -> None:
    """Add to `result` what became of the launch's trials, by the tracker's word, and close what killed tasks left."""
    done = store.done_trials()
    plan = watch.launch.plan
    for number, sweep in enumerate(plan.sweeps):
        own = [state.state for task, state in watch.states.items() if plan.tasks[task].sweep == number]
        if "failed" in own and not set(own) & set(IN_FLIGHT):
            store.close_stale(sweep.sweep_id, result.running, {plan.launch_id})
    result.cut_off.update(watch.cut_off)
    for task, state in watch.states.items():
        for trial in plan.tasks[task].trials:
            if trial in done_before:
                continue
            if trial in done:
                result.ended[done[trial]] += 1
            elif state.state in IN_FLIGHT:
                result.running[trial] = watch.where(task)
                result.launches[plan.launch_id] = plan.engine
            elif trial not in watch.cut_off:
                result.failures[trial] = state.why or "its run has no result"
