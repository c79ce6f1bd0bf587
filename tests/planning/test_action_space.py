"""Limits of actions: what is projected lies inside to the last bit, and what was inside stays."""

import pytest
import torch

from hf_jepa.planning import ActionSpace, DiscreteActionSpace


def candidates(*shape, scale=3.0, dtype=torch.float32):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [2.45, 0.1, 1e-3, 1e4])
def test_no_norm_is_exceeded_and_projecting_twice_changes_nothing(norm, dtype):
    space = ActionSpace(3, max_norm=norm)
    actions = candidates(2000, 4, 3, scale=2 * norm, dtype=dtype)
    once = space.project(actions)
    lengths = once.double().norm(dim=-1)
    assert (lengths <= norm).all() and torch.equal(space.project(once), once)
    inside = actions.norm(dim=-1) < norm * (1 - 1e-6)
    assert inside.any() and torch.equal(once[inside], actions[inside])
    outside = actions.double().norm(dim=-1) > norm * (1 + 1e-6)
    torch.testing.assert_close(lengths[outside], torch.full_like(lengths[outside], norm), rtol=2e-6, atol=0)
    direction = torch.nn.functional.cosine_similarity(once, actions, dim=-1)
    torch.testing.assert_close(direction, torch.ones_like(direction))


def test_groups_of_axes_have_norms_of_their_own():
    space = ActionSpace(4, max_norm={(0, 1): 1.0, (2,): 0.5}, high=[10, 10, 10, 0.2])
    found = space.project(torch.tensor([[3.0, 4.0, -2.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8, -0.5, 0.2]]))


def test_what_is_held_leaves_less_of_the_norm():
    space = ActionSpace(2, max_norm=1.0, held={0: [0.6, None]})
    found = space.project(torch.full((2, 2), 5.0))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.5**0.5, 0.5**0.5]]))
    assert (found.double().norm(dim=-1) <= 1.0 + 1e-7).all()
    assert ActionSpace(2, max_norm=1.0, held={0: 1.0}).project(torch.ones(1, 2)).tolist() == [[1.0, 0.0]]


def test_held_values_may_lie_outside_of_the_box_and_need_one_for_every_step():
    space = ActionSpace(2, low=-0.75, high=0.75, held={1: [None, 1.0, 1.0]})
    assert space.project(torch.full((2, 2), 9.0)).tolist() == [[0.75, 0.75], [0.75, 1.0]]
    with pytest.raises(ValueError, match="axis 1 has held values for 3 steps, but the plan has 4"):
        space.project(torch.zeros(4, 2))


def test_planned_axes_expand_to_all_and_back():
    space = ActionSpace(5, planned=(3, 0), held={1: [0.5, None, -0.5], 0: 2.0}, repeat=2, low=[-1, 0, 0, -2, 0])
    planned = space.project(candidates(7, 3, 2))
    assert (planned[..., 0] >= -2).all() and (planned[..., 1] == 2.0).all()
    full = space.expand(planned)
    assert full.shape == (7, 6, 5) and torch.equal(space.contract(full), planned)
    assert full[0, :, 1].tolist() == [0.5, 0.5, 0, 0, -0.5, -0.5] and not full[..., [2, 4]].any()
    assert torch.equal(full[..., 3], planned[..., 0].repeat_interleave(2, dim=-1))


def test_gradients_pass_the_projection():
    actions = torch.tensor([[0.5, 0.0], [5.0, 0.0]], requires_grad=True)
    ActionSpace(2, low=-9, max_norm=1.0).project(actions)[:, 1].sum().backward()
    torch.testing.assert_close(actions.grad, torch.tensor([[0.0, 1.0], [0.0, 0.2]]))


def test_a_space_can_be_changed_and_compared():
    from dataclasses import replace

    space = ActionSpace(3, low=-1, high=[1, 2, 3], max_norm={(0, 1): 1.0}, held={2: 0.5})
    assert replace(space, repeat=1) == space and replace(space, repeat=2) != space
    assert hash(replace(space, repeat=1)) == hash(space)
    wide = ActionSpace(2, low=torch.tensor([-1.0, -2.0]).numpy(), high=torch.ones(2))  # as gymnasium gives them
    assert wide.low == (-1.0, -2.0) and wide.high == (1.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 1.0, "high": 0.0}, "axis 0 has low 1.0 and high 0.0"),
        ({"low": float("nan")}, "axis 0 has low nan"),
        ({"high": [1.0, 2.0]}, "high has 2 numbers: give one, or 3"),
        ({"max_norm": 0.0}, "want a number above 0"),
        ({"max_norm": {(0, 3): 1.0}}, "max_norm names axis 3"),
        ({"held": {-1: 0.0}}, "held names axis -1"),
        ({"held": {0: float("inf")}}, "held values are inf"),
        ({"held": {0: []}}, "held values are"),
        ({"planned": ()}, "want one or more"),
        ({"planned": (0, 0)}, "each once"),
        ({"max_norm": 1.0, "low": 0.5}, "axis 0 has a max_norm, and low 0.5 and high inf without 0"),
        ({"max_norm": 1.0, "held": {0: 0.8, 1: 0.8}}, "longer than their max_norm of 1.0"),
        ({"max_norm": 1.0, "held": {0: [0.2, 0.8], 1: 0.8}}, "longer than their max_norm"),
        ({"repeat": 0}, "repeat is 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ActionSpace(3, **settings)


def test_actions_of_another_width_are_refused():
    space = ActionSpace(3, repeat=2)
    with pytest.raises(ValueError, match=r"want \(\.\.\., H, 3\)"):
        space.project(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="a multiple of 2, 3"):
        space.contract(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="num_actions is 1"):
        DiscreteActionSpace(1)
