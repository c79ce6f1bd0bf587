"""Poses beside SciPy, which the official code composes them with."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from hf_jepa.layers.poses import compose_poses, pose_differences, rotation_angles, rotation_matrices


def some(*shape: int) -> torch.Tensor:
    """Poses whose second angle stays clear of a right one."""
    generator = torch.Generator().manual_seed(0)
    poses = 2 * torch.rand(*shape, 7, generator=generator, dtype=torch.float64) - 1
    poses[..., 3:6] *= torch.tensor([math.pi, 1.5, math.pi])
    poses[..., 6] = poses[..., 6].abs()
    return poses


def scipy_rotation(poses: torch.Tensor) -> Rotation:
    return Rotation.from_euler("xyz", poses[..., 3:6].reshape(-1, 3).numpy())


def test_composition_is_that_of_scipy():
    poses, actions = some(50), some(3, 50).flip(0)
    found = compose_poses(poses, actions)
    assert found.shape == (3, 50, 7)
    for own, action in zip(found, actions, strict=True):
        turned = (scipy_rotation(action) * scipy_rotation(poses)).as_euler("xyz")
        torch.testing.assert_close(own[:, 3:6], torch.from_numpy(turned), rtol=0, atol=1e-9)
        torch.testing.assert_close(own[:, :3], poses[:, :3] + action[:, :3])
        torch.testing.assert_close(own[:, 6], (poses[:, 6] + action[:, 6]).clamp(0, 1))
    assert (found[..., 6] == 1).any() and (found[..., 6] < 1).any()


def test_differences_are_those_of_scipy_and_lead_back():
    poses = some(4, 6)
    found = pose_differences(poses)
    turned = scipy_rotation(poses[:, 1:]) * scipy_rotation(poses[:, :-1]).inv()
    torch.testing.assert_close(
        found[..., 3:6].flatten(0, 1), torch.from_numpy(turned.as_euler("xyz")), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(compose_poses(poses[:, :-1], found), poses[:, 1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("second", [math.pi / 2, -math.pi / 2])
def test_a_right_second_angle_is_still_the_same_rotation(second):
    angles = torch.tensor([[0.3, second, -0.8], [2.9, second, 1.0]], dtype=torch.float64, requires_grad=True)
    rotations = rotation_matrices(angles)
    found = rotation_angles(rotations)
    torch.testing.assert_close(rotation_matrices(found), rotations)
    assert torch.equal(found[:, 2], torch.zeros(2, dtype=torch.float64))
    found.sum().backward()
    assert angles.grad.isfinite().all()


def test_gradients_are_right():
    poses, actions = (values[:4].clone().requires_grad_() for values in (some(8), some(9).flip(0)))
    with torch.no_grad():
        poses[:, 6], actions[:, 6] = 0.5, 0.1  # not where the gripper stops
    torch.autograd.gradcheck(compose_poses, (poses, actions))


def test_autocast_does_not_round_poses():
    poses, actions = some(20).float(), 0.1 * some(20).float().flip(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = compose_poses(poses, actions)
    assert torch.equal(found, compose_poses(poses, actions))


def test_other_vectors_are_refused():
    with pytest.raises(ValueError, match=r"actions of shape \(2, 4\).*7 numbers"):
        compose_poses(torch.zeros(2, 7), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="poses of shape"):
        pose_differences(torch.zeros(3, 6))
