"""The predictor of V-JEPA 2-AC: the tokens of the next frame, from those before it and what was done."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from hf_jepa.layers.frame_causal import FrameCache, FrameCausalLayer
from hf_jepa.layers.packed_transformer import Rotary
from hf_jepa.layers.rotary import grid_positions, rotary_tables
from hf_jepa.losses.prediction import normalize_targets
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig


@dataclass
class VJepa2ACPredictorOutput(ModelOutput):
    """Output of `VJepa2ACPredictor`.

    Args:
        last_hidden_state: (B, T, N, D); entry t predicts the frame after frame t. Not normalised.
        cache: what the predictor keeps of all frames so far, where asked for.
    """

    last_hidden_state: torch.FloatTensor | None = None
    cache: FrameCache | None = None


class VJepa2ACEmbeddings(nn.Module):
    """Tokens of frames to the predictor's width, behind one token each for action, state and camera."""

    def __init__(self, config: VJepa2ACConfig):
        super().__init__()
        self.config = config
        dim = config.pred_hidden_size
        self.predictor_embeddings = nn.Linear(config.hidden_size, dim)
        self.action_encoder = nn.Linear(config.action_dim, dim)
        if config.state_dim:
            self.state_encoder = nn.Linear(config.state_dim, dim)
        if config.extrinsics_dim:
            self.extrinsics_encoder = nn.Linear(config.extrinsics_dim, dim)  # in official files also where unused

    def forward(
        self,
        latents: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None,
        extrinsics: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, T, N, D) and (B, T, n) each -> (B, T * (K + N), P); per frame action, state, camera, patches.

        Raises:
            ValueError: conditions that are missing, or of another shape.
        """
        given = [("actions", actions, self.action_encoder)]
        given += [("states", states, self.state_encoder)] if self.config.state_dim else []
        given += [("extrinsics", extrinsics, self.extrinsics_encoder)] if self.config.use_extrinsics else []
        tokens = []
        for name, values, encoder in given:
            wanted = (*latents.shape[:2], encoder.in_features)
            if values is None or values.shape != wanted:
                found = "missing" if values is None else f"of shape {tuple(values.shape)}"
                raise ValueError(
                    f"{name} are {found}: beside {wanted[1]} frames of {wanted[0]} samples this model needs {wanted}"
                )
            tokens.append(encoder(values.to(encoder.weight.dtype)).unsqueeze(2))
        tokens.append(self.predictor_embeddings(latents.to(self.predictor_embeddings.weight.dtype)))
        return torch.cat(tokens, dim=2).flatten(1, 2)


class VJepa2ACPredictor(nn.Module):
    """A transformer over frames, in which a token sees its own frame and those before it.

    Positions are rotary. Those of rows count rows; those of columns are scaled to the range of rows, as in the
    official code; the condition tokens turn with time alone.

    Args:
        config: its `pred_*` fields size the predictor, its `crop_size` says of which grid the frames are.

    Example:
        >>> from hf_jepa import VJepa2ACConfig, VJepa2ACPredictor
        >>> predictor = VJepa2ACPredictor(VJepa2ACConfig(hidden_size=32, num_attention_heads=2, crop_size=32,
        ...     patch_size=8, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1))
        >>> predictor(torch.randn(1, 3, 16, 32), torch.randn(1, 3, 7), torch.rand(1, 3, 7)).last_hidden_state.shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(self, config: VJepa2ACConfig):
        super().__init__()
        self.config = config
        dim, depth = config.pred_hidden_size, config.pred_num_hidden_layers
        self.embeddings = VJepa2ACEmbeddings(config)
        self.layer = nn.ModuleList(
            FrameCausalLayer(
                config,
                dim,
                config.pred_num_attention_heads,
                config.mlp_width(dim, config.pred_mlp_ratio),
                layer_norm_eps=config.layer_norm_eps,
                qkv_bias=config.qkv_bias,
                hidden_act=config.hidden_act,
                attention_dropout=config.attention_probs_dropout_prob,
                swiglu=config.use_silu,
                residual_init_divisor=(2.0 * (index + 1)) ** 0.5 if config.rescale_residual_init else 1.0,
            )
            for index in range(depth)
        )
        self.layernorm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.proj = nn.Linear(dim, config.hidden_size)

    def forward(
        self,
        latents: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None = None,
        extrinsics: torch.Tensor | None = None,
        past: FrameCache | None = None,
        use_cache: bool = False,
    ) -> VJepa2ACPredictorOutput:
        """Predict the frame after each of T frames.

        Args:
            latents: (B, T, N, D), the tokens of the frames, N those of the config's grid.
            actions: (B, T, A), what is done after each frame.
            states: (B, T, P), where the body is in each frame; not read where `state_dim` is 0.
            extrinsics: (B, T, E), of the camera; not read without `use_extrinsics`.
            past: what was kept of the frames before these, for a frame-causal predictor. It may have fewer rows, see
                `FrameCache`.
            use_cache: keep keys and values, of these frames and those of `past`.

        Raises:
            ValueError: tokens of another grid, conditions that are missing or too many, or a cache where later frames
                would change what it holds.
        """
        config = self.config
        _, rows, columns = config.grid_size
        if latents.ndim != 4 or latents.shape[2:] != (rows * columns, config.hidden_size):
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} are not (B, T, {rows * columns}, {config.hidden_size}): "
                f"crop_size {config.crop_size} has {rows} x {columns} tokens"
            )
        if (past is not None or use_cache) and not config.is_frame_causal:
            raise ValueError("is_frame_causal=False: past frames see later ones, so nothing of them can be kept")
        past, frames = past or FrameCache(), latents.shape[1]
        hidden_states = self.embeddings(latents, actions, states, extrinsics)
        rotary, kept = self._rotary(past.num_frames, frames, latents.device), []
        for index, layer in enumerate(self.layer):
            pieces = past.of_layer(index)
            hidden_states, *new = layer(hidden_states, frames, rotary, pieces, config.is_frame_causal)
            if use_cache:
                kept.append(tuple(new))
        patches = hidden_states.unflatten(1, (frames, -1))[:, :, config.num_condition_tokens :]
        return VJepa2ACPredictorOutput(
            last_hidden_state=self.proj(self.layernorm(patches)),
            cache=past.extended(kept, frames) if use_cache else None,
        )

    def predict(self, *args, **kwargs) -> VJepa2ACPredictorOutput:
        """As `forward`, but normalised as targets are."""
        out = self(*args, **kwargs)
        out.last_hidden_state = normalize_targets(out.last_hidden_state, self.config.target_normalization)
        return out

    def rollout(
        self,
        latents: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None = None,
        extrinsics: torch.Tensor | None = None,
        past: FrameCache | None = None,
        context_frames: int | None = None,
    ) -> torch.Tensor:
        """Predict frame after frame, each from those before it, predicted ones as well.

        Args:
            latents: (B, F, N, D), normalised; with `past` the newest frame alone, F = 1.
            actions: (B, F - 1 + H, A), from the first of these frames on.
            states, extrinsics: (B, F - 1 + H, ...), of the same frames.
            past: what is kept of the frames before, maybe nothing yet: only the newest frame is then computed at every
                step.
            context_frames: how many frames are seen at most, their positions starting anew; only without `past`.

        Returns:
            (B, H, N, D), normalised.

        Raises:
            ValueError: see `forward`.
        """
        frames, first, steps = list(latents.split(1, dim=1)), latents.shape[1] - 1, actions.shape[1]
        window = 1 if past is not None else context_frames or steps
        for last in range(first, steps):
            seen = slice(max(0, last + 1 - window), last + 1)
            told = (None if values is None else values[:, seen] for values in (actions, states, extrinsics))
            keep = past is not None and last + 1 < steps
            out = self.predict(torch.cat(frames[seen], dim=1), *told, past=past, use_cache=keep)
            frames.append(out.last_hidden_state[:, -1:])
            past = out.cache if keep else past
        return torch.cat(frames[first + 1 :], dim=1)

    def _rotary(self, first: int, frames: int, device: torch.device) -> Rotary:
        """The tables of all tokens of frames, counted from `first`, (1, T * (K + N), 1, d) each."""
        grid, conditions = self.config.grid_size, self.config.num_condition_tokens
        index = torch.arange(grid[1] * grid[2], device=device)
        _, row, column = grid_positions(index, grid)
        places = (row, column * (grid[1] / grid[2]))
        row, column = (nn.functional.pad(place.float(), (conditions, 0)).repeat(frames) for place in places)
        frame = torch.arange(first, first + frames, device=device).repeat_interleave(len(index) + conditions)
        head_dim = self.layer[0].attention.head_dim
        cos, sin = rotary_tables((frame, row, column), head_dim, self.config.rope_layout)
        return cos[None, :, None], sin[None, :, None]


__all__ = ["VJepa2ACEmbeddings", "VJepa2ACPredictor", "VJepa2ACPredictorOutput"]
