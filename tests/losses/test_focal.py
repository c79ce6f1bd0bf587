"""The focal loss beside recorded numbers and its definition."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses.focal import sigmoid_focal_loss


IO = load_file(Path(__file__).parents[1] / "fixtures/golden/vjepa2/action_anticipation/io.safetensors")


def test_sums_equal_the_official_ones():
    total = 0.0
    for name in ("verb", "noun", "action"):
        loss = sigmoid_focal_loss(IO[f"logits_{name}"], IO[f"label_{name}"])
        assert loss.item() == pytest.approx(IO[f"focal_loss_{name}"].item(), abs=1e-5)
        total += loss
    assert total.item() == pytest.approx(IO["focal_loss_total"].item(), abs=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_value_and_gradient_equal_the_definition(alpha, gamma):
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 4, 4])
    logits = (3 * torch.randn(4, 5, dtype=torch.float64)).requires_grad_()
    p = logits.sigmoid()
    is_label = torch.arange(5) == labels[:, None]
    right = torch.where(is_label, p, 1 - p)
    terms = -torch.where(is_label, alpha, 1 - alpha) * (1 - right) ** gamma * right.log()
    (expected,) = torch.autograd.grad(terms.sum(), logits)
    found = sigmoid_focal_loss(logits, labels, alpha, gamma)
    torch.testing.assert_close(found, terms.sum().float())
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sigmoid_focal_loss(logits, labels, alpha, gamma, "mean"), terms.mean().float())


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[300.0, -300.0, 40.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 340 + 0.25 * 300)
    assert logits.grad.isfinite().all()
    assert sigmoid_focal_loss(logits.bfloat16(), torch.tensor([1])).dtype == torch.float32


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_rows_without_a_label_count_nothing(reduction):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, requires_grad=True)
    labels = torch.tensor([1, -100, 3])
    loss = sigmoid_focal_loss(logits, labels, reduction=reduction)
    torch.testing.assert_close(loss, sigmoid_focal_loss(logits[[0, 2]], labels[[0, 2]], reduction=reduction))
    loss.backward()
    assert (logits.grad[1] == 0).all() and (logits.grad[0] != 0).all()


def test_what_has_no_loss_is_refused():
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="'none' is not one of sum, mean"):
        sigmoid_focal_loss(logits, labels, reduction="none")
    with pytest.raises(ValueError, match="alpha 1.5"):
        sigmoid_focal_loss(logits, labels, alpha=1.5)
    with pytest.raises(ValueError, match="gamma -1"):
        sigmoid_focal_loss(logits, labels, gamma=-1)
    with pytest.raises(ValueError, match=r"\(2, 3\) and labels \(2, 3\)"):
        sigmoid_focal_loss(logits, torch.zeros(2, 3, dtype=torch.long))
    for label in (3, -1):
        with pytest.raises(RuntimeError, match="Class values|negative"):
            sigmoid_focal_loss(logits, torch.tensor([0, label]))


def test_sure_decisions_and_half_precision_keep_their_digits():
    logits = torch.tensor([[20.0]])
    wrong = (-logits[0, 0].double()).sigmoid()  # 2e-9, which 1 - p would round to 0
    expected = 0.25 * wrong**2 * -torch.log1p(-wrong)
    found = sigmoid_focal_loss(logits, torch.tensor([0])).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    half = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([0, 6, 3, 3])
    assert torch.equal(sigmoid_focal_loss(half, labels), sigmoid_focal_loss(half.float(), labels))
