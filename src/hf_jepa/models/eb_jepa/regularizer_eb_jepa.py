"""What keeps the latents of an EB-JEPA from collapse: they vary, differ, are slow, and tell the actions."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from hf_jepa.layers.projector import Projector
from hf_jepa.losses.dynamics import inverse_dynamics_loss, temporal_similarity
from hf_jepa.losses.vicreg import video_variance_covariance
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig


class EbJepaTerms(NamedTuple):
    """The weighted sum, and the terms before their weights; None where the weight is 0. All are scalars."""

    loss: torch.Tensor
    variance: torch.Tensor
    covariance: torch.Tensor
    similarity: torch.Tensor | None
    inverse_dynamics: torch.Tensor | None


class InverseDynamics(nn.Sequential):
    """Reads the action off the latents of the frames before and after it: (..., 2 D) -> (..., A).

    Args:
        features: D.
        hidden_size: width of both hidden layers.
        action_dim: A.
    """

    def __init__(self, features: int, hidden_size: int, action_dim: int):
        widths = (2 * features, hidden_size, hidden_size, action_dim)
        linear = [nn.Linear(*pair) for pair in pairwise(widths)]
        for layer in linear:
            layer._init_std = 0.02
        super().__init__(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T - 1, A)"""
        return super().forward(torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1))


class EbJepaRegularizer(nn.Module):
    """The regulariser of all frames of a batch of clips (facebookresearch/eb_jepa).

    Variance and covariance are those of projected latents where there is a projector; slowness and inverse dynamics
    are of the latents themselves unless the config says otherwise. Statistics are those of the global batch.

    Args:
        config: of the model, whose weights and options are used.
    """

    def __init__(self, config: EbJepaConfig):
        super().__init__()
        self.config = config
        shape, sizes = config.latent_shape, config.proj_sizes
        self.projector = None if sizes is None else Projector([config.hidden_size, *sizes], bias=False)
        self.inverse_dynamics = None
        if config.inverse_dynamics_weight:
            width = sizes[-1] if config.inverse_dynamics_after_projector else shape[0]
            features = width * torch.Size(shape[1:]).numel()
            self.inverse_dynamics = InverseDynamics(features, config.inverse_dynamics_hidden_size, config.action_dim)

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents through the projector, position by position: (B, T, D, ...) -> (B, T, P, ...)."""
        if self.projector is None:
            return latents
        rows = latents.movedim(2, -1)
        return self.projector(rows.reshape(-1, rows.shape[-1])).view(*rows.shape[:-1], -1).movedim(-1, 2)

    def forward(self, latents: torch.Tensor, actions: torch.Tensor | None = None) -> EbJepaTerms:
        """The terms.

        Args:
            latents: (B, T, D) or (B, T, D, H, W).
            actions: (B, T - 1, A), for the inverse dynamics.

        Raises:
            ValueError: fewer than two rows for the statistics, or no actions where they are needed.
        """
        config, projected = self.config, self.project(latents)
        maps = projected if projected.ndim == 5 else projected[..., None, None]
        variance, covariance = video_variance_covariance(
            maps.transpose(1, 2), config.regularization_samples, config.variance_margin
        )
        loss = config.variance_weight * variance + config.covariance_weight * covariance
        similarity = inverse = None
        frames = {False: latents.flatten(2), True: self._frames(projected)}  # (B, T, F), after the projector or not
        if config.similarity_weight:
            similarity = temporal_similarity(frames[config.similarity_after_projector])
            loss = loss + config.similarity_weight * similarity
        if self.inverse_dynamics is not None:
            if actions is None:
                raise ValueError("the inverse dynamics need actions (B, T - 1, A), or inverse_dynamics_weight=0")
            predicted = self.inverse_dynamics(frames[config.inverse_dynamics_after_projector])
            inverse = inverse_dynamics_loss(predicted, actions)
            loss = loss + config.inverse_dynamics_weight * inverse
        return EbJepaTerms(loss, variance, covariance, similarity, inverse)

    def _frames(self, projected: torch.Tensor) -> torch.Tensor:
        """(B, T, P, ...) -> (B, T, F)"""
        if self.config.projected_axes == "corrected":
            return projected.flatten(2)
        batch, times = projected.shape[:2]
        maps = projected if projected.ndim == 5 else projected[..., None, None]
        taken = maps.movedim(2, -1).permute(2, 0, 1, 3, 4)  # (B, T, H, W, P), taken for (B, C, T, H, W)
        return taken.reshape(times, batch, -1).transpose(0, 1)


__all__ = ["EbJepaRegularizer", "EbJepaTerms", "InverseDynamics"]
