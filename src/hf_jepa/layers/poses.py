"""Poses of an end effector: where it is, how it is turned, how far its gripper is closed.

A pose is (x, y, z, three angles, gripper). Angles are extrinsic, "xyz" of SciPy: R = Rz Ry Rx. Without matrix
products, which autocast would round to 16 bits.
"""

import torch


POSE_DIM = 7
LOCKED = 1e-12  # square of the cosine of the second angle below which the first and third turn about one axis


def compose_poses(poses: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The poses after actions (V-JEPA 2-AC, 2506.09985): positions are added, rotations follow one another.

    Args:
        poses: (..., 7)
        actions: (..., 7) in the same order, shapes that broadcast with those of the poses. The new rotation is that of
            the action after that of the pose; the gripper stays in [0, 1].

    Returns:
        (..., 7)

    Raises:
        ValueError: another number of values than 7.

    Example:
        >>> pose = torch.tensor([0.5, 0.0, 0.2, 0.0, 0.0, 3.0, 0.9])
        >>> action = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3])
        >>> [round(number, 2) for number in compose_poses(pose, action)[[0, 5, 6]].tolist()]
        [0.6, 3.1, 1.0]
    """
    _require_poses(poses=poses, actions=actions)
    turned = _product(rotation_matrices(actions[..., 3:6]), rotation_matrices(poses[..., 3:6]))
    gripper = (poses[..., 6:] + actions[..., 6:]).clamp(0, 1)
    return torch.cat([poses[..., :3] + actions[..., :3], rotation_angles(turned), gripper], dim=-1)


def pose_differences(poses: torch.Tensor) -> torch.Tensor:
    """The actions that lead from each pose to the next, the inverse of `compose_poses` but where a gripper was held.

    Args:
        poses: (..., T, 7)

    Returns:
        (..., T - 1, 7)

    Raises:
        ValueError: another number of values than 7.

    Example:
        >>> poses = torch.tensor([[0.0, 0, 0, 0, 0, 1.0, 0], [0.1, 0, 0, 0, 0, 1.5, 1]])
        >>> [round(number, 2) for number in pose_differences(poses)[0, [0, 5, 6]].tolist()]
        [0.1, 0.5, 1.0]
    """
    _require_poses(poses=poses)
    rotations = rotation_matrices(poses[..., 3:6])
    angles = rotation_angles(_product(rotations[..., 1:, :, :], rotations[..., :-1, :, :].mT))
    steps = poses[..., 1:, :] - poses[..., :-1, :]
    return torch.cat([steps[..., :3], angles, steps[..., 6:]], dim=-1)


def poses_in_camera(poses: torch.Tensor, extrinsics: torch.Tensor) -> torch.Tensor:
    """Poses as a camera sees them: the inverse of the camera's pose times each (`camera_frame` of the official code).

    Args:
        poses: (..., 7) in the frame of the robot.
        extrinsics: (..., 6), position and angles of the camera in the same frame.

    Returns:
        (..., 7), the gripper as it was.

    Raises:
        ValueError: another number of values.

    Example:
        >>> pose = torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0])
        >>> camera = torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, torch.pi / 2])  # turned to the left
        >>> [round(number, 2) + 0.0 for number in poses_in_camera(pose, camera).tolist()]
        [1.0, 0.0, 0.0, 0.0, 0.0, -1.57, 1.0]
    """
    _require_poses(poses=poses)
    if extrinsics.shape[-1] != POSE_DIM - 1:
        raise ValueError(f"extrinsics of shape {tuple(extrinsics.shape)}: a camera has 6 numbers (x, y, z, angles)")
    inverse = rotation_matrices(extrinsics[..., 3:]).mT
    place = _product(inverse, (poses[..., :3] - extrinsics[..., :3]).unsqueeze(-1)).squeeze(-1)
    angles = rotation_angles(_product(inverse, rotation_matrices(poses[..., 3:6])))
    return torch.cat([place, angles, poses[..., 6:]], dim=-1)


def rotation_matrices(angles: torch.Tensor) -> torch.Tensor:
    """Extrinsic xyz angles (..., 3) to rotation matrices Rz Ry Rx (..., 3, 3)."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotation_angles(rotations: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) to extrinsic xyz angles (..., 3), the second in [-pi / 2, pi / 2].

    Where that one is a right angle, only the sum or difference of the others is determined: the third is then 0, as in
    SciPy. Gradients are finite there.
    """
    r = rotations
    square = r[..., 0, 0].square() + r[..., 1, 0].square()
    locked = square < LOCKED
    # The branch that is not taken gets numbers whose gradients are finite: a gradient of 0 times infinity is not 0.
    cosine = torch.where(locked, 1.0, square).sqrt()
    y = torch.atan2(-r[..., 2, 0], torch.where(locked, 0.0, cosine))
    x = torch.where(locked, _angle(-r[..., 1, 2], r[..., 1, 1], locked), _angle(r[..., 2, 1], r[..., 2, 2], ~locked))
    z = torch.where(locked, 0.0, _angle(r[..., 1, 0], r[..., 0, 0], ~locked))
    return torch.stack([x, y, z], dim=-1)


def _angle(sine: torch.Tensor, cosine: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """atan2 where it is wanted; elsewhere 0, without gradient."""
    return torch.atan2(torch.where(where, sine, 0.0), torch.where(where, cosine, 1.0))


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(dim=-2)


def _require_poses(**given: torch.Tensor) -> None:
    for name, values in given.items():
        if values.shape[-1] != POSE_DIM:
            raise ValueError(
                f"{name} of shape {tuple(values.shape)}: a pose has {POSE_DIM} numbers (x, y, z, angles, gripper)"
            )


__all__ = ["POSE_DIM", "compose_poses", "pose_differences", "poses_in_camera", "rotation_angles", "rotation_matrices"]
