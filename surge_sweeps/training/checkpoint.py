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
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.workloads.base import Settings

_METADATA = ("workload", "model", "loss", "step", "settings", "data_digest")
#: Settings by which networks of the same shapes may mean something else.
_OF_THE_NETWORK = tuple(name for name in Settings.names() if name not in ("data", "eval_data"))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parameters of one model at one moment.

    Attributes:
        parameters: name -> tensor, as `state_dict` gives them.
        workload, model: what they belong to.
        loss: evaluation loss there.
        step: optimizer steps done.
        settings: of the workload and its model, see `Settings`; None in a file of an earlier version.
        data_digest: of the data they were trained on; None where there is but one.
    """

    parameters: Mapping[str, Tensor]
    workload: str
    model: str
    loss: float
    step: int
    settings: Mapping[str, str | int | None] | None = None
    data_digest: str | None = None

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
    metadata = {name: getattr(checkpoint, name) for name in _METADATA}
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
            metadata.get("settings"),
            metadata.get("data_digest"),
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


def restore(
    checkpoint: Checkpoint, model: nn.Module, config: TrialConfig, data_digest: str | None = None
) -> None:
    """Put a checkpoint's parameters into `model`, which is the one that `config` describes.

    Args:
        data_digest: of the data that `config` trains on.

    Raises:
        TrainingError: the checkpoint belongs to another model, workload or tokenizer, or holds values that are not
            finite.
    """
    theirs = {key: tuple(value.shape) for key, value in checkpoint.parameters.items()}
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    differing = _differing(checkpoint, config, data_digest)
    if differing or theirs != ours:
        raise TrainingError(
            f"the checkpoint is of another network: {'; '.join(differing) or 'the shapes of its parameters differ'}.",
            "Give the settings of the run that made it, or another checkpoint.",
        )
    if not all(bool(value.isfinite().all()) for value in checkpoint.parameters.values()):
        raise TrainingError(
            "the checkpoint holds values that are not finite.", "Take one from before it diverged."
        )
    model.load_state_dict(dict(checkpoint.parameters))


def _differing(checkpoint: Checkpoint, config: TrialConfig, data_digest: str | None) -> list[str]:
    """What tells the network of a checkpoint from that of a trial, in words."""
    found = [
        f"its {name} is {theirs}, not {ours}"
        for name, theirs, ours in (
            ("workload", checkpoint.workload, config.workload),
            ("model", checkpoint.model, config.model),
        )
        if theirs != ours
    ]
    if found or checkpoint.settings is None:
        return found
    ours = config.settings
    found = [
        f"its {name} is {checkpoint.settings.get(name)}, not {getattr(ours, name)}"
        for name in _OF_THE_NETWORK
        if checkpoint.settings.get(name) != getattr(ours, name)
    ]
    is_trained_on_data = ours.tokenizer is not None and ours.tokenizer.startswith("bpe-")
    if is_trained_on_data and checkpoint.data_digest != data_digest:
        found.append("its tokenizer is that of other text")
    return found
