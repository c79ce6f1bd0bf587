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


@pytest.mark.parametrize("momentum", [0.996, 0.9999999, 0.3])
@pytest.mark.parametrize("layout", ["same", "target transposed", "source transposed", "both"])
def test_every_layout_in_memory_gives_the_mean(momentum, layout):
    torch.manual_seed(0)
    target, source = nn.Linear(33, 65), nn.Linear(33, 65)
    for module, name in ((target, "target transposed"), (source, "source transposed")):
        if layout in (name, "both"):
            module.weight.data = module.weight.data.t().contiguous().t()
    old = target.weight.detach().clone()
    Average(target, source)(momentum)
    expected = old.double() + (1 - momentum) * (source.weight.double() - old.double())
    torch.testing.assert_close(target.weight.double(), expected, rtol=1e-6, atol=1e-7)
    if layout == "same" and momentum > 0.5:
        assert torch.equal(target.weight, old.lerp(source.weight, 1 - momentum))


def test_what_is_equal_stays_as_it_is():
    target, source = pair()
    target.load_state_dict(source.state_dict())
    nn.init.constant_(target.weight, 0.1)
    nn.init.constant_(source.weight, 0.1)
    Average(target, source)(0.7)
    assert torch.equal(target.weight, source.weight)


def test_tensors_are_paired_by_name():
    target, source = nn.Module(), nn.Module()
    for module, names in ((target, "ab"), (source, "ba")):
        for name in names:
            setattr(module, name, nn.Parameter(torch.full((2,), float(ord(name)) if module is source else 0.0)))
    Average(target, source)(0.0)
    assert target.a.tolist() == [float(ord("a"))] * 2 and target.b.tolist() == [float(ord("b"))] * 2
    with pytest.raises(ValueError, match="no average: 2 tensors are not in both modules, or unlike: c"):
        target.c, source.d = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        Average(target, source)


def test_a_compiled_source_is_followed():
    target, source = pair()
    Average(target, torch.compile(source))(0.0)
    assert torch.equal(target.weight, source.weight)


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
