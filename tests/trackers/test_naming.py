"""Reading projects that other programs logged: names found, steps placed, doubts said. No store: rows in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_rows import Store, steps_of, what

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.naming.names import AmbiguousNameError

Rows = list[dict[str, float]]
Case = tuple[dict[str, object], Rows, dict[str, Any], tuple[str, ...], list[int], float]


def chosen(curves: LossCurves) -> tuple[str, ...]:
    return tuple(curves.read_as[name] for name in ("loss", "learning rate", "batch size", "seed"))


HF = {
    "learning_rate": 3e-4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "seed": 42,
    "data_seed": None, "output_dir": "out/1", "run_name": "one", "train_batch_size": 4, "lr_scheduler_type": "cosine",
}  # fmt: skip


def hf_rows(steps: Sequence[int] = (10, 20, 30)) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in steps:
        shared = {"train/global_step": step, "train/epoch": step / 100}
        rows.append({**shared, "train/loss": 3 / step, "train/learning_rate": 1e-4, "train/grad_norm": 1.0})
        rows.append({**shared, "eval/loss": 2 / step, "eval/runtime": 1.0, "eval/samples_per_second": 9.0})
    return rows


# One realistic run a framework: settings, rows, options -> what is read, the steps of the loss, examples at the last.
FRAMEWORKS: dict[str, Case] = {
    "Transformers": (
        HF | {"world_size": 2},
        hf_rows(),
        {},
        (
            "eval/loss", "learning_rate", "per_device_train_batch_size * gradient_accumulation_steps * world_size",
            "seed",
        ),
        [10, 20, 30],
        30 * 64,
    ),
    "Lightning": (
        {"lr": 0.1, "batch_size": 16, "hidden": 8},
        [
            {"trainer/global_step": 49, "train_loss_step": 2.0, "epoch": 0},
            {"trainer/global_step": 99, "train_loss_step": 1.5, "epoch": 0},
            {"trainer/global_step": 99, "val_loss": 1.6, "epoch": 0},
            {"trainer/global_step": 99, "train_loss_epoch": 1.7, "epoch": 0},
            {"trainer/global_step": 199, "val_loss": 1.2, "epoch": 1},
        ],
        {},
        ("val_loss", "lr", "batch_size", "not recorded"),
        [99, 199],
        199 * 16,
    ),
    "torchtitan": (
        {
            "optimizer.lr": 3e-4, "optimizer.name": "AdamW", "training.local_batch_size": 2,
            "training.global_batch_size": 16, "training.seq_len": 2048, "training.seed": 1, "job.dump_folder": "out",
        },
        [
            {"_step": step, "loss_metrics/global_avg_loss": 8 / step, "loss_metrics/global_max_loss": 9 / step,
             "ntokens_seen": step * 16 * 2048, "grad_norm": 1.0}
            for step in (1, 10, 20)
        ],
        {},
        ("loss_metrics/global_avg_loss", "optimizer.lr", "training.global_batch_size", "training.seed"),
        [1, 10, 20],
        320,
    ),
    "Megatron-LM": (
        {"lr": 1e-3, "min_lr": 1e-4, "global_batch_size": 64, "micro_batch_size": 2, "seq_length": 1024, "seed": 1234,
         "data_parallel_size": 8, "world_size": 8},
        [
            {"_step": step, "samples vs steps": step * 64, "lm loss": 5 / step, "learning-rate": 1e-3}
            | ({"lm loss validation": 6 / step, "lm loss validation ppl": 9.0} if step != 100 else {})
            for step in (100, 200, 300)
        ],
        {},
        ("lm loss validation", "lr", "global_batch_size", "seed"),
        [200, 300],
        300 * 64,
    ),
    "NeMo": (
        {"cfg.optim.lr": 1e-4, "cfg.global_batch_size": 32, "cfg.micro_batch_size": 4, "cfg.seed": 7},
        [
            {"trainer/global_step": step, "global_step": step, "reduced_train_loss": 4 / step, "lr": 1e-4,
             "consumed_samples": step * 32}
            for step in (10, 20)
        ],
        {},
        ("reduced_train_loss", "cfg.optim.lr", "cfg.global_batch_size", "cfg.seed"),
        [10, 20],
        640,
    ),
    "nanoGPT": (
        {"learning_rate": 6e-4, "min_lr": 6e-5, "batch_size": 12, "gradient_accumulation_steps": 40},
        [{"iter": step, "train/loss": 4.0, "val/loss": 4.1 - step / 1e4, "lr": 6e-4, "mfu": 30} for step in (0, 1000)],
        {},
        ("val/loss", "learning_rate", "batch_size * gradient_accumulation_steps", "not recorded"),
        [0, 1000],
        480_000,
    ),
    "LitGPT": (
        {"train.global_batch_size": 8, "train.micro_batch_size": 2, "optimizer.init_args.lr": 4e-4, "seed": 42},
        [
            {"loss": 5.0, "iter": 4 * step, "step": step, "iter_time": 0.1, "total_tokens": step * 8 * 128,
             "learning_rate": 1e-4, "trainer/global_step": 4 * step - 1}
            for step in (1, 2, 3)
        ]
        + [{"val_loss": 4.0, "val_ppl": 54.0, "trainer/global_step": 11}],
        {},
        ("loss", "optimizer.init_args.lr", "train.global_batch_size", "seed"),
        [1, 2, 3],
        24,
    ),
    "OLMo-core": (
        {"train_module.optim.lr": 4e-4, "data_loader.global_batch_size": 4096, "dataset.sequence_length": 512,
         "init_seed": 5},
        [
            {"_step": step, "train/CE loss": 6 / step, "train/PPL": 9.0, "throughput/total tokens": step * 4096,
             "optim/LR (group 0)": 1e-4}
            for step in (1, 2, 3)
        ],
        {"batch_unit": "tokens"},
        ("train/CE loss", "train_module.optim.lr", "data_loader.global_batch_size", "init_seed"),
        [1, 2, 3],
        3 * 4096,
    ),
    "OLMo": (
        {"optimizer.learning_rate": 4e-4, "global_train_batch_size": 8, "model.max_sequence_length": 512, "seed": 5},
        [
            {"_step": step, "train/CrossEntropyLoss": 6 / step, "throughput/total_tokens": step * 8 * 512,
             "eval/c4_en-validation/CrossEntropyLoss": 7 / step}
            for step in (1, 2)
        ],
        {"batch_unit": "tokens"},
        (
            "eval/c4_en-validation/CrossEntropyLoss", "optimizer.learning_rate",
            "global_train_batch_size * model.max_sequence_length", "seed",
        ),
        [1, 2],
        2 * 8 * 512,
    ),
    "Composer": (
        {"optimizer.lr": 2e-4, "global_train_batch_size": 256, "device_train_microbatch_size": 8, "max_seq_len": 2048,
         "seed": 17},
        [
            {"_step": step, "time/batch": step, "time/sample": step * 256, "time/token": step * 256 * 2048,
             "loss/train/total": 5.0, "metrics/train/LanguageCrossEntropy": 5.0}
            for step in (0, 1, 2)
        ]
        + [{"_step": 3, "metrics/eval/LanguageCrossEntropy": 4.9}],
        {},
        ("metrics/eval/LanguageCrossEntropy", "optimizer.lr", "global_train_batch_size", "seed"),
        [3],
        768,
    ),
    "DeepSpeed": (
        {"train_batch_size": 32, "optimizer.params.lr": 1e-3},
        [{"_step": 32 * step, "Train/Samples/train_loss": 3.0, "Train/Samples/lr": 1e-3} for step in (1, 2, 5)],
        {},
        ("Train/Samples/train_loss", "optimizer.params.lr", "train_batch_size", "not recorded"),
        [1, 2, 5],
        160,
    ),
    "timm": (
        {"lr": 0.1, "batch_size": 128, "grad_accum_steps": 2, "world_size": 4, "seed": 42},
        [{"_step": 5 * (epoch + 1), "epoch": epoch, "train_loss": 6.0, "eval_loss": 6.1, "eval_top1": 1.0, "lr": 0.1}
         for epoch in (0, 1)],
        {"step": "_step"},
        ("eval_loss", "lr", "batch_size * grad_accum_steps * world_size", "seed"),
        [5, 10],
        10 * 1024,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_each_framework_is_read_under_its_own_names(name: str) -> None:
    params, rows, options, expected, steps, examples = FRAMEWORKS[name]
    store = Store()
    store.log(params, rows)
    curves = store.read(**options)
    assert curves.read_as["names of"] == name
    assert chosen(curves) == expected
    assert steps_of(curves) == steps
    assert curves.points["examples"].iloc[-1] == examples
    assert not what(curves, "run0")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(FRAMEWORKS)), st.lists(st.text(min_size=1, max_size=6), max_size=4, unique=True)
)
def test_metrics_of_no_concern_never_change_the_choice(name: str, names: list[str]) -> None:
    params, rows, options, *_ = FRAMEWORKS[name]
    plain, noisy = Store(), Store()
    plain.log(params, rows)
    noisy.log(params, [{f"gpu:{key}": 1.0 for key in names} | dict(row) for row in rows])
    one, other = plain.read(**options), noisy.read(**options)
    assert one.read_as == other.read_as
    assert one.points.equals(other.points)


def test_this_tools_own_runs_are_read_by_their_step_where_examples_confirm_it() -> None:
    store = Store()
    for lr in (0.1, 0.2):
        rows = [{"_step": step, "eval/loss": 1.0, "examples": 8.0 * step} for step in (0, 5, 10)]
        store.log({"lr": lr, "batch_size": 8, "seed": 0, "trial_id": f"t{lr}"}, rows)
    curves = store.read()
    assert steps_of(curves) == [0, 5, 10]
    assert curves.read_as["step"] == "_step, which examples confirms"
    assert store.fetched == [("eval/loss", None), ("examples", None)]
    assert curves.problems == ()


def test_a_run_that_ended_with_rows_without_examples_is_looked_at_point_by_point() -> None:
    store = Store()
    rows = [
        {"_step": step, "train/loss": 1.0} | ({} if step % 5 else {"examples": 8.0 * step})
        for step in range(8)
    ]
    store.log({"lr": 0.1, "batch_size": 8, "trial_id": "t"}, rows)
    run = store.runs[0]
    # W&B's listing knows the last step of the run alone.
    late = {name: point._replace(step=7) for name, point in run.metrics.items()}
    store.runs[0] = replace(run, metrics=late)
    curves = store.read()
    assert steps_of(curves) == list(range(8))
    assert curves.read_as["step"] == "_step, which examples confirms"


def test_a_run_cut_off_at_its_start_says_nothing_of_the_step() -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [{"_step": 3, "eval/loss": 1.0, "examples": 24.0}])
    store.log({"lr": 9.0, "batch_size": 8}, [{"_step": 0, "eval/loss": math.nan, "examples": 0.0}])
    assert store.read().read_as["step"] == "_step, which examples confirms"


def test_a_step_that_only_some_runs_confirm_is_said_to_be() -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [{"_step": 3, "eval/loss": 1.0, "examples": 24.0}])
    store.log({"lr": 0.2, "batch_size": 8}, [{"_step": 3, "eval/loss": 1.0}])
    assert "1 of 2 runs lack examples, which confirms _step in the others" in what(store.read())


@pytest.mark.parametrize("scale", ["log calls", "tokens"])
def test_a_step_that_is_no_optimizer_step_is_not_believed(scale: str) -> None:
    store = Store()
    rows = [{"eval/loss": 1.0, "examples": 8.0 * step} for step in (0, 5, 10)]
    if scale == "tokens":
        rows = [row | {"_step": row["examples"] * 1024} for row in rows]
    store.log({"lr": 0.1, "batch_size": 8, "trial_id": "t"}, rows)
    curves = store.read()
    assert steps_of(curves) == [0, 5, 10]
    assert curves.read_as["step"] == "examples / batch_size"
    assert curves.points["examples"].tolist() == [0, 40, 80]


def test_a_store_whose_points_carry_their_step_is_believed() -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [{"eval/loss": 1.0}, {"eval/loss": 0.5}])
    assert steps_of(store.read(own_step=True)) == [0, 1]


def test_without_anything_that_counts_steps_the_counters_and_flags_are_listed() -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [{"train/loss": 1.0, "epoch": 1, "iteration": 5}] * 2)
    with pytest.raises(
        SurgeError, match=r"epoch, iteration\. Give --step-column METRIC.*--step-column _step"
    ) as caught:
        store.read()
    assert "log calls" in caught.value.what
    assert steps_of(store.read(step="_step")) == [0, 1]
    assert steps_of(store.read(step="iteration")) == [5]


def test_timm_says_why_it_has_no_steps() -> None:
    store = Store()
    store.log(*FRAMEWORKS["timm"][:2])
    with pytest.raises(SurgeError, match="one row an epoch"):
        store.read()


def test_steps_from_examples_that_are_not_whole_are_left_out_and_counted() -> None:
    store = Store()
    rows = [{"train/loss": 1.0, "samples": seen} for seen in (8, 12, 16, 20, 24)]
    store.log({"lr": 0.1, "batch_size": 8}, [*rows, {"train/loss": 0.5}])
    curves = store.read()
    assert steps_of(curves) == [1, 2, 3]
    assert "2 points of 'train/loss' left out: the step is no whole number" in what(curves, "run0")
    assert "1 point of 'train/loss' left out: logged without 'samples'" in what(curves, "run0")


def test_steps_from_tokens_need_the_sequence_length() -> None:
    rows = [{"train/loss": 1.0, "tokens": 8 * 256 * step} for step in (1, 2, 7)]
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8, "seq_len": 256}, rows)
    assert steps_of(store.read()) == [1, 2, 7]
    without = Store()
    without.log({"lr": 0.1, "batch_size": 8}, rows)
    with pytest.raises(SurgeError, match="counters: tokens"):
        without.read()
    without.runs[0] = replace(without.runs[0], params={"lr": "0.1", "batch_size": str(8 * 256)})
    curves = without.read(batch_unit="tokens")
    assert steps_of(curves) == [1, 2, 7]
    assert curves.points["examples"].iloc[-1] == 7 * 2048


def test_no_point_on_a_step_is_an_error_not_an_empty_table() -> None:
    store = Store()
    store.log(HF | {"world_size": 1}, [{"train/loss": 1.0}, {"train/global_step": 5}])
    with pytest.raises(SurgeError, match=r"no point of 'train/loss'.*train/global_step"):
        store.read()


def test_the_number_of_processes_is_never_guessed() -> None:
    store = Store()
    store.log(HF, hf_rows())
    with pytest.raises(AmbiguousNameError, match="how many processes") as caught:
        store.read()
    one, eight = caught.value.candidates
    assert store.read(batch_size=one).runs["batch_size"].tolist() == [32]
    assert store.read(batch_size=eight).runs["batch_size"].tolist() == [256]
    assert f"--batch-column '{one}'" in str(caught.value)


def test_a_batch_column_may_be_a_product() -> None:
    store = Store()
    store.log({"lr": 0.1, "micro": 4, "acc": 2, "global_batch_size": 9}, [{"eval/loss": 1.0}])
    curves = store.read(batch_size="micro * acc*8", step="_step")
    assert curves.runs["batch_size"].tolist() == [64]
    assert curves.read_as["batch size"] == "micro * acc * 8"
    with pytest.raises(UnknownNameError, match=r"unknown parameter 'mirco'.*Did you mean 'micro'"):
        store.read(batch_size="mirco * 8")
    with pytest.raises(SurgeError, match="no number above 0"):
        store.read(batch_size="micro * 0")
    with pytest.raises(SurgeError, match="names no parameter"):
        store.read(batch_size="8 * 4")


def test_a_plain_batch_size_beside_accumulation_is_ambiguous() -> None:
    rows = [{"train/loss": 1.0}]
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8, "gradient_accumulation_steps": 4}, rows)
    with pytest.raises(AmbiguousNameError, match="gradient_accumulation_steps") as caught:
        store.read(own_step=True)
    assert caught.value.candidates == ("batch_size", "batch_size * gradient_accumulation_steps")
    plain = Store()
    plain.log({"lr": 0.1, "batch_size": 8, "gradient_accumulation_steps": 1, "world_size": 1}, rows)
    assert plain.read(own_step=True).runs["batch_size"].tolist() == [8]


def test_frameworks_without_a_known_unit_of_the_batch_ask_for_it() -> None:
    store = Store()
    store.log(*FRAMEWORKS["OLMo-core"][:2])
    with pytest.raises(SurgeError, match=r"counts tokens.*--batch-unit tokens"):
        store.read()


def test_torchtitan_without_a_global_batch_size_asks_for_the_processes() -> None:
    params, rows = FRAMEWORKS["torchtitan"][:2]
    store = Store()
    store.log(params | {"training.global_batch_size": -1}, rows)
    with pytest.raises(AmbiguousNameError, match=r"batch size of one process, training.local_batch_size"):
        store.read()


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["train/loss", "val/loss", "loss_scale"], "val/loss"),
        (["train_loss", "test_loss", "test_acc"], "test_loss"),
        (["loss", "train/loss", "lr"], "train/loss"),
        (["loss", "aux_loss", "z_loss", "best_loss"], "loss"),
        (["val_loss_step", "val_loss_epoch", "train_loss_step"], "val_loss_epoch"),
        (["train_loss_step", "train_loss_epoch"], "train_loss_step"),
        (["validation/loss", "validation/wikitext/loss"], "validation/loss"),
        (["training/nll"], "training/nll"),
        (["eval/loss", "val/loss"], "eval/loss"),
    ],
)
def test_the_loss_of_an_unknown_program_is_found_by_its_name(metrics: list[str], expected: str) -> None:
    store = Store()
    store.log({"learning_rate": 0.1, "global_batch_size": 8}, [dict.fromkeys(metrics, 1.0)] * 2)
    curves = store.read(own_step=True, step="_step")
    assert curves.loss_name == expected
    noisy = "noisy" in what(curves)
    assert noisy == (expected.startswith("train") or expected == "loss")


@pytest.mark.parametrize(
    ("metrics", "listed"),
    [
        (["val/c4/loss", "val/wiki/loss"], "--loss-column val/c4/loss, --loss-column val/wiki/loss"),
        (["val loss", "valid loss"], "--loss-column 'val loss', --loss-column 'valid loss'"),
    ],
)
def test_two_losses_of_the_same_rank_are_an_error_that_lists_them(metrics: list[str], listed: str) -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [dict.fromkeys(metrics, 1.0)] * 2)
    with pytest.raises(AmbiguousNameError) as caught:
        store.read(own_step=True, step="_step")
    assert listed in str(caught.value)
    assert store.read(own_step=True, step="_step", loss=metrics[1]).loss_name == metrics[1]


def test_learning_rates_that_agree_are_one_and_those_that_differ_an_error() -> None:
    rows = [{"eval/loss": 1.0}]
    same = Store()
    for lr in (0.1, 0.2):
        same.log({"optim.lr": lr, "args.learning_rate": lr, "batch_size": 8, "model": "mlp"}, rows)
    curves = same.read(own_step=True)
    assert curves.read_as["learning rate"] == "optim.lr"
    assert "args.learning_rate" not in curves.runs
    differ = Store()
    differ.log({"optim.lr": 0.1, "max_lr": 0.2, "batch_size": 8}, rows)
    with pytest.raises(AmbiguousNameError, match=r"--lr-column optim.lr, --lr-column max_lr"):
        differ.read(own_step=True)
    assert differ.read(own_step=True, lr="max_lr").runs["lr"].tolist() == [0.2]


def test_seeds_that_differ_are_an_error_and_none_is_fine() -> None:
    rows = [{"eval/loss": 1.0}]
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8, "data_seed": 1, "random_seed": 2}, rows)
    with pytest.raises(AmbiguousNameError, match="--seed-column"):
        store.read(own_step=True)
    zero = Store()
    zero.log({"lr": 0.1, "batch_size": 8, "training.seed": 0}, rows)
    assert zero.read(own_step=True).runs["seed"].tolist() == [0]


def test_two_counters_of_steps_that_differ_are_an_error() -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [{"eval/loss": 1.0, "global_step": 4, "step": 16}])
    with pytest.raises(AmbiguousNameError, match="--step-column global_step, --step-column step"):
        store.read()
    agree = Store()
    agree.log({"lr": 0.1, "batch_size": 8}, [{"eval/loss": 1.0, "global_step": 4, "step": 4}])
    assert steps_of(agree.read()) == [4]


def test_a_counter_of_micro_batches_is_caught_by_the_examples() -> None:
    store = Store()
    rows = [{"eval/loss": 1.0, "step": 4 * step, "samples": 8 * step} for step in (1, 2)]
    store.log({"lr": 0.1, "batch_size": 8}, rows)
    with pytest.raises(AmbiguousNameError, match="'step' times batch_size is not 'samples'"):
        store.read()


def test_a_batch_that_grew_is_read_from_the_counter() -> None:
    params, rows = FRAMEWORKS["Megatron-LM"][:2]
    store = Store()
    store.log(params, [dict(row) | {"samples vs steps": row["_step"] * 16} for row in rows])
    curves = store.read()
    assert curves.points["examples"].tolist() == [200 * 16, 300 * 16]
    assert curves.read_as["examples"] == "samples vs steps"


def test_runs_of_another_framework_are_left_out_and_named() -> None:
    store = Store()
    for lr in (1e-4, 2e-4):
        store.log(HF | {"world_size": 1, "learning_rate": lr}, hf_rows())
    other = store.log(*FRAMEWORKS["nanoGPT"][:2])
    unknown = store.log({"learning_rate": 1.0}, [{"acc": 1.0}])
    curves = store.read()
    assert curves.runs["run"].tolist() == ["run0", "run1"]
    assert "left out: logged by nanoGPT, and the project is read as Transformers" in what(curves, other)
    assert "left out" in what(curves, unknown)


def test_this_tools_own_runs_decide_over_any_number_of_others() -> None:
    store = Store()
    for _ in range(3):
        store.log(HF | {"world_size": 1}, hf_rows())
    rows = [{"_step": step, "eval/loss": 1.0, "examples": 8.0 * step} for step in (1, 2)]
    own = store.log({"lr": 0.1, "batch_size": 8, "trial_id": "t"}, rows)
    curves = store.read()
    assert curves.runs["run"].tolist() == [own]
    assert len([problem for problem in curves.problems if "logged by Transformers" in problem.what]) == 3
    # A name only the others have makes them decide.
    curves = store.read(lr="learning_rate")
    assert curves.runs["run"].tolist() == ["run0", "run1", "run2"]


def test_two_frameworks_on_a_par_are_an_error() -> None:
    store = Store()
    store.log(HF | {"world_size": 1}, hf_rows())
    store.log(*FRAMEWORKS["nanoGPT"][:2])
    with pytest.raises(AmbiguousNameError, match="--loss-column eval/loss, --loss-column val/loss"):
        store.read()
    assert store.read(loss="val/loss").read_as["names of"] == "nanoGPT"


def test_launched_scripts_on_a_framework_keep_our_settings_and_its_steps() -> None:
    store = Store()
    store.log(HF | {"lr": 3e-4, "batch_size": 64, "trial_id": "t"}, hf_rows())
    curves = store.read()
    assert chosen(curves)[:3] == ("eval/loss", "lr", "batch_size")
    assert steps_of(curves) == [10, 20, 30]


def test_settings_that_name_runs_or_split_the_batch_make_no_groups() -> None:
    store = Store()
    for index, lr in enumerate((1e-4, 2e-4)):
        for accumulation in (4, 8):
            for seed in (0, 1):
                store.log(
                    HF | {"world_size": 1, "learning_rate": lr, "gradient_accumulation_steps": accumulation}
                    | {"output_dir": f"out/{index}/{accumulation}/{seed}", "tag": f"lr{lr}-acc{accumulation}"}
                    | {"seed": seed, "optim": "adamw" if seed else "lion"},
                    hf_rows(),
                )  # fmt: skip
    runs = store.read().runs
    assert {"output_dir", "run_name", "tag", "gradient_accumulation_steps"}.isdisjoint(runs.columns)
    assert {"optim", "lr_scheduler_type"} <= set(runs.columns)


def test_a_loss_with_one_point_a_run_is_pointed_out() -> None:
    store = Store()
    store.log(HF | {"world_size": 1}, [row for row in hf_rows() if "train/loss" in row] + hf_rows()[-1:])
    curves = store.read()
    assert curves.loss_name == "eval/loss"
    assert "one point of 'eval/loss'" in what(curves)


def test_transformers_on_a_store_of_steps() -> None:
    store = Store()
    rows = [{"_step": step, "loss": 2.0, "eval_loss": 1.9, "learning_rate": 1e-4} for step in (10, 20)]
    store.log(HF | {"world_size": 1}, rows)
    curves = store.read(own_step=True)
    assert curves.read_as["names of"] == "Transformers"
    assert (curves.loss_name, steps_of(curves)) == ("eval_loss", [10, 20])


def test_a_learning_rate_of_zero_leaves_out_its_run_alone() -> None:
    store = Store()
    for lr in (1e-4, 2e-4, 0.0):
        store.log(HF | {"world_size": 1, "learning_rate": lr}, hf_rows())
    curves = store.read()
    assert curves.runs["run"].tolist() == ["run0", "run1"]
    assert "'learning_rate' is '0.0', not a number above 0" in what(curves, "run2")


@pytest.mark.parametrize("option", ["loss", "lr", "batch_size", "seed", "step", "examples"])
def test_a_name_that_no_run_has_is_an_error(option: str) -> None:
    store = Store()
    store.log(HF | {"world_size": 1}, hf_rows())
    with pytest.raises(UnknownNameError, match=r"unknown (metric|parameter) 'nonesuch'"):
        store.read(**{option: "nonesuch"})


def test_the_cache_keeps_the_axes_apart(tmp_path: Path) -> None:
    store = Store()
    store.log({"lr": 0.1, "batch_size": 8}, [{"eval/loss": 1.0, "samples": 8 * step} for step in (3, 6)])
    for _ in range(2):
        assert steps_of(store.read(cache_dir=tmp_path)) == [3, 6]
        assert steps_of(store.read(cache_dir=tmp_path, step="_step")) == [0, 1]
    assert store.fetched == [("samples", None), ("eval/loss", "samples"), ("eval/loss", None)]


def test_an_empty_project_is_an_empty_table() -> None:
    curves = Store().read()
    assert (len(curves.runs), len(curves.points), dict(curves.read_as)) == (0, 0, {})
