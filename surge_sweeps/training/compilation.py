"""`torch.compile` for the steps of a run: operations are fused into kernels that are made for the model and the batch.

Compiling takes seconds at a run's first step, and again where its micro-batches have another size, so it pays in long
runs alone. Losses are evaluated without it. Fused operations round in other places: a run agrees with its uncompiled
twin to rounding, not to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.workloads.base import has_dynamic_shapes

#: torch's own names; `eager` compiles nothing.
BACKENDS = ("eager", "inductor")


def is_compiled(backend: str | None) -> bool:
    """None, the default, is `eager`."""
    return backend not in (None, "eager")


def check_backend(name: str | None) -> None:
    """None, the default, is `eager`.

    Raises:
        UnknownNameError: there is no backend of that name; the message lists the valid ones.

    >>> check_backend("on")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.UnknownNameError: unknown compile 'on'. Valid: eager, inductor.
    """
    if name is not None and name not in BACKENDS:
        raise UnknownNameError("compile", name, BACKENDS)


def check_compilable(model: nn.Module, backend: str | None) -> None:
    """See that a model may be compiled where that is asked for.

    Raises:
        TrainingError: its shapes depend on the data.
    """
    if is_compiled(backend) and has_dynamic_shapes(model):
        raise TrainingError(
            "the shapes in this model depend on the data, and it would be compiled anew at every batch.",
            "Leave compile out.",
        )


def compiled(model: nn.Module, backend: str | None) -> nn.Module:
    """The model as steps are trained: compiled at its first batch. It shares the parameters of `model`.

    Call it for one model of a process at a time, and again once batches are cut in another way: what was compiled
    before is dropped, as torch goes over to uncompiled code once it has compiled the same layers some times.

    Raises:
        TrainingError: the model cannot be compiled. A lack of a compiler shows at the first batch, see `not_compiled`.
    """
    if backend is None or not is_compiled(backend):
        return model
    check_compilable(model, backend)
    torch.compiler.reset()
    fused: nn.Module = torch.compile(model, backend=backend, dynamic=False)  # type: ignore[assignment]
    return fused


def check_compiler(backend: str | None) -> None:
    """Compile next to nothing on the processor, where that is asked for.

    Raises:
        TrainingError: this machine lacks a compiler.
    """
    if backend is None or not is_compiled(backend):
        return
    try:
        torch.compile(_probe, backend=backend, dynamic=False)(torch.zeros(8))
    except (RuntimeError, OSError) as error:
        raise not_compiled(error) from error


def is_compile_error(error: BaseException) -> bool:
    """Whether an error was raised while torch compiled, which it does at the first batch of a kind."""
    # As text: its module takes most of a second to load, and nothing else here needs it.
    return any(kind.__module__ == "torch._dynamo.exc" for kind in type(error).__mro__)


def not_compiled(error: BaseException) -> TrainingError:
    """What is told of a compilation that failed: the compiler's own first word on it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    cause = next((line for line in lines if "error:" in line.casefold()), lines[0])
    return TrainingError(
        f"torch cannot compile here: {cause.rstrip('.')}.",
        "It needs a C++ compiler (g++, or the one that CXX names) and Python's headers on a processor, and Triton on a"
        " GPU; or leave compile out.",
    )


def _probe(values: Tensor) -> Tensor:
    return values + 1
