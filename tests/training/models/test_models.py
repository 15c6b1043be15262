"""What every model promises: a seed decides its parameters, all of which learn, and bad shapes are named."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from surge_sweeps.errors import MissingExtraError, TrainingError
from surge_sweeps.training.models import cnn, gpt, mlp, moe, resnet18
from surge_sweeps.training.workloads.base import Penalized, Settings

Build = Callable[[torch.Generator], nn.Module]

TEXT = Settings(sequence_length=12, layers=2, width=32, heads=2)
MODELS: dict[str, tuple[Build, tuple[int, ...], tuple[int, ...]]] = {
    "mlp": (lambda g: mlp.build((1, 9, 9), 5, Settings(), g), (3, 1, 9, 9), (3, 5)),
    "mlp on vectors": (lambda g: mlp.build_regression(7, 2, Settings(), g), (3, 7), (3, 2)),
    "cnn": (lambda g: cnn.build((1, 28, 28), 10, Settings(), g), (3, 1, 28, 28), (3, 10)),
    "cnn in colour": (lambda g: cnn.build((3, 32, 32), 10, Settings(width=4), g), (2, 3, 32, 32), (2, 10)),
    "resnet18": (lambda g: resnet18.build((3, 32, 32), 10, Settings(width=8), g), (3, 3, 32, 32), (3, 10)),
    "resnet18, 7 x 7 stem": (
        lambda g: resnet18.build((1, 80, 72), 4, Settings(width=8), g),
        (3, 1, 80, 72),
        (3, 4),
    ),
    "gpt": (lambda g: gpt.build(50, TEXT, g), (3, 12), (3, 12, 50)),
    "moe": (lambda g: moe.build(50, TEXT, g), (3, 12), (3, 12, 50)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example_inputs(shape: tuple[int, ...]) -> Tensor:
    is_text = len(shape) == 2 and shape[1] == TEXT.sequence_length
    drawn = generator(7)
    return torch.randint(0, 50, shape, generator=drawn) if is_text else torch.randn(shape, generator=drawn)


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[Build, Tensor, tuple[int, ...]]:
    build, inputs, outputs = MODELS[request.param]
    return build, example_inputs(inputs), outputs


def test_seed_decides_every_bit_and_the_global_state_stays(
    case: tuple[Build, Tensor, tuple[int, ...]],
) -> None:
    build, inputs, _ = case
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(generator(3))
    first(inputs)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build(generator(3)), build(generator(4))
    for mine, same, different in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, same)
        assert mine.isfinite().all()
        if mine.ndim > 1:
            assert not torch.equal(mine, different)


def test_outputs_are_finite_and_of_the_shape_promised(case: tuple[Build, Tensor, tuple[int, ...]]) -> None:
    build, inputs, shape = case
    model = build(generator()).eval()
    outputs = model(inputs)
    assert outputs.shape == shape
    assert outputs.isfinite().all()
    assert not any(buffer.isnan().any() for buffer in model.buffers())


def test_every_parameter_learns_and_the_same_step_gives_the_same_bits(
    case: tuple[Build, Tensor, tuple[int, ...]],
) -> None:
    build, inputs, _ = case
    model = build(generator())
    gradients = []
    for _ in range(2):
        model.zero_grad()
        outputs = model(inputs)
        if isinstance(outputs, Penalized):
            (
                functional.cross_entropy(outputs.outputs.flatten(0, 1), inputs.flatten()) + outputs.penalty
            ).backward()
        else:
            (outputs - 1).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for name, first, second in zip(dict(model.named_parameters()), *gradients, strict=True):
        assert first is not None, name
        assert first.any(), name
        assert torch.equal(first, second), name


@pytest.mark.parametrize("name", ["mlp", "mlp on vectors", "cnn", "gpt"])
def test_replicas_stack(name: str) -> None:
    build, shape, _ = MODELS[name]
    models = [build(generator(seed)) for seed in range(3)]
    stacked, buffers = stack_module_state(models)
    assert not buffers
    skeleton = build(generator()).to("meta")
    inputs = torch.stack([example_inputs(shape)] * 3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        together = vmap(lambda parameters, x: functional_call(skeleton, parameters, (x,)))(stacked, inputs)
    for model, own, outputs in zip(models, inputs, together, strict=True):
        torch.testing.assert_close(outputs, model(own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape", "given", "what"),
    [
        (mlp, (1, 9, 9), {"layers": 0}, "layers is 0"),
        (mlp, (1, 9, 9), {"width": -3}, "width is -3"),
        (cnn, (1, 28, 28), {"width": 0}, "width is 0"),
        (cnn, (1, 7, 28), {}, "7 x 28 pixels are too small"),
        (resnet18, (3, 8, 8), {}, "8 x 8 pixels are too small"),
        (resnet18, (3, 32, 32), {"width": 0}, "width is 0"),
    ],
)
def test_impossible_image_models_are_named(
    model: ModuleType, shape: tuple[int, int, int], given: dict[str, int], what: str
) -> None:
    with pytest.raises(TrainingError, match=what) as raised:
        model.build(shape, 10, Settings(**given), generator())
    assert raised.value.hint


@pytest.mark.parametrize(
    ("model", "given", "what"),
    [
        (gpt, {"layers": 0}, "layers is 0"),
        (gpt, {"heads": 5}, "width of 32 cannot be cut into 5 heads"),
        (gpt, {"sequence_length": None}, "sequence_length is None"),
        (moe, {"heads": 0}, "heads is 0"),
        (moe, {"heads": 32}, "cannot be cut into 32 heads of an even width"),
        (moe, {"width": 36, "heads": 2}, "36 is no multiple of 8"),
        (moe, {"experts": 2, "experts_per_token": 3}, "there are 2 experts"),
        (moe, {"shared_experts": -1}, "shared_experts is -1"),
    ],
)
def test_impossible_language_models_are_named(
    model: ModuleType, given: dict[str, int | None], what: str
) -> None:
    shape: dict[str, int | None] = {"sequence_length": 12, "layers": 2, "width": 32, "heads": 2, **given}
    with pytest.raises(TrainingError, match=what) as raised:
        model.build(50, Settings(**shape), generator())
    assert raised.value.hint


def test_missing_transformers_is_named_with_the_line_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.gpt2.configuration_gpt2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'surge-sweeps\[hub\]'"):
        gpt.build(50, TEXT, generator())


def test_each_model_can_be_the_first_import_and_loads_no_library() -> None:
    code = """
import importlib, sys, torch
for name in ("mlp", "cnn", "resnet18", "gpt", "moe"):
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("surge_sweeps")]:
        del sys.modules[loaded]
    importlib.import_module(f"surge_sweeps.training.models.{name}")
print("transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
