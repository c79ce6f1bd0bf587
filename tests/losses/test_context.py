"""The context loss of V-JEPA 2.1: distances by a distance transform, and what they weigh."""

import pytest
import torch

from hf_jepa.losses.context import context_distance, context_loss


def by_all_pairs(context: torch.Tensor, target: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    def places(mask):
        frame, rest = mask // (grid[1] * grid[2]), mask % (grid[1] * grid[2])
        return torch.stack([frame, rest // grid[2], rest % grid[2]], dim=-1).double()

    return torch.cdist(places(context), places(target)).amin(-1).sqrt().float()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("grid", [(4, 5, 7), (1, 6, 6), (9, 1, 3), (1, 1, 20)])
def test_distances_are_those_of_all_pairs(rows, grid):
    tokens = grid[0] * grid[1] * grid[2]
    generator = torch.Generator().manual_seed(rows)
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(rows)])
    for targets in (1, 4, tokens // 2):
        target, context = order[:, :targets], order[:, targets:]
        found = context_distance(context, target, grid)
        assert found.shape == context.shape and found.min() >= 1
        torch.testing.assert_close(found, by_all_pairs(context, target, grid), rtol=1e-6, atol=1e-6)


def test_a_visible_target_has_no_distance():
    assert context_distance(torch.tensor([[5, 6]]), torch.tensor([[5]]), (1, 4, 4)).tolist() == [[0.0, 1.0]]


def test_distances_weigh_tokens():
    generator = torch.Generator().manual_seed(0)
    found, expected = torch.randn(2, 2, 5, 3, generator=generator)
    distance = 1 + torch.rand(2, 5, generator=generator)
    for kind, power in (("l1", 1), ("mse", 2)):
        wanted = ((found - expected).abs() ** power / distance.unsqueeze(-1)).mean()
        torch.testing.assert_close(context_loss(found, expected, kind, distance), wanted)
        alike = ((found - expected).abs() ** power).mean()
        torch.testing.assert_close(context_loss(found, expected, kind), alike)


@pytest.mark.parametrize(
    ("shapes", "kind", "message"),
    [
        (((1, 4, 3), (1, 1, 3), None), "l1", r"\(1, 1, 3\)"),
        (((2, 4, 3), (2, 4, 3), (4,)), "l1", r"\(4,\)"),
        (((2, 4, 3), (2, 4, 3), None), "l3", "l3"),
    ],
)
def test_what_would_broadcast_is_refused(shapes, kind, message):
    with pytest.raises(ValueError, match=message):
        found, expected, distance = (None if shape is None else torch.ones(shape) for shape in shapes)
        context_loss(found, expected, kind, distance)
