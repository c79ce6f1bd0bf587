"""What a plan costs: how far a world model's prediction is from a goal, and sums of such costs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from hf_jepa.core.world_model import WorldModel, WorldState
from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.planner import Cost


# Predicted latents (B, S, H, *L) and goals that broadcast against them -> (B, S, H).
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _l1(predicted: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    return (predicted - goal).abs().flatten(3).mean(dim=-1)


def _mse(predicted: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    return (predicted - goal).square().flatten(3).mean(dim=-1)


def _cosine(predicted: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    return 1 - cosine_similarity(predicted, goal, dim=-1).reshape(*predicted.shape[:3], -1).mean(dim=-1)


DISTANCES: dict[str, Distance] = {"l1": _l1, "mse": _mse, "cosine": _cosine}
OVER = ("last", "sum")


def encode_goal(model: WorldModel, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Latents (B, *L) of goal images: the newest frame of what `model.encode` says of them, without gradients.

    Args:
        model: a world model.
        args, kwargs: of `model.encode`, such as `pixel_values_videos` (B, 1, C, H, W).

    Example:
        >>> from hf_jepa.core.world_model import WorldState
        >>> class Positions:
        ...     def encode(self, positions):
        ...         return WorldState(positions[:, None])
        >>> encode_goal(Positions(), torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    with torch.no_grad():
        return model.encode(*args, **kwargs).last.detach()  # a view of the pixels would keep theirs


class LatentCost:
    """How far the frames that a world model predicts are from a goal.

    Nothing is encoded here: the state and the goal come encoded, once for a decision, and the model makes copies of
    the state for its candidates as late as it can.

    Args:
        model: a world model in `eval()`.
        state: of B environments.
        goal: (B, *L) one for each environment, or (B, H, *L) one for each step of the model: a path.
        distance: "l1", "mse" (both means over all numbers of a frame), "cosine" (1 - cosine along the last axis, mean
            over tokens), or a function of predicted latents (B, S, H, *L) and goals that broadcast against them, which
            gives (B, S, H).
        over: "last" the last step alone, "sum" the sum over all steps, which asks the model to get there soon.
        include_start: with "sum", count the frame of the state, too: a constant, for comparison with EB-JEPA.
        sample_chunk: how many candidates the model sees at a time; None for all. The costs are the same.

    Raises:
        ValueError: a goal that does not fit the state, a model in training, unknown names.

    Example:
        >>> class Point:  # a world whose latents are positions, and whose actions are steps
        ...     def unroll(self, state, actions):
        ...         return state.last[:, None, None] + actions.cumsum(dim=2)
        >>> cost = LatentCost(Point(), WorldState(torch.zeros(1, 1, 2)), torch.tensor([[2.0, 0.0]]))
        >>> cost(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]]))
        tensor([[0., 1.]])
    """

    def __init__(
        self,
        model: WorldModel,
        state: WorldState,
        goal: torch.Tensor,
        *,
        distance: str | Distance = "l1",
        over: str = "last",
        include_start: bool = False,
        sample_chunk: int | None = None,
    ):
        if getattr(model, "training", False):
            raise ValueError("the model is in training, where dropout and batch statistics change costs: call eval()")
        if isinstance(distance, str) and distance not in DISTANCES:
            raise ValueError(f"distance {distance!r} is not one of {', '.join(DISTANCES)}, nor a function")
        if over not in OVER:
            raise ValueError(f"over {over!r} is not one of {', '.join(OVER)}")
        latents = state.last
        is_path = goal.ndim == latents.ndim + 1
        if goal.shape[:1] + goal.shape[1 + is_path :] != latents.shape:
            raise ValueError(f"goal of shape {tuple(goal.shape)} for latents {tuple(latents.shape)} (B, *L)")
        if include_start and (over != "sum" or is_path):
            raise ValueError("include_start counts the frame of the state beside a sum over steps to one goal")
        if sample_chunk is not None:
            check_count(sample_chunk, "sample_chunk")
        self.model, self.state, self.over, self.sample_chunk = model, state, over, sample_chunk
        self.distance = DISTANCES[distance] if isinstance(distance, str) else distance
        self.goal = goal.to(latents)[:, None] if is_path else goal.to(latents)[:, None, None]  # (B, 1, 1 or H, *L)
        self.start = self.distance(latents[:, None, None], self.goal)[:, :, 0] if include_start else None  # (B, 1)

    @property
    def num_environments(self) -> int:
        """B."""
        return len(self.state)

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return self.state.latents.device

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        """Costs of candidates.

        Args:
            actions: (B, S, H, A), of any device and precision.

        Returns:
            (B, S), of the precision of the latents.

        Raises:
            ValueError: a path of other length, or predictions that are not finite (the first such step is named).
        """
        steps, path = actions.shape[2], self.goal.shape[2]
        if path not in (1, steps):
            raise ValueError(f"the goal is a path of {path} steps, and the plan has {steps}")
        actions = actions.to(self.state.latents)
        chunk = self.sample_chunk or actions.shape[1]
        return torch.cat([self._costs(part) for part in actions.split(chunk, dim=1)], dim=1)

    def _costs(self, actions: torch.Tensor) -> torch.Tensor:
        predicted = self.model.unroll(self.state, actions)
        if self.over == "last":
            costs = self.distance(predicted[:, :, -1:], self.goal[:, :, -1:])[:, :, 0]
        else:
            costs = self.distance(predicted, self.goal).sum(dim=2)
            costs = costs if self.start is None else costs + self.start
        if not costs.isfinite().all():
            self._explain(predicted)
        return costs

    def _explain(self, predicted: torch.Tensor) -> None:
        wrong = ~predicted.isfinite().flatten(3).all(dim=3)  # (B, S, H)
        if wrong.any():
            step = int(wrong.any(dim=0).any(dim=0).nonzero()[0])
            rows = wrong.flatten(1).any(dim=1).nonzero().flatten().tolist()
            raise ValueError(
                f"predictions of step {step} and on are not finite, in the environments {rows}: check the model's "
                "weights and precision, and the limits of the actions"
            )
        raise ValueError("predictions are finite, but their distance to the goal is not: check the goal")


class WeightedCost:
    """A weighted sum of costs, such as a distance to the goal and a price of motion.

    Args:
        terms: pairs of a weight and a cost.

    Raises:
        ValueError: no term, or terms for different numbers of environments.

    Example:
        >>> effort = lambda actions: actions.square().sum(dim=(2, 3))
        >>> far = lambda actions: (actions.sum(dim=2) - 1).abs().sum(dim=-1)
        >>> WeightedCost([(1.0, far), (0.5, effort)])(torch.full((1, 1, 2, 1), 0.5))
        tensor([[0.2500]])
    """

    def __init__(self, terms: Sequence[tuple[float, Cost]]):
        self.terms = [(float(weight), cost) for weight, cost in terms]
        if not self.terms:
            raise ValueError("a weighted cost has at least one term")
        known = {getattr(cost, "num_environments", None) for _, cost in self.terms} - {None}
        if len(known) > 1:
            raise ValueError(f"terms are for different numbers of environments: {sorted(known)}")
        self.num_environments = known.pop() if known else None
        devices = [getattr(cost, "device", None) for _, cost in self.terms]
        self.device = next((device for device in devices if device is not None), None)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        """(B, S, H, A) -> (B, S), on the device of the actions and of their precision."""
        return sum(weight * cost(actions).to(actions) for weight, cost in self.terms)


__all__ = ["DISTANCES", "Distance", "LatentCost", "WeightedCost", "encode_goal"]
