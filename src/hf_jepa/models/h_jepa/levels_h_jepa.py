"""A level of an H-JEPA above the world model: macro-actions, states, and a predictor that takes long steps."""

from collections.abc import Iterable
from math import prod

import torch
from torch import nn

from hf_jepa.core.world_model import WorldState, require_candidates
from hf_jepa.models.h_jepa.configuration_h_jepa import HJepaLevel


PERCENTILES = (0.02, 0.98)  # of macro-actions: the limits of plans, as published


def feed_forward(sizes: list[int]) -> nn.Sequential:
    """Linear layers with GELU between them."""
    layers: list[nn.Module] = []
    for width, following in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [nn.Linear(width, following), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class MacroActionEncoder(nn.Module):
    """The actions of one step of a level as one macro-action: (..., k, A) -> (..., d)."""

    def __init__(self, level: HJepaLevel, action_dim: int):
        super().__init__()
        self.kind, hidden = level.macro_encoder, level.macro_hidden_size
        self.shape = (level.stride, action_dim)
        if self.kind == "mlp":
            self.mlp = feed_forward([level.stride * action_dim, hidden, hidden, level.macro_action_dim])
        elif self.kind == "gru":
            self.gru = nn.GRU(action_dim, hidden, batch_first=True)
            self.head = nn.Linear(hidden, level.macro_action_dim)

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        if tuple(actions.shape[-2:]) != self.shape:
            raise ValueError(
                f"actions of shape {tuple(actions.shape)}, expected (..., {self.shape[0]}, {self.shape[1]})"
            )
        if self.kind == "mean":
            return actions.mean(dim=-2)
        if self.kind == "mlp":
            return self.mlp(actions.flatten(-2))
        _, last = self.gru(actions.flatten(0, -3))
        return self.head(last[0]).unflatten(0, actions.shape[:-2])


class UpperPredictor(nn.Module):
    """The next state of a level: (R, D) and (R, d) -> (R, D)."""

    def __init__(self, level: HJepaLevel, state_size: int):
        super().__init__()
        self.kind = level.predictor
        if self.kind == "gru":
            self.gru = nn.GRUCell(level.macro_action_dim, state_size)
        else:
            hidden = [level.pred_hidden_size] * level.pred_num_layers
            self.mlp = feed_forward([state_size + level.macro_action_dim, *hidden, state_size])

    def forward(self, states: torch.Tensor, macro_actions: torch.Tensor) -> torch.Tensor:
        if self.kind == "gru":
            return self.gru(macro_actions, states)
        return states + self.mlp(torch.cat([states, macro_actions], dim=-1))


class HJepaUpperLevel(nn.Module):
    """One level above the world model. Planners use it as a world model: it has an `unroll`, of macro-actions.

    Args:
        level: its fields.
        below: shape of the states of the level below.
        action_dim: numbers of the actions of the level below.

    Buffers, which `fit` fills and checkpoints keep: `macro_mean`, `macro_std`, `macro_low` and `macro_high` (d,), the
    statistics of macro-actions over data, and `macro_count`, of how many; 0 means that they are not known.
    """

    def __init__(self, level: HJepaLevel, below: tuple[int, ...], action_dim: int):
        super().__init__()
        self.level = level
        self.stride, self.macro_action_dim = level.stride, level.macro_action_dim
        self.shares_state = level.state == "shared"
        self.state_shape = below if self.shares_state else (level.state_dim,)
        self.state_encoder: nn.Module = nn.Identity()
        self.below = below
        if not self.shares_state:
            self.state_encoder = feed_forward([prod(below), level.pred_hidden_size, level.state_dim])
        self.macro_encoder = MacroActionEncoder(level, action_dim)
        self.predictor = UpperPredictor(level, prod(self.state_shape))
        for name in ("mean", "std", "low", "high"):
            self.register_buffer(f"macro_{name}", torch.zeros(level.macro_action_dim))
        self.register_buffer("macro_count", torch.zeros(()))

    def lift(self, latents: torch.Tensor) -> torch.Tensor:
        """States of the level below as states of this one: (..., *below) -> (..., *state_shape)."""
        if self.shares_state:
            return latents
        return self.state_encoder(latents.flatten(latents.ndim - len(self.below)))

    def macro_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """The macro-actions of the whole steps in actions of the level below: (B, n, A) -> (B, n // stride, d)."""
        steps = actions.shape[1] // self.stride
        return self.macro_encoder(actions[:, : steps * self.stride].unflatten(1, (steps, self.stride)))

    def predict(self, states: torch.Tensor, macro_actions: torch.Tensor) -> torch.Tensor:
        """One step: (..., *state_shape) and (..., d) -> (..., *state_shape)."""
        rows = states.reshape(-1, prod(self.state_shape))
        found = self.predictor(rows, macro_actions.reshape(len(rows), -1))
        return found.view(states.shape)

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        """The states after each of H macro-actions, for S candidates.

        Args:
            state: of this level, of B environments.
            actions: (B, S, H, d).

        Returns:
            (B, S, H, *state_shape)

        Raises:
            ValueError: actions of another shape.
        """
        require_candidates(actions, state, self.macro_action_dim)
        current = state.last.unsqueeze(1).expand(-1, actions.shape[1], *self.state_shape)
        found = []
        for macro_action in actions.unbind(2):
            current = self.predict(current, macro_action)
            found.append(current)
        return torch.stack(found, dim=2)

    @torch.no_grad()
    def fit(self, macro_actions: Iterable[torch.Tensor]) -> None:
        """Keep the statistics of macro-actions (N, d) over data: means, deviations, 2nd and 98th percentiles.

        Raises:
            ValueError: fewer than two, or numbers that are not finite.
        """
        rows = torch.cat([each.detach().cpu().double() for each in macro_actions])
        if len(rows) < 2 or not rows.isfinite().all():
            raise ValueError(f"{len(rows)} macro-actions: statistics take two or more, and all of them finite")
        low, high = (torch.stack([column.quantile(q) for column in rows.unbind(1)]) for q in PERCENTILES)
        found = {"mean": rows.mean(dim=0), "std": rows.std(dim=0), "low": low, "high": high}
        for name, value in found.items():
            getattr(self, f"macro_{name}").copy_(value)
        self.macro_count.fill_(len(rows))


__all__ = ["PERCENTILES", "HJepaUpperLevel", "MacroActionEncoder", "UpperPredictor"]
