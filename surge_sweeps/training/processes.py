"""The processes that train one run together: under torchrun as many as it started, else this one alone.

What they have to agree on (to stop, that memory ran out, the losses that decide how the run goes on) is exchanged over
the processor's network even where gradients go from GPU to GPU, so that no GPU waits for a question. A process that
ends takes the others with it: their next exchange fails at once, and torchrun ends those that are not in one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, Protocol

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.workloads.base import has_dynamic_shapes

#: The longest that one process waits for another: the first one waits up to two minutes at a time for a store that is
#: away, and the others wait for it.
PATIENCE = timedelta(minutes=10)


class Rank(NamedTuple):
    """Which of the processes this is.

    Attributes:
        number: 0 is the first, which logs and saves for all. size: how many there are. local: its number on its own
            machine.
    """

    number: int = 0
    size: int = 1
    local: int = 0


class Processes(Protocol):
    """What processes that train one run do together. All call the same methods in the same order."""

    @property
    def rank(self) -> Rank:
        """Which of them this one is."""
        ...

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether some process has it up; returns once all have called it."""
        ...

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        """The values of every process, the first one's first."""
        ...

    def from_first(self, content: bytes | None) -> bytes | None:
        """What the first process gives; the others' own is not looked at."""
        ...

    def lost(self, error: RuntimeError) -> TrainingError:
        """What is told when an exchange failed."""
        ...


class _Alone:
    """One process."""

    rank = Rank()

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        return [values]

    def from_first(self, content: bytes | None) -> bytes | None:
        return content

    def lost(self, error: RuntimeError) -> TrainingError:
        return TrainingError(f"training failed: {error}")


ALONE: Processes = _Alone()


class _Group:
    """Several processes.

    Args:
        group: exchanges over the processor's network.
    """

    def __init__(self, rank: Rank, group: distributed.ProcessGroup | None) -> None:
        self.rank = rank
        self._group = group

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        # One more than asked for: an exchange of nothing would wait for nobody.
        votes = torch.tensor([*flags, False], dtype=torch.uint8)
        with self._exchange():
            distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self._group)
        return tuple(bool(vote) for vote in votes.tolist()[:-1])

    def gather(self, *values: float) -> list[tuple[float, ...]]:
        own = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.rank.size)]
        with self._exchange():
            distributed.all_gather(rows, own, group=self._group)
        return [tuple(row.tolist()) for row in rows]

    def from_first(self, content: bytes | None) -> bytes | None:
        is_first = self.rank.number == 0
        length = torch.tensor([-1 if content is None else len(content)])
        with self._exchange():
            distributed.broadcast(length, 0, group=self._group)
            if length.item() < 0:
                return None
            buffer = torch.empty(int(length.item()), dtype=torch.uint8)
            if is_first and content:
                buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            distributed.broadcast(buffer, 0, group=self._group)
        return buffer.numpy().tobytes()

    def lost(self, error: RuntimeError) -> TrainingError:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return TrainingError(
            f"process {self.rank.number + 1} of {self.rank.size} lost the others: {cause}.",
            "See what they printed; started again, the run goes on from its last state.",
        )

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error


def this_rank() -> Rank:
    """Which process this is, by the variables that torchrun sets; the only one without them.

    Raises:
        TrainingError: they make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(os.environ.get(name) for name in names):
        return Rank()
    texts = [os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ.get("LOCAL_RANK") or os.environ["RANK"]]
    try:
        rank = Rank(*map(int, texts))
    except ValueError:
        rank = Rank(-1)
    if not 0 <= rank.number < rank.size or rank.local < 0:
        raise TrainingError(
            f"RANK, WORLD_SIZE and LOCAL_RANK are {', '.join(map(repr, texts))}.",
            "Start several processes with torchrun, and a single one without these variables.",
        )
    return rank


@contextmanager
def joined(rank: Rank, device: torch.device) -> Iterator[Processes]:
    """Meet the other processes of the run; one that is alone meets nobody.

    Raises:
        TrainingError: they do not come.
    """
    if rank.size == 1:
        yield ALONE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
        group = distributed.new_group(backend="gloo", timeout=PATIENCE) if on_gpu else None
    except (RuntimeError, ValueError) as error:
        raise _Group(rank, None).lost(RuntimeError(str(error))) from error
    yield _Group(rank, group)
    # Not after an error: the others may be in the middle of an exchange, and only the end of this process ends it.
    distributed.destroy_process_group()


def parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The model as all processes train it: its gradients are averaged over them.

    Statistics of BatchNorm are left to each process; those of the first are evaluated and saved.
    """
    ids: Sequence[int] | None = None if device.type == "cpu" else [device.index or 0]
    with warnings.catch_warnings():
        # Torch 2.13 renames the option; older ones know only this name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            model,
            device_ids=ids,
            broadcast_buffers=False,
            # An expert may get no token of a batch.
            find_unused_parameters=has_dynamic_shapes(model),
        )
