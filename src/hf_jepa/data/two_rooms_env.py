"""Two rooms as environments of gymnasium: bring the dot to a target in the other room.

Many rooms are one batch; the environment of a single room is a batch of one. Needs `pip install "hf_jepa[worlds]"`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_jepa.data.two_rooms_dynamics import BORDER, SIDE, WALL_HALF, contact_moves, layouts_from
from hf_jepa.data.two_rooms_pixels import DOT_STD, render_dots, render_walls


try:
    import gymnasium
    from gymnasium.spaces import Box
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError('environments need gymnasium: pip install "hf_jepa[worlds]"') from error


REACHED = 4.5  # pixels from the target that count as there
LARGEST_ACTION = 2.45  # of the action space; the world itself takes any
MARGIN = 2 * DOT_STD  # of starts and targets to all walls
_WALL, _DOT, _TARGET = (60, 60, 60), (46, 134, 171), (60, 157, 107)  # colours of `render`


class TwoRoomsVectorEnv(gymnasium.vector.VectorEnv):
    """N rooms, each with a layout, a dot and a target in the other room.

    Observations are uint8 (N, 2, S, S), dot and walls; actions float32 (N, 2), how far the dot is to move in x and y.
    A dot that meets a wall comes to rest near the point of contact. The reward is 1 where the dot is within 4.5 pixels
    of its target, else 0. An episode is never terminated, only truncated after `max_steps`: who has arrived must stay.
    A step after that starts the next episode. What is random in room i follows from its own seed, so that a batch
    equals single rooms.

    Args:
        num_envs: N.
        max_steps: of an episode.
        wall_x, door_y: of all rooms; None for a random layout in every episode.
        image_size: pixels a side of the observations; fewer than 65 for small models.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: no room, no step, a layout out of range, another render mode, or actions that are not finite.
        ImportError: gymnasium is not installed.

    `reset` and `step` give an `info` of arrays: `position` and `target` (N, 2), `wall_x`, `door_y`, `distance` and
    `success` (N,).

    Example:
        >>> rooms = TwoRoomsVectorEnv(3)
        >>> observation, info = rooms.reset(seed=0)
        >>> observation.shape, info["target"].shape, rooms.target_observation().shape
        ((3, 2, 65, 65), (3, 2), (3, 2, 65, 65))
        >>> observation, reward, terminated, truncated, info = rooms.step(np.zeros((3, 2), np.float32))
        >>> reward.tolist(), truncated.tolist()
        ([0.0, 0.0, 0.0], [False, False, False])
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        max_steps: int = 200,
        wall_x: int | None = None,
        door_y: int | None = None,
        image_size: int = SIDE,
        render_mode: str | None = None,
    ):
        if num_envs < 1 or max_steps < 1:
            raise ValueError(f"needs a room and a step at least, got num_envs={num_envs} and max_steps={max_steps}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.layouts = layouts_from(np.zeros((num_envs, 2)), wall_x, door_y)
        self.num_envs, self.max_steps, self.image_size, self.render_mode = num_envs, max_steps, image_size, render_mode
        self._fixed = (wall_x, door_y)
        self.single_observation_space = Box(0, 255, (2, image_size, image_size), np.uint8)
        self.single_action_space = Box(-LARGEST_ACTION, LARGEST_ACTION, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.position, self.target = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self._steps = np.zeros(num_envs, np.int64)
        self._generators: list[np.random.Generator] | None = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Start an episode in every room: room i has the seed `seed + i`, or the i-th of several; None goes on."""
        if seed is not None or self._generators is None:
            super().reset(seed=seed if isinstance(seed, int) else None)
            self._generators = [np.random.default_rng(each) for each in self._seeds(seed)]
        self._start(np.ones(self.num_envs, bool))
        return self._observe(self.position), self._info()

    def _seeds(self, seed: int | Sequence[int] | None) -> list:
        if seed is None:
            return list(np.random.SeedSequence().spawn(self.num_envs))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} rooms")
        return seeds

    def _start(self, rooms: np.ndarray) -> None:
        """New episodes where the mask says so. The official ones begin with an action of zero, which moves nothing."""
        chosen = np.flatnonzero(rooms)
        drawn = np.stack([self._generators[i].random(7) for i in chosen])
        layouts = layouts_from(drawn[:, :2], *self._fixed)
        low, high = BORDER[0] + MARGIN, BORDER[1] - MARGIN
        edges = ((low, layouts.wall_x - WALL_HALF - MARGIN), (layouts.wall_x + WALL_HALF + MARGIN, high))
        left, right = (
            np.stack([a + drawn[:, 2 + i] * (b - a), low + drawn[:, 4 + i] * (high - low)], axis=1)
            for i, (a, b) in enumerate(edges)
        )
        swapped = drawn[:, 6:] < 0.5
        self.position[chosen], self.target[chosen] = np.where(swapped, right, left), np.where(swapped, left, right)
        for kept, new in zip(self.layouts, layouts, strict=True):
            kept[chosen] = new
        self._steps[chosen] = 0

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Move every dot; rooms whose episode is over start the next one instead."""
        if self._generators is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        actions = np.asarray(actions, np.float64)
        if actions.shape != (self.num_envs, 2) or not np.isfinite(actions).all():
            raise ValueError(f"actions must be finite and ({self.num_envs}, 2), got shape {actions.shape}: {actions}")
        over = self._steps >= self.max_steps
        noise = np.zeros((self.num_envs, 2, 2))
        for i in np.flatnonzero(~over):
            noise[i] = self._generators[i].standard_normal((2, 2))
        moved, _ = contact_moves(self.position, self.position + actions, self.layouts, noise)
        self.position = np.where(over[:, None], self.position, moved)
        self._steps += 1
        if over.any():
            self._start(over)
        info = self._info()
        reward = np.where(over, 0.0, info["success"])
        return self._observe(self.position), reward, np.zeros_like(over), self._steps >= self.max_steps, info

    def target_observation(self) -> np.ndarray:
        """What would be seen with the dots at their targets, uint8 (N, 2, S, S): the goals of a planner."""
        return self._observe(self.target)

    def _observe(self, position: np.ndarray) -> np.ndarray:
        dots = render_dots(torch.from_numpy(position).float(), self.image_size)
        walls = render_walls(*(torch.from_numpy(each) for each in self.layouts), self.image_size)
        return torch.stack([dots, walls], dim=1).numpy()

    def _info(self) -> dict[str, np.ndarray]:
        distance = np.linalg.norm(self.position - self.target, axis=1)
        known = {"position": self.position.copy(), "target": self.target.copy()}
        walls = {name: values.copy() for name, values in self.layouts._asdict().items()}
        return known | walls | {"distance": distance, "success": distance < REACHED}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Pictures of all rooms, uint8 (S, S, 3) each: walls, dot and target."""
        if self.render_mode is None:
            return None
        seen = self._observe(self.position) / 255, self.target_observation() / 255
        shares = ((seen[0][:, 1], _WALL), (seen[1][:, 0], _TARGET), (seen[0][:, 0], _DOT))
        pictures = np.full((self.num_envs, self.image_size, self.image_size, 3), 255.0)
        for share, colour in shares:  # the later ones over the earlier ones
            pictures += share[..., None] * (np.array(colour) - pictures)
        return tuple(pictures.astype(np.uint8))


class TwoRoomsEnv(gymnasium.Env):
    """One room: `TwoRoomsVectorEnv` of one, without the dimension N.

    Args:
        max_steps, wall_x, door_y, image_size, render_mode: as for `TwoRoomsVectorEnv`.

    Example:
        >>> room = TwoRoomsEnv(wall_x=32, door_y=18)
        >>> observation, info = room.reset(seed=0)
        >>> observation.shape, int(info["wall_x"])
        ((2, 65, 65), 32)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode: str | None = None, **settings: Any):
        self.rooms = TwoRoomsVectorEnv(1, render_mode=render_mode, **settings)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.rooms.single_observation_space, self.rooms.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        observation, info = self.rooms.reset(seed=seed)
        return observation[0], _first(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the dot."""
        observation, reward, terminated, truncated, info = self.rooms.step(np.asarray(action)[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def target_observation(self) -> np.ndarray:
        """What would be seen with the dot at the target, uint8 (2, S, S)."""
        return self.rooms.target_observation()[0]

    def render(self) -> np.ndarray | None:
        """A picture, uint8 (S, S, 3)."""
        pictures = self.rooms.render()
        return pictures and pictures[0]


def _first(info: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: values[0] for name, values in info.items()}


gymnasium.register(
    "hf_jepa/TwoRooms-v0",
    entry_point="hf_jepa.data.two_rooms_env:TwoRoomsEnv",
    vector_entry_point="hf_jepa.data.two_rooms_env:TwoRoomsVectorEnv",
)


__all__ = ["REACHED", "TwoRoomsEnv", "TwoRoomsVectorEnv"]
