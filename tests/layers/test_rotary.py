"""Rotary positions: precision, channels that do not turn, what is refused."""

import pytest
import torch

from hf_jepa.layers.rotary import grid_positions, rotary_axis_dim, rotary_tables, rotate


@pytest.mark.parametrize("layout", ["tiled", "interleaved"])
def test_half_precision_is_turned_in_float32_and_rounded_once(layout):
    tables = rotary_tables(grid_positions(torch.arange(300, 360), (40, 3, 5)), 20, layout)
    cos, sin = (table[None, :, None] for table in tables)
    assert cos.dtype == sin.dtype == torch.float32
    x = torch.randn(2, 60, 3, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = rotate(x, cos, sin)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotate(x.float(), cos, sin).bfloat16())
    assert torch.equal(found[..., 18:], x[..., 18:])  # six channels an axis, two are left over


def test_places_of_tokens():
    frame, row, column = grid_positions(torch.arange(2 * 3 * 5), (2, 3, 5))
    places = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5))
    assert torch.equal(torch.stack([frame, row, column], dim=-1), places)
    assert [place.item() for place in grid_positions(torch.tensor(37), (2, 3, 5))] == [2, 1, 2]  # in the future


@pytest.mark.parametrize("head_dim", [4, 7, 13])
def test_heads_without_room_for_three_axes_are_refused(head_dim):
    with pytest.raises(ValueError, match=f"heads of {head_dim} channels"):
        rotary_axis_dim(head_dim)
    with pytest.raises(ValueError, match="rope_layout='spiral'"):
        rotary_tables((torch.zeros(1),) * 3, 12, "spiral")


def test_places_beyond_half_precision_and_between_tokens():
    places = torch.tensor([257.0, 4095.0, 7.123])
    cos, _ = rotary_tables((places, places, places), 6, "interleaved")
    torch.testing.assert_close(cos[:, 0].double(), places.double().cos(), rtol=0, atol=1e-5)
