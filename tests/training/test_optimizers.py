"""Every optimizer against its paper's formulas, and what the loop, the ensemble and a resumed run rely on."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.models import gpt, moe
from surge_sweeps.training.optimizers import (
    HYPER_PARAMETERS,
    OPTIMIZERS,
    OptimizerSpec,
    Stepper,
    backward,
    build_optimizer,
    forward,
    set_learning_rate,
)
from surge_sweeps.training.optimizers.adalomo import AdaLomo
from surge_sweeps.training.optimizers.sophia import GAMMA, PERIOD
from surge_sweeps.training.scaling import effective_hyper_parameters
from surge_sweeps.training.workloads.base import Penalized, Settings
from surge_sweeps.training.workloads.token_loss import token_cross_entropy

Array = np.ndarray[Any, np.dtype[np.float64]]
State = dict[str, Any]
#: (parameter, gradient, state, number of the step from 1, learning rate, hyper-parameters) -> the new parameter.
Reference = Callable[[Array, Array, State, int, float, Mapping[str, float]], Array]

STEPS = 12  # beyond the first renewal of SOAP's basis and the first rectified step of RAdam
SHAPES = [(4, 3), (3,), (2, 3, 2, 2)]
#: Large enough that an epsilon, a decay or a beta in the wrong place shows.
VALUES = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.3}


@pytest.fixture(autouse=True)
def _same_models() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def average(state: State, name: str, value: Array, beta: float) -> Array:
    """The moving average that starts at 0."""
    state[name] = beta * state.get(name, np.zeros_like(value)) + (1 - beta) * value
    return np.asarray(state[name])


def l2(reference: Reference) -> Reference:
    """The same with the decay as part of the gradient."""
    return lambda p, g, s, t, lr, h: reference(p, g + h["weight_decay"] * p, s, t, lr, h)


def decoupled(reference: Reference) -> Reference:
    """The same with the decay apart from the gradient."""
    return lambda p, g, s, t, lr, h: reference(p * (1 - lr * h["weight_decay"]), g, s, t, lr, h)


def sgd(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    return p - lr * g


def momentum(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    s["m"] = h["momentum"] * s.get("m", 0.0) + g
    return np.asarray(p - lr * s["m"])


def nesterov(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    s["m"] = h["momentum"] * s.get("m", 0.0) + g
    return np.asarray(p - lr * (g + h["momentum"] * s["m"]))


def adam(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    m = average(s, "m", g, h["beta1"]) / (1 - h["beta1"] ** t)
    v = average(s, "v", g**2, h["beta2"]) / (1 - h["beta2"] ** t)
    return p - lr * m / (np.sqrt(v) + h["eps"])


def amsgrad(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    m = average(s, "m", g, h["beta1"]) / (1 - h["beta1"] ** t)
    s["largest"] = np.maximum(s.get("largest", 0.0), average(s, "v", g**2, h["beta2"]))
    return p - lr * m / (np.sqrt(s["largest"] / (1 - h["beta2"] ** t)) + h["eps"])


def nadam(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    now, then = (h["beta1"] * (1 - 0.5 * 0.96 ** (0.004 * step)) for step in (t, t + 1))
    s["product"] = s.get("product", 1.0) * now
    m = average(s, "m", g, h["beta1"])
    v = average(s, "v", g**2, h["beta2"]) / (1 - h["beta2"] ** t)
    mixed = then * m / (1 - s["product"] * then) + (1 - now) * g / (1 - s["product"])
    return np.asarray(p - lr * mixed / (np.sqrt(v) + h["eps"]))


def radam(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    beta2 = h["beta2"]
    m = average(s, "m", g, h["beta1"]) / (1 - h["beta1"] ** t)
    v = average(s, "v", g**2, beta2)
    most = 2 / (1 - beta2) - 1
    rho = most - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return p - lr * m
    rectified = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return p - lr * m * rectified * math.sqrt(1 - beta2**t) / (np.sqrt(v) + h["eps"])


def adamax(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    m = average(s, "m", g, h["beta1"]) / (1 - h["beta1"] ** t)
    s["u"] = np.maximum(h["beta2"] * s.get("u", 0.0), np.abs(g) + h["eps"])
    return np.asarray(p - lr * m / s["u"])


def adadelta(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    v = average(s, "v", g**2, h["beta2"])
    change = np.sqrt(s.get("d", 0.0) + h["eps"]) / np.sqrt(v + h["eps"]) * g
    average(s, "d", change**2, h["beta2"])
    return p - lr * change


def adagrad(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    s["v"] = s.get("v", 0.0) + g**2
    return np.asarray(p - lr * g / (np.sqrt(s["v"]) + h["eps"]))


def rmsprop(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    v = average(s, "v", g**2, h["beta2"])
    s["m"] = h["momentum"] * s.get("m", 0.0) + g / (np.sqrt(v) + h["eps"])
    return np.asarray(p - lr * s["m"])


def sign_by_adam(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    return p - lr * g / (np.abs(g) + h["eps"])


def signsgd(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    return p - lr * np.sign(g)


def signum(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    return p - lr * np.sign(average(s, "m", g, h["momentum"]))


def lion(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    mixed = h["beta1"] * s.get("m", 0.0) + (1 - h["beta1"]) * g
    average(s, "m", g, h["beta2"])
    return p - lr * np.sign(mixed)


def adabelief(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    m = average(s, "m", g, h["beta1"])
    s["v"] = average(s, "v", (g - m) ** 2, h["beta2"]) + h["eps"]
    deviation = np.sqrt(s["v"] / (1 - h["beta2"] ** t))
    return np.asarray(p - lr * m / (1 - h["beta1"] ** t) / (deviation + h["eps"]))


def adan(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    beta1, middle, beta2 = h["beta1"], 0.92, h["beta2"]
    difference = g - s.get("g", g)
    s["g"] = g
    m = average(s, "m", g, beta1) / (1 - beta1**t)
    d = average(s, "d", difference, middle) / (1 - middle**t)
    v = average(s, "v", (g + middle * difference) ** 2, beta2) / (1 - beta2**t)
    return p - lr * (m + middle * d) / (np.sqrt(v) + h["eps"])


def ademamix(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    fast = average(s, "m", g, h["beta1"]) / (1 - h["beta1"] ** t)
    slow = average(s, "slow", g, 0.9999)
    v = average(s, "v", g**2, h["beta2"]) / (1 - h["beta2"] ** t)
    return p - lr * (fast + 5 * slow) / (np.sqrt(v) + h["eps"])


def adopt(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    if t == 1:
        s["v"] = g**2
        return p
    clip = (t - 1) ** 0.25
    scaled = np.clip(g / np.maximum(np.sqrt(s["v"]), h["eps"]), -clip, clip)
    m = average(s, "m", scaled, h["beta1"])
    s["v"] = h["beta2"] * s["v"] + (1 - h["beta2"]) * g**2
    return p - lr * m


def lamb(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    m, v = average(s, "m", g, h["beta1"]), average(s, "v", g**2, h["beta2"])
    update = m / (np.sqrt(v) + h["eps"]) + h["weight_decay"] * p
    ratio = min(float(np.linalg.norm(p)), 10.0) / (float(np.linalg.norm(update)) + h["eps"])
    return p - lr * ratio * update


def lars(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    if p.ndim > 1:
        size, decay = float(np.linalg.norm(p)), h["weight_decay"]
        g = 0.001 * size / (float(np.linalg.norm(g)) + decay * size) * (g + decay * p)
    return momentum(p, g, s, t, lr, h)


def adafactor(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    floor, beta2 = np.finfo(float).eps, 1 - t**-0.8
    rate = max(1e-3, root_mean_square(p)) * min(lr, 1 / math.sqrt(t))
    if p.ndim > 1:
        rows = average(s, "rows", (g**2).mean(-1, keepdims=True), beta2)
        columns = average(s, "columns", (g**2).mean(-2, keepdims=True), beta2)
        v = rows * columns / rows.mean(-2, keepdims=True)
    else:
        v = average(s, "v", g**2, beta2)
    update = g / np.sqrt(np.maximum(v, floor**2))
    return p * (1 - lr * h["weight_decay"]) - rate * update / max(1.0, root_mean_square(update))


def adalomo(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    beta2, rate = 1 - t**-0.8, lr * max(1e-3, root_mean_square(p))
    if p.ndim > 1:
        flat = g.reshape(len(g), -1)
        rows = average(s, "rows", (flat**2).mean(1), beta2)
        columns = average(s, "columns", (flat**2).mean(0), beta2)
        v = (np.outer(rows, columns) / rows.mean()).reshape(g.shape)
    else:
        v = average(s, "v", g**2, beta2)
    update = g / np.sqrt(v)
    return p * (1 - rate * h["weight_decay"]) - rate * update / max(1.0, root_mean_square(update))


def root_mean_square(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))


def soap(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    axes = range(p.ndim if p.ndim > 1 else 0)
    others = [tuple(other for other in axes if other != axis) for axis in axes]
    outer = [np.tensordot(g, g, (rest, rest)) for rest in others]
    if t == 1:
        s["factors"] = [(1 - h["beta2"]) * matrix for matrix in outer]
        s["bases"] = [np.linalg.eigh(matrix)[1][:, ::-1] for matrix in s["factors"]]
        return p
    n = t - 1

    def turned(values: Array, back: bool = False) -> Array:
        for axis, basis in enumerate(s["bases"]):
            values = np.moveaxis(np.tensordot(values, basis.T if back else basis, (axis, 0)), -1, axis)
        return values

    m = average(s, "m", g, h["beta1"])
    v = average(s, "v", turned(g) ** 2, h["beta2"])
    rate = lr * math.sqrt(1 - h["beta2"] ** n) / (1 - h["beta1"] ** n)
    p = p - rate * turned(turned(m) / (np.sqrt(v) + h["eps"]), back=True)
    s["factors"] = [
        h["beta2"] * old + (1 - h["beta2"]) * new for old, new in zip(s["factors"], outer, strict=True)
    ]
    if n % 10 == 0:
        for axis, (factor, basis) in enumerate(zip(s["factors"], s["bases"], strict=True)):
            order = np.argsort(-np.diag(basis.T @ factor @ basis))
            s["v"] = np.take(s["v"], order, axis)
            s["bases"][axis] = np.linalg.qr((factor @ basis)[:, order])[0]
    return p * (1 - lr * h["weight_decay"])


def muon(p: Array, g: Array, s: State, t: int, lr: float, h: Mapping[str, float]) -> Array:
    p = p * (1 - lr * h["weight_decay"])
    if p.ndim != 2:
        return adam(p, g, s, t, lr, h)
    m = average(s, "m", g, h["momentum"])
    x = (1 - h["momentum"]) * g + h["momentum"] * m
    x = x / np.linalg.norm(x)
    for _ in range(5):  # Jordan et al. 2024
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return p - lr * 0.2 * math.sqrt(max(p.shape)) * x


REFERENCES: dict[str, Reference] = {
    "sgd": l2(sgd),
    "momentum": l2(momentum),
    "nesterov": l2(nesterov),
    "adam": l2(adam),
    "adamw": decoupled(adam),
    "amsgrad": l2(amsgrad),
    "nadam": l2(nadam),
    "radam": l2(radam),
    "adamax": l2(adamax),
    "adadelta": l2(adadelta),
    "adagrad": l2(adagrad),
    "rmsprop": l2(rmsprop),
    "sign": sign_by_adam,
    "signsgd": decoupled(signsgd),
    "signum": decoupled(signum),
    "lion": decoupled(lion),
    "adabelief": decoupled(adabelief),
    "adan": decoupled(adan),
    "ademamix": decoupled(ademamix),
    "adopt": decoupled(adopt),
    "lamb": lamb,
    "lars": lars,
    "adafactor": adafactor,
    "adalomo": adalomo,
    "soap": soap,
    "muon": muon,
}
#: What is rounded below double precision: NAdam's product of momenta and SOAP's basis to 24 bits, Muon's update to 8.
TOLERANCES = {"nadam": 1e-8, "soap": 1e-5, "muon": 2e-2}


def hyper_parameters(spec: OptimizerSpec) -> dict[str, float]:
    return {name: VALUES[name] for name in spec.defaults}


def tensors(dtype: torch.dtype, seed: int = 0, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def learning_rate(step: int) -> float:
    return 0.1 / math.sqrt(step)


def test_every_optimizer_has_a_reference() -> None:
    assert {*REFERENCES, "sophia"} == set(OPTIMIZERS)
    assert {name for spec in OPTIMIZERS.values() for name in spec.defaults} == set(HYPER_PARAMETERS)
    assert {spec.name for spec in OPTIMIZERS.values() if not spec.can_accumulate} == {"sophia"}
    with pytest.raises(UnknownNameError, match="adamw"):
        build_optimizer("adamv", tensors(torch.float64), 0.1, {})


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_every_step_is_the_papers(name: str) -> None:
    values = hyper_parameters(OPTIMIZERS[name])
    parameters = tensors(torch.float64)
    expected = [parameter.numpy().copy() for parameter in parameters]
    states: list[State] = [{} for _ in expected]
    optimizer = build_optimizer(name, parameters, 77.0, values)
    tolerance = TOLERANCES.get(name, 1e-11)
    for step in range(1, STEPS + 1):
        lr = learning_rate(step)
        gradients = tensors(torch.float64, seed=step)
        for index, gradient in enumerate(gradients):
            arguments = (gradient.numpy().copy(), states[index], step, lr, values)
            expected[index] = REFERENCES[name](expected[index], *arguments)
            parameters[index].grad = gradient
        set_learning_rate(optimizer, lr)
        optimizer.step()
        for parameter, array in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(parameter.numpy(), array, rtol=0, atol=tolerance)


def stacked_gap(name: str) -> float:
    """The largest difference between replicas stepped as one at learning rate 1 and each on its own."""
    values, shares = hyper_parameters(OPTIMIZERS[name]), [0.3, 1.0, 2.5]
    alone = [tensors(torch.float64, seed) for seed in range(3)]
    together = [torch.stack(rows) for rows in zip(*alone, strict=True)]
    one = build_optimizer(name, together, 1.0, values)
    each = [build_optimizer(name, parameters, 1.0, values) for parameters in alone]
    for step in range(1, 5):
        lrs = [share * learning_rate(step) for share in shares]
        gradients = [tensors(torch.float64, 10 * step + replica) for replica in range(3)]
        for replica, optimizer in enumerate(each):
            set_learning_rate(optimizer, lrs[replica])
            for parameter, gradient in zip(alone[replica], gradients[replica], strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        before = [parameter.clone() for parameter in together]
        for parameter, rows in zip(together, zip(*gradients, strict=True), strict=True):
            parameter.grad = torch.stack(rows)
        one.step()
        for parameter, old in zip(together, before, strict=True):
            share = torch.tensor(lrs, dtype=torch.float64).view(-1, *[1] * (parameter.ndim - 1))
            parameter.copy_(torch.lerp(old, parameter, share))
    pairs = zip(together, zip(*alone, strict=True), strict=True)
    return max(float((parameter - torch.stack(rows)).abs().max()) for parameter, rows in pairs)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_elementwise_says_whether_replicas_can_share_one_optimizer(name: str) -> None:
    gap = stacked_gap(name)
    assert gap < 1e-12 if OPTIMIZERS[name].elementwise else gap > 1e-4


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv1d(1, 3, 2), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2)
        ).to(dtype)


def train(model: nn.Module, optimizer: Stepper, first: int, last: int) -> None:
    dtype = next(model.parameters()).dtype
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 1, 5, generator=generator, dtype=dtype)
        loss = nn.functional.cross_entropy(model(inputs), (inputs.sum((1, 2)) > 0).long())
        optimizer.zero_grad()
        backward(loss, optimizer)
        set_learning_rate(optimizer, 0.01 / (step + 1))
        optimizer.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_state_read_back_goes_on_with_the_same_bits(name: str) -> None:
    whole = network()
    train(whole, build_optimizer(name, whole, 0.01, {}), 0, 25)
    model = network()
    optimizer = build_optimizer(name, model, 0.01, {})
    train(model, optimizer, 0, 13)
    content = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], content)
    content.seek(0)
    kept = torch.load(content, weights_only=True)
    resumed = network()
    resumed.load_state_dict(kept[0])
    again = build_optimizer(name, resumed, 0.01, {})
    again.load_state_dict(kept[1])
    train(resumed, again, 13, 25)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert not torch.equal(next(network().parameters()), next(resumed.parameters()))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_loss_falls_at_the_defaults_and_the_unused_stays(name: str) -> None:
    model = nn.Linear(6, 4, bias=False, dtype=torch.float64)
    unused = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    with torch.no_grad():
        model.weight.fill_(0.5)
    lr = {"lars": 5.0, "adadelta": 30.0, "radam": 0.2, "adafactor": 0.05, "adalomo": 0.05}.get(name, 0.02)
    optimizer = build_optimizer(name, [*model.parameters(), unused], lr, {})
    losses = []
    for step in range(40):
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        loss = (model(inputs) - inputs[:, :4]).square().mean()
        optimizer.zero_grad()
        backward(loss, optimizer)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert torch.equal(unused, torch.ones_like(unused))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_smallest_betas_and_no_momentum_make_finite_steps(name: str) -> None:
    zeros = {h: 0.0 for h in ("beta1", "beta2", "momentum") if h in OPTIMIZERS[name].defaults}
    model = network()
    train(model, build_optimizer(name, model, 0.01, zeros), 0, 12)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_nesterov_without_momentum_is_plain_descent() -> None:
    plain, other = network(), network()
    train(plain, build_optimizer("sgd", plain, 0.01, {}), 0, 3)
    train(other, build_optimizer("nesterov", other, 0.01, {"momentum": 0.0}), 0, 3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))


def test_adalomo_is_the_packages_fused_one() -> None:
    ours, theirs = (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    kept = AdaLomo(list(ours.parameters()), lr=0.05, weight_decay=0.2)
    fused = pytorch_optimizer.AdaLOMO(theirs, lr=0.05, weight_decay=0.2)
    for step in range(6):
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        kept.zero_grad()
        ours(inputs).square().mean().backward()
        kept.step()
        fused.fused_backward(theirs(inputs).square().mean(), lr=0.05)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-4, atol=1e-6)


def test_sophia_is_the_papers_on_a_known_hessian() -> None:
    values = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.3}
    (parameter,) = tensors(torch.float64, shapes=[(40,)])
    parameter.requires_grad_()
    expected = parameter.detach().numpy().copy()
    optimizer = build_optimizer("sophia", [parameter], 77.0, values)
    state: State = {}
    clipped = []
    for step in range(2 * PERIOD + 2):
        lr = learning_rate(step + 1)
        gradient = expected**3 + expected.sum()  # of sum(x^4) / 4 + sum(x)^2 / 2
        if step % PERIOD == 0:
            noise = torch.Generator().manual_seed(step)
            u = torch.randn(40, generator=noise, dtype=torch.float64).numpy()
            average(state, "h", GAMMA * u * (3 * expected**2 * u + u.sum()), values["beta2"])
        m = average(state, "m", gradient, values["beta1"])
        ratio = m / np.maximum(state["h"], values["eps"])
        clipped.append(float((np.abs(ratio) > 1).mean()))
        expected = expected * (1 - lr * values["weight_decay"]) - lr * np.clip(ratio, -1, 1)
        optimizer.zero_grad()
        backward(parameter.pow(4).sum() / 4 + parameter.sum().square() / 2, optimizer)
        set_learning_rate(optimizer, lr)
        optimizer.step()
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-12)
    assert 0 < min(clipped) < 1, "both sides of the clip must be seen"


def test_sophia_says_what_its_gradients_lack() -> None:
    model = network()
    optimizer = build_optimizer("sophia", model, 0.01, {})
    model(torch.ones(2, 1, 5)).square().mean().backward()
    with pytest.raises(TrainingError, match=r"without their graph.*whole batch"):
        optimizer.step()


class Attention(nn.Module):
    """Its usual kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 12)

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.inner(inputs).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def test_sophia_trains_attention() -> None:
    model = Attention()
    optimizer = build_optimizer("sophia", model, 0.01, {})
    inputs = torch.randn(2, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(PERIOD + 1):
        optimizer.zero_grad()
        with forward(optimizer):
            loss = model(inputs).square().mean()
        backward(loss, optimizer)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["gpt", "moe"])
def test_sophia_trains_language_models(name: str) -> None:
    pytest.importorskip("transformers")
    settings = Settings(
        sequence_length=8, layers=1, width=16, heads=2, experts=4, shared_experts=1, experts_per_token=2
    )
    model = {"gpt": gpt, "moe": moe}[name].build(20, settings, torch.Generator().manual_seed(0))
    optimizer = build_optimizer("sophia", model, 0.01, {})
    losses = []
    for step in range(2 * PERIOD + 2):
        # Each token is followed by the next number.
        first = torch.randint(20, (8, 1), generator=torch.Generator().manual_seed(step))
        tokens = (first + torch.arange(9)) % 20
        optimizer.zero_grad()
        with forward(optimizer):
            answer = model(tokens[:, :-1])
            outputs, penalty = answer if isinstance(answer, Penalized) else (answer, 0.0)
            loss = token_cross_entropy(outputs, tokens[:, 1:])
        backward(loss + penalty, optimizer)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(20), rel=0.1)
    assert losses[-1] < 0.7 * losses[0]


def test_a_half_life_under_sophia_is_one_of_examples() -> None:
    batch_size, half_life = 4, 4 * 2 * PERIOD
    spec = OPTIMIZERS["sophia"]
    values = effective_hyper_parameters(
        spec.defaults,
        batch_size=batch_size,
        beta2_half_life_examples=half_life,
        beta2_every_steps=spec.beta2_every_steps,
    )
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = build_optimizer("sophia", [parameter], 1e-3, values)
    hessians = []
    for step in range(half_life // batch_size + 1):
        # Curved at the first step alone: from then on the average only forgets.
        curvature = 1.0 if step == 0 else 0.0
        optimizer.zero_grad()
        backward(curvature * parameter.square().sum() + parameter.sum(), optimizer)
        optimizer.step()
        hessians.append(optimizer.state_dict()["state"][0]["hessian_moment"].clone())
    torch.testing.assert_close(hessians[-1], hessians[0] / 2)


def test_only_sophia_pays_for_a_graph() -> None:
    for name in OPTIMIZERS:
        model = network()
        optimizer = build_optimizer(name, model, 0.01, {})
        graphs = []
        for _ in range(PERIOD + 1):
            optimizer.zero_grad()
            backward(model(torch.ones(2, 1, 5)).square().mean(), optimizer)
            graphs.append(any(p.grad is not None and p.grad.requires_grad for p in model.parameters()))
            optimizer.step()
        due = name == "sophia"
        assert graphs == [due, *[False] * (PERIOD - 1), due]


def test_muon_leaves_embeddings_to_adamw() -> None:
    models = [nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        build_optimizer("muon", models[0], 0.01, {}),
        build_optimizer("adamw", models[1], 0.01, {"weight_decay": 0.1}),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            model[1].weight.grad = torch.ones(5, 4)
            model[0].weight.grad = torch.arange(20.0).reshape(5, 4)
            optimizer.step()
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert not torch.equal(models[0][1].weight, models[1][1].weight)
