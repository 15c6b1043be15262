"""What the training loop needs of an optimizer, and what is recorded about one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

#: Every hyper-parameter, next to the learning rate, that some optimizer takes. beta2 is always the decay of the squared
#: gradients (Lion, which has none: of its momentum; Sophia: of the Hessian, see `OptimizerSpec.beta2_every_steps`), so
#: that one half-life means the same under every optimizer.
HYPER_PARAMETERS: tuple[str, ...] = ("beta1", "beta2", "eps", "momentum", "weight_decay")


class Stepper(Protocol):
    """What a training loop needs of an optimizer."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters (`params`), each with its learning rate (`lr`)."""
        ...

    def step(self) -> object:
        """Update the parameters from their gradients."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers of earlier steps, as tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


class Parameters(list[Tensor]):
    """The parameters of a model in its order, and which of them are tables of embeddings.

    Args:
        source: a model, or its parameters alone, of which none is then known to be an embedding.

    Attributes:
        embeddings: identities of the tensors that some `nn.Embedding` looks up; a tied output layer shares them.

    >>> len(Parameters(nn.Embedding(3, 2)).embeddings), len(Parameters([torch.zeros(3, 2)]).embeddings)
    (1, 0)
    """

    def __init__(self, source: nn.Module | Iterable[Tensor]) -> None:
        modules = list(source.modules()) if isinstance(source, nn.Module) else []
        super().__init__(source.parameters() if isinstance(source, nn.Module) else source)
        self.embeddings = frozenset(id(layer.weight) for layer in modules if isinstance(layer, nn.Embedding))


Build = Callable[[Parameters, float, Mapping[str, float]], Stepper]


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer.

    Attributes:
        name: what sweeps call it.
        build: makes it from parameters, learning rate and the hyper-parameters named in `defaults`.
        defaults: every hyper-parameter it takes, with its default.
        elementwise: the update acts number by number and is proportional to the learning rate, which leaves no trace
            in the optimizer's state. One step at learning rate 1 on stacked parameters, with each replica's change
            scaled by its own learning rate, is then the same step as in separate runs.
        about: one line for a listing.
        can_accumulate: a step needs the sum of gradients alone, so that it may come from micro-batches or from several
            processes.
        beta2_every_steps: steps from one update of the average that beta2 decays to the next.
    """

    name: str
    build: Build
    defaults: Mapping[str, float]
    elementwise: bool
    about: str
    can_accumulate: bool = True
    beta2_every_steps: int = 1


def set_learning_rate(optimizer: Stepper, lr: float) -> None:
    """Let the next steps use the learning rate `lr`, whatever part of the optimizer takes them.

    >>> optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1)
    >>> set_learning_rate(optimizer, 0.02)
    >>> optimizer.param_groups[0]["lr"]
    0.02
    """
    for group in optimizer.param_groups:
        group["lr"] = lr


def forward(optimizer: Stepper) -> AbstractContextManager[object]:
    """In this context a model's loss is computed for the `backward` of `optimizer`.

    Where its next step differentiates the gradients, attention takes the one form that has a second derivative.
    """
    return sdpa_kernel(SDPBackend.MATH) if _wants_graph(optimizer) else nullcontext()


def backward(loss: Tensor, optimizer: Stepper) -> None:
    """Put the gradients of a whole batch's loss where `optimizer` finds them.

    The plain backward pass, unless the optimizer's next step wants to differentiate the gradients (its attribute
    `wants_graph`, where it has one).

    Args:
        loss: () mean over the batch. optimizer: its gradients must have been forgotten before (`zero_grad`).
    """
    if not _wants_graph(optimizer):
        loss.backward()  # type: ignore[no-untyped-call]
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    # Not `loss.backward(create_graph=True)`: torch warns of the cycle that it makes with the gradients of all leaves.
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _wants_graph(optimizer: Stepper) -> bool:
    return bool(getattr(optimizer, "wants_graph", False))
