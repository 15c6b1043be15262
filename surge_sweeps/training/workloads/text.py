"""Text: a model of language reads the tokens of an example and foretells each one that follows.

At a sequence length of L, example i is tokens [i L, i L + L] of the training text: the first L are its inputs, the last
L its targets. The held-out text is cut likewise; where that gives more than `EVAL_SEQUENCES` sequences, or more than
`EVAL_TOKENS` tokens, no more than that, evenly spread, are the held-out set: an evaluation takes as long as some steps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.data.text import find_texts
from surge_sweeps.training.data.tokenizers import check_tokenizer_name, load_tokenizer
from surge_sweeps.training.data.tokens import TokenWindows, tokenize
from surge_sweeps.training.models import gpt, moe
from surge_sweeps.training.models.moe_shape import check_moe_shape
from surge_sweeps.training.models.shape_settings import check_heads, shape_setting
from surge_sweeps.training.workloads.base import Settings, Workload, WorkloadSpec
from surge_sweeps.training.workloads.token_loss import token_cross_entropy

#: Sequences of the held-out set at most,
EVAL_SEQUENCES = 256
#: and its tokens, unless a single sequence has more.
EVAL_TOKENS = 2**17
#: Logits that an evaluation makes at once, 4 bytes each; a held-out set that gives more is evaluated in parts.
EVAL_LOGITS_AT_ONCE = 2**26
#: Training tokens that a device holds itself, 4 bytes each, at most; longer texts go there batch by batch.
DEVICE_TOKENS = 2**28
MODELS = {"gpt": gpt, "moe": moe}


@dataclass(frozen=True, eq=False)
class TextWorkload:
    """The text workload; see `Workload`. Inputs and targets are (..., sequence length) token numbers, int64.

    Attributes:
        settings: with every default filled in. vocabulary: token numbers are below it.
        digest: 12 hexadecimal digits that tell other training tokens or another held-out text apart.
        windows: the training examples. eval_tokens: (held-out examples, sequence length + 1) int64, on `device`.
        device_tokens: (training tokens,) on `device`; None: on the CPU, or too many for the device.
    """

    settings: Settings
    vocabulary: int
    digest: str
    windows: TokenWindows
    eval_tokens: Tensor
    device_tokens: Tensor | None = None
    name: str = "text"
    dtype: torch.dtype = torch.float32

    @property
    def train_examples(self) -> int:
        """Of the training text; what is left behind the last whole one is not trained on."""
        return len(self.windows)

    @property
    def eval_examples(self) -> int:
        """At most `EVAL_SEQUENCES`, of at most `EVAL_TOKENS` in all."""
        return len(self.eval_tokens)

    @property
    def eval_examples_at_once(self) -> int:
        """As many as make `EVAL_LOGITS_AT_ONCE` logits, at least one."""
        return max(1, EVAL_LOGITS_AT_ONCE // (self.windows.length * self.vocabulary))

    @property
    def tokens_per_example(self) -> int:
        """The sequence length."""
        return self.windows.length

    @property
    def device(self) -> torch.device:
        """Where batches lie and models are made."""
        return self.eval_tokens.device

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(*indices.shape, sequence length) inputs and targets."""
        if self.device_tokens is not None:
            rows = self.device_tokens.unfold(0, self.windows.length + 1, self.windows.length)
            tokens = rows[indices.to(self.device, non_blocking=True)].long()
        else:
            tokens = torch.from_numpy(self.windows[indices.numpy()])
            if self.device.type == "cuda":
                # From pinned memory the copy runs beside the host.
                tokens = tokens.pin_memory()
            tokens = tokens.to(self.device, non_blocking=True)
        return tokens[..., :-1], tokens[..., 1:]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """(stop - start, sequence length) inputs and targets of the held-out set."""
        tokens = self.eval_tokens[start:stop]
        return tokens[:, :-1], tokens[:, 1:]

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        """A fresh `gpt` or `moe`; see there."""
        if model not in MODELS:
            raise UnknownNameError("model", model, MODELS)
        network: nn.Module = MODELS[model].build(self.vocabulary, self.settings, generator)
        return network.to(device=self.device, dtype=self.dtype)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() mean cross entropy of all tokens, in nats. outputs: (batch, sequence length, vocabulary) logits."""
        return token_cross_entropy(outputs, targets)

    def on(self, device: torch.device) -> Workload:
        """The same with its batches and models on a device, and its tokens too where there are not too many."""
        if device == self.device:
            return self
        tokens = None
        if device.type != "cpu" and len(self.windows.tokens) <= DEVICE_TOKENS and self.vocabulary <= 2**31:
            tokens = torch.from_numpy(self.windows.tokens.astype(np.int32)).to(device)
        return replace(self, eval_tokens=self.eval_tokens.to(device), device_tokens=tokens)


def load(settings: Settings) -> Workload:
    """Find the text, and make its tokens unless they are kept from earlier.

    Args:
        settings: with the defaults of `SPEC` filled in.

    Raises:
        UnknownNameError: of a tokenizer.
        TrainingError: text that is missing, empty, damaged or shorter than a sequence, or an impossible setting.
        MissingExtraError: a package that is needed is not installed.
    """
    length = settings.sequence_length
    if settings.data is None or settings.tokenizer is None or length is None:
        raise TrainingError(
            "the workload 'text' needs data, a tokenizer and a sequence_length.", "Give all three."
        )
    if length < 1:
        raise TrainingError(f"a sequence length of {length} tokens.", "Take a sequence_length of at least 1.")
    training, held_out = find_texts(settings.data, settings.eval_data)
    tokenizer = load_tokenizer(settings.tokenizer, training)
    train, evaluated = tokenize(training, tokenizer), tokenize(held_out, tokenizer)
    _check_length(length, len(train.numbers), len(evaluated.numbers))
    windows = TokenWindows(train.numbers, length, "the training text")
    eval_windows = TokenWindows(evaluated.numbers, length, "the held-out text")
    digest = hashlib.sha256(f"{tokenizer.vocabulary} {train.digest} {evaluated.digest}".encode()).hexdigest()
    return TextWorkload(settings, tokenizer.vocabulary, digest[:12], windows, _spread(eval_windows))


def _check_length(length: int, training: int, held_out: int) -> None:
    """Name the limit of the shorter text at once, whichever of the two that is."""
    most = min(training, held_out) - 1
    if length > most:
        raise TrainingError(
            f"sequences of {length} tokens need {length + 1} tokens; the training text has {training}, and the held-out"
            f" text has {held_out}.",
            f"Take a sequence_length of at most {most}, or a longer text."
            if most > 0
            else "Give a longer text.",
        )


def _spread(windows: TokenWindows) -> Tensor:
    count = min(len(windows), EVAL_SEQUENCES, max(1, EVAL_TOKENS // windows.length))
    return torch.from_numpy(windows[np.arange(count) * len(windows) // count])


def check(model: str, settings: Settings) -> None:
    """See that a tokenizer may have that name, and that there can be a model of that shape.

    Raises:
        UnknownNameError, TrainingError: it cannot be.
    """
    check_tokenizer_name(str(settings.tokenizer))
    if model == "moe":
        names = ("width", "heads", "experts", "experts_per_token")
        check_moe_shape(**{name: shape_setting(settings, name, moe.DEFAULTS) for name in names})
    else:
        width, heads = (shape_setting(settings, name, gpt.DEFAULTS) for name in ("width", "heads"))
        check_heads(width, heads)


SPEC = WorkloadSpec(
    load=load,
    check=check,
    models={name: module.DEFAULTS for name, module in MODELS.items()},
    settings={"data": None, "eval_data": None, "sequence_length": 128, "tokenizer": "bytes"},
    required=("data",),
)
