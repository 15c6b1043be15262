"""How fast the workloads train: against a bare loop, stacked against one by one, and as a share of the device's peak.

Every ratio is of the same work done two ways in one process: the median over alternating pairs. On the processor, time
is that of this process alone (CPU time, one thread unless --threads says otherwise), so that what else the machine does
counts little; on a GPU it is wall time, the device waited for at both ends. Images and text are generated: of
Fashion-MNIST's and TinyImageNet's shapes, and letters.

Run: python benchmarks/bench_workloads.py [--device cpu|cuda] [--only loop,ensemble,compile,peak,grid]
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from surge_sweeps.sweep import Scalar
from surge_sweeps.training import TrialConfig
from surge_sweeps.training.data_order import DataOrder
from surge_sweeps.training.devices import CPU, pick_device
from surge_sweeps.training.ensemble import MIN_REPLICAS, stack_size
from surge_sweeps.training.evaluation import evaluate
from surge_sweeps.training.loop import run_loop
from surge_sweeps.training.memory import is_out_of_memory, release_memory
from surge_sweeps.training.optimizers import build_optimizer
from surge_sweeps.training.precision import PRECISIONS
from surge_sweeps.training.session import Setup, open_session
from surge_sweeps.training.stacked import StackedReplicas
from surge_sweeps.training.start import starts
from surge_sweeps.training.steps import Steps
from surge_sweeps.training.workloads import load_workload
from surge_sweeps.training.workloads.base import Workload

Settings = Mapping[str, Scalar]
Timed = Callable[[Callable[[], object]], float]

#: Seconds of one measurement.
SLICE_S = 0.5
#: Batch sizes at which the ensemble is compared with the loop.
BATCH_SIZES = (4, 32, 256, 1024)
#: Runs in one stack on a GPU: 12 learning rates of 8 seeds.
GPU_RUNS = 96
GPU_SEEDS = 8
#: The paper's grid (Li et al. 2024, Table 1): 10 learning rates and 100 seeds at each batch size from 1 to 12.
GRID_RUNS = 1000
GRID_SEEDS = 100
GRID_BATCH_SIZES = range(1, 13)
GRID_MEASURED = (1, 4, 8, 12)
#: Steps of a short run: to the target loss and 10 more. The paper gives no number; time is in proportion to it.
GRID_STEPS = 500


def timer(device: torch.device) -> Timed:
    """Seconds of a call: CPU time of this process, or wall time until the device is done."""

    def on_processor(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def on_gpu(work: Callable[[], object]) -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return on_processor if device.type == "cpu" else on_gpu


def repeated(work: Callable[[], object], timed: Timed) -> Callable[[], float]:
    """Measures the seconds of one call, over as many as make a slice; warmed up."""
    work()
    count = max(1, round(SLICE_S / max(timed(work), 1e-6)))

    def many() -> None:
        for _ in range(count):
            work()

    return lambda: timed(many) / count


def paired(
    one: Callable[[], float], other: Callable[[], float], pairs: int
) -> tuple[float, float, float, float]:
    """Medians of both over alternating pairs, then of `other / one`, and that ratio's spread (half its range)."""
    rows = [(one(), other()) for _ in range(pairs)]
    ratios = [theirs / ours for ours, theirs in rows]
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    return medians[0], medians[1], statistics.median(ratios), (max(ratios) - min(ratios)) / 2


def write_data(folder: Path) -> None:
    """Grey images in IDX files, colour images in class folders, and text."""
    rng = np.random.default_rng(0)
    (folder / "grey").mkdir()
    for part, count in (("train", 4000), ("t10k", 500)):
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (folder / "grey" / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())
    for name, side in (("colour", 64), ("small-colour", 32)):
        for number in range(200):
            place = folder / name / f"class-{number % 10}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(place)
    letters = rng.choice(list("abcdefgh \n"), 400_000)
    (folder / "letters.txt").write_text("".join(letters))


def trial(settings: Settings, **given: Scalar) -> TrialConfig:
    """A trial that never ends by itself."""
    return TrialConfig.from_parameters({"lr": 1e-4, "max_steps": 10**9, **settings, **given})


def workload_of(config: TrialConfig, device: torch.device) -> Workload:
    return load_workload(config.workload, config.settings).on(device)


def bare_loop(workload: Workload, config: TrialConfig, model: nn.Module) -> None:
    """What a script would do: shuffle each epoch, and forward, backward, step; the loss once evaluated at the end."""
    optimizer = build_optimizer(config.optimizer, model, config.lr, config.hyper_parameters())
    model.train()
    examples = config.steps * config.batch_size
    if workload.train_examples is None:
        order = torch.arange(examples)
    else:
        epochs = -(-examples // workload.train_examples)
        order = torch.cat([torch.randperm(workload.train_examples) for _ in range(epochs)])
    for step in range(config.steps):
        inputs, targets = workload.train_batch(order[step * config.batch_size :][: config.batch_size])
        optimizer.zero_grad()
        workload.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    evaluate(workload, model)


def loop_against_bare(name: str, settings: Settings, device: torch.device, pairs: int) -> None:
    """Print the steps per second of the training loop and of a bare one."""
    timed = timer(device)
    config = trial(settings)
    workload = workload_of(config, device)
    (start,) = starts(workload, [config]).values()
    session = open_session(config, Setup(device))
    step = repeated(lambda: session.steps.step(torch.arange(config.batch_size)), timed)()
    steps = max(10, round(SLICE_S / step))
    limited = trial(settings, max_steps=steps)

    def ours() -> float:
        return timed(lambda: run_loop(workload, limited, start, logged=(0, steps)))

    def bare() -> float:
        model = workload.build_model(config.model, torch.Generator().manual_seed(0))
        return timed(lambda: bare_loop(workload, limited, model))

    ours(), bare()
    seconds, bare_seconds, ratio, spread = paired(ours, bare, 2 * pairs)
    print(
        f"  {name}, batch {config.batch_size}: {steps / seconds:,.0f} steps/s, bare loop {steps / bare_seconds:,.0f}: "
        f"{ratio:.3f} of it (+- {spread:.3f}, {2 * pairs} pairs of {steps} steps and one evaluation)",
        flush=True,
    )


def stack_of(workload: Workload, config: TrialConfig, runs: int, seeds: int) -> Callable[[], object]:
    """A step of so many replicas at once, of so many seeds at most; those of one seed see the same examples."""
    model = workload.build_model(config.model, torch.Generator().manual_seed(0))
    stack = StackedReplicas(workload, [model] * runs, [config] * runs)
    orders = [DataOrder(workload.train_examples, seed) for seed in range(min(seeds, runs))]
    batches = [order.positions(0, config.batch_size) for order in orders]
    batch_of = torch.arange(runs, device=workload.device) % len(batches)
    return partial(stack.step, torch.stack(batches), batch_of)


def largest_stack(
    workload: Workload, config: TrialConfig, runs: int, seeds: int, timed: Timed
) -> tuple[int, Callable[[], float]]:
    """How many of these runs memory holds at once, by halving, and what measures a step of so many."""
    while True:
        try:
            return runs, repeated(stack_of(workload, config, runs, seeds), timed)
        except RuntimeError as error:
            if runs <= MIN_REPLICAS or not is_out_of_memory(error):
                raise
        release_memory()
        runs = max(runs // 2, MIN_REPLICAS)


def alone(workload: Workload, config: TrialConfig) -> Callable[[], object]:
    """A step of one run in the plain loop."""
    model = workload.build_model(config.model, torch.Generator().manual_seed(0))
    optimizer = build_optimizer(config.optimizer, model, config.lr, config.hyper_parameters())
    steps = Steps(workload, model, optimizer, precision=config.precision, compile=config.compile)
    return partial(steps.step, DataOrder(workload.train_examples, 0).positions(0, config.batch_size))


def runs_at_once(workload: Workload, config: TrialConfig, runs: int) -> int:
    """How many of them one stack takes: on the processor what its cache holds, on a GPU all."""
    if workload.device.type != "cpu":
        return runs
    model = workload.build_model(config.model, torch.Generator().manual_seed(0))
    return min(stack_size(workload, model, config.batch_size), runs)


def ensemble_against_loop(settings: Settings, device: torch.device, pairs: int) -> None:
    """Print the steps per second of a stack of small networks and of the plain loop."""
    timed = timer(device)
    for batch_size in BATCH_SIZES:
        config = trial(settings, batch_size=batch_size)
        workload = workload_of(config, device)
        chosen = runs_at_once(workload, config, GPU_RUNS)
        runs, one = largest_stack(workload, config, max(chosen, MIN_REPLICAS), GPU_SEEDS, timed)
        other = repeated(alone(workload, config), timed)
        together, single, ratio, spread = paired(one, other, pairs)
        note = "" if chosen > 1 else "; beyond the cache, so `train` takes the loop"
        print(
            f"  batch {batch_size}: {runs} in a stack {runs / together:,.0f} runs x steps/s, one by one "
            f"{1 / single:,.0f}: {runs * ratio:.2f}x (+- {runs * spread:.2f}{note})",
            flush=True,
        )


def compiled_against_eager(name: str, settings: Settings, device: torch.device, pairs: int) -> None:
    """Print how much faster compiled steps are, and what their compilation takes."""
    timed = timer(device)
    eager, fused = trial(settings), trial(settings, compile="inductor")
    workload = workload_of(eager, device)
    plain = repeated(alone(workload, eager), timed)
    begin = time.perf_counter()
    step = alone(workload, fused)
    step()
    first_s = time.perf_counter() - begin
    _, _, ratio, spread = paired(repeated(step, timed), plain, pairs)
    print(
        f"  {name}, batch {eager.batch_size}: {ratio:.2f}x (+- {spread:.2f}), once {first_s:.0f} s",
        flush=True,
    )


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Arithmetic per second of a product of two square matrices, the best of several sizes and repeats."""
    timed = timer(device)
    best = 0.0
    for side in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        measure = repeated(partial(torch.mm, left, right), timed)
        best = max(best, *(2 * side**3 / measure() for _ in range(3)))
    return best


def share_of_peak(
    name: str, settings: Settings, device: torch.device, peaks: Mapping[str, float], pairs: int
) -> None:
    """Print examples or tokens per second and how much of the peak their arithmetic is, in each precision."""
    timed = timer(device)
    for precision, peak in peaks.items():
        config = trial(settings, precision=precision)
        session = open_session(config, Setup(device))
        step = partial(session.steps.step, torch.arange(config.batch_size))
        with FlopCounterMode(display=False) as counter:
            step()
        measure = repeated(step, timed)
        seconds = statistics.median(measure() for _ in range(pairs))
        tokens = session.workload.tokens_per_example
        rate = config.batch_size * (tokens or 1) / seconds
        flops = counter.get_total_flops()
        print(
            f"  {name}, batch {config.batch_size}, {precision}: {rate:,.0f} {'tokens' if tokens else 'examples'}/s, "
            f"{flops / 1e9:.2f} GFLOP a step, {flops / seconds / 1e9:,.0f} GFLOP/s: "
            f"{flops / seconds / peak:.0%} of the peak",
            flush=True,
        )


def paper_grid(settings: Settings, device: torch.device) -> None:
    """Print how long the paper's grid of the CNN would take, from steps of stacks at some of its batch sizes."""
    timed = timer(device)
    seconds = []
    for batch_size in GRID_MEASURED:
        config = trial(settings, batch_size=batch_size)
        workload = workload_of(config, device)
        wanted = max(runs_at_once(workload, config, GRID_RUNS), MIN_REPLICAS)
        runs, measure = largest_stack(workload, config, wanted, GRID_SEEDS, timed)
        seconds.append(measure() / runs)
    of_step = np.interp(GRID_BATCH_SIZES, GRID_MEASURED, seconds)
    minutes = float(of_step.sum()) * GRID_RUNS * GRID_STEPS / 60
    print(
        f"  {GRID_RUNS * len(GRID_BATCH_SIZES):,} runs of {GRID_STEPS} steps at batch sizes 1 to 12, without "
        f"evaluations: {minutes:,.0f} minutes, or {minutes * 100 / GRID_STEPS:,.0f} for every 100 steps of each; "
        f"from one slice at each of the batch sizes {', '.join(map(str, GRID_MEASURED))}, linear between them",
        flush=True,
    )


def main() -> None:
    """Print every figure and how it was got."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on the processor")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each kind")
    parser.add_argument(
        "--only", default="loop,ensemble,compile,peak,grid", help="parts, separated by commas"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    parts = options.only.split(",")
    is_cpu = device == CPU
    name = f"the processor, {options.threads} thread(s)" if is_cpu else torch.cuda.get_device_name(device)
    print(f"device: {name}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        os.environ["SURGE_CACHE_DIR"] = str(Path(folder) / "cache")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        cnn: Settings = {"workload": "images", "data": f"{folder}/grey", "model": "cnn", "optimizer": "adam"}
        resnet: Settings = {"workload": "images", "data": f"{folder}/colour", "model": "resnet18"}
        text: Settings = {"workload": "text", "data": f"{folder}/letters.txt", "model": "gpt"}
        small: Settings = {**text, "layers": 2, "width": 64, "heads": 4, "sequence_length": 64}
        if "loop" in parts:
            print("training loop against a bare loop of the same arithmetic (1: no overhead)")
            loops: dict[str, Settings] = {
                "digits mlp": {"batch_size": 32},
                "images cnn": {**cnn, "batch_size": 16},
                "text gpt of 2 layers, width 64, 64 tokens": {**small, "batch_size": 8},
                "teacher mlp": {"workload": "teacher", "batch_size": 32},
            }
            for title, settings in loops.items():
                loop_against_bare(title, settings, device, options.pairs)
        if "ensemble" in parts:
            print("ensemble against loop: training steps alone of the 5-layer CNN, 1 x 28 x 28 images, Adam")
            ensemble_against_loop(cnn, device, options.pairs)
        if "compile" in parts:
            print(
                "compiled steps against uncompiled ones, and the wall time of the first step, nothing kept from before"
            )
            tiny: Settings = {**resnet, "data": f"{folder}/small-colour", "width": 8, "optimizer": "sign"}
            compiled_ones: dict[str, Settings] = {
                "digits mlp": {"batch_size": 32},
                "images cnn": {**cnn, "batch_size": 32},
                "resnet18 of width 8, 3 x 32 x 32": {**tiny, "batch_size": 32},
                "resnet18, 3 x 64 x 64": {**resnet, "batch_size": 4 if is_cpu else 256},
                "gpt of 2 layers, width 64, 64 tokens": {**small, "batch_size": 32},
            }
            for title, settings in compiled_ones.items():
                compiled_against_eager(title, settings, device, options.pairs)
        if "peak" in parts:
            print(
                "share of the device's peak: the arithmetic that torch counts in a step (on the processor without"
            )
            print("that of attention) over the fastest product of square matrices in the same precision")
            peaks = {one: peak_flops(device, PRECISIONS[one] or torch.float32) for one in PRECISIONS}
            for precision, peak in peaks.items():
                print(f"  peak in {precision}: {peak / 1e9:,.0f} GFLOP/s")
            middle = {**text, "layers": 2, "width": 256, "heads": 4, "sequence_length": 128, "batch_size": 8}
            large = {**text, "sequence_length": 512, "batch_size": 32}
            title = (
                "gpt of 2 layers, width 256, 128 tokens"
                if is_cpu
                else "gpt of DistilGPT2's shape, 512 tokens"
            )
            share_of_peak(
                "resnet18, 3 x 64 x 64",
                {**resnet, "batch_size": 4 if is_cpu else 256},
                device,
                peaks,
                options.pairs,
            )
            share_of_peak(title, middle if is_cpu else large, device, peaks, options.pairs)
        if "grid" in parts:
            print("the paper's grid of the 5-layer CNN (Fashion-MNIST, Adam) in stacks")
            paper_grid(cnn, device)


if __name__ == "__main__":
    main()
