"""The optimizer steps of one run: each with the gradient of the whole batch, however the batch is cut.

A batch that memory holds, in one process, takes the plain way: one forward, one backward. Where memory runs out, the
micro-batch is halved and the step is done again from its beginning; nothing of the failed attempt stays, as parameters
change at its end only. Several processes agree before the last backward of a step, in which gradients are exchanged,
whether all of them came that far: one that ran out of memory must not leave the others waiting in the exchange.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from surge_sweeps.errors import TrainingError
from surge_sweeps.trackers.base import Scalar
from surge_sweeps.training.batch_statistics import batch_statistics_layers, statistics_warning
from surge_sweeps.training.compilation import compiled, is_compile_error, not_compiled
from surge_sweeps.training.evaluation import Evaluator
from surge_sweeps.training.memory import is_out_of_memory, release_memory
from surge_sweeps.training.micro_batches import MicroBatches, cut_batch
from surge_sweeps.training.optimizers import Stepper, backward, forward
from surge_sweeps.training.precision import computing_in
from surge_sweeps.training.processes import ALONE, Processes, parallel
from surge_sweeps.training.workloads.base import Penalized, Workload, has_dynamic_shapes

#: What a process wants done after a step; it is done once one of them wants it.
Wishes = Callable[[], tuple[bool, ...]]


class Steps:
    """Steps of one model under one optimizer.

    Args:
        workload, model, optimizer: the model is changed by every step.
        cut: how a batch is cut; None: not at all.
        processes: that train the run together.
        say: told of every halving, and of what a cut changes.
        wishes: asked once a step in every process, see `agreed`.
        can_accumulate: whether the optimizer takes gradients that are sums over micro-batches.
        precision: of the model and its loss, in training and evaluation.
        compile: the steps, see `compilation`; not the evaluation.

    Attributes:
        cut: as it is now. evaluate: the evaluation of the model.
        agreed: for each wish, whether some process had it at the last step.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        optimizer: Stepper,
        cut: MicroBatches | None = None,
        *,
        processes: Processes = ALONE,
        say: Callable[[str], None] = lambda _: None,
        wishes: Wishes = tuple,
        can_accumulate: bool = True,
        precision: str | None = None,
        compile: str | None = None,
    ) -> None:
        self._workload = workload
        self._model = model
        self._compile = compile
        self._trained = compiled(model, compile)
        self._optimizer = optimizer
        self._processes = processes
        self._is_alone = processes.rank.size == 1
        self._say = say
        self._wishes = wishes
        self._can_accumulate = can_accumulate
        self._precision = precision
        self.evaluate = Evaluator(workload, model, precision)
        self._parameters = list(model.parameters())
        self._has_buffers = any(True for _ in model.buffers())
        self._kept: list[Tensor] = []
        self._parallel: DistributedDataParallel | None = None
        self._steps = 0
        self._warned = ""
        self.cut = cut
        self.agreed: tuple[bool, ...] = ()
        self._warn()

    def step(self, indices: Tensor) -> Tensor:
        """One optimizer step.

        Args:
            indices: (batch,) the examples of all processes together.

        Returns:
            (1,) mean loss of this process's share before the step; (2,) where the model adds a penalty to it: the loss
            without it, and the penalty.

        Raises:
            TrainingError: memory does not hold a single example, the model does not compile, or another process is
                lost.
        """
        if self._has_buffers:
            self._kept = [buffer.clone() for buffer in self._model.buffers()]
        while True:
            try:
                loss = self._alone(indices) if self._is_alone else self._together(indices)
            except RuntimeError as error:
                if is_compile_error(error):
                    raise not_compiled(error) from error
                raise
            if loss is not None:
                self._update()
                return loss
            self._halve(len(indices))

    def losses(self, sums: Tensor | None, steps: int) -> tuple[float, ...]:
        """The evaluation loss and the means of the last `steps` steps, the same in every process.

        Args:
            sums: of what `step` returned.
        """
        is_first = self._processes.rank.number == 0
        # The first one evaluates for all.
        own = [] if sums is None else sums.tolist()
        rows = self._processes.gather(self.evaluate() if is_first else 0.0, *own)
        means = (sum(row) / len(rows) / steps for row in list(zip(*rows, strict=True))[1:])
        return rows[0][0], *means

    def summary(self) -> dict[str, Scalar]:
        """How batches were cut last, for the run's summary; empty where they were not.

        `micro_batch_size`, `accumulation` and `world_size` multiply to the batch size; `batch_statistics_of` is the
        number of examples that BatchNorm, or what balances experts, saw together.
        """
        cut = self.cut
        if cut is None or cut.size == cut.batch_size:
            return {}
        summary: dict[str, Scalar] = {
            "micro_batch_size": cut.size,
            "accumulation": cut.accumulation,
            "world_size": cut.processes,
        }
        if batch_statistics_layers(self._model) or has_dynamic_shapes(self._model):
            summary["batch_statistics_of"] = cut.size
        return summary

    def _update(self) -> None:
        try:
            self._optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Smaller micro-batches would not help: nothing of them is held any more.
            raise TrainingError(
                "memory does not hold the parameters together with the optimizer's state.",
                "Give the trial more memory, or take a smaller model or an optimizer with less state.",
            ) from error
        self._steps += 1

    def _alone(self, indices: Tensor) -> Tensor | None:
        """Gradients and loss of a batch; None: memory ran out."""
        try:
            self._forget_gradients()
            if self.cut is None or self.cut.accumulation == 1:
                with forward(self._optimizer):
                    objective, loss = self._loss(self._trained, indices)
                backward(objective, self._optimizer)
            else:
                loss = self._accumulate(
                    self._trained, torch.split(indices, self.cut.size), self.cut.accumulation
                )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        self.agreed = self._wishes()
        return loss

    def _together(self, indices: Tensor) -> Tensor | None:
        """Gradients of the whole batch and the loss of this process's share of it; None: memory ran out somewhere."""
        rank, cut = self._processes.rank, self._cut_of(len(indices))
        share = cut.size * cut.accumulation
        parts = torch.split(indices[rank.number * share :][:share], cut.size)
        # Without micro-batches before the last one, nothing tells whether a backward fits. It is tried apart from the
        # exchange: at the first step, and once more when the optimizer's state is there.
        is_new = self._parallel is None
        if (is_new or (self._steps == 1 and cut.accumulation == 1)) and not self._rehearsed(parts[0]):
            return None
        model = self._parallel or self._prepared(parts[0])
        self._forget_gradients()
        done, last = self._before_exchange(model, parts)
        ran_out, *wishes = self._processes.any_of(last is None, *self._wishes())
        if ran_out or done is None or last is None:
            return None
        self._exchange(last.objective)
        self.agreed = tuple(wishes)
        return last.measured if len(parts) == 1 else done + last.measured

    def _before_exchange(
        self, model: DistributedDataParallel, parts: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, _Loss | None]:
        """All but the backward of the last micro-batch: losses of those before it, and its own; None: no memory."""
        try:
            with model.no_sync():
                done = self._accumulate(model, parts[:-1], len(parts))
            return done, self._loss(model, parts[-1], len(parts))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None, None

    def _accumulate(self, model: nn.Module, parts: tuple[Tensor, ...], accumulation: int) -> Tensor:
        total = torch.zeros(1, dtype=self._workload.dtype, device=self._workload.device)
        for number, part in enumerate(parts):
            objective, measured = self._loss(model, part, accumulation)
            objective.backward()  # type: ignore[no-untyped-call]
            total = measured if number == 0 else total + measured
        return total

    def _exchange(self, loss: Tensor) -> None:
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise self._no_exchange(error) from error

    def _no_exchange(self, error: RuntimeError) -> TrainingError:
        if not is_out_of_memory(error):
            return self._processes.lost(error)
        return TrainingError(
            "memory ran out while gradients were exchanged.",
            "Start the run again with a smaller --micro-batch-size; it goes on from its last state.",
        )

    def _rehearsed(self, part: Tensor) -> bool:
        """Whether a micro-batch fits into the memory of every process."""
        fits = True
        try:
            self._loss(self._trained, part).objective.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        self._restore_buffers()
        (ran_out,) = self._processes.any_of(not fits)
        return not ran_out

    def _prepared(self, part: Tensor) -> DistributedDataParallel:
        """The model as all processes train it, ready for a step.

        Torch orders the exchange of gradients anew before the second pass, as the first one went. Both are done here,
        so that a run that goes on exchanges, and so rounds, as one that never stopped.
        """
        try:
            self._parallel = parallel(self._trained, self._workload.device)
        except RuntimeError as error:
            raise self._no_exchange(error) from error
        for _ in range(2):
            self._exchange(self._loss(self._parallel, part).objective)
        self._restore_buffers()
        return self._parallel

    def _halve(self, batch_size: int) -> None:
        """After memory ran out: go on with smaller micro-batches."""
        self._forget_gradients()
        if self._parallel is not None:
            # A pass that was given up in the middle would confuse the next exchange. What torch hung on the parameters
            # goes with the last reference, and some of those are circular.
            self._parallel = None
            gc.collect()
        self._restore_buffers()
        release_memory()
        if not self._can_accumulate:
            raise TrainingError(
                "memory does not hold the batch, and the optimizer needs all of it at once.",
                "Give the trial more memory, or take a smaller batch, a smaller model or another optimizer.",
            )
        self._trained = compiled(self._model, self._compile)
        before = self._cut_of(batch_size)
        self.cut = before.halved()
        if self.cut is None:
            raise TrainingError(
                "memory does not hold the training of a single example.",
                "Give the trial more memory, or take a smaller model.",
            )
        self._say(
            f"out of memory: going on with micro-batches of {self.cut.size} examples "
            f"instead of {before.size}, accumulation {self.cut.accumulation} instead of {before.accumulation}."
        )
        self._warn()

    def _cut_of(self, batch_size: int) -> MicroBatches:
        return self.cut or cut_batch(batch_size)

    def _forget_gradients(self) -> None:
        # As `zero_grad` does, which also tells torch's profiler: a twelfth of a small network's step.
        for parameter in self._parameters:
            parameter.grad = None

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for buffer, kept in zip(self._model.buffers(), self._kept, strict=True):
                buffer.copy_(kept)

    def _warn(self) -> None:
        warning = "" if self.cut is None else statistics_warning(self._model, self.cut)
        if warning and warning != self._warned:
            self._say(warning)
        self._warned = warning

    def _loss(self, model: nn.Module, indices: Tensor, accumulation: int = 1) -> _Loss:
        inputs, targets = self._workload.train_batch(indices)
        with computing_in(self._precision, self._workload.device):
            outputs = model(inputs)
            penalty = outputs.penalty if isinstance(outputs, Penalized) else None
            loss = self._workload.loss(
                outputs.outputs if isinstance(outputs, Penalized) else outputs, targets
            )
        if penalty is None:
            loss = loss if accumulation == 1 else loss / accumulation
            return _Loss(loss, loss.detach().unsqueeze(0))
        parts = torch.stack((loss, penalty)) / accumulation
        return _Loss(parts.sum(), parts.detach())


class _Loss(NamedTuple):
    """Of one micro-batch, as its share of the batch: what is differentiated, and what `Steps.step` returns."""

    objective: Tensor
    measured: Tensor
