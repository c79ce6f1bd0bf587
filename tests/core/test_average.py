"""The average by itself; the suites run it on every model."""

import pytest
import torch
from torch import nn

from hf_jepa.core.ema import Average


def pair() -> tuple[nn.BatchNorm1d, nn.BatchNorm1d]:
    """Two modules with different parameters and different buffers."""
    modules = nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4, track_running_stats=False)
    for value, module in enumerate(modules):
        module.register_buffer("table", torch.full((3,), float(value)))
        nn.init.constant_(module.weight, value)
    return modules


def test_tables_are_averaged_like_parameters():
    target, source = pair()
    Average(target, source)(0.75)
    assert target.table.tolist() == [0.25] * 3 and target.weight.tolist() == [0.25] * 4


@pytest.mark.parametrize("left_over", [float("nan"), float("inf")])
def test_a_copy_forgets_whatever_was_there(left_over):
    target, source = pair()
    nn.init.constant_(target.weight, left_over)
    Average(target, source)(0.0)
    assert torch.equal(target.weight, source.weight)


def test_a_float32_target_follows_a_16_bit_source():
    target, source = pair()
    Average(target, source.to(torch.bfloat16))(0.999)
    assert target.weight.dtype == torch.float32
    torch.testing.assert_close(target.weight, torch.full((4,), 0.001))
