"""The local engine: worker processes on this machine.

Trials of the built-in trainer go to the workers as packs and train together; trials of a user's own script run as one
process each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from surge_sweeps.errors import SurgeError, TrackerError
from surge_sweeps.launch.base import Interrupted, LaunchResult
from surge_sweeps.launch.checks import check_trials
from surge_sweeps.launch.command import expand_command
from surge_sweeps.launch.lock import one_launch
from surge_sweeps.launch.packs import Pack, make_packs
from surge_sweeps.launch.scripts import run_scripts
from surge_sweeps.launch.stop import (
    POLL_SECONDS,
    Stopped,
    StopRequest,
    interrupts_ignored,
    stop_signals,
)
from surge_sweeps.launch.workers import available_cores, start_pool, stop_pool, train_pack
from surge_sweeps.progress import ProgressCallback
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.base import RunRecord, Tracker

#: Bounds what a kill can lose and how long a pack runs before the progress bar moves.
TRIALS_PER_PACK = 96

_AGAIN = "Call the same command again to run the missing trials."


class LocalLauncher:
    """Runs trials on this machine.

    Args:
        agents: worker processes. Default: one per core for the built-in trainer, one for a user's script, which may
            well use all cores or the one GPU itself.
    """

    def __init__(self, agents: int | None = None) -> None:
        if agents is not None and agents < 1:
            raise SurgeError(f"the number of agents is {agents}.", "It must be 1 or more.")
        self._agents = agents

    def launch(self, sweeps: Sequence[Sweep], tracker: Tracker, progress: ProgressCallback) -> LaunchResult:
        """Run every trial of `sweeps` that has no result on `tracker`; see `Launcher.launch`."""
        for sweep in sweeps:
            _check(sweep)
        planned = {trial.trial_id: (sweep, trial) for sweep in sweeps for trial in sweep.trials()}
        result = LaunchResult(len(planned), 0)
        with one_launch(), stop_signals() as stop:
            tracker.give_up_when(lambda: stop.is_requested)
            try:
                pending = _pending(sweeps, planned, tracker)
                result = LaunchResult(len(planned), len(planned) - sum(len(trials) for _, trials in pending))
                stop.check()
                builtin = [(sweep, trials) for sweep, trials in pending if sweep.is_builtin]
                scripts = [(sweep, trials) for sweep, trials in pending if not sweep.is_builtin]
                if builtin:
                    self._train(builtin, tracker, result, progress, stop)
                if scripts:
                    run_scripts(scripts, tracker, self._agents or 1, result, progress, stop)
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

    def _train(
        self,
        work: Sequence[tuple[Sweep, list[Trial]]],
        tracker: Tracker,
        result: LaunchResult,
        progress: ProgressCallback,
        stop: StopRequest,
    ) -> None:
        packs = [pack for sweep, trials in work for pack in make_packs(sweep, trials, TRIALS_PER_PACK)]
        # The cheapest first: the writer, which is one process, then has work from the start.
        packs.sort(key=lambda pack: pack.cost)
        total = sum(pack.cost for pack in packs)
        done = 0.0
        progress(done, total, "starting workers")
        pool = start_pool(min(self._agents or available_cores(), len(packs)))
        try:
            with interrupts_ignored():
                futures = {pool.submit(train_pack, pack.trials): pack for pack in packs}
            for pack, future in _as_they_end(futures, stop):
                records = _records(pack, future, result)
                tracker.write_runs(pack.sweep_id, records)
                result.ended.update(record.status for record in records)
                done += pack.cost
                progress(done, total, pack.label)
        finally:
            stop_pool(pool)


def _check(sweep: Sweep) -> None:
    check_trials(sweep)
    if not sweep.is_builtin:
        expand_command(sweep, sweep.trials()[0])


def _pending(
    sweeps: Sequence[Sweep], planned: Mapping[str, tuple[Sweep, Trial]], tracker: Tracker
) -> list[tuple[Sweep, list[Trial]]]:
    """The sweeps with the trials that have no result yet in the whole project; each trial in one sweep only."""
    for sweep in sweeps:
        tracker.open_sweep(sweep.sweep_id, sweep.name, sweep.to_dict())
    done = tracker.done_trials()
    pending: list[tuple[Sweep, list[Trial]]] = []
    for sweep in {sweep.sweep_id: sweep for sweep in sweeps}.values():
        missing = [
            trial for owner, trial in planned.values() if owner is sweep and trial.trial_id not in done
        ]
        if missing:
            tracker.close_stale(sweep.sweep_id)
            pending.append((sweep, missing))
    return pending


def _as_they_end(
    futures: dict[Future[list[RunRecord]], Pack], stop: StopRequest
) -> Iterator[tuple[Pack, Future[list[RunRecord]]]]:
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
        stop.check()
        for future in ended:
            yield futures[future], future


def _records(pack: Pack, future: Future[list[RunRecord]], result: LaunchResult) -> list[RunRecord]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SurgeError(
            "a worker process died, probably killed for using too much memory.",
            "The trials done are kept; call again with fewer --agents to run the rest.",
        ) from error
    except SurgeError as error:
        result.failures.update({trial.trial_id: str(error) for trial in pack.trials})
        return []
