"""The loss of tokens, differentiated twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from surge_sweeps.training.models import gpt
from surge_sweeps.training.workloads.base import Settings
from surge_sweeps.training.workloads.token_loss import token_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
VOCABULARY = 7
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(2, 3, VOCABULARY, dtype=torch.float64, generator=GENERATOR)
#: With every token twice at least once: two rows of one target must not share an entry.
TARGETS = torch.tensor([[0, 6, 2], [2, 2, 5]])


def plain(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def product(loss: Loss, logits: Tensor, direction: Tensor) -> Tensor:
    """The Hessian of 3 loss^2 times a direction: what multiplies the loss has derivatives, too."""
    leaf = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(3 * loss(leaf, TARGETS).square(), leaf, create_graph=True)
    return torch.autograd.grad(gradient, leaf, direction.to(gradient.dtype))[0]


@pytest.mark.parametrize("at_once", [1, 2**22])
def test_both_derivatives_are_those_of_differences(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surge_sweeps.training.workloads.token_loss._LOGITS_AT_ONCE", at_once)
    logits = LOGITS.clone().requires_grad_()
    assert gradcheck(lambda values: token_cross_entropy(values, TARGETS), logits)
    assert gradgradcheck(lambda values: token_cross_entropy(values, TARGETS), logits)


def test_the_second_derivative_is_that_of_torch() -> None:
    direction = torch.randn(LOGITS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        product(token_cross_entropy, LOGITS, direction), product(plain, LOGITS, direction)
    )
    # The gradient that is differentiated again is the same.
    leaf = LOGITS.clone().requires_grad_()
    gradients = [
        torch.autograd.grad(token_cross_entropy(leaf, TARGETS), leaf, create_graph=again)[0]
        for again in (False, True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_logits_of_16_bits_have_a_second_derivative() -> None:
    direction = torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    logits = LOGITS.bfloat16()
    ours = product(token_cross_entropy, logits, direction)
    assert ours.dtype == torch.bfloat16
    expected = product(plain, logits.float(), direction)
    torch.testing.assert_close(ours.float(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.filterwarnings("error")  # torch warns where it falls back to a loop over the members
def test_ensembles_get_the_second_derivative_of_each_member() -> None:
    members = torch.stack([LOGITS, -LOGITS, 2 * LOGITS])
    direction = torch.randn(members.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack(
        [product(plain, member, part) for member, part in zip(members, direction, strict=True)]
    )
    leaf = members.clone().requires_grad_()
    losses = vmap(lambda logits: 3 * token_cross_entropy(logits, TARGETS).square())(leaf)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(gradient, leaf, direction)[0], expected)

    def along(logits: Tensor, part: Tensor) -> Tensor:
        gradient = grad(lambda values: 3 * token_cross_entropy(values, TARGETS).square())(logits)
        return (gradient * part).sum()

    torch.testing.assert_close(vmap(grad(along))(members, direction), expected)


def test_the_hessian_of_a_language_model_is_that_under_the_loss_of_torch() -> None:
    pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(0)
    settings = Settings(sequence_length=8, layers=2, width=16, heads=2)
    model = gpt.build(50, settings, generator).double()
    tokens = torch.randint(50, (4, 9), generator=generator)
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]

    def products(loss: Loss) -> tuple[Tensor, ...]:
        with sdpa_kernel(SDPBackend.MATH):
            value = loss(model(tokens[:, :-1]), tokens[:, 1:])
        gradients = torch.autograd.grad(value, parameters, create_graph=True)
        return torch.autograd.grad(gradients, parameters, directions)

    ours, theirs = products(token_cross_entropy), products(plain)
    assert all(float(part.abs().max()) > 1e-6 for part in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


class _Made(TorchDispatchMode):
    """Counts the tensors of a size that operations make anew."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._numbers = numbers
        self._seen: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        return len(self._seen)

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(named or {}))
        if isinstance(result, Tensor) and result.numel() == self._numbers:
            # Kept, so that no address is used twice.
            self._seen.setdefault(result.untyped_storage().data_ptr(), result)
        return result


def test_a_gradient_that_is_not_differentiated_needs_no_other_array_of_its_size() -> None:
    logits = LOGITS.flatten(0, 1).float().requires_grad_()
    with _Made(logits.numel()) as made:
        loss = token_cross_entropy(logits, TARGETS.flatten())
        assert made.count == 0
        torch.autograd.grad(loss, logits)
    assert made.count == 1
