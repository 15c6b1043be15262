"""Choosing the settings whose product is the batch size of an optimizer step: `choose_batch`."""

from __future__ import annotations

from collections.abc import Sequence

from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError
from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.factors import Factors, factors_of
from surge_sweeps.trackers.naming.frameworks import BatchKeys, Framework
from surge_sweeps.trackers.naming.names import AmbiguousNameError, NothingLikeItError, Product, parse_product
from surge_sweeps.trackers.naming.parameters import Settings, choose_sequence_length, differing, listed

_WHAT = ("batch size", "batch_size")


def choose_batch(settings: Settings, asked: str | None, batch_unit: str, problems: list[Problem]) -> Product:
    """The settings whose product is the batch size of an optimizer step, in the batch unit.

    Args:
        settings: of the runs that decide. asked: the user's choice. batch_unit: what a batch counts.
        problems: what is worth telling is added.

    Raises:
        NothingLikeItError: none is. AmbiguousNameError: several may be, or the number of processes or the accumulation
            is left open. SurgeError: what the framework records counts tokens, and examples are asked for.
    """
    if asked is not None:
        return parse_product(asked, settings.names) if settings.runs else Product((asked,))
    if settings.own or not settings.runs:
        return Product(("batch_size",))
    if settings.framework and settings.framework.batch:
        found = _of_framework(settings, settings.framework, batch_unit)
        if found is not None:
            return found
    whole = settings.one_of(aliases.GLOBAL_BATCH, *_WHAT)
    preferred = "batch_size" if "batch_size" in settings.names else None
    plain = settings.one_of(aliases.PLAIN_BATCH, *_WHAT, preferred, problems) or preferred
    if whole is not None and (plain is None or _is_whole(settings, whole, plain)):
        return Product((plain if plain is not None and settings.same(whole, plain) else whole,))
    if plain is not None:
        if len(settings.numbers(plain)) == 1:
            settings.check_constant([plain], settings.find_all(aliases.MICRO_BATCH), *_WHAT, plain)
        return _without_factors(settings, Product((plain,)), problems)
    micro = settings.one_of(aliases.MICRO_BATCH, *_WHAT)
    if micro is None:
        raise NothingLikeItError("a batch size", "batch_size", settings.names)
    return _of_all_processes(settings, _accumulated(settings, Product((micro,))))


def _is_whole(settings: Settings, whole: str, plain: str) -> bool:
    """Whether the one is to be read rather than the other.

    Where they differ, the plain one may be the part of a batch that one process has: then the other is a multiple of
    it, and does not stay the same while it varies.

    Raises:
        AmbiguousNameError: they differ in another way.
    """
    pairs = settings.pairs(whole, plain)
    covers = settings.covered([whole]) >= settings.covered([plain])
    if all(one == other for one, other in pairs):
        return covers
    multiple = all(other > 0 and (one / other).is_integer() for one, other in pairs)
    varies = len(settings.numbers(whole)) > 1 or len(settings.numbers(plain)) == 1
    if not (covers and multiple and varies):
        raise differing(*_WHAT, [whole, plain])
    return True


def _of_framework(settings: Settings, framework: Framework, batch_unit: str) -> Product | None:
    for entry in framework.batch:
        found = [settings.one_of([key], *_WHAT, everywhere=False) for key in entry.keys]
        keys = [key for key in found if key is not None]
        if len(keys) < len(entry.keys) or 2 * settings.covered(keys) <= len(settings.runs):
            continue
        product = Product(tuple(keys))
        if entry.per_process:
            whole = settings.one_of(aliases.GLOBAL_BATCH, *_WHAT)
            if whole is not None and settings.covered([whole]) >= settings.covered(keys):
                entry, product = BatchKeys((whole,)), Product((whole,))
            else:
                product = _of_all_processes(settings, product)
        if len({product.of(run.params) for run in settings.runs}) == 1:
            others = settings.find_all((*aliases.GLOBAL_BATCH, *aliases.PLAIN_BATCH))
            settings.check_constant(product.keys, others, *_WHAT, str(product))
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


def _accumulated(settings: Settings, product: Product) -> Product:
    """Times the accumulation, if one is recorded.

    Raises:
        AmbiguousNameError: several that differ.
    """
    steps = factors_of(settings).accumulation
    known = [name for name in settings.find(aliases.ACCUMULATION) if name not in steps]
    if len(steps) > 1:
        candidates = [str(product.times(name)) for name in steps]
        raise AmbiguousNameError(
            f"{listed(steps)} may each be the accumulation of gradients, and they differ.",
            "batch_size",
            candidates,
        )
    return product.times(*(steps or known[:1]))


def _of_all_processes(settings: Settings, product: Product) -> Product:
    """Times the number of processes.

    Raises:
        AmbiguousNameError: it is not recorded for certain.
    """
    recorded = factors_of(settings, least=0.0)

    def first(names: Sequence[str]) -> str | None:
        covered = settings.covered(product.keys)
        return next((name for name in names if settings.covered([name, *product.keys]) == covered), None)

    total = first(recorded.processes)
    if total is not None:
        return product.times(total)
    a_node = first(recorded.processes_a_node)
    if a_node is None:
        raise AmbiguousNameError(
            f"the runs record the batch size of one process, {product}, and not how many processes there were.",
            "batch_size",
            [str(product), f"{product} * 8"],
            " The first is right for one process, the other for 8.",
        )
    nodes = factors_of(settings).nodes
    on_one = product.times(a_node)
    if nodes:
        raise AmbiguousNameError(
            f"{a_node!r} may count the processes of one node or of all: the runs also record {listed(nodes)}.",
            "batch_size",
            [str(on_one), str(on_one.times(nodes[0]))],
        )
    if not recorded.nodes and recorded.is_a_node(a_node) and max(settings.numbers(a_node)) > 1:
        raise AmbiguousNameError(
            f"{a_node!r} counts the processes of one node, and the runs do not record how many nodes there were.",
            "batch_size",
            [str(on_one), f"{on_one} * 2"],
            " The first is right for one node, the other for 2.",
        )
    return on_one


def _without_factors(settings: Settings, product: Product, problems: list[Problem]) -> Product:
    """A plain batch size, unless the runs accumulate or share it: then what it means is open."""
    found: Factors = factors_of(settings)
    open_ = found.open or (found.unknown if found.listed > 1 else ())
    if open_:
        raise AmbiguousNameError(
            f"{product} may be the batch of an optimizer step or a part of it: the runs also record {listed(open_)}.",
            "batch_size",
            [str(product), str(found.times(product))],
        )
    if found.unknown:
        problems.append(
            Problem(
                None,
                f"{listed(found.unknown)} leave{'s' if len(found.unknown) == 1 else ''} open how many processes there"
                f" were: {product} is taken for the batch of an optimizer step",
            )
        )
    return product
