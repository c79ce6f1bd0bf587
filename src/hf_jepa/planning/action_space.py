"""Which actions a plan may hold: limits, norms, held axes, and how planned actions become those that a model takes."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from math import hypot, inf, isfinite, nan
from typing import NamedTuple

import torch

from hf_jepa.evaluation.inputs import check_count


_ROUNDING = 8  # units in the last place by which a shortened action stays inside its norm


class _Norm(NamedTuple):
    columns: torch.Tensor  # (n,) of the planned axes
    radius: torch.Tensor  # (H, 1), what held axes leave of the norm


class _Limits(NamedTuple):
    """Tensors of an `ActionSpace` for one horizon, device and precision; columns are planned axes."""

    low: torch.Tensor  # (P,)
    high: torch.Tensor  # (P,)
    held: torch.Tensor  # (H, P), nan where nothing is held
    norms: tuple[_Norm, ...]


@dataclass(frozen=True)
class ActionSpace:
    """Continuous actions of A numbers. Axes are named by their index in an action, 0 to A - 1, everywhere.

    Planners search over the P planned axes, `project` their candidates, and `expand` them to what the model takes.

    Args:
        action_dim: A.
        low, high: smallest and largest value of every axis, a number or A of them; None for no limit.
        max_norm: longest action (Euclidean), a number for all axes together, or groups of axes -> number:
            `{(0, 1, 2): 0.1}`. The limits of these axes must contain 0.
        held: axis -> its value, or one value for every planned step, None where the step is free. It may lie outside
            of low and high.
        planned: axes that are searched, None for all. The others are 0 or held, and take no random numbers.
        repeat: for how many steps of the model each planned action is done.

    Raises:
        TypeError, ValueError: axes that do not exist, limits that exclude each other (the axis is named).

    Example:
        >>> arm = ActionSpace(7, low=-0.05, high=0.05, held={6: 1.0}, planned=(0, 1, 2, 6))
        >>> planned = arm.project(torch.full((1, 4), 0.2))  # (H, P)
        >>> planned
        tensor([[0.0500, 0.0500, 0.0500, 1.0000]])
        >>> arm.expand(planned)
        tensor([[0.0500, 0.0500, 0.0500, 0.0000, 0.0000, 0.0000, 1.0000]])
        >>> steps = ActionSpace(2, max_norm=1.0, repeat=3)
        >>> steps.project(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    action_dim: int
    _: KW_ONLY
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    max_norm: float | Mapping[tuple[int, ...], float] | None = None
    held: Mapping[int, float | Sequence[float | None]] | None = None
    planned: Sequence[int] | None = None
    repeat: int = 1

    def __post_init__(self):
        check_count(self.action_dim, "action_dim")
        check_count(self.repeat, "repeat")
        planned = range(self.action_dim) if self.planned is None else self.planned
        held = {} if self.held is None else dict(self.held)
        norms = {} if self.max_norm is None else self.max_norm
        norms = dict(norms) if isinstance(norms, (Mapping, tuple)) else {tuple(planned): norms}
        fields = {  # hashable, so that tensors can be made once
            "planned": tuple(self._axis(axis, "planned") for axis in planned),
            "low": self.per_axis(-inf if self.low is None else self.low, "low"),
            "high": self.per_axis(inf if self.high is None else self.high, "high"),
            "held": tuple((self._axis(axis, "held"), _values(value)) for axis, value in held.items()),
            "max_norm": tuple(
                (tuple(self._axis(axis, "max_norm") for axis in axes), float(norm)) for axes, norm in norms.items()
            ),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    @property
    def num_planned(self) -> int:
        """P."""
        return len(self.planned)

    def project(self, actions: torch.Tensor) -> torch.Tensor:
        """The same actions within the limits: clipped, shortened to the norm, held where they are held.

        What comes out is inside to the last bit, what was inside is unchanged, and gradients pass.

        Args:
            actions: (..., H, P).

        Returns:
            (..., H, P).

        Raises:
            ValueError: not P numbers, or more steps than held values.
        """
        if actions.ndim < 2 or actions.shape[-1] != self.num_planned:
            raise ValueError(f"actions of shape {tuple(actions.shape)}: want (..., H, {self.num_planned})")
        limits = _limits(self, actions.shape[-2], actions.device, actions.dtype)
        held = limits.held.isfinite()
        actions = torch.where(held, limits.held, actions.clamp(limits.low, limits.high))
        for columns, radius in limits.norms:
            part, fixed = actions[..., columns], held[:, columns]
            length = part.masked_fill(fixed, 0).norm(dim=-1, keepdim=True)
            inside = radius * (1 - _ROUNDING * torch.finfo(actions.dtype).eps)
            scale = inside / length.clamp(min=torch.finfo(actions.dtype).tiny)
            short = torch.where(fixed | (length <= radius), part, part * scale)
            actions = actions.index_copy(-1, columns, short)
        return actions

    def expand(self, planned: torch.Tensor) -> torch.Tensor:
        """What the model takes: all axes, every planned action `repeat` times.

        Args:
            planned: (..., H, P).

        Returns:
            (..., H * repeat, A).
        """
        if self.planned != tuple(range(self.action_dim)):
            rest, columns = _rest(self, planned.shape[-2], planned.device, planned.dtype)
            planned = rest.expand(*planned.shape[:-1], -1).index_copy(-1, columns, planned)
        return planned if self.repeat == 1 else planned.repeat_interleave(self.repeat, dim=-2)

    def contract(self, actions: torch.Tensor) -> torch.Tensor:
        """The planned actions of which `expand` makes these: (..., H * repeat, A) -> (..., H, P)."""
        if actions.shape[-1] != self.action_dim or actions.shape[-2] % self.repeat:
            raise ValueError(
                f"actions of shape {tuple(actions.shape)}: want (..., a multiple of {self.repeat}, {self.action_dim})"
            )
        return actions[..., :: self.repeat, list(self.planned)]

    def per_axis(self, value: float | Sequence[float], name: str) -> tuple[float, ...]:
        """A setting of every axis: one number for all, or A numbers.

        Raises:
            ValueError: another number of numbers.
        """
        values = tuple(float(each) for each in value) if hasattr(value, "__len__") else (float(value),)
        if len(values) not in (1, self.action_dim):
            raise ValueError(f"{name} has {len(values)} numbers: give one, or {self.action_dim}, one for each axis")
        return values * (self.action_dim if len(values) == 1 else 1)

    def per_planned(self, value: float | Sequence[float], name: str, like: torch.Tensor) -> torch.Tensor:
        """As `per_axis`, of the planned axes: (P,), on the device and of the dtype of `like`."""
        values = self.per_axis(value, name)
        return like.new_tensor([values[axis] for axis in self.planned])

    def _axis(self, axis: int, name: str) -> int:
        if not 0 <= axis < self.action_dim:
            raise ValueError(f"{name} names axis {axis}, but actions have axes 0 to {self.action_dim - 1}")
        return int(axis)

    def _check(self) -> None:
        if not self.planned or len(set(self.planned)) < len(self.planned):
            raise ValueError(f"planned axes are {self.planned}: want one or more, each once")
        for axis, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not low <= high:
                raise ValueError(f"axis {axis} has low {low} and high {high}")
        held = {axis: values for axis, values in self.held if axis in self.planned}
        for axes, norm in self.max_norm:
            if not 0 < norm < inf:
                raise ValueError(f"max_norm of the axes {axes} is {norm}: want a number above 0")
            for axis in axes:
                free = axis not in held or nan in held[axis]
                if free and not self.low[axis] <= 0 <= self.high[axis]:
                    limits = f"low {self.low[axis]} and high {self.high[axis]}"
                    raise ValueError(f"axis {axis} has a max_norm, and {limits} without 0 between them")
            steps = max((len(held[axis]) for axis in axes if axis in held), default=1)
            for step in range(steps):
                if _held_length(held, axes, step) > norm:
                    raise ValueError(f"held values of the axes {axes} are longer than their max_norm of {norm}")


@dataclass(frozen=True)
class DiscreteActionSpace:
    """One of K actions at every step, given to the model as a vector of K numbers with a single 1.

    Args:
        num_actions: K.
        repeat: for how many steps of the model each planned action is done.

    Raises:
        TypeError, ValueError: no whole number, or too small.

    Example:
        >>> DiscreteActionSpace(3).project(torch.tensor([[0.2, 0.5, 0.3]]))
        tensor([[0., 1., 0.]])
    """

    num_actions: int
    _: KW_ONLY
    repeat: int = 1

    def __post_init__(self):
        check_count(self.num_actions, "num_actions", smallest=2)
        check_count(self.repeat, "repeat")

    @property
    def action_dim(self) -> int:
        """K."""
        return self.num_actions

    @property
    def num_planned(self) -> int:
        """K."""
        return self.num_actions

    def project(self, actions: torch.Tensor) -> torch.Tensor:
        """A single 1 where each action is largest: (..., H, K) -> (..., H, K)."""
        return torch.nn.functional.one_hot(actions.argmax(dim=-1), self.num_actions).to(actions.dtype)

    def expand(self, planned: torch.Tensor) -> torch.Tensor:
        """(..., H, K) -> (..., H * repeat, K)."""
        return planned if self.repeat == 1 else planned.repeat_interleave(self.repeat, dim=-2)

    def contract(self, actions: torch.Tensor) -> torch.Tensor:
        """(..., H * repeat, K) -> (..., H, K)."""
        return actions[..., :: self.repeat, :]


def _values(value: float | Sequence[float | None]) -> tuple[float, ...]:
    """nan for None; one value for all steps is a tuple of one."""
    values = value if hasattr(value, "__len__") else (value,)
    values = tuple(nan if each is None else float(each) for each in values)
    if not values or any(each in (inf, -inf) for each in values):
        raise ValueError(f"held values are {value!r}: want a number, or a number or None for every planned step")
    return values


def _held_length(held: Mapping[int, tuple[float, ...]], axes: Sequence[int], step: int) -> float:
    found = [held[axis][min(step, len(held[axis]) - 1)] for axis in axes if axis in held]
    return hypot(*(value for value in found if isfinite(value)))


def _table(space: ActionSpace, axes: Sequence[int], horizon: int) -> torch.Tensor:
    """float64 (H, n): held values of some axes, nan where nothing is held."""
    held = dict(space.held)
    for axis, values in held.items():
        if 1 < len(values) < horizon:
            raise ValueError(f"axis {axis} has held values for {len(values)} steps, but the plan has {horizon}")
    columns = [torch.tensor(held.get(axis, (nan,))[:horizon], dtype=torch.float64) for axis in axes]
    return torch.stack([column.expand(horizon) for column in columns], dim=-1)


@lru_cache(maxsize=64)
def _limits(space: ActionSpace, horizon: int, device: torch.device, dtype: torch.dtype) -> _Limits:
    def here(values) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64).to(device, dtype)

    held = dict(space.held)
    norms = []
    for axes, norm in space.max_norm:
        axes = [axis for axis in axes if axis in space.planned]
        left = [[(norm**2 - _held_length(held, axes, step) ** 2) ** 0.5] for step in range(horizon)]
        columns = torch.tensor([space.planned.index(axis) for axis in axes], device=device)
        norms.append(_Norm(columns, here(left)))
    low, high = ([limits[axis] for axis in space.planned] for limits in (space.low, space.high))
    return _Limits(here(low), here(high), here(_table(space, space.planned, horizon)), tuple(norms))


@lru_cache(maxsize=64)
def _rest(
    space: ActionSpace, horizon: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full actions (H, A) without what is planned, and where that goes (P,)."""
    held = _table(space, range(space.action_dim), horizon).nan_to_num(0.0)
    return held.to(device, dtype), torch.tensor(space.planned, device=device)


__all__ = ["ActionSpace", "DiscreteActionSpace"]
