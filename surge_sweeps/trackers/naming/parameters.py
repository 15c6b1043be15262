"""Choosing the settings: learning rate, batch size, seed, sequence length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.aliases import matching
from surge_sweeps.trackers.naming.frameworks import PROCESS_KEYS, BatchKeys, Framework
from surge_sweeps.trackers.naming.names import AmbiguousNameError, Product, number, parse_product
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

    def covered(self, keys: Sequence[str]) -> int:
        """How many runs have every one of these settings."""
        return sum(all(key in run.params for key in keys) for run in self.runs)

    def same(self, left: str, right: str) -> bool:
        """Whether two settings agree in every run that has both, and one run at least has."""
        pairs = [(number(run.params.get(left)), number(run.params.get(right))) for run in self.runs]
        both = [(one, other) for one, other in pairs if one is not None and other is not None]
        return bool(both) and all(one == other for one, other in both)

    def one_of(self, keys: Sequence[str], what: str, option: str) -> str | None:
        """The setting of these names that most runs have.

        Raises:
            AmbiguousNameError: two that as many runs have, and that differ.
        """
        found = self.find(keys)
        if not found:
            return None
        most = max(self.covered([name]) for name in found)
        best = [name for name in found if self.covered([name]) == most]
        others = [name for name in best if not self.same(best[0], name)]
        if others:
            raise AmbiguousNameError(
                f"{_listed([best[0], *others])} may each be the {what}, and they differ.",
                option,
                [best[0], *others],
            )
        return best[0]

    def _numeric(self, name: str) -> bool:
        values = [number(run.params[name]) for run in self.runs if name in run.params]
        return 2 * sum(value is not None and 0 < value < math.inf for value in values) > len(values)


def choose_lr(settings: Settings, asked: str | None) -> str:
    """The setting that holds the learning rate.

    Raises:
        UnknownNameError: none does. AmbiguousNameError: several may.
    """
    if asked is not None:
        return asked
    if settings.own or not settings.runs:
        return "lr"
    listed = settings.framework.lr if settings.framework else ()
    for key in listed:
        if found := settings.find([key]):
            return settings.one_of([key], "learning rate", "lr") or found[0]
    if "lr" in settings.names:
        return "lr"
    found_alias = settings.one_of(aliases.LR, "learning rate", "lr")
    if found_alias is None:
        raise UnknownNameError("parameter", "lr", settings.names)
    return found_alias


def choose_seed(settings: Settings, asked: str | None) -> str:
    """The setting that holds the seed; `seed` where none seems to, since runs may do without.

    Raises:
        AmbiguousNameError: several may.
    """
    if asked is not None or settings.own or "seed" in settings.names:
        return asked or "seed"
    listed = settings.framework.seed if settings.framework else ()
    # A seed of 0 is one like any other, so the numbers are not looked at.
    found = [name for key in (*listed, *aliases.SEED) for name in matching(settings.names, key)]
    for name in found[1:]:
        values = [(run.params.get(found[0]), run.params.get(name)) for run in settings.runs]
        if any(one is not None and other is not None and one != other for one, other in values):
            raise AmbiguousNameError(
                f"{_listed([found[0], name])} may each be the seed, and they differ.",
                "seed",
                [found[0], name],
            )
    return found[0] if found else "seed"


def choose_sequence_length(settings: Settings) -> str | None:
    """The setting that holds the tokens of an example, if one does for certain."""
    listed = settings.framework.sequence_length if settings.framework else ()
    everywhere = [
        name
        for name in settings.find([*listed, *aliases.SEQUENCE_LENGTH])
        if settings.covered([name]) == len(settings.runs)
    ]
    declared = [name for name in settings.find(listed) if name in everywhere]
    if declared:
        return declared[0]
    return (
        everywhere[0]
        if everywhere and all(settings.same(everywhere[0], name) for name in everywhere)
        else None
    )


def choose_batch(settings: Settings, asked: str | None, batch_unit: str) -> Product:
    """The settings whose product is the batch size of an optimizer step, in the batch unit.

    Raises:
        UnknownNameError: none is. AmbiguousNameError: the number of processes or the accumulation is left open.
        SurgeError: what the framework records counts tokens, and examples are asked for.
    """
    if asked is not None:
        return parse_product(asked, settings.names) if settings.runs else Product((asked,))
    if settings.own or not settings.runs:
        return Product(("batch_size",))
    if settings.framework and settings.framework.batch:
        found = _of_framework(settings, settings.framework, batch_unit)
        if found is not None:
            return found
    whole = settings.one_of(aliases.GLOBAL_BATCH, "batch size", "batch_size")
    plain = "batch_size" if "batch_size" in settings.names else None
    plain = plain or settings.one_of(aliases.PLAIN_BATCH, "batch size", "batch_size")
    if whole is not None and (plain is None or settings.covered([whole]) >= settings.covered([plain])):
        return Product((plain if plain is not None and settings.same(whole, plain) else whole,))
    if plain is not None:
        return _without_factors(settings, Product((plain,)))
    micro = settings.one_of(aliases.MICRO_BATCH, "batch size", "batch_size")
    if micro is None:
        raise UnknownNameError("parameter", "batch_size", settings.names)
    accumulation = settings.find(aliases.ACCUMULATION)[:1]
    return _of_all_processes(settings, Product((micro, *accumulation)))


def _of_framework(settings: Settings, framework: Framework, batch_unit: str) -> Product | None:
    for entry in framework.batch:
        found = [settings.one_of([key], "batch size", "batch_size") for key in entry.keys]
        keys = [key for key in found if key is not None]
        if len(keys) < len(entry.keys) or 2 * settings.covered(keys) <= len(settings.runs):
            continue
        product = Product(tuple(keys))
        if entry.per_process:
            whole = settings.one_of(aliases.GLOBAL_BATCH, "batch size", "batch_size")
            if whole is not None and settings.covered([whole]) >= settings.covered(keys):
                entry, product = BatchKeys((whole,)), Product((whole,))
            else:
                product = _of_all_processes(settings, product)
        return _in_unit(settings, framework, entry, product, batch_unit)
    return None


def _in_unit(
    settings: Settings, framework: Framework, entry: BatchKeys, product: Product, batch_unit: str
) -> Product:
    if entry.counts == "tokens" and batch_unit != "tokens":
        raise SurgeError(
            f"the batch size of {framework.name}, {product}, counts tokens.",
            "Give --batch-unit tokens, or --batch-column with a setting that counts examples.",
        )
    if entry.counts == "tokens" or batch_unit != "tokens":
        return product
    length = choose_sequence_length(settings)
    if length is None:
        raise SurgeError(
            f"the batch size of {framework.name}, {product}, counts examples, and no setting tells their length.",
            f"Give the tokens of an example: --batch-column '{product} * 1024', or leave --batch-unit away.",
        )
    return product.times(length)


def _of_all_processes(settings: Settings, product: Product) -> Product:
    for key in PROCESS_KEYS:
        for name in settings.find([key]):
            if settings.covered([name, *product.keys]) == settings.covered(product.keys):
                return product.times(name)
    raise AmbiguousNameError(
        f"the runs record the batch size of one process, {product}, and not how many processes there were.",
        "batch_size",
        [str(product), f"{product} * 8"],
        " The first is right for one process, the other for 8.",
    )


def _without_factors(settings: Settings, product: Product) -> Product:
    """A plain batch size, unless the runs accumulate or share it: then what it means is open."""
    factors = settings.find(aliases.ACCUMULATION) + settings.find(PROCESS_KEYS)
    open_ = [
        name
        for name in factors
        if any(number(run.params.get(name)) not in (None, 1.0) for run in settings.runs)
    ]
    if open_:
        raise AmbiguousNameError(
            f"{product} may be the batch of an optimizer step or a part of it: the runs also record {_listed(open_)}.",
            "batch_size",
            [str(product), str(product.times(*open_))],
        )
    return product


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))
