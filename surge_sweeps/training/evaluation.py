"""The loss over the held-out set: at once, or in parts where memory does not hold it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.memory import is_out_of_memory, release_memory
from surge_sweeps.training.workloads.base import Workload


def evaluate(workload: Workload, model: nn.Module) -> float:
    """Mean loss over the whole held-out set; see `Evaluator`."""
    return Evaluator(workload, model)()


class Evaluator:
    """Evaluates one model, again and again.

    Takes the whole held-out set at once; where that does not fit into memory, parts of it, half as large until they
    do. The mean over the parts, weighted by their examples, is the same loss to rounding.
    """

    def __init__(self, workload: Workload, model: nn.Module) -> None:
        self._workload = workload
        self._model = model
        self.examples_at_once = len(workload.eval_targets)

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
        inputs, targets = self._workload.eval_inputs, self._workload.eval_targets
        try:
            with torch.no_grad():
                if self.examples_at_once >= len(targets):
                    return float(self._loss(inputs, targets))
                size = self.examples_at_once
                parts = zip(torch.split(inputs, size), torch.split(targets, size), strict=True)
                return sum(float(self._loss(*part)) * len(part[1]) for part in parts) / len(targets)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._workload.loss(self._model(inputs), targets)
