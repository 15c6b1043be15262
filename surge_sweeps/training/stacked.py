"""Many replicas of one model as one: stacked parameters, and torch's own optimizer over all of them.

Every parameter tensor has a leading axis of replicas, and one optimizer sees the stacked tensors. It steps at learning
rate 1; then each replica keeps only its own learning rate's share of the change. For an optimizer that acts number by
number and is proportional to the learning rate this is the step that separate runs would take, and one kernel call
does the work of hundreds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.evaluation import Evaluator
from surge_sweeps.training.optimizers import Stepper, build_optimizer, optimizer_spec, set_learning_rate
from surge_sweeps.training.precision import computing_in
from surge_sweeps.training.workloads.base import Workload, has_dynamic_shapes


def can_stack(model: nn.Module, optimizer: str) -> bool:
    """Whether replicas of `model` can train as one under `optimizer`, exactly.

    Not with an optimizer that looks at whole tensors, nor with a model that keeps state of its own (BatchNorm) or
    draws random numbers (dropout), or whose shapes depend on the data (a mixture of experts).

    >>> can_stack(nn.Linear(2, 2), "adamw"), can_stack(nn.Linear(2, 2), "muon"), can_stack(nn.BatchNorm1d(2), "sgd")
    (True, False, False)
    """
    has_state = any(True for _ in model.buffers())
    is_random = any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in model.modules())
    is_dynamic = has_dynamic_shapes(model)
    return optimizer_spec(optimizer).elementwise and not has_state and not is_random and not is_dynamic


class StackedReplicas:
    """Replicas of one model that differ in parameters, learning rate and data.

    Args:
        workload: gives the data and the loss.
        models: one a replica, alike in shape; not changed. Must satisfy `can_stack`.
        configs: one a replica; they differ in learning rate and seed alone.

    Raises:
        TrainingError: the model or the optimizer cannot be stacked.
    """

    def __init__(
        self, workload: Workload, models: Sequence[nn.Module], configs: Sequence[TrialConfig]
    ) -> None:
        self._config = configs[0]
        if not can_stack(models[0], self._config.optimizer):
            raise TrainingError(
                f"{self._config.model!r} under {self._config.optimizer!r} cannot train as an ensemble.",
                "Train it with mode 'loop' or 'auto'.",
            )
        _keep_freed_memory()
        self._workload = workload
        self._lr = torch.tensor(
            [config.lr for config in configs], dtype=workload.dtype, device=workload.device
        )
        stacked, _ = stack_module_state(list(models))
        self._parameters = {name: value.detach().requires_grad_() for name, value in stacked.items()}
        # Always ready to be evaluated: to switch it for each replica takes a fifth of a small network's evaluation.
        self._plain = copy.deepcopy(models[0]).eval()
        self._plain_parameters = dict(self._plain.named_parameters())
        self._evaluate = Evaluator(workload, self._plain, self._config.precision)
        self._skeleton = _with_stackable_layers(copy.deepcopy(models[0]))
        self._losses = vmap(self._loss)
        self._optimizer = self._over(list(self._parameters.values()), lr=1.0)

    def __len__(self) -> int:
        return len(self._lr)

    def step(self, indices: Tensor, batch_of: Tensor, lr_multiplier: float = 1.0) -> Tensor:
        """One optimizer step of every replica.

        Args:
            indices: (batches, batch) examples of the batches that some replica sees.
            batch_of: (replicas,) int64 on the workload's device, which of the batches each replica sees.
            lr_multiplier: of all their learning rates.

        Returns:
            (replicas,) minibatch losses before the step.
        """
        # Made once however many replicas see it: making examples may cost as much as training on them.
        inputs, targets = (values.index_select(0, batch_of) for values in self._workload.train_batch(indices))
        lr = self._lr if lr_multiplier == 1.0 else self._lr * lr_multiplier
        with computing_in(self._config.precision, self._workload.device):
            losses: Tensor = self._losses(self._parameters, inputs, targets)
        parameters = list(self._parameters.values())
        # The replicas share nothing, so the gradient of the sum holds each replica's own gradient.
        gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        with torch.no_grad():
            before = [parameter.clone() for parameter in parameters]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            self._optimizer.step()
            for parameter, old in zip(parameters, before, strict=True):
                share = lr.view(-1, *[1] * (parameter.ndim - 1))
                torch.lerp(old, parameter, share, out=parameter)
        return losses.detach()

    def eval_losses(self, rows: Iterable[int]) -> list[float]:
        """Mean loss of some replicas over the whole held-out set."""
        losses = []
        # One by one: on this many examples the stacked operations are slower, their values leave the cache.
        for row in rows:
            self._load(row)
            losses.append(self._evaluate())
        return losses

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every replica not in `rows`, with its optimizer state."""
        index = torch.tensor(rows, device=self._workload.device)
        for parameter in self._parameters.values():
            state = self._state(parameter)
            for name, value in state.items():
                if _goes_with(value, parameter):
                    state[name] = value[index]
        for parameter in self._parameters.values():
            parameter.grad = None
            parameter.data = parameter.data[index]
        self._lr = self._lr[index]

    def release(self, row: int, config: TrialConfig) -> tuple[nn.Module, Stepper]:
        """One replica as a model and an optimizer of its own, to go on in the plain loop."""
        self._load(row)
        model = copy.deepcopy(self._plain).train()
        optimizer = self._over(list(model.parameters()), lr=config.lr)
        # With what the optimizer keeps for all parameters, as its count of steps.
        state = self._optimizer.state_dict()
        parameters = list(self._parameters.values())
        state["state"] = {
            number: {
                key: value[row].clone() if _goes_with(value, parameters[number]) else copy.deepcopy(value)
                for key, value in entries.items()
            }
            for number, entries in state["state"].items()
        }
        optimizer.load_state_dict(state)
        set_learning_rate(optimizer, config.lr)
        return model, optimizer

    def _load(self, row: int) -> None:
        """Make the plain model a view of one replica's parameters."""
        for name, own in self._plain_parameters.items():
            own.data = self._parameters[name].data[row]

    def _state(self, parameter: Tensor) -> dict[str, object]:
        if not isinstance(self._optimizer, torch.optim.Optimizer):
            return {}
        state: dict[str, object] = self._optimizer.state[parameter]
        return state

    def _over(self, parameters: list[Tensor], lr: float) -> Stepper:
        return build_optimizer(self._config.optimizer, parameters, lr, self._config.hyper_parameters())

    def _loss(self, parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(self._skeleton, dict(parameters), (inputs,))
        return self._workload.loss(outputs, targets)


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep memory that a step frees for the next step.

    glibc hands large blocks back to the system at once, and getting them again costs a page fault for every 4 KB: a
    fifth of a step. Freeing one block of nearly 32 MB raises its limit to that size; elsewhere this does nothing.
    """
    block = torch.empty(31 * 2**20, dtype=torch.uint8)
    del block


class _FeatureMajorLinear(nn.Linear):
    """A linear layer whose stacked weight gradient comes out in the weight's own memory layout.

    The usual order of factors gives the transposed layout, and copying that back costs as much as the whole product.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = (self.weight @ inputs.mT).mT
        # Where products have 16 bits, so has the sum, as in a plain layer.
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)


def _with_stackable_layers(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = _FeatureMajorLinear
    return model.to("meta")


def _goes_with(value: object, parameter: Tensor) -> TypeGuard[Tensor]:
    """Whether an entry of the optimizer's state has one row a replica, as the parameter has."""
    return isinstance(value, Tensor) and value.shape == parameter.shape
