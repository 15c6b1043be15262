"""Choosing settings: the learning rate, the seed, the sequence length; the batch size is in `batch`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from surge_sweeps.curves import Problem
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.aliases import all_matching, matching
from surge_sweeps.trackers.naming.frameworks import Framework
from surge_sweeps.trackers.naming.names import AmbiguousNameError, NothingLikeItError, number
from surge_sweeps.trackers.stored_runs import StoredRun


@dataclass(frozen=True)
class Settings:
    """The settings of the runs that decide.

    Attributes:
        runs: at least one unless the project is empty. own: they are of this tool's own run record.
        framework: theirs, if one is recognised.
    """

    runs: Sequence[StoredRun]
    own: bool
    framework: Framework | None

    @cached_property
    def names(self) -> frozenset[str]:
        """Every setting that one of the runs has."""
        return frozenset(name for run in self.runs for name in run.params)

    def find(self, keys: Sequence[str]) -> list[str]:
        """The settings of these names that hold a number above 0 in most runs that have them, in order of the names."""
        found = [name for key in keys for name in matching(self.names, key) if self._numeric(name)]
        return list(dict.fromkeys(found))

    def find_all(self, keys: Sequence[str]) -> list[str]:
        """Like `find`, those of an optimizer's own (`optim.lr`) too where one of the very name is there."""
        found = [name for key in keys for name in all_matching(self.names, key) if self._numeric(name)]
        return list(dict.fromkeys(found))

    def numbers(self, name: str) -> set[float]:
        """The values that the runs have of a setting."""
        found = (number(run.params.get(name)) for run in self.runs)
        return {value for value in found if value is not None}

    def covered(self, keys: Sequence[str]) -> int:
        """How many runs have every one of these settings."""
        return sum(all(key in run.params for key in keys) for run in self.runs)

    def pairs(self, left: str, right: str) -> list[tuple[float, float]]:
        """The numbers of two settings in each run that has both."""
        found = [(number(run.params.get(left)), number(run.params.get(right))) for run in self.runs]
        return [(one, other) for one, other in found if one is not None and other is not None]

    def same(self, left: str, right: str) -> bool:
        """Whether two settings agree in every run that has both, and one run at least has."""
        both = self.pairs(left, right)
        return bool(both) and all(one == other for one, other in both)

    def one_of(
        self,
        keys: Sequence[str],
        what: str,
        option: str,
        preferred: str | None = None,
        problems: list[Problem] | None = None,
        *,
        everywhere: bool = True,
    ) -> str | None:
        """The setting of these names that most runs have.

        Args:
            keys: the names. what: what it holds. option: the field of `ReadOptions` that decides otherwise.
            preferred: a setting that is taken before all others where they agree with it, or where it alone varies
                over the runs: a sweep of one that means nothing is not expected, one beside a default is common.
            problems: that others differ from the preferred one is added.
            everywhere: one of the very name does not hide those that end in it.

        Raises:
            AmbiguousNameError: two that as many runs have, and that differ, or two that differ within a run.
        """
        found = self.find_all(keys) if everywhere else self.find(keys)
        if not found:
            return None
        most = max(self.covered([name]) for name in found)
        best = [name for name in found if self.covered([name]) == most]
        chosen = preferred if preferred in found else best[0]
        others = [
            name
            for name in found
            if name != chosen
            and not self.same(chosen, name)
            and (self.pairs(chosen, name) or (name in best and chosen != preferred))
        ]
        if not others:
            return chosen
        constant = all(len(self.numbers(name)) == 1 for name in others)
        if chosen == preferred and constant and len(self.numbers(chosen)) > 1 and problems is not None:
            told = f"{chosen!r}, which varies over the runs, and not from {listed(others)}: constant, and different"
            problems.append(Problem(None, f"the {what} is read from {told}"))
            return chosen
        raise differing(what, option, [chosen, *others])

    def check_constant(
        self, names: Sequence[str], others: Sequence[str], what: str, option: str, value: str
    ) -> None:
        """Refuse a choice that is the same in all runs where another setting, not the same, is what varies.

        Args:
            names: the settings that the choice is made of. others: settings that may be meant. value: the choice.

        Raises:
            AmbiguousNameError: one of the others varies over the runs.
        """
        varying = [
            name
            for name in others
            if name not in names
            and len(self.numbers(name)) > 1
            and self.pairs(names[0], name)
            and not any(self.same(name, key) for key in names)
        ]
        if varying:
            raise differing(what, option, [value, *varying])

    def _numeric(self, name: str) -> bool:
        values = [number(run.params[name]) for run in self.runs if name in run.params]
        return 2 * sum(value is not None and 0 < value < math.inf for value in values) > len(values)


def choose_lr(settings: Settings, asked: str | None, problems: list[Problem]) -> str:
    """The setting that holds the learning rate.

    Raises:
        NothingLikeItError: none does. AmbiguousNameError: several may, and they differ.
    """
    if asked is not None:
        return asked
    if settings.own or not settings.runs:
        return "lr"
    declared = settings.framework.lr if settings.framework else ()
    for key in declared:
        if found := settings.find([key]):
            chosen = settings.one_of([key], "learning rate", "lr", everywhere=False) or found[0]
            if len(settings.numbers(chosen)) == 1:
                settings.check_constant(
                    [chosen], settings.find_all(aliases.LR), "learning rate", "lr", chosen
                )
            return chosen
    preferred = "lr" if "lr" in settings.names else None
    found_alias = settings.one_of(aliases.LR, "learning rate", "lr", preferred, problems) or preferred
    if found_alias is None:
        raise NothingLikeItError("a learning rate", "lr", settings.names)
    return found_alias


def choose_seed(settings: Settings, asked: str | None) -> str:
    """The setting that holds the seed; `seed` where none seems to, since runs may do without.

    Raises:
        AmbiguousNameError: several may.
    """
    if asked is not None or settings.own or "seed" in settings.names:
        return asked or "seed"
    declared = settings.framework.seed if settings.framework else ()
    # A seed of 0 is one like any other, so the numbers are not looked at.
    found = [name for key in (*declared, *aliases.SEED) for name in matching(settings.names, key)]
    for name in found[1:]:
        values = [(run.params.get(found[0]), run.params.get(name)) for run in settings.runs]
        if any(one is not None and other is not None and one != other for one, other in values):
            raise AmbiguousNameError(
                f"{listed([found[0], name])} may each be the seed, and they differ.",
                "seed",
                [found[0], name],
            )
    return found[0] if found else "seed"


def choose_sequence_length(settings: Settings) -> str | None:
    """The setting that holds the tokens of an example, if one does for certain."""
    known = settings.framework.sequence_length if settings.framework else ()
    everywhere = [
        name
        for name in settings.find([*known, *aliases.SEQUENCE_LENGTH])
        if settings.covered([name]) == len(settings.runs)
    ]
    declared = [name for name in settings.find(known) if name in everywhere]
    if declared:
        return declared[0]
    return (
        everywhere[0]
        if everywhere and all(settings.same(everywhere[0], name) for name in everywhere)
        else None
    )


def differing(what: str, option: str, names: Sequence[str]) -> AmbiguousNameError:
    """The error for settings that may each be what is looked for."""
    return AmbiguousNameError(f"{listed(names)} may each be the {what}, and they differ.", option, names)


def listed(names: Sequence[str]) -> str:
    """Names for a sentence.

    >>> listed(["lr", "max_lr"])
    "'lr' and 'max_lr'"
    """
    return " and ".join(map(repr, names))
