"""Planners as official code sets them, with its quirks: each under the name of its repository."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hf_jepa.planning.action_space import ActionSpace
from hf_jepa.planning.cem import CEMPlanner
from hf_jepa.planning.gradient import GradientPlanner
from hf_jepa.planning.mppi import MPPIPlanner


_POSITION, _GRIPPER = (0, 1, 2), 6  # of the seven numbers of a DROID action; 3 to 5 turn the hand
_GRIPPER_LIMIT, _GRIPPER_MOVES = 0.75, 0.25
_MPPI_QUIRKS = {"multiply_temperature": True, "update_std": True, "result": "sample"}  # both repositories have them


@dataclass(frozen=True)
class _DroidSettings:
    horizon: int
    num_samples: int
    num_iterations: int
    max_norm: float
    momentum: float = 0.15
    std_momentum: float = 0.15
    gripper_momentum: float = 0.15
    num_elites: int = 10


# From the released code (the first three) and the paper's table of robot experiments, quoted second-hand.
_DROID_SETTINGS = {
    "function": _DroidSettings(1, 100, 100, 0.05, momentum=0.25, std_momentum=0.95),
    "wrapper": _DroidSettings(2, 400, 10, 0.05),
    "notebook": _DroidSettings(2, 25, 2, 0.075, std_momentum=0.75),
    "paper": _DroidSettings(1, 800, 10, 0.075),
}


def vjepa2_ac_planner(
    settings: str = "wrapper",
    *,
    held: Mapping[int, float] | None = None,
    close_gripper: int | None = None,
    **changes,
) -> CEMPlanner:
    """V-JEPA 2-AC (2506.09985): position and gripper of a robot hand are planned, it never turns.

    As in the official code each number of the position is limited on its own, where the paper speaks of a ball; the
    mean is not limited; and a gripper action of less than 0.25 becomes 0 in the plan. The cost that goes with it is
    `LatentCost(..., distance="l1", over="last")`.

    Args:
        settings: "function", "wrapper", "notebook" (defaults at three places of the released code) or "paper" (the
            robot experiments, whose table was not read here but quoted: momenta are the wrapper's).
        held: axis -> value, for axes of the position: 0, 1, 2.
        close_gripper: the planned step from which on the gripper closes; None for never.
        changes: fields of `CEMPlanner` that shall be others, `momentum` and `std_momentum` (seven numbers) too, and
            `max_norm`, the largest step along each axis of the position in metres.

    Returns:
        a planner of seven numbers: metres, radians, gripper.

    Raises:
        ValueError: unknown settings, or an axis that is not one of the position.

    Example:
        >>> planner = vjepa2_ac_planner("notebook", horizon=3, held={2: 0.0})
        >>> planner.num_samples, planner.horizon, planner.space.planned
        (25, 3, (0, 1, 2, 6))
    """
    chosen = _settings(_DROID_SETTINGS, settings)
    held = dict(held or {})
    if set(held) - set(_POSITION):
        raise ValueError(f"held axes {sorted(held)}: want those of the position, 0, 1 and 2")
    horizon = changes.pop("horizon", chosen.horizon)
    norm = changes.pop("max_norm", chosen.max_norm)
    start = [held.get(axis, 0.0) for axis in range(7)]
    if close_gripper is not None:
        held[_GRIPPER] = [None if step < close_gripper else 1.0 for step in range(horizon)]
    limits = [norm] * 3 + [0.0] * 3 + [_GRIPPER_LIMIT]
    space = ActionSpace(7, low=[-limit for limit in limits], high=limits, held=held, planned=(*_POSITION, _GRIPPER))
    fields = {
        "num_samples": chosen.num_samples,
        "num_elites": chosen.num_elites,
        "num_iterations": chosen.num_iterations,
        "initial_std": [norm] * 6 + [1.0],
        "initial_mean": start,
        "momentum": [chosen.momentum] * 6 + [chosen.gripper_momentum],
        "std_momentum": [chosen.std_momentum] * 6 + [chosen.gripper_momentum],
        "limit_mean": False,
        "finish": _still_gripper,
    }
    return CEMPlanner(space, horizon=horizon, **(fields | changes))


def _still_gripper(actions: torch.Tensor) -> torch.Tensor:
    gripper = actions[..., _GRIPPER]
    actions = actions.clone()
    actions[..., _GRIPPER] = torch.where(gripper.abs() < _GRIPPER_MOVES, 0.0, gripper)
    return actions


def eb_jepa_planner(planner: str = "cem", **changes) -> CEMPlanner | MPPIPlanner:
    """EB-JEPA (2602.03604), two rooms: 90 steps of at most 2.45 pixels, planned anew after every step.

    MPPI as in the official code multiplies by its temperature instead of dividing, and knows no limits: its settings
    name them, its code does not use them. It draws one elite as the plan. The cost that goes with either is
    `LatentCost(..., distance="mse", over="sum", include_start=True)`.

    Args:
        planner: "cem" or "mppi".
        changes: fields of the planner that shall be others.

    Raises:
        ValueError: another planner.

    Example:
        >>> eb_jepa_planner("cem").space.max_norm, eb_jepa_planner("mppi", horizon=15).horizon
        ((((0, 1), 2.45),), 15)
    """
    shared = {"horizon": 90, "num_samples": 200, "num_elites": 20, "num_iterations": 20}
    if planner == "cem":
        return CEMPlanner(**({"space": ActionSpace(2, max_norm=2.45), "initial_std": 1.5} | shared | changes))
    if planner == "mppi":
        fields = {"space": ActionSpace(2), "initial_std": 2.0, "temperature": 0.005}
        return MPPIPlanner(**(fields | _MPPI_QUIRKS | shared | changes))
    raise ValueError(f"EB-JEPA plans with cem or mppi, not with {planner!r}")


_WORLDS = {  # horizon, iterations, standard deviation, limits, axes of the limits in turn
    "simulation": (6, 30, 1.0, None),
    "metaworld": (6, 15, 1.0, None),
    "droid": (3, 15, 0.1, [0.1] * 6 + [0.75]),
    "robocasa": (3, 15, 0.1, [0.05] * 3 + [0.01] * 3 + [1.0]),
}


def jepa_wms_planner(planner: str = "cem", *, world: str = "simulation", action_dim: int | None = None, **changes):
    """jepa-wms (2512.24497): the cross-entropy method, MPPI, and gradients, by the settings of its evaluations.

    Actions of the simulated worlds are standardised, so they have no limits there; those of robots are metres and
    radians. Its "Adam" never calls the optimizer and is gradient descent: `optimizer="adam"` gives a real one.
    Gradients start at the mean here, and at a random plan there.
    Action groups of Robocasa are taken to be three numbers of position, three of rotation, and the gripper.

    Args:
        planner: "cem", "mppi" or "gradient".
        world: "simulation", "metaworld", "droid" or "robocasa".
        action_dim: numbers of an action, 7 for the robots by default.
        changes: fields of the planner that shall be others.

    Returns:
        `CEMPlanner`, `MPPIPlanner` or `GradientPlanner`.

    Raises:
        ValueError: unknown names, or no `action_dim` where it is not known.

    Example:
        >>> planner = jepa_wms_planner("cem", world="droid")
        >>> planner.num_samples, planner.num_elites, planner.horizon, planner.space.high[6]
        (300, 10, 3, 0.75)
    """
    horizon, iterations, std, limits = _settings(_WORLDS, world)
    if action_dim is None:
        if limits is None:
            raise ValueError(f"actions of the world {world!r} differ from task to task: give action_dim")
        action_dim = len(limits)
    low = None if limits is None else [-limit for limit in limits]
    shared = {"space": ActionSpace(action_dim, low=low, high=limits), "horizon": horizon}
    if planner == "cem":
        fields = {"num_samples": 300, "num_elites": 10, "num_iterations": iterations}
        return CEMPlanner(**(shared | fields | {"initial_std": std, "include_mean": True} | changes))
    if planner == "mppi":
        fields = {"num_samples": 512, "num_elites": 64, "num_iterations": 6, "initial_std": 2.0, "temperature": 0.5}
        return MPPIPlanner(
            **(shared | fields | {"multiply_temperature": True, "update_std": True, "result": "sample"} | changes)
        )
    if planner == "gradient":
        fields = {"num_iterations": 500, "learning_rate": 1.0, "optimizer": "sgd", "noise_std": 0.003}
        return GradientPlanner(**(shared | fields | {"initial_std": std} | changes))
    raise ValueError(f"jepa-wms plans with cem, mppi or gradient, not with {planner!r}")


def _settings(table: Mapping, name: str):
    if name not in table:
        raise ValueError(f"settings {name!r} are not one of {', '.join(table)}")
    return table[name]


__all__ = ["eb_jepa_planner", "jepa_wms_planner", "vjepa2_ac_planner"]
