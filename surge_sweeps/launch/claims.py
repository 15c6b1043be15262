"""Which registered sweeps a launch works on, so that no trial is done twice: those it can join, and new ones.

Two launches that start at the same moment on two machines see nothing of each other, and both register. So each looks
again once it has registered: of sweeps that hold the same trials, the oldest is worked on, and the others are stopped
by those who made them, before any agent has started on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from surge_sweeps.errors import SurgeError
from surge_sweeps.rectangles import follow_up
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.wandb.client import WandbProject
from surge_sweeps.trackers.wandb.sweep_runs import handed_out
from surge_sweeps.trackers.wandb.sweeps import UNFINISHED, RegisteredSweep, list_sweeps, register, stop

#: How long after registering the others are looked for. W&B tells the time of a sweep to the second.
SETTLE_SECONDS = 2.0
_DESCRIBED = 3


class Work(NamedTuple):
    """A registered sweep with cells left.

    Attributes:
        path: as agents take it. cells: how many are left. ended: runs that it had before. loss: what its runs log.
        trials: those left. is_joined: another call registered it. url: its page.
    """

    path: str
    cells: int
    ended: int
    loss: str
    trials: frozenset[str] = frozenset()
    is_joined: bool = False
    url: str = ""

    @property
    def id(self) -> str:
        """W&B's id of it."""
        return self.path.rpartition("/")[2]


class Claims:
    """What one launch works on.

    Args:
        planned: trial id -> its sweep and itself. still_open: asks the server which trials are to be done.

    Attributes:
        left_to: trials that a launch elsewhere took at the same moment, in a sweep that holds others too -> its path.
    """

    def __init__(
        self,
        api: Any,
        project: WandbProject,
        planned: Mapping[str, tuple[Sweep, Trial]],
        still_open: Callable[[], set[str]],
    ) -> None:
        self._api = api
        self._project = project
        self._planned = planned
        self._still_open = still_open
        self._rivals: set[str] = set()
        self.left_to: dict[str, str] = {}

    def claim(self, to_do: set[str]) -> list[Work]:
        """Sweeps that hold these trials between them.

        Raises:
            SurgeError: a sweep that would be joined is paused. TrackerError: the server is away or refuses.
        """
        to_do = set(to_do)
        if not to_do:
            return []
        known = list_sweeps(self._api, self._project)
        work = self._join(known, to_do)
        own = self.register(to_do)
        if not own:
            return work
        time.sleep(SETTLE_SECONDS)
        listed = {sweep.id: sweep for sweep in list_sweeps(self._api, self._project)}
        others = listed.keys() - {sweep.id for sweep in known} - {item.id for item in own}
        lost: set[str] = set()
        for item in own:
            mine = listed.get(item.id)
            older = {
                sweep.id
                for sweep in (listed[other] for other in others)
                if sweep.state in UNFINISHED
                and sweep.trial_ids & item.trials
                and (mine is None or _age(sweep) < _age(mine))
            }
            if older:
                stop(item.path)
                self._rivals |= older
                lost |= item.trials
            else:
                work.append(item._replace(url=mine.url if mine else ""))
        return work + (self.claim(lost & self._still_open()) if lost else [])

    def register(self, to_do: set[str]) -> list[Work]:
        """New sweeps that hold these trials between them."""
        work: list[Work] = []
        for sweep in {id(sweep): sweep for sweep, _ in self._planned.values()}.values():
            mine = [trial for owner, trial in self._planned.values() if owner is sweep]
            own = [trial for trial in mine if trial.trial_id in to_do]
            whole = len(own) == len(sweep.trials())
            for part in [sweep] if whole else follow_up(sweep, own):
                trials = frozenset(trial.trial_id for trial in part.trials())
                path = f"{self._project.path}/{register(self._project, part)}"
                work.append(Work(path, len(trials), 0, part.loss, trials))
        return work

    def _join(self, listed: Sequence[RegisteredSweep], to_do: set[str]) -> list[Work]:
        """Join unfinished sweeps all of whose remaining trials are to do, and take those trials off `to_do`."""
        unfinished = sorted(
            (
                sweep
                for sweep in listed
                if sweep.state in UNFINISHED and sweep.trial_ids & self._planned.keys()
            ),
            # Whoever looks at the same sweeps takes the same ones.
            key=_age,
        )
        given = handed_out(self._api, self._project, unfinished)
        joined: list[Work] = []
        for sweep in unfinished:
            remaining = sweep.trial_ids - given[sweep.id]
            # A sweep that would also hand out trials that are done or taken is left alone: they would run twice.
            if remaining and remaining <= to_do:
                if sweep.state == "PAUSED":
                    raise _paused(sweep)
                to_do -= remaining
                joined.append(_join(sweep, remaining, len(given[sweep.id])))
            elif sweep.id in self._rivals:
                self.left_to |= dict.fromkeys(remaining & to_do, sweep.path)
                to_do -= remaining
        return joined


def described(work: Sequence[Work]) -> Iterator[str]:
    """Lines for the user: where the sweeps are, and how other machines may help.

    >>> list(described([Work("team/digits/ab12", 4, 0, "eval/loss")]))
    ['Sweep: team/digits/ab12', 'Other machines may help: wandb agent --forward-signals team/digits/ab12']
    """
    for item in work[:_DESCRIBED]:
        url = f" ({item.url})" if item.url else ""
        yield f"{'Joined sweep' if item.is_joined else 'Sweep'}: {item.path}{url}"
        yield f"Other machines may help: wandb agent --forward-signals {item.path}"
    if len(work) > _DESCRIBED:
        yield f"... and {len(work) - _DESCRIBED} more sweeps: call the same command there to help."


def _join(sweep: RegisteredSweep, remaining: frozenset[str], ended: int) -> Work:
    loss = sweep.definition.loss if sweep.definition else ""
    return Work(sweep.path, len(remaining), ended, loss, remaining, is_joined=True, url=sweep.url)


def _age(sweep: RegisteredSweep) -> tuple[str, str]:
    """Sorts the oldest first; the id decides between those of one second."""
    return sweep.created_at, sweep.id


def _paused(sweep: RegisteredSweep) -> SurgeError:
    return SurgeError(
        f"the sweep {sweep.path} is paused, so its agents would wait for ever.",
        f"Resume it with: wandb sweep --resume {sweep.path}   or end it with --stop, then call again.",
    )
