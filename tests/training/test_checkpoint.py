"""Checkpoints, and runs that branch from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from surge_sweeps.errors import TrainingError
from surge_sweeps.training import TrialConfig, run_config, train, train_to_losses
from surge_sweeps.training.checkpoint import Checkpoint, content_hash, load_checkpoint, save_checkpoint

REFERENCE = TrialConfig(lr=0.003, batch_size=64, optimizer="sign", max_steps=60)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return train_to_losses(REFERENCE, [1.8, 0.9], tmp_path_factory.mktemp("checkpoints"))


def test_a_network_of_the_same_shapes_that_means_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "t.txt"
    text.write_text("to be or not to be, that is the question. " * 300)
    shared: dict[str, object] = {
        "workload": "text",
        "model": "gpt",
        "data": str(text),
        "layers": 1,
        "width": 16,
    }
    shared |= {"sequence_length": 16, "batch_size": 8, "lr": 0.01, "max_steps": 40}
    made = TrialConfig.from_parameters({**shared, "heads": 2})
    (path,) = train_to_losses(made, [5.0], tmp_path, evaluate_every=5)
    start = {**shared, "init_from": str(path), "max_steps": 1}
    (record,) = train([("t", TrialConfig.from_parameters({**start, "heads": 2}))])
    assert record.metrics["eval/loss"][0][1] == load_checkpoint(path).loss <= 5.0
    with pytest.raises(TrainingError, match=r"of another network: its heads is 2, not 4\."):
        train([("t", TrialConfig.from_parameters({**start, "heads": 4}))])
    with pytest.raises(TrainingError, match=r"of another network: its model is gpt, not moe\."):
        train([("t", TrialConfig.from_parameters({**start, "heads": 2, "model": "moe"}))])


def branch(path: Path, **settings: object) -> TrialConfig:
    shared = {"lr": 0.003, "batch_size": 16, "optimizer": "sign", "max_steps": 4, "init_from": str(path)}
    return TrialConfig.from_parameters({**shared, **settings})


def test_checkpoints_lie_at_the_first_crossing_and_are_named_by_content(paths: list[Path]) -> None:
    high, low = map(load_checkpoint, paths)
    assert paths[0].name == f"digits-mlp-loss-1.8-{high.hash[:8]}.pt"
    assert high.loss <= 1.8 < 1.9
    assert 0 < high.step < low.step
    (record,) = train(
        [("t", TrialConfig.from_parameters({**REFERENCE.record(), "max_steps": low.step}))], mode="loop"
    )
    losses = dict(record.metrics["eval/loss"])
    assert losses[low.step] == low.loss
    assert losses.get(low.step - 1, 1.0) > 0.9


def test_making_them_again_makes_the_same_files(paths: list[Path]) -> None:
    before = [path.stat().st_mtime_ns for path in paths]
    assert train_to_losses(REFERENCE, [1.8, 0.9], paths[0].parent) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_losses_out_of_reach_are_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"did not reach loss 1e-06;"):
        train_to_losses(REFERENCE, [1.8, 1e-6], tmp_path)
    assert [path.name[:19] for path in tmp_path.iterdir()] == ["digits-mlp-loss-1.8"]
    with pytest.raises(TrainingError, match="starts at loss"):
        train_to_losses(REFERENCE, [5.0], tmp_path)


def test_branches_of_all_seeds_start_at_one_loss_with_different_data(paths: list[Path]) -> None:
    for model in (train([(str(s), branch(paths[1], seed=s)) for s in range(8)]),
                  train([(str(s), branch(paths[1], seed=s)) for s in range(2)])):  # fmt: skip
        checkpoint = load_checkpoint(paths[1])
        for record in model:
            assert record.summary["start_checkpoint"] == record.config["start_checkpoint"] == checkpoint.hash
            assert record.summary["start_loss"] == record.metrics["eval/loss"][0][1] == checkpoint.loss
        assert len({record.metrics["eval/loss"][1][1] for record in model}) == len(model)


def test_a_branch_starts_with_fresh_optimizer_state(paths: list[Path]) -> None:
    # Adam's first step with fresh state is the sign of the gradient, so it equals sign descent's.
    adam, sign = train(
        [("a", branch(paths[0], optimizer="adam", max_steps=1)), ("s", branch(paths[0], max_steps=1))]
    )
    np.testing.assert_allclose(adam.metrics["eval/loss"][1][1], sign.metrics["eval/loss"][1][1], rtol=1e-3)


def test_a_run_from_scratch_has_no_start(paths: list[Path]) -> None:
    (record,) = train([("t", TrialConfig(lr=0.1, batch_size=8, max_steps=1))])
    assert not {"start_checkpoint", "start_loss"} & (set(record.summary) | set(record.config))
    assert run_config(branch(paths[0]))["start_checkpoint"] == load_checkpoint(paths[0]).hash


def test_the_hash_is_of_the_content_not_of_the_file(paths: list[Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(paths[0])
    copy = tmp_path / "renamed.pt"
    save_checkpoint(copy, checkpoint)
    assert load_checkpoint(copy).hash == checkpoint.hash
    changed = {name: value.clone() for name, value in checkpoint.parameters.items()}
    next(iter(changed.values()))[0] += 1e-6
    assert content_hash(changed) != checkpoint.hash


def test_files_that_are_no_usable_checkpoint_are_refused(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        train([("t", branch(tmp_path / "missing.pt"))])
    torn = tmp_path / "torn.pt"
    for size in (0, 10, 1000, paths[0].stat().st_size - 20):
        torn.write_bytes(paths[0].read_bytes()[:size])
        with pytest.raises(TrainingError, match="torn"):
            train([("t", branch(torn))])
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"parameters": {}, "metadata": {"workload": "digits"}}, tmp_path / "half.pt")
    for name in ("list.pt", "half.pt"):
        with pytest.raises(TrainingError, match="no checkpoint"):
            load_checkpoint(tmp_path / name)
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="of another network: its model is mlp, not cnn"):
        train([("t", branch(paths[0], model="cnn"))])
    good = load_checkpoint(paths[0])
    broken = {name: torch.full_like(value, torch.nan) for name, value in good.parameters.items()}
    save_checkpoint(tmp_path / "nan.pt", Checkpoint(broken, "digits", "mlp", 1.0, 1))
    with pytest.raises(TrainingError, match="not finite"):
        train([("t", branch(tmp_path / "nan.pt"))])
