"""What planning asks of a world model: a state to start from, and what actions make of it."""

from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch


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


__all__ = ["WorldModel", "WorldState"]
