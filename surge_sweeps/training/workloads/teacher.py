"""A student fits a fixed random teacher on an endless stream of fresh, label-noised examples.

No example is seen twice, so nothing can be memorised: the gradient noise comes from the stream alone, and the critical
batch size grows as the loss falls towards its floor. Small enough for a CPU core, and for stacks of many runs.

An example is a function of its index alone, whatever batch it is part of: its random numbers are hashes of the index
(a counter-based generator, as in Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), and the teacher
computes on a grid coarse enough that double precision holds every sum exactly, in whichever order it is added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.training.models import mlp
from surge_sweeps.training.workloads.base import Settings, WorkloadSpec

#: Coordinates of an input, each N(0, 1); hidden ReLU units of the teacher; its outputs.
INPUTS = 16
TEACHER_WIDTH = 8
OUTPUTS = 4
#: Standard deviation of the noise on each training target; the teacher's own outputs have mean 0 and variance 1.
NOISE_STD = 0.5
HELD_OUT = 2048

_TEACHER_SEED = 20240523
#: Weights, and inputs and biases, are multiples of 2**-_WEIGHT_BITS and 2**-_INPUT_BITS. Inputs stay below 2**4 and the
#: teacher's sums below 2**8, so that no sum needs more than 8 + 2 * _WEIGHT_BITS + _INPUT_BITS = 44 of 53 bits.
_WEIGHT_BITS = 11
_INPUT_BITS = 14

# The increment and multipliers of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers: torch's int64
# products wrap around, which is arithmetic modulo 2**64.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
#: Students hold the teacher several times over, and stay small enough for a stack of them.
_MODELS = {"mlp": {"layers": 2, "width": 64}}


@dataclass(frozen=True, eq=False)
class Teacher:
    """The teacher workload; see `Workload`. Inputs are (examples, INPUTS), targets (examples, OUTPUTS).

    The teacher has one hidden layer of TEACHER_WIDTH ReLU units, drawn once for all. Training targets are its outputs
    plus N(0, NOISE_STD**2). The stream begins at index 0 and has no end; the held-out examples are those of the
    indices -1 to -HELD_OUT, without noise: the evaluation loss is the excess over the best that can be had. Its floor
    is 0 for a student of at least TEACHER_WIDTH ReLU units a layer, which holds the teacher itself; that of the
    training loss is NOISE_STD**2 / 2.

    Attributes:
        settings: shape of the students. dtype: of examples, losses and parameters.
        hidden, output: the teacher, double precision: (TEACHER_WIDTH, INPUTS + 1) and (OUTPUTS, TEACHER_WIDTH + 1)
            weights, the last column the biases.
        eval_inputs, eval_targets: (HELD_OUT, INPUTS) and (HELD_OUT, OUTPUTS).
    """

    settings: Settings
    hidden: Tensor
    output: Tensor
    eval_inputs: Tensor
    eval_targets: Tensor
    dtype: torch.dtype = torch.float32
    name: str = "teacher"
    train_examples: int | None = None
    tokens_per_example: int | None = None
    digest: str | None = None

    @property
    def eval_examples(self) -> int:
        """HELD_OUT."""
        return len(self.eval_targets)

    @property
    def eval_examples_at_once(self) -> int:
        """All."""
        return self.eval_examples

    @property
    def device(self) -> torch.device:
        """Where examples are made."""
        return self.eval_inputs.device

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(*indices.shape, INPUTS) inputs and (*indices.shape, OUTPUTS) noisy targets of the stream's examples."""
        numbers = _normal(indices.to(self.device, non_blocking=True), INPUTS + OUTPUTS)
        inputs = _on_grid(numbers[..., :INPUTS], _INPUT_BITS)
        targets = _teach(self.hidden, self.output, inputs) + NOISE_STD * numbers[..., INPUTS:]
        return inputs.to(self.dtype), targets.to(self.dtype)

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Held-out inputs, and targets without noise."""
        return self.eval_inputs[start:stop].to(self.dtype), self.eval_targets[start:stop].to(self.dtype)

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        """A fresh student, drawn from `generator`."""
        if model not in _MODELS:
            raise UnknownNameError("model", model, _MODELS)
        # Made on the processor, so that a seed gives the same parameters everywhere.
        return mlp.build_regression(INPUTS, OUTPUTS, self.settings, generator).to(self.device, self.dtype)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() half the squared error, mean over examples and outputs.

        In nats: the negative log-likelihood per output under N(output, 1), without its constant log(2 pi) / 2. A
        student that answers 0 has 1/2 on the held-out set.
        """
        return (outputs - targets).square().mean() / 2

    def on(self, device: torch.device) -> Teacher:
        """The same, its examples made on `device`."""
        if device == self.device:
            return self
        names = ("hidden", "output", "eval_inputs", "eval_targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def load(settings: Settings) -> Teacher:
    """Draw the teacher and its held-out examples, always the same; `settings` shape the students.

    >>> teacher = load(Settings(layers=2, width=32))
    >>> inputs, targets = teacher.train_batch(torch.arange(6).view(3, 2))
    >>> inputs.shape, targets.shape
    (torch.Size([3, 2, 16]), torch.Size([3, 2, 4]))
    >>> torch.equal(inputs[1, 0], teacher.train_batch(torch.tensor(2))[0])
    True
    """
    hidden, output = _draw()
    inputs = _inputs(-1 - torch.arange(HELD_OUT))
    return Teacher(settings, hidden, output, inputs, _teach(hidden, output, inputs))


SPEC = WorkloadSpec(load=load, models=_MODELS)


def _draw() -> tuple[Tensor, Tensor]:
    """The teacher's weights, scaled so that each output has mean 0 and variance 1 over its inputs."""
    generator = torch.Generator().manual_seed(_TEACHER_SEED)
    weights = torch.randn(TEACHER_WIDTH, INPUTS + 1, generator=generator, dtype=torch.float64)
    hidden = _on_grid(weights / math.sqrt(INPUTS + 1), _WEIGHT_BITS)
    units = torch.randn(OUTPUTS, TEACHER_WIDTH, generator=generator, dtype=torch.float64)
    # The indices below those of the held-out set, so that the scale says nothing about either.
    sample = _inputs(-1 - HELD_OUT - torch.arange(2**14))
    biases = torch.zeros(OUTPUTS, 1, dtype=torch.float64)
    raw = _teach(hidden, torch.cat([units, biases], dim=1), sample)
    scaled = torch.cat([units, -raw.mean(dim=0).unsqueeze(1)], dim=1) / raw.std(dim=0).unsqueeze(1)
    return hidden, _on_grid(scaled, _WEIGHT_BITS)


def _teach(hidden: Tensor, output: Tensor, inputs: Tensor) -> Tensor:
    """(..., OUTPUTS) the teacher's answers, without noise."""
    units = torch.relu(inputs @ hidden[:, :-1].T + hidden[:, -1])
    return units @ output[:, :-1].T + output[:, -1]


def _inputs(indices: Tensor) -> Tensor:
    """(..., INPUTS) inputs of examples, on the grid, in double precision."""
    return _on_grid(_normal(indices, INPUTS + OUTPUTS)[..., :INPUTS], _INPUT_BITS)


def _on_grid(values: Tensor, bits: int) -> Tensor:
    """Rounded to multiples of 2**-bits."""
    return (values * 2.0**bits).round() / 2.0**bits


def _normal(indices: Tensor, count: int) -> Tensor:
    """(*indices.shape, count) independent N(0, 1) numbers in double precision, a function of each index alone.

    Box-Muller over uniform numbers of 53 bits.

    Args:
        indices: int64. count: even.
    """
    keys = _mixed(indices + _GOLDEN).unsqueeze(-1)
    counters = torch.arange(1, count + 1, device=indices.device) * _GOLDEN
    uniform = ((_mixed(keys + counters) >> 11) & (2**53 - 1)).double() * 2.0**-53
    # Contiguous, as torch's kernels for strided numbers round some of them otherwise.
    first, second = uniform[..., : count // 2].contiguous(), uniform[..., count // 2 :].contiguous()
    radius = torch.sqrt(-2 * torch.log1p(-first))
    angle = 2 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)


def _mixed(bits: Tensor) -> Tensor:
    """The output function of splitmix64: a bijection of 64-bit numbers in which every bit depends on every other."""
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Right by `places`, zeros from the left; torch's own shift of int64 repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
