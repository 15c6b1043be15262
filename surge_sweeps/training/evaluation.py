"""The loss over the held-out set: at once, or in parts where memory does not hold it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.batch_statistics import batch_statistics_layers, statistics_of_the_evaluated
from surge_sweeps.training.memory import is_out_of_memory, release_memory
from surge_sweeps.training.precision import computing_in
from surge_sweeps.training.workloads.base import Penalized, Workload


def evaluate(workload: Workload, model: nn.Module, precision: str | None = None) -> float:
    """Mean loss over the whole held-out set; see `Evaluator`."""
    return Evaluator(workload, model, precision)()


class Evaluator:
    """Evaluates one model, again and again.

    Takes as much of the held-out set at once as the workload says; where that does not fit into memory, parts half as
    large until they do. The mean over the parts, weighted by their examples, is the same loss to rounding, unless the
    model has BatchNorm, which normalises each part by its own statistics.
    """

    def __init__(self, workload: Workload, model: nn.Module, precision: str | None = None) -> None:
        self._workload = workload
        self._model = model
        self._precision = precision
        # Asked once: of a small network, going through its layers takes a tenth of an evaluation.
        self._has_statistics = bool(batch_statistics_layers(model))
        self.examples_at_once = min(workload.eval_examples, workload.eval_examples_at_once)

    def __call__(self) -> float:
        """Mean loss over the whole held-out set.

        Raises:
            TrainingError: memory does not hold a single example.
        """
        was_training = self._model.training
        if was_training:
            self._model.eval()
        try:
            while True:
                loss = self._attempt()
                if loss is not None:
                    return loss
                release_memory()
                if self.examples_at_once == 1:
                    raise TrainingError(
                        "memory does not hold the evaluation of a single example.",
                        "Give the trial more memory, or take a smaller model.",
                    )
                self.examples_at_once //= 2
        finally:
            if was_training:
                self._model.train()

    def _attempt(self) -> float | None:
        total, size = self._workload.eval_examples, self.examples_at_once
        try:
            with torch.no_grad(), self._statistics():
                if size >= total:
                    return float(self._loss(0, total))
                if self._has_statistics:
                    # As even as can be: a last part of one image would be normalised by itself.
                    size = -(-total // -(-total // size))
                parts = [(start, min(start + size, total)) for start in range(0, total, size)]
                # Read at the end, so that a GPU is not waited for between the parts.
                losses = [self._loss(*part) * (part[1] - part[0]) for part in parts]
                return sum(map(float, losses)) / total
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _statistics(self) -> AbstractContextManager[None]:
        return statistics_of_the_evaluated(self._model) if self._has_statistics else nullcontext()

    def _loss(self, start: int, stop: int) -> Tensor:
        inputs, targets = self._workload.eval_batch(start, stop)
        with computing_in(self._precision, self._workload.device):
            outputs = self._model(inputs)
            return self._workload.loss(
                outputs.outputs if isinstance(outputs, Penalized) else outputs, targets
            )
