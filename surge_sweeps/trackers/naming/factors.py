"""What a recorded batch size may have to be multiplied with: accumulation, processes, nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surge_sweeps.trackers.naming import aliases
from surge_sweeps.trackers.naming.aliases import all_matching, canonical
from surge_sweeps.trackers.naming.frameworks import PROCESS_KEYS
from surge_sweeps.trackers.naming.names import Product
from surge_sweeps.trackers.naming.parameters import Settings

#: How many processes share a batch, all nodes together. Of the names in `PROCESS_KEYS` those of devices may be of one.
_PROCESSES = (
    *(key for key in PROCESS_KEYS if not key.endswith(("gpus", "devices"))),
    "num_procs", "nprocs", "n_procs", "num_replicas", "n_replicas", "num_tasks", "ntasks", "dp_degree",
)  # fmt: skip
#: The same, of all nodes or of one.
_DEVICES = (*(key for key in PROCESS_KEYS if key.endswith(("gpus", "devices"))), "n_gpu", "num_gpu", "gpu_count",
            "device_count", "n_devices")  # fmt: skip
#: The same, of one node.
_A_NODE = (
    "devices", "gpus", "ngpus", "nproc_per_node", "nprocs_per_node", "gpus_per_node", "ngpus_per_node",
    "num_gpus_per_node", "devices_per_node", "ntasks_per_node", "tasks_per_node",
)  # fmt: skip
_NODES = ("num_nodes", "nnodes", "n_nodes", "num_machines", "node_count")
_ACCUMULATION = (*aliases.ACCUMULATION, "update_freq", "accum_iter", "iters_to_accumulate")
#: Further names of accumulation; `initial_accumulator_value` is none.
_ACCUMULATES = re.compile(r"(^|_)(grad_?accum|n_accum|num_accum|accum(ulate|ulation)?(_|$))")
_NO_COUNT = re.compile(r"(^|_)(dtype|mode|type|value)($|_)")


@dataclass(frozen=True)
class Factors:
    """Settings that may be factors of a batch size; of each sort those that are not the same.

    Attributes:
        accumulation: backward passes of a step. processes: of all nodes. processes_a_node: of one node or of all.
        nodes: how many there are. unknown: settings of these names that hold no number, as `auto`.
        listed: how many devices one of the unknown lists.
    """

    accumulation: tuple[str, ...]
    processes: tuple[str, ...]
    processes_a_node: tuple[str, ...]
    nodes: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    listed: int = 1

    @property
    def open(self) -> tuple[str, ...]:
        """All that hold a number."""
        return (*self.accumulation, *self.processes, *self.processes_a_node, *self.nodes)

    def times(self, product: Product) -> Product:
        """A part of a batch times all of it that is recorded; processes a node count only where none count in all."""
        shared = self.processes or (*self.processes_a_node[:1], *self.nodes[:1])
        listed = 1 if shared else self.listed
        return Product((*product.keys, *self.accumulation, *shared), product.scale * listed)

    def is_a_node(self, name: str) -> bool:
        """Whether a setting counts the processes of one node for certain."""
        return bool(_called([name], _A_NODE))


def factors_of(settings: Settings, least: float = 1.0) -> Factors:
    """The factors that runs record.

    Args:
        settings: theirs. least: a setting counts if it is larger than this in a run.
    """
    accumulates = [name for name in settings.names if _accumulates(name)]
    sorts = [
        [*settings.find_all(_ACCUMULATION), *sorted(accumulates)],
        settings.find_all(_PROCESSES),
        settings.find_all((*_DEVICES, *_A_NODE)),
        settings.find_all(_NODES),
    ]
    accumulation, processes, a_node, nodes = (
        tuple(_distinct(settings, [name for name in sort if max(settings.numbers(name), default=0) > least]))
        for sort in sorts
    )
    counted = {name for sort in sorts for name in sort}
    unknown = [
        name
        for name in _called(settings.names, (*_PROCESSES, *_DEVICES, *_A_NODE, *_NODES))
        if name not in counted and any(run.params.get(name, "None") != "None" for run in settings.runs)
    ]
    listed = max((_entries(run.params.get(name, "")) for name in unknown for run in settings.runs), default=1)
    return Factors(accumulation, processes, a_node, nodes, tuple(unknown), listed)


def _entries(text: str) -> int:
    """How many devices a list of them has: `[0, 1]`, or 1 for anything else."""
    return text.count(",") + 1 if re.fullmatch(r"[\[(]?\s*\d+(\s*,\s*\d+)*\s*[\])]?", text) else 1


def _accumulates(name: str) -> bool:
    last = canonical(name).rpartition(".")[2]
    return bool(_ACCUMULATES.search(last)) and not _NO_COUNT.search(last)


def _called(names: Iterable[str], keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for key in keys for name in all_matching(names, key)))


def _distinct(settings: Settings, names: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for name in names:
        if not any(settings.same(name, other) for other in kept):
            kept.append(name)
    return kept
