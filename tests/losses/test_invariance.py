"""The distance between views."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.losses.invariance import invariance_loss


IO = load_file(Path(__file__).parents[1] / "fixtures/golden/regularizers/sigreg_lejepa/io.safetensors")


@pytest.mark.parametrize(
    ("num_global", "name"), [(None, "invariance_all_views"), (2, "invariance_global_centre_2views")]
)
def test_recorded_values(num_global, name):
    torch.testing.assert_close(invariance_loss(IO["proj"], num_global), IO[name].squeeze(), rtol=1e-5, atol=1e-5)


def test_gradient_flows_into_the_mean_too():
    views = torch.tensor([[[0.0]], [[2.0]], [[7.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(invariance_loss(views, num_global=2), views)
    # ((a - m)^2 + (b - m)^2 + (c - m)^2) / 3 with m = (a + b) / 2
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-8.0, -4.0, 12.0]) / 3)


def test_half_precision_is_not_rounded():
    views = torch.tensor([[[1.0]], [[1.0078125]]], dtype=torch.bfloat16)  # neighbours in bfloat16: no mean between
    loss = invariance_loss(views)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(0.00390625**2)


def test_what_is_no_set_of_views_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\) are not \(views"):
        invariance_loss(torch.ones(4, 3))
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"num_global {number} must be from 1 to 2"):
            invariance_loss(torch.ones(2, 4, 3), num_global=number)
