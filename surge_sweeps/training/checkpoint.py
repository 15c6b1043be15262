"""Checkpoints: parameters on disk, named by their content.

A checkpoint holds parameters and where they come from, nothing else. A run that branches from one starts with a fresh
optimizer state, as if training began there: momentum and second-moment estimates of the run that made it are gone.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.files import write_bytes


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parameters of one model at one moment.

    Attributes:
        parameters: name -> tensor, as `state_dict` gives them.
        workload, model: what they belong to.
        loss: evaluation loss there.
        step: optimizer steps done.
    """

    parameters: Mapping[str, Tensor]
    workload: str
    model: str
    loss: float
    step: int

    @property
    def hash(self) -> str:
        """See `content_hash`."""
        return content_hash(self.parameters)


def content_hash(parameters: Mapping[str, Tensor]) -> str:
    """12 hex digits over the names, shapes, types and values of tensors: the same wherever and whenever saved.

    >>> content_hash({"a": torch.zeros(2), "b": torch.ones(1)})
    '13ce9a1b5866'
    >>> content_hash({"b": torch.ones(1), "a": torch.zeros(2)})
    '13ce9a1b5866'
    """
    digest = hashlib.sha256()
    for name in sorted(parameters):
        tensor = parameters[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; a reader sees the whole file or none."""
    content = io.BytesIO()
    metadata = {name: getattr(checkpoint, name) for name in ("workload", "model", "loss", "step")}
    torch.save({"parameters": dict(checkpoint.parameters), "metadata": metadata}, content)
    write_bytes(path, content.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        TrainingError: missing, torn, or not a checkpoint.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        metadata = content["metadata"]
        checkpoint = Checkpoint(
            {str(name): value for name, value in content["parameters"].items() if isinstance(value, Tensor)},
            str(metadata["workload"]),
            str(metadata["model"]),
            float(metadata["loss"]),
            int(metadata["step"]),
        )
    except FileNotFoundError as error:
        raise TrainingError(
            f"there is no checkpoint {str(path)!r}.", "Check the path in init_from."
        ) from error
    except (
        OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, pickle.UnpicklingError
    ) as error:  # fmt: skip
        raise TrainingError(
            f"{str(path)!r} is no checkpoint, or it is torn ({type(error).__name__}).", "Make it again."
        ) from error
    return checkpoint


def restore(checkpoint: Checkpoint, model: nn.Module, *, workload: str, name: str) -> None:
    """Put a checkpoint's parameters into `model`, which is the model `name` of `workload`.

    Raises:
        TrainingError: the checkpoint belongs to another model or workload, or holds values that are not finite.
    """
    theirs = {key: tuple(value.shape) for key, value in checkpoint.parameters.items()}
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if (checkpoint.workload, checkpoint.model) != (workload, name) or theirs != ours:
        raise TrainingError(
            f"the checkpoint holds {checkpoint.workload}/{checkpoint.model}, not {workload}/{name}.",
            "Give the same workload and model as the run that made it, or another checkpoint.",
        )
    if not all(bool(value.isfinite().all()) for value in checkpoint.parameters.values()):
        raise TrainingError(
            "the checkpoint holds values that are not finite.", "Take one from before it diverged."
        )
    model.load_state_dict(dict(checkpoint.parameters))
