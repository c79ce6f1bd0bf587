"""What a model is told of recorded poses: the actions between them, and where the body was."""

from dataclasses import dataclass

import torch

from hf_jepa.layers.poses import pose_differences, poses_in_camera


@dataclass(frozen=True)
class PoseActions:
    """The tensors of a sample from recorded poses, for `TrajectoryDataset(derive=...)`.

    Actions are the differences of poses, neither scaled nor normalised (V-JEPA 2-AC, 2506.09985; the official code).

    Args:
        camera_frame: poses are first told as the camera sees them, from its `extrinsics`.
        states: whether the model is told the poses, too.
        extrinsics: whether it is told where the camera is.

    Example:
        >>> found = PoseActions()({"states": torch.rand(4, 7)})
        >>> found["actions"].shape, found["states"].shape
        (torch.Size([3, 7]), torch.Size([4, 7]))
    """

    camera_frame: bool = False
    states: bool = True
    extrinsics: bool = False

    def __call__(self, told: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        poses = told["states"]
        if self.camera_frame:
            poses = poses_in_camera(poses, told["extrinsics"])
        found = {"actions": pose_differences(poses)}
        if self.states:
            found["states"] = poses
        if self.extrinsics:
            found["extrinsics"] = told["extrinsics"]
        return found


__all__ = ["PoseActions"]
