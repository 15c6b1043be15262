"""Train any list of runs: those that can share a stack do, the others take the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.trackers.base import RunRecord, RunWriter, Scalar
from surge_sweeps.training.checkpoint import load_checkpoint
from surge_sweeps.training.compilation import is_compiled
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.ensemble import MIN_REPLICAS, run_ensemble, stack_size
from surge_sweeps.training.loop import continue_loop, run_loop
from surge_sweeps.training.session import Setup, open_session
from surge_sweeps.training.stacked import can_stack
from surge_sweeps.training.start import starts
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.workloads import load_workload
from surge_sweeps.training.workloads.base import Workload

Mode = Literal["auto", "ensemble", "loop"]
MODES: tuple[Mode, ...] = ("auto", "ensemble", "loop")

#: Called with the examples done so far, all runs together. A run that ends early counts with its whole budget, so the
#: last call always reports the total.
Progress = Callable[[int], None]


def train(
    trials: Sequence[tuple[str, TrialConfig]],
    *,
    mode: Mode = "auto",
    progress: Progress | None = None,
) -> list[RunRecord]:
    """Train runs and return them in the order given.

    Runs that differ in learning rate and seed alone train together. The same call gives the same bits; the same run
    in other company agrees to rounding.

    Args:
        trials: (trial id, settings) of each run.
        mode: `auto` takes the faster of the two ways by a fixed rule; `ensemble` stacks whatever can be stacked,
            however few or large, and refuses the rest; `loop` trains one by one.
        progress: see `Progress`.

    Raises:
        UnknownNameError: unknown mode.
        TrainingError: a checkpoint that cannot be used, or `ensemble` asked of an optimizer or model without one.
        MissingExtraError: a package that the workload or the optimizer needs is not installed.

    >>> config = TrialConfig(lr=0.1, batch_size=64, optimizer="sgd", max_steps=2)
    >>> record, = train([("trial", config)])
    >>> record.status, [step for step, _ in record.metrics["eval/loss"]]
    ('finished', [0, 1, 2])
    """
    if mode not in MODES:
        raise UnknownNameError("mode", str(mode), MODES)
    configs = [config for _, config in trials]
    meter = _Meter(progress)
    records: list[RunRecord | None] = [None] * len(trials)
    for members in _groups(configs):
        for part, traces in _train_group([configs[i] for i in members], mode, meter):
            for position, trace in zip(part, traces, strict=True):
                index = members[position]
                digest = load_workload(trace.config.workload, trace.config.settings).digest
                records[index] = trace.run_record(trials[index][0], digest)
    return [record for record in records if record is not None]


def train_streaming(
    config: TrialConfig,
    writer: RunWriter,
    *,
    setup: Setup | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Trace:
    """Train one run, logging every point as it comes, so that a run that is killed leaves what it had.

    The run is finished whatever happens: as `crashed` when training is interrupted or fails. Returns its trace.

    Args:
        setup: how it is computed; all processes of a run call this, and the first one logs. say: told of smaller
            micro-batches where memory runs out, and of what they change.

    Raises:
        TrainingError, MissingExtraError: see `train`. TrackerError: the store is away.
    """
    try:
        session = open_session(config, setup or Setup(), say)
        trace = Trace(config, session.start.loss, session.start.checkpoint, writer.log)
        continue_loop(session.workload, session.model, session.optimizer, trace, steps=session.steps)
        writer.finish(trace.status or "crashed", trace.summary() | session.steps.summary())
    finally:
        # Does nothing after the line above.
        writer.finish("crashed")
    return trace


def run_config(config: TrialConfig) -> dict[str, Scalar]:
    """The configuration to open a run with: the record, and digests of its data and of the checkpoint it branches from.

    Raises:
        TrainingError: the checkpoint cannot be read.
    """
    record = config.record()
    digest = load_workload(config.workload, config.settings).digest
    if digest is not None:
        record["data_digest"] = digest
    if config.init_from is not None:
        record["start_checkpoint"] = load_checkpoint(Path(config.init_from)).hash
    return record


class _Meter:
    """Counts examples over all runs for the progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._finished = 0

    def running(self, traces: Sequence[Trace]) -> None:
        if self._progress is not None:
            self._progress(self._finished + sum(map(_examples_done, traces)))

    def finished(self, traces: Sequence[Trace]) -> None:
        self._finished += sum(map(_examples_done, traces))
        if self._progress is not None:
            self._progress(self._finished)


def _examples_done(trace: Trace) -> int:
    steps = trace.last_step if trace.status is None else trace.config.steps
    return steps * trace.config.batch_size


def _groups(configs: Sequence[TrialConfig]) -> list[list[int]]:
    """Positions of the runs that differ in learning rate and seed alone, in the order given."""
    groups: dict[TrialConfig, list[int]] = {}
    for index, config in enumerate(configs):
        groups.setdefault(replace(config.resolved(), lr=1.0, seed=0), []).append(index)
    return list(groups.values())


def _train_group(
    configs: Sequence[TrialConfig], mode: Mode, meter: _Meter
) -> Iterator[tuple[list[int], list[Trace]]]:
    """Train one group in parts; yields positions and traces of each part."""
    workload = load_workload(configs[0].workload, configs[0].settings)
    begin = starts(workload, configs)
    model = begin[configs[0].seed].model
    for part in _even_parts(len(configs), _part_size(workload, model, configs[0], mode)):
        members = [configs[i] for i in part]
        if mode == "ensemble" or (mode == "auto" and len(members) >= MIN_REPLICAS):
            traces = run_ensemble(workload, members, begin, on_step=meter.running)
            meter.finished(traces)
            yield part, traces
            continue
        for position, config in zip(part, members, strict=True):
            trace = run_loop(workload, config, begin[config.seed])
            meter.finished([trace])
            yield [position], [trace]


def _part_size(workload: Workload, model: nn.Module, config: TrialConfig, mode: Mode) -> int:
    if mode == "ensemble" and is_compiled(config.compile):
        raise TrainingError("an ensemble is not compiled.", "Leave compile out, or train with mode 'auto'.")
    if mode == "loop" or is_compiled(config.compile) or not can_stack(model, config.optimizer):
        return 1
    return max(stack_size(workload, model, config.batch_size), MIN_REPLICAS if mode == "ensemble" else 1)


def _even_parts(count: int, size: int) -> list[list[int]]:
    """Split range(count) into parts of at most `size`, as even as possible.

    >>> _even_parts(7, 3)
    [[0, 1], [2, 3], [4, 5, 6]]
    """
    parts = -(-count // size)
    return [list(range(count * i // parts, count * (i + 1) // parts)) for i in range(parts)]
