"""Names that could be taken for the wrong thing: what is ambiguous is asked, what is left out is said."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from stored_rows import Store, what

from surge_sweeps.curves import LossCurves
from surge_sweeps.fitting.observables.groups import split_groups
from surge_sweeps.trackers.naming.names import AmbiguousNameError

CURVE = [{"eval/loss": 3.0 / step} for step in (1, 2, 3)]
HF = {
    "learning_rate": 0.1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "world_size": 1,
}


def project(*configs: Mapping[str, object], rows: Sequence[Mapping[str, float]] = CURVE) -> Store:
    store = Store()
    for config in configs:
        store.log(config, rows)
    return store


def read(store: Store, **options: Any) -> LossCurves:
    return store.read(own_step=True, **{"step": "_step"} | options)


def refused(store: Store, **options: Any) -> AmbiguousNameError:
    with pytest.raises(AmbiguousNameError) as caught:
        read(store, **options)
    return caught.value


@pytest.mark.parametrize("swept", ["optimizer.lr", "learning_rate", "args/max_lr"])
def test_a_constant_lr_does_not_win_over_one_that_is_swept(swept: str) -> None:
    store = project(*({"lr": 0.5, swept: lr, "batch_size": 8} for lr in (0.1, 0.2)))
    assert refused(store).candidates == ("lr", swept)
    assert read(store, lr=swept).runs["lr"].tolist() == [0.1, 0.2]


def test_an_lr_that_is_swept_beside_a_constant_is_read_and_said() -> None:
    store = project(*({"lr": lr, "optimizer.lr": 0.5, "batch_size": 8} for lr in (0.1, 0.2)))
    curves = read(store)
    assert curves.runs["lr"].tolist() == [0.1, 0.2]
    assert "learning rate is read from 'lr'" in what(curves)
    assert "not from 'optimizer.lr'" in what(curves)


def test_two_lrs_that_both_vary_or_both_stay_are_asked_about() -> None:
    both = project(*({"lr": lr, "max_lr": 10 * lr, "batch_size": 8} for lr in (0.1, 0.2)))
    assert refused(both).candidates == ("lr", "max_lr")
    neither = project(*({"lr": 0.1, "optim.lr": 0.2, "batch_size": batch} for batch in (8, 16)))
    assert refused(neither).option == "lr"


def test_a_frameworks_constant_lr_is_not_believed_beside_one_that_is_swept() -> None:
    rows = [{"train/global_step": step, "eval/loss": 1.0} for step in (1, 2)]
    store = project(*(HF | {"lr": lr} for lr in (0.1, 0.2)), rows=rows)
    assert refused(store).candidates == ("learning_rate", "lr")
    swept = project(*(HF | {"learning_rate": lr, "lr": 0.3} for lr in (0.1, 0.2)), rows=rows)
    assert read(swept).runs["lr"].tolist() == [0.1, 0.2]


def test_a_launched_sweep_decides_whatever_else_is_recorded() -> None:
    configs = (
        {"lr": lr, "optimizer.lr": 0.5 * lr, "batch_size": 8, "train_batch_size": 4, "world_size": 8}
        | {"trial_id": f"t{lr}"}
        for lr in (0.1, 0.2)
    )
    runs = read(project(*configs)).runs
    assert runs["lr"].tolist() == [0.1, 0.2]
    assert runs["batch_size"].tolist() == [8, 8]


@pytest.mark.parametrize(
    "swept", ["train_batch_size", "global_batch_size", "data.batch_size", "micro_batch_size"]
)
def test_a_constant_batch_size_does_not_win_over_one_that_is_swept(swept: str) -> None:
    store = project(*({"lr": 0.1, "batch_size": 16, swept: batch} for batch in (8, 64)))
    assert set(refused(store).candidates) == {"batch_size", swept}
    assert read(store, batch_size=swept).runs["batch_size"].tolist() == [8, 64]


def test_a_global_batch_that_varies_in_multiples_of_a_plain_one_is_the_batch() -> None:
    store = project(*({"lr": 0.1, "batch_size": 16, "global_batch_size": batch} for batch in (64, 128)))
    assert read(store).runs["batch_size"].tolist() == [64, 128]
    constant = project(*({"lr": 0.1, "batch_size": batch, "global_batch_size": 64} for batch in (16, 32)))
    assert refused(constant).candidates == ("global_batch_size", "batch_size")


def test_a_batch_size_of_the_evaluation_is_none_of_an_optimizer_step() -> None:
    config = {"lr": 0.1, "batch_size": 16, "eval.batch_size": 64, "val/lr": 1.0}
    assert read(project(config)).runs["batch_size"].tolist() == [16]


def test_a_frameworks_constant_product_is_asked_about_where_a_batch_size_is_swept() -> None:
    rows = [{"train/global_step": step, "eval/loss": 1.0} for step in (1, 2)]
    store = project(*(HF | {"batch_size": batch} for batch in (8, 16)), rows=rows)
    assert "batch_size" in refused(store).candidates
    # Micro batches that make up the same batch are no sweep.
    split = ({"per_device_train_batch_size": 4 * n, "gradient_accumulation_steps": 8 // n, "train_batch_size": 4 * n}
             for n in (1, 2))  # fmt: skip
    assert read(project(*(HF | part for part in split), rows=rows)).runs["batch_size"].tolist() == [32, 32]


@pytest.mark.parametrize(
    "name",
    [
        "devices", "trainer.devices", "gpus", "ngpus", "n_gpu", "n_gpus", "num_gpus", "num_nodes", "nnodes",
        "update_freq", "nproc_per_node", "n_accumulation", "accumulate_grad_batches", "grad_accum",
        "grad_accum_every", "world_size", "trainer/accumulation",
    ],
)  # fmt: skip
def test_a_plain_batch_size_beside_anything_that_splits_it_is_asked_about(name: str) -> None:
    store = project({"lr": 0.1, "batch_size": 8, name: 4})
    assert refused(store).candidates == ("batch_size", f"batch_size * {name}")
    assert read(project({"lr": 0.1, "batch_size": 8, name: 1})).runs["batch_size"].tolist() == [8]


def test_what_splits_a_batch_under_several_names_is_one_factor() -> None:
    config = {
        "lr": 0.1,
        "batch_size": 8,
        "gpus": 8,
        "ngpus": 8,
        "nproc_per_node": 8,
        "num_nodes": 2,
        "update_freq": 4,
    }
    error = refused(project(config))
    assert error.candidates == ("batch_size", "batch_size * update_freq * gpus * num_nodes")
    total = refused(project(config | {"world_size": 16}))
    assert total.candidates[1] == "batch_size * update_freq * world_size"


def test_settings_that_only_sound_like_factors_are_none() -> None:
    config = {
        "lr": 0.1,
        "batch_size": 8,
        "initial_accumulator_value": 2,
        "num_workers": 4,
        "grad_accum_dtype": 2,
    }
    assert read(project(config)).runs["batch_size"].tolist() == [8]


def test_devices_that_are_a_list_count_and_those_left_open_are_said() -> None:
    error = refused(project({"lr": 0.1, "batch_size": 8, "trainer.devices": "[0, 1, 2]"}))
    assert error.candidates == ("batch_size", "batch_size * 3")
    curves = read(project({"lr": 0.1, "batch_size": 8, "trainer.devices": "auto"}))
    assert curves.runs["batch_size"].tolist() == [8]
    assert "'trainer.devices' leaves open how many processes" in what(curves)
    assert "leaves open" not in what(read(project({"lr": 0.1, "batch_size": 8, "world_size": None})))


def test_a_count_of_processes_a_node_needs_the_nodes() -> None:
    micro = {"lr": 0.1, "micro_batch_size": 8}
    two = project(micro | {"num_gpus": 8, "num_nodes": 2})
    assert refused(two).candidates == (
        "micro_batch_size * num_gpus",
        "micro_batch_size * num_gpus * num_nodes",
    )
    assert read(project(micro | {"num_gpus": 8, "num_nodes": 1})).runs["batch_size"].tolist() == [64]
    assert read(project(micro | {"num_gpus": 8})).runs["batch_size"].tolist() == [64]
    assert "how many nodes" in str(refused(project(micro | {"nproc_per_node": 8})))
    assert read(project(micro | {"nproc_per_node": 1})).runs["batch_size"].tolist() == [8]
    assert read(project(micro | {"nproc_per_node": 8, "world_size": 16})).runs["batch_size"].tolist() == [128]


def test_two_accumulations_that_differ_are_asked_about() -> None:
    config = {"lr": 0.1, "micro_batch_size": 8, "grad_accum": 4, "update_freq": 2, "world_size": 1}
    assert refused(project(config)).candidates == (
        "micro_batch_size * grad_accum",
        "micro_batch_size * update_freq",
    )


def grid(own: bool, **per_run: Any) -> Store:
    """16 runs: 4 learning rates, 2 batch sizes, 2 seeds; every setting made of the run's number."""
    cells = itertools.product((0.1, 0.2, 0.3, 0.4), (8, 16), (0, 1))
    return project(
        *(
            {"lr": lr, "batch_size": batch, "seed": seed}
            | {name: make(index) for name, make in per_run.items()}
            | ({"trial_id": f"t{index}"} if own else {})
            for index, (lr, batch, seed) in enumerate(cells)
        )
    )


@pytest.mark.parametrize("own", [False, True])
def test_what_names_a_run_its_machine_or_its_time_makes_no_groups_and_is_said(own: bool) -> None:
    names = [
        "hostname", "out_dir", "run_name", "cfg.run_name", "git_commit", "started", "start_time", "slurm_job", "pid",
        "master_port", "log_dir", "logging.path", "wandb.name", "wandb_id", "job/id", "node_name",
    ]  # fmt: skip
    curves = read(grid(own, **{name: lambda index: index // 3 for name in names}, group=lambda index: "all"))
    assert set(names).isdisjoint(curves.runs.columns)
    assert "group" in curves.runs.columns
    assert all(repr(name) in what(curves) for name in names)
    constant = read(grid(own, hostname=lambda index: "here"))
    assert "grouped" not in what(constant)


@pytest.mark.parametrize("own", [False, True])
def test_a_setting_of_its_own_in_nearly_every_run_makes_no_groups_and_is_said(own: bool) -> None:
    unique = {"x": lambda index: 1.7e9 + index, "words": lambda index: f"brave-{'abcdefghijklmnop'[index]}"}
    curves = read(grid(own, **unique, few=lambda index: index % 2, weight_decay=lambda index: index / 100))
    assert {"x", "words"}.isdisjoint(curves.runs.columns)
    assert {"few", "weight_decay"} <= set(curves.runs.columns)
    assert "not grouped by 'words', 'x': nearly every run has a value of its own" in what(curves)
    assert "'model.words'" in what(curves)
    assert "model.words" in read(grid(own, **{"model.words": unique["words"]})).runs.columns


@pytest.mark.parametrize(
    "name",
    ["opt", "optimizer", "optim.name", "model.name", "arch", "dataset", "beta2", "wd", "lr_schedule", "hidden_dim",
     "data_dir", "rank"],
)  # fmt: skip
def test_a_hyper_parameter_with_one_lr_for_each_value_is_kept(name: str) -> None:
    pairs = (("adam1", 1e-3), ("sgd2", 0.1))
    store = project(
        *({"optim.lr": lr, name: value, "batch_size": 8, "seed": s} for value, lr in pairs for s in (0, 1))
    )
    curves = read(store)
    assert sorted(set(curves.runs[name])) == ["adam1", "sgd2"]
    assert "grouped" not in what(curves)


@pytest.mark.parametrize("name", ["opt", "optimizer", "cfg.optim.name", "arch"])
def test_two_optimizers_with_one_lr_each_are_two_groups(name: str) -> None:
    pairs = (("adam", 1e-3), ("sgd", 0.1))
    store = project(
        *({"lr": lr, name: value, "batch_size": batch} for value, lr in pairs for batch in (8, 16))
    )
    groups, notes = split_groups(read(store))
    assert [group.key for group in groups] == [{name: "adam"}, {name: "sgd"}]
    assert not notes


def test_text_that_says_the_lr_again_is_left_out_and_said_but_not_any_other_text() -> None:
    configs = (
        {"lr": lr, "batch_size": 8, "seed": seed, "tag": f"lr{lr}", "note": "low" if lr < 0.15 else "high"}
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    )
    curves = read(project(*configs))
    assert "tag" not in curves.runs
    assert "not grouped by 'tag': text that says the learning rate" in what(curves)
    assert "note" in curves.runs


AGGREGATES = [
    "lowest_val_loss", "val/best_loss", "train/loss_smoothed", "smooth loss", "ema_loss", "running_loss", "moving/loss",
    "train_loss_epoch", "cumulative_loss", "loss/min", "avg_epoch_loss",
]  # fmt: skip


@pytest.mark.parametrize("name", AGGREGATES)
def test_an_extreme_or_an_average_is_read_only_when_asked_for(name: str) -> None:
    config = {"lr": 0.1, "batch_size": 8}
    rows = [{name: 2.0, "train/loss": 3.0}] * 3
    assert read(project(config, rows=rows)).loss_name == "train/loss"
    alone = project(config, rows=[{name: 2.0}] * 3)
    assert refused(alone).candidates == (name,)
    assert read(alone, loss=name).loss_name == name


def test_the_smooth_l1_loss_is_a_loss() -> None:
    assert read(project({"lr": 0.1, "batch_size": 8}, rows=[{"val/smooth_l1_loss": 1.0}] * 2)).loss_name


def test_two_spellings_of_a_loss_that_differ_are_asked_about() -> None:
    config = {"lr": 0.1, "batch_size": 8}
    differ = project(config, rows=[{"val/loss": 3.0 / step, "val_loss": 6.0 / step} for step in (1, 2)])
    assert refused(differ).candidates == ("val/loss", "val_loss")
    same = project(config, rows=[{"val/loss": 3.0 / step, "val_loss": 3.0 / step} for step in (1, 2)])
    assert read(same).loss_name == "val/loss"


@pytest.mark.parametrize(
    ("once", "ids"),
    [("test/loss", {}), ("val_loss", {}), ("eval/loss", {}), ("eval/loss", {"trial_id": "t"})],
)
def test_a_loss_with_one_point_a_run_is_not_preferred_to_a_curve(once: str, ids: dict[str, object]) -> None:
    config = {"lr": 0.1, "batch_size": 8} | ids
    rows = [{"train/loss": 3.0 / step} for step in (1, 2, 3, 4)]
    curves = read(project(config, rows=[*rows, {once: 1.0}]))
    assert curves.loss_name == "train/loss"
    assert f"one point of {once}, no curve: train/loss is read instead" in what(curves)
    assert read(project(config, rows=[*rows, {once: 1.0}, {once: 0.5}])).loss_name == once


@pytest.mark.parametrize("config", [HF, {"lr": 0.1, "batch_size": 8}], ids=["Transformers", "plain"])
def test_how_many_runs_lack_the_held_out_loss_is_said(config: dict[str, object]) -> None:
    rows = [{"train/global_step": step, "train/loss": 4.0, "eval/loss": 3.0} for step in (1, 2)]
    if config is not HF:
        rows = [{name: row[name] for name in ("train/loss", "eval/loss")} for row in rows]
    store = project(config, config, rows=rows)
    store.log(config, [{name: value for name, value in row.items() if name != "eval/loss"} for row in rows])
    curves = read(store)
    assert curves.loss_name == "train/loss"
    assert "1 of 3 runs lack eval/loss: train/loss is read instead" in what(curves)


def test_a_seed_written_as_a_whole_float_counts() -> None:
    seeds = ("1.0", "2", "1.5", "1e300", "nan")
    curves = read(project(*({"lr": 0.1, "batch_size": 8, "seed": seed} for seed in seeds)))
    assert curves.runs["seed"].fillna(-1).tolist() == [1, 2, -1, -1, -1]
    assert "the seed '1.5' is not a whole number" in what(curves, "run2")
