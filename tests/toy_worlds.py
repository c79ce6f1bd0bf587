"""Worlds whose best plans are known, for tests of planning."""

import torch

from hf_jepa.core.world_model import WorldState


MOVES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # of discrete actions


def steps_of(actions: torch.Tensor) -> torch.Tensor:
    """(..., H, A) -> (..., H, 2): discrete actions are one of `MOVES`."""
    return actions @ MOVES.to(actions) if actions.shape[-1] == len(MOVES) else actions[..., :2]


class PointWorld:
    """A `WorldModel`: the latents of a frame are the position of a point, which every action moves."""

    def __init__(self):
        self.encoded = 0  # calls of `encode`
        self.unrolled = []  # shapes of the actions of every `unroll`

    def encode(self, pixel_values_videos, actions=None, states=None):
        self.encoded += 1
        return WorldState(pixel_values_videos.flatten(2), actions, states)

    def unroll(self, state, actions):
        self.unrolled.append(tuple(actions.shape))
        return state.last[:, None, None] + steps_of(actions).cumsum(dim=2)


def squared_distance(target: torch.Tensor):
    """A cost: how far the end of a plan is from a point (B, 2), squared."""

    def cost(actions):
        end = steps_of(actions).sum(dim=2)
        return (end - target.to(end)[:, None]).square().sum(dim=-1)

    return cost


def around_a_pole(target: torch.Tensor, pole: torch.Tensor, radius: float):
    """A cost: the distance of the end from a point, and a price of being near a pole on the way; both (B, 2)."""

    def cost(actions):
        path = steps_of(actions).cumsum(dim=2)  # (B, S, H, 2)
        near = radius - (path - pole.to(path)[:, None, None]).norm(dim=-1)
        return squared_distance(target)(actions) + 20 * near.clamp(min=0).square().sum(dim=2)

    return cost


class Recorded:
    """A cost that keeps all candidates it was asked about."""

    def __init__(self, cost):
        self.cost, self.candidates = cost, []

    def __call__(self, actions):
        self.candidates.append(actions.detach().clone())
        return self.cost(actions)
