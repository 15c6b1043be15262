"""What every built-in workload gives: data, models and a loss; nothing in this file knows a particular one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Workload(Protocol):
    """A training problem: data, models and a loss.

    Attributes:
        name: what sweeps call it.
        eval_examples_at_once: of the held-out set, as many as need not be cut for want of memory.
        train_examples: None: an endless stream, each example of which is seen once. eval_examples: of the fixed
            held-out set, which is never trained on. tokens_per_example: None where an example is no sequence.
        digest: 12 hex digits of the data's content; None where the name says it all.
        dtype: of losses and parameters. device: where batches lie and models are made.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def train_examples(self) -> int | None: ...  # noqa: D102
    @property
    def eval_examples(self) -> int: ...  # noqa: D102
    @property
    def eval_examples_at_once(self) -> int: ...  # noqa: D102
    @property
    def tokens_per_example(self) -> int | None: ...  # noqa: D102
    @property
    def digest(self) -> str | None: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of examples, (*indices.shape, ...) each; `indices` is int64 on the CPU, of any shape."""
        ...

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the held-out examples [start, stop)."""
        ...

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        """A fresh model; its parameters come from `generator`, torch's global random state stays as it is.

        It gives the outputs that `loss` takes, or `Penalized` ones.
        """
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() mean loss of one batch."""
        ...

    def on(self, device: torch.device) -> Workload:
        """The same workload with its batches and models on a device; itself where they are there already."""
        ...


class Penalized(NamedTuple):
    """What a model may return in the place of its outputs: a penalty for how it came to them.

    Attributes:
        outputs: what the workload's loss takes.
        penalty: () added to the loss of training; logged apart, and no part of any loss that is logged.
    """

    outputs: Tensor
    penalty: Tensor


@dataclass(frozen=True)
class Settings:
    """The parameters of a trial that decide its data and the shape of its model. None: not given.

    Attributes:
        data: a path (file, folder, zip file), the name of a known data set, or `hf:...`. eval_data: the held-out set,
            likewise.
        sequence_length: tokens of an example. tokenizer: what makes text tokens.
        layers, width, heads: of the model. experts, shared_experts, experts_per_token: of a mixture of experts.
    """

    data: str | None = None
    eval_data: str | None = None
    sequence_length: int | None = None
    tokenizer: str | None = None
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    experts: int | None = None
    shared_experts: int | None = None
    experts_per_token: int | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of all settings."""
        return tuple(field.name for field in fields(cls))


def _takes_all(_model: str, _settings: Settings) -> None:
    pass


@dataclass(frozen=True)
class WorkloadSpec:
    """What can be asked of a workload, known without its data.

    Attributes:
        load: makes it; the settings have every default filled in.
        models: name of a model -> the settings of its shape that it takes, with their defaults.
        settings: the other settings that the workload takes, with their defaults; None: optional, without one.
        required: those of `settings` that must be given.
        check: raises `TrainingError` or `UnknownNameError` for a model and settings, every default filled in, that no
            data could make work. It reads none.
        tries_models: a model is made before a launch, to see that its shape fits the data; False: `check` knows.
    """

    load: Callable[[Settings], Workload]
    models: Mapping[str, Mapping[str, int]]
    settings: Mapping[str, str | int | None] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    check: Callable[[str, Settings], None] = _takes_all
    tries_models: bool = False


def has_dynamic_shapes(model: nn.Module) -> bool:
    """Whether a layer says that the shapes in it depend on the data, and so which of its parameters are used."""
    return any(getattr(layer, "has_dynamic_shapes", False) for layer in model.modules())
