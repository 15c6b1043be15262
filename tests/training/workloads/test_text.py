"""The text workload: examples, the held-out set, the loss and its gradient, and bad settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.workloads.base import Settings
from surge_sweeps.training.workloads.text import EVAL_SEQUENCES, SPEC, TextWorkload, load
from surge_sweeps.training.workloads.token_loss import token_cross_entropy

SHARED = Path(__file__).parents[4] / "shared" / "data" / "text"
WORDS = "the surge of the optimal learning rate at small batch sizes and the noise of the gradient "


def settings(data: str, **given: object) -> Settings:
    filled = {"sequence_length": 16, "tokenizer": "bytes", "layers": 1, "width": 8, "heads": 2} | given
    return Settings(data=data, **filled)  # type: ignore[arg-type]


def loaded(data: str, **given: object) -> TextWorkload:
    workload = load(settings(data, **given))
    assert isinstance(workload, TextWorkload)
    return workload


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text(WORDS * 100)
    return tmp_path


def test_examples_are_slices_of_the_training_text() -> None:
    workload = loaded("a.txt")
    text = (WORDS * 100).encode()[:-900]
    assert workload.train_examples == (len(text) - 1) // 16
    indices = torch.tensor([[3, 0], [workload.train_examples - 1, 3]])
    inputs, targets = workload.train_batch(indices)
    for row, column in np.ndindex(2, 2):
        start = int(indices[row, column]) * 16
        assert inputs[row, column].tolist() == list(text[start : start + 16])
        assert targets[row, column].tolist() == list(text[start + 1 : start + 17])
    assert inputs.dtype == targets.dtype == torch.int64
    assert workload.tokens_per_example == 16


def test_the_held_out_set_is_the_end_of_the_text() -> None:
    workload = loaded("a.txt", sequence_length=10)
    inputs, targets = workload.eval_batch(0, workload.eval_examples)
    held_out = (WORDS * 100).encode()[-900:]
    assert inputs.flatten().tolist() == list(held_out[:890])
    assert targets.flatten().tolist() == list(held_out[1:891])
    some, _ = workload.eval_batch(3, 5)
    assert torch.equal(some, inputs[3:5])


def test_a_long_held_out_text_is_sampled_evenly(folder: Path) -> None:
    (folder / "b.txt").write_text("".join(f"{number:07} " for number in range(5 * EVAL_SEQUENCES + 1)))
    workload = loaded("a.txt", eval_data="b.txt", sequence_length=8)
    assert workload.eval_examples == EVAL_SEQUENCES
    inputs, _ = workload.eval_batch(0, EVAL_SEQUENCES)
    numbers = [int(bytes(row.tolist())) for row in inputs]
    assert numbers == list(range(0, 5 * EVAL_SEQUENCES, 5))
    assert workload.train_examples == (len(WORDS) * 100 - 1) // 8


@pytest.mark.parametrize(("tokens", "sequences"), [(8 * 100 + 7, 100), (7, 1)])
def test_a_held_out_set_of_long_sequences_has_fewer(
    tokens: int, sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surge_sweeps.training.workloads.text.EVAL_TOKENS", tokens)
    assert loaded("a.txt", sequence_length=8).eval_examples == sequences


def test_the_evaluation_is_cut_where_its_logits_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = loaded("a.txt")
    assert workload.eval_examples_at_once >= workload.eval_examples
    monkeypatch.setattr("surge_sweeps.training.workloads.text.EVAL_LOGITS_AT_ONCE", 3 * 16 * 257 + 5)
    assert workload.eval_examples_at_once == 3
    assert replace(workload, vocabulary=10**6).eval_examples_at_once == 1


def test_another_device_gives_the_same_batches() -> None:
    # The way of a GPU, on the CPU.
    workload = loaded("a.txt")
    tokens = torch.from_numpy(workload.windows.tokens.astype(np.int32))
    elsewhere = replace(workload, device_tokens=tokens)
    indices = torch.randint(0, workload.train_examples, (3, 5), generator=torch.Generator().manual_seed(0))
    for here, there in zip(workload.train_batch(indices), elsewhere.train_batch(indices), strict=True):
        assert torch.equal(here, there)
        assert there.dtype == torch.int64
    assert workload.on(torch.device("cpu")) is workload


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = loaded("a.txt")
    indices = torch.arange(12).view(3, 4)
    for bound in (10**9, 0):
        monkeypatch.setattr("surge_sweeps.training.workloads.text.DEVICE_TOKENS", bound)
        moved = workload.on(torch.device("cuda", 0))
        assert isinstance(moved, TextWorkload)
        assert (moved.device_tokens is None) == (bound == 0)
        for ours, theirs in zip(workload.train_batch(indices), moved.train_batch(indices), strict=True):
            assert theirs.device == moved.device
            assert torch.equal(ours, theirs.cpu())
        assert torch.equal(moved.eval_batch(0, 5)[1].cpu(), workload.eval_batch(0, 5)[1])


@pytest.mark.parametrize("model", ["gpt", "moe"])
def test_models_learn_the_text(model: str) -> None:
    pytest.importorskip("transformers")
    workload = loaded(
        "a.txt", **SPEC.models[model] | {"layers": 1, "width": 16, "heads": 2, "tokenizer": "bpe-270"}
    )
    network = workload.build_model(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for step in range(30):
        inputs, targets = workload.train_batch(torch.arange(8) + 8 * (step % 20))
        answer = network(inputs)
        outputs, penalty = answer if isinstance(answer, tuple) else (answer, 0.0)
        assert outputs.shape == (8, 16, 270)
        loss = workload.loss(outputs, targets)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
    assert losses[0] == pytest.approx(np.log(270), rel=0.1)
    assert losses[-1] < losses[0] - 1


def test_unknown_model() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'cnn'\. Valid: gpt, moe"):
        loaded("a.txt").build_model("cnn", torch.Generator())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sequence_length": 0}, r"a sequence length of 0 tokens\. Take a sequence_length of at least 1"),
        (
            {"sequence_length": 9000},
            r"9000 tokens need 9001 tokens; the training text has 8100, .* at most 899,",
        ),
        (
            {"sequence_length": 1000},
            r"1000 tokens need 1001 tokens; .* the held-out text has 900\. .* at most 899,",
        ),
        ({"data": "no.txt"}, r"no\.txt' is not there"),
        ({"eval_data": "no.txt"}, r"no\.txt' is not there"),
        ({"tokenizer": "words"}, "unknown tokenizer 'words'"),
        ({"tokenizer": None}, "needs data, a tokenizer and a sequence_length"),
    ],
)
def test_bad_settings(given: dict[str, object], message: str) -> None:
    with pytest.raises((TrainingError, UnknownNameError), match=message):
        load(replace(settings("a.txt"), **given))  # type: ignore[arg-type]


def test_a_text_of_one_token(folder: Path) -> None:
    (folder / "b.txt").write_text("b")
    with pytest.raises(TrainingError, match=r"the held-out text has 1\. Give a longer text"):
        loaded("a.txt", eval_data="b.txt")


LOGITS = torch.randn(4, 3, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 11, (4, 3, 5), generator=torch.Generator().manual_seed(1))


def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


@pytest.mark.parametrize("at_once", [1, 2**22])
def test_the_loss_and_its_gradient_are_those_of_torch(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surge_sweeps.training.workloads.token_loss._LOGITS_AT_ONCE", at_once)
    logits = (LOGITS * 30).requires_grad_()
    ours, theirs = token_cross_entropy(logits, TARGETS), plain(logits, TARGETS)
    torch.testing.assert_close(ours, theirs)
    ours_gradient, theirs_gradient = (torch.autograd.grad(2 * loss, logits)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours_gradient, theirs_gradient)


@pytest.mark.filterwarnings("error")  # torch warns where it falls back to a loop over the members
def test_ensembles_get_the_loss_and_gradient_of_each_member() -> None:
    theirs = torch.stack([plain(*member) for member in zip(LOGITS, TARGETS, strict=True)])
    gradients = vmap(grad(plain))(LOGITS, TARGETS)
    logits = LOGITS.clone().requires_grad_()
    ours = vmap(token_cross_entropy)(logits, TARGETS)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), logits)[0], gradients)
    torch.testing.assert_close(vmap(grad(token_cross_entropy))(LOGITS, TARGETS), gradients)


@pytest.mark.parametrize("at_once", [30, 2**22])
def test_logits_of_16_bits_give_a_loss_of_32(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surge_sweeps.training.workloads.token_loss._LOGITS_AT_ONCE", at_once)
    logits = LOGITS.bfloat16().requires_grad_()
    loss = token_cross_entropy(logits, TARGETS)
    loss.backward()
    wide = logits.detach().float().requires_grad_()
    expected = plain(wide, TARGETS)
    expected.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert logits.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(logits.grad.float(), wide.grad, atol=1e-4, rtol=1e-2)


def test_json_lines_from_end_to_end(folder: Path) -> None:
    records = [json.dumps({"raw_content": f"page {number} of the web"}) for number in range(200)]
    (folder / "pages.jsonl").write_text("\n".join(records))
    workload = loaded("pages.jsonl", tokenizer="bpe-280")
    inputs, _ = workload.train_batch(torch.arange(workload.train_examples))
    ends = int((inputs == 0).sum())
    assert 170 <= ends <= 180


@pytest.mark.skipif(not SHARED.is_dir(), reason="tinyshakespeare and WikiText-2 are not here")
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe-512"])
def test_tinyshakespeare(monkeypatch: pytest.MonkeyPatch, tokenizer: str) -> None:
    monkeypatch.setenv("SURGE_DATA_DIR", str(SHARED))
    workload = loaded("tinyshakespeare.txt", tokenizer=tokenizer, sequence_length=128)
    if tokenizer == "bytes":
        # 1,115,394 bytes, the last tenth of which is held out.
        assert workload.train_examples == (1_115_394 - 111_539 - 1) // 128
        raw = (SHARED / "tinyshakespeare.txt").read_bytes()
        inputs, targets = workload.train_batch(torch.tensor([5000]))
        assert bytes(inputs[0].tolist()) == raw[640_000:640_128]
        assert bytes(targets[0].tolist()) == raw[640_001:640_129]
    assert workload.eval_examples == EVAL_SEQUENCES


def test_the_digest_tells_other_text_and_other_tokens_apart(folder: Path) -> None:
    first = loaded("a.txt").digest
    assert len(first) == 12
    (folder / "same.txt").write_text(WORDS * 100)
    assert loaded("same.txt", width=16).digest == first
    (folder / "other.txt").write_text(WORDS * 99 + WORDS.upper())
    others = {loaded("other.txt").digest, loaded("a.txt", eval_data="other.txt").digest}
    others.add(loaded("a.txt", tokenizer="bpe-270").digest)
    assert len(others | {first}) == 4
