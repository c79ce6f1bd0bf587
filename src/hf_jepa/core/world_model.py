"""World models: what planning asks of them (a state, and what actions make of it), and what all of them share."""

from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hf_jepa.core.loading import WholeCheckpointMixin


@dataclass(frozen=True)
class WorldState:
    """What a model knows of the frames that it has seen, in B environments. Along F the oldest frame comes first.

    Args:
        latents: (B, F, *L); L is (N, D) for a model of tokens, (D,) for one of a vector per frame.
        actions: (B, F - 1, A), what was done from each frame to the next; None where F is 1 or nobody asks for them.
        poses: (B, F, P), where the body of the agent was in each frame; None where the model is not told.

    Raises:
        ValueError: numbers of environments or frames that do not fit together.

    Example:
        >>> state = WorldState(latents=torch.zeros(2, 3, 16), actions=torch.zeros(2, 2, 4))
        >>> len(state), state.last.shape, state[:1].latents.shape
        (2, torch.Size([2, 16]), torch.Size([1, 3, 16]))
    """

    latents: torch.Tensor
    actions: torch.Tensor | None = None
    poses: torch.Tensor | None = None

    def __post_init__(self):
        if self.latents.ndim < 3:
            raise ValueError(f"latents of shape {tuple(self.latents.shape)} are not (B, F, ...)")
        batch, frames = self.latents.shape[:2]
        for name, rows in (("actions", frames - 1), ("poses", frames)):
            given = getattr(self, name)
            if given is not None and (given.ndim != 3 or given.shape[:2] != (batch, rows)):
                raise ValueError(
                    f"{name} of shape {tuple(given.shape)} beside {frames} frames: want ({batch}, {rows}, n)"
                )

    def __len__(self) -> int:
        """B."""
        return len(self.latents)

    @property
    def last(self) -> torch.Tensor:
        """(B, *L), of the newest frame: what a goal is compared with."""
        return self.latents[:, -1]

    def __getitem__(self, rows: slice | torch.Tensor) -> "WorldState":
        """The state of some environments."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, *args: Any, **kwargs: Any) -> "WorldState":
        """As `Tensor.to`, of all tensors."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def _each(self, change) -> "WorldState":
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in given.items() if tensor is not None})


@runtime_checkable
class WorldModel(Protocol):
    """A model that planners can use. Neither method turns gradients off: planners that need none do."""

    def encode(self, *args: Any, **kwargs: Any) -> WorldState:
        """The state after the frames of B environments, from what the model's processor gives; once per decision."""
        ...

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        """Latents (B, S, H, *L) of the frames after each of H actions, for S candidates (B, S, H, A)."""
        ...


class WorldModelMixin(WholeCheckpointMixin):
    """Flags of all classes of a world model, and loading: nobody plans with a predictor at random weights."""

    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)


class WorldModelPreTrainingMixin:
    """What the pretraining model of a world model says of its base model, which holds all that plans."""

    accepts_loss_kwargs = False  # for `Trainer`: the loss is the mean of a batch
    fewest_samples = 1  # of a batch that the loss can be computed of

    @property
    def context_encoder(self) -> nn.Module:
        """The encoder of frames."""
        return self.base_model.encoder

    @property
    def predictor(self) -> nn.Module:
        """What predicts the next frame."""
        return self.base_model.predictor

    def freeze_parts(self) -> None:
        """Exclude from training what never is."""
        self.base_model.freeze_parts()


def require_frames(pixel_values_videos: torch.Tensor, num_channels: int, size: tuple[int, int] | None = None) -> None:
    """Refuse what are no frames of a model.

    Args:
        pixel_values_videos: (B, T, C, H, W) of at least one frame.
        num_channels: C.
        size: (H, W), where the model takes no other.

    Raises:
        TypeError: something else than a tensor.
        ValueError: another shape.

    Example:
        >>> require_frames(torch.zeros(2, 4, 3, 32, 32), num_channels=3)
    """
    if not isinstance(pixel_values_videos, torch.Tensor):
        raise TypeError(f"pixel_values_videos is of type {type(pixel_values_videos).__name__}, expected a tensor")
    shape, wanted = tuple(pixel_values_videos.shape), (num_channels, *(size or ()))
    if len(shape) != 5 or 0 in shape or shape[2 : 2 + len(wanted)] != wanted:
        height, width = size or ("H", "W")
        raise ValueError(
            f"pixel_values_videos has shape {shape}, expected (B, T, {num_channels}, {height}, {width}) of at least "
            "one frame: prepare frames by the processor, or set their size in the config"
        )


def require_actions(actions: torch.Tensor, leading: tuple[int, ...], action_dim: int) -> None:
    """Refuse actions of another shape than (*leading, A).

    Raises:
        ValueError: naming both.

    Example:
        >>> require_actions(torch.zeros(2, 3, 7), (2, 3), 7)
    """
    if tuple(actions.shape) != (expected := (*leading, action_dim)):
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected {expected}")


def require_candidates(actions: torch.Tensor, state: WorldState, action_dim: int) -> None:
    """Refuse what are no candidates (B, S, H, A) for a state of B environments.

    Raises:
        ValueError: naming the shape.

    Example:
        >>> require_candidates(torch.zeros(2, 5, 3, 7), WorldState(torch.zeros(2, 1, 16)), 7)
    """
    shape = tuple(actions.shape)
    if len(shape) != 4 or (shape[0], shape[3]) != (len(state), action_dim) or 0 in shape[:3]:
        raise ValueError(
            f"actions of shape {shape} are not ({len(state)}, S, H, {action_dim}): for each environment of the state "
            "S sequences of H actions"
        )


def for_candidates(x: torch.Tensor, samples: int) -> torch.Tensor:
    """(B, ...) -> (B * S, ...), each environment for all its candidates.

    Example:
        >>> for_candidates(torch.tensor([1, 2]), 3).tolist()
        [1, 1, 1, 2, 2, 2]
    """
    return x.unsqueeze(1).expand(-1, samples, *x.shape[1:]).flatten(0, 1)


__all__ = [
    "WorldModel",
    "WorldModelMixin",
    "WorldModelPreTrainingMixin",
    "WorldState",
    "for_candidates",
    "require_actions",
    "require_candidates",
    "require_frames",
]
