"""The predictors of an EB-JEPA: each reads windows of frames and says what the frame after each window is.

All are called alike: latents (B, T, *L) and encoded actions (B, T, A), or None, give (B, T - w + 1, *L), where w is
`config.context_frames`. Output i is the frame after the window of the frames i to i + w - 1.
"""

import torch
from torch import nn

from hf_jepa.layers.residual_convolutions import ResUNet
from hf_jepa.layers.transformer import TransformerLayer
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig


def windows(x: torch.Tensor, length: int) -> torch.Tensor:
    """All windows of `length` frames: (B, T, ...) -> (B, T - length + 1, length, ...).

    Example:
        >>> windows(torch.arange(4).view(1, 4), 3).tolist()
        [[[0, 1, 2], [1, 2, 3]]]
    """
    return x.unfold(1, length, 1).movedim(-1, 2)


class EbJepaGruPredictor(nn.Module):
    """A step of a GRU whose hidden state is the latent and whose input is the action, then the encoder's LayerNorm.

    Args:
        config: of the model.
        layernorm: the last layer of the encoder, which is the last layer here, too.
    """

    def __init__(self, config: EbJepaConfig, layernorm: nn.LayerNorm):
        super().__init__()
        self.rnn = nn.GRUCell(config.action_size, config.hidden_size)
        self.layernorm = layernorm

    def forward(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """(B, T, D) and (B, T, A) -> (B, T, D)"""
        return self.layernorm(self.rnn(actions.flatten(0, 1), latents.flatten(0, 1))).view_as(latents)


class EbJepaConvPredictor(nn.Module):
    """A U-Net over the maps of a window, which are stacked as channels; actions are channels of one value each.

    Args:
        config: of the model.
    """

    def __init__(self, config: EbJepaConfig):
        super().__init__()
        self.length = config.context_frames
        channels = self.length * (config.hidden_size + config.action_size)
        self.unet = ResUNet(channels, config.pred_hidden_size, config.hidden_size)

    def forward(self, latents: torch.Tensor, actions: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D, H, W) and (B, T, A) -> (B, T - w + 1, D, H, W)"""
        maps = windows(latents, self.length).flatten(2, 3)  # (B, N, w * D, H, W)
        if actions is not None:
            known = windows(actions, self.length).flatten(2)[..., None, None]  # (B, N, w * A, 1, 1)
            maps = torch.cat([maps, known.expand(-1, -1, -1, *maps.shape[-2:])], dim=2)
        return self.unet(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


class EbJepaTransformerPredictor(nn.Module):
    """A transformer over the vectors of a window, each with its action; the last one becomes the prediction.

    Nothing in a window comes after the frame that is predicted, so its tokens may all see one another.

    Args:
        config: of the model.
        layernorm: the last layer of the encoder, which is the last layer here, too.
    """

    def __init__(self, config: EbJepaConfig, layernorm: nn.LayerNorm):
        super().__init__()
        self.length = config.context_frames
        width = config.pred_hidden_size
        self.embedding = nn.Linear(config.hidden_size, width)
        self.action_embedding = nn.Linear(config.action_size, width, bias=False) if config.action_size else None
        self.position_embedding = nn.Embedding(self.length, width)
        self.layers = nn.ModuleList(
            TransformerLayer(config, width, config.pred_num_attention_heads, 4 * width)
            for _ in range(config.pred_num_hidden_layers)
        )
        self.projection = nn.Linear(width, config.hidden_size)
        self.layernorm = layernorm

    def forward(self, latents: torch.Tensor, actions: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) and (B, T, A) -> (B, T - w + 1, D)"""
        tokens = self.embedding(latents)
        if actions is not None:
            tokens = tokens + self.action_embedding(actions)
        tokens = windows(tokens, self.length)  # (B, N, w, d)
        shape, tokens = tokens.shape[:2], tokens.flatten(0, 1) + self.position_embedding.weight
        for layer in self.layers[:-1]:
            tokens = layer(tokens)
        last = self.layers[-1](tokens, select=lambda x: x[:, -1:])
        return self.layernorm(self.projection(last[:, 0])).unflatten(0, shape)


def new_predictor(config: EbJepaConfig, encoder: nn.Module) -> nn.Module:
    """The predictor that a config names, beside its encoder."""
    if config.predictor_type == "conv":
        return EbJepaConvPredictor(config)
    kinds = {"gru": EbJepaGruPredictor, "transformer": EbJepaTransformerPredictor}
    return kinds[config.predictor_type](config, encoder.layernorm)


__all__ = ["EbJepaConvPredictor", "EbJepaGruPredictor", "EbJepaTransformerPredictor", "new_predictor", "windows"]
