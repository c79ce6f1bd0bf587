"""V-JEPA 2-AC (Assran et al. 2025, arXiv 2506.09985): what a robot's camera sees next, from what the robot does.

Differs from V-JEPA 2: the encoder is frozen and shown one frame at a time, and the predictor goes from frame to frame
and is told actions and states. There are no masks. With it a robot plans: of many sequences of actions it takes one
after which the predicted tokens are those of a goal image.
"""

from os import PathLike
from typing import Any

import torch
from transformers.utils import can_return_tuple

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.core.modeling import runtime_options
from hf_jepa.core.outputs import WorldModelOutput
from hf_jepa.core.world_model import WorldModelPreTrainingMixin, WorldState, require_frames
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.losses.prediction import normalize_targets, power_loss, prediction_loss
from hf_jepa.models.encoders import load_encoder
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder
from hf_jepa.models.vjepa2_ac.base_vjepa2_ac import VJepa2ACForPreTrainingOutput, VJepa2ACPreTrainedModel
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import ENCODER_FIELDS, VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.predictor_vjepa2_ac import VJepa2ACPredictor
from hf_jepa.models.vjepa2_ac.unroll_vjepa2_ac import MEMORY_BUDGET, CameraState, unroll


class VJepa2ACModel(VJepa2ACPreTrainedModel):
    """The frozen encoder and the predictor of V-JEPA 2-AC: a `WorldModel`.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2ACConfig, VJepa2ACModel
        >>> model = VJepa2ACModel(VJepa2ACConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        ...     crop_size=32, patch_size=8, pred_hidden_size=24, pred_num_attention_heads=2,
        ...     pred_num_hidden_layers=1)).eval()
        >>> state = model.encode(torch.randn(1, 1, 3, 32, 32), states=torch.rand(1, 1, 7))
        >>> candidates = 0.05 * torch.randn(1, 5, 2, 7)  # five sequences of two actions
        >>> imagined = model.unroll(state, candidates)
        >>> imagined.shape
        torch.Size([1, 5, 2, 16, 32])
        >>> goal = model.encode(torch.randn(1, 1, 3, 32, 32)).last
        >>> best = (imagined[:, :, -1] - goal.unsqueeze(1)).abs().mean(dim=(2, 3)).argmin(dim=1)
    """

    def __init__(self, config: VJepa2ACConfig):
        super().__init__(config)
        self.encoder = VJepa2Encoder(self.config)
        self.predictor = VJepa2ACPredictor(self.config)
        self.post_init()
        self.freeze_parts()

    def freeze_parts(self) -> None:
        """Exclude from training what never is: the encoder, and the layer of a camera that nothing tells."""
        self.encoder.requires_grad_(False).eval()
        if not self.config.use_extrinsics and self.config.extrinsics_dim:
            self.predictor.embeddings.extrinsics_encoder.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        self.encoder.eval()
        return self

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.encoder.get_input_embeddings()

    def encode_frames(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """What the encoder says of each frame alone, normalised.

        Args:
            pixel_values_videos: (B, T, C, H, W)

        Returns:
            (B, T, N, D)

        Raises:
            TypeError, ValueError: no frames, or of another size than the config's.
        """
        return self(pixel_values_videos, return_dict=True).last_hidden_state

    def encode(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        extrinsics: torch.Tensor | None = None,
    ) -> WorldState:
        """The state after frames, of B environments.

        Args:
            pixel_values_videos: (B, T, C, H, W), oldest frame first.
            actions: (B, T - 1, A), what was done from each frame to the next; needed to go on from several frames.
            states: (B, T, P), where the body was in each frame; needed to go on where the model is told states.
            extrinsics: (B, T, E), needed to go on with `use_extrinsics`.

        Raises:
            TypeError, ValueError: frames of another size than the config's, numbers of rows that do not fit together.
        """
        latents = self.encode_frames(pixel_values_videos)
        if extrinsics is None:
            return WorldState(latents, actions, states)
        return CameraState(latents, actions, states, extrinsics)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        extrinsics: torch.Tensor | None = None,
        **kwargs,
    ) -> WorldModelOutput:
        """Encode frames, and predict the frame after each where actions are given.

        Args:
            pixel_values_videos: (B, T, C, H, W)
            actions: (B, t, A), what is done after each of the first t frames; T - 1 lead from frame to frame, one more
                to a frame that nobody has seen.
            states, extrinsics: (B, T, P) and (B, T, E).

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: frames of another size than the config's; see also `VJepa2ACPredictor`.
        """
        config, options = self.config, runtime_options(self, kwargs)
        require_frames(pixel_values_videos, config.num_channels, pair(config.crop_size))
        # An image becomes a static clip of one tubelet.
        encoded = self.encoder(pixel_values_videos.flatten(0, 1), return_dict=True, **options)
        tokens = normalize_targets(encoded.last_hidden_state, config.target_normalization)
        latents, predictions = tokens.unflatten(0, pixel_values_videos.shape[:2]), None
        if actions is not None:
            seen = slice(0, actions.shape[1])
            told = (None if values is None else values[:, seen] for values in (states, extrinsics))
            predictions = self.predictor.predict(latents[:, seen], actions, *told).last_hidden_state
        return WorldModelOutput(
            last_hidden_state=latents,
            predictions=predictions,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def unroll(
        self,
        state: WorldState,
        actions: torch.Tensor,
        use_cache: bool | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> torch.Tensor:
        """Imagine what S sequences of actions lead to.

        With a cache, the keys and values of past frames are kept, those of the history once for all samples, and only
        the newest frame is computed at every step: the same result for a fraction of the work.

        Args:
            state: from `encode`, after F frames.
            actions: (B, S, H, A)
            use_cache: False computes all frames anew at every step. When unset, a cache is used wherever the result is
                the same: not where frames see later ones, nor where a window of `context_frames` moves.
            memory_budget: bytes, about, for the samples that are computed at a time; at least one is. (Where gradients
                are wanted, everything is kept for the way back.)

        Returns:
            (B, S, H, N, D), normalised, of the frames after each action.

        Raises:
            ValueError: a state without what the model is told; actions of another shape; a cache where it would change
                the result.
        """
        return unroll(self.predictor, state, actions, use_cache, memory_budget)


class VJepa2ACForPreTraining(WorldModelPreTrainingMixin, VJepa2ACPreTrainedModel):
    """V-JEPA 2-AC with its objective: teacher forcing, and a rollout of a few steps.

    Its one encoder makes contexts and targets, and is not trained.

    Example:
        >>> from hf_jepa import VARIANTS, VJepa2ACConfig, VJepa2ACForPreTraining
        >>> model = VJepa2ACForPreTraining(VJepa2ACConfig(**VARIANTS["vjepa2_ac"].tiny))
        >>> clips = torch.randn(2, model.config.frames_per_clip, 3, 32, 32)
        >>> out = model(clips, actions=torch.randn(2, 3, 7), states=torch.rand(2, 4, 7))
        >>> out.loss.backward()
        >>> any(p.grad is not None for p in model.target_encoder.parameters())
        False
    """

    target_encoder_name = "vjepa2_ac.encoder"
    predictor_name = "vjepa2_ac.predictor"

    def __init__(self, config: VJepa2ACConfig):
        super().__init__(config)
        self.vjepa2_ac = VJepa2ACModel(self.config)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, source: str | PathLike, loading: dict[str, Any] | None = None, **fields: Any
    ) -> "VJepa2ACForPreTraining":
        """A model with a trained encoder and a new predictor.

        Args:
            source: folder or Hub id of a V-JEPA 2, such as "facebook/vjepa2-vitg-fpc64-256"; of a pretraining
                checkpoint its target encoder is taken.
            loading: arguments of `from_pretrained`, such as `token`; `dtype` is float32 unless given.
            fields: of `VJepa2ACConfig`; those of the encoder are its own unless given.

        Raises:
            ValueError: an unknown field; a checkpoint without a whole encoder, or of another model.
        """
        require_model_fields(cls.config_class, fields)
        encoder = load_encoder(source, wanted="a frozen encoder", **({"dtype": torch.float32} | (loading or {})))
        if encoder.config.model_type != VJepa2Config.model_type:
            raise ValueError(f"{source} is a {encoder.config.model_type}: V-JEPA 2-AC is made on a V-JEPA 2")
        own = {name: getattr(encoder.config, name) for name in ENCODER_FIELDS}
        model = cls(cls.config_class(**(own | fields))).to(encoder.dtype)
        model.target_encoder.load_state_dict(encoder.state_dict())
        return model

    @property
    def target_encoder(self) -> VJepa2Encoder:
        """The frozen encoder, which makes contexts and targets."""
        return self.base_model.encoder

    @torch.no_grad()
    def encode_targets(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """(B, T, N, D), normalised, see `VJepa2ACModel.encode_frames`."""
        return self.base_model.encode_frames(pixel_values_videos)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None = None,
        extrinsics: torch.Tensor | None = None,
        step: int | None = None,
        **kwargs,
    ) -> VJepa2ACForPreTrainingOutput:
        """Predict every frame from those before it.

        Args:
            pixel_values_videos: (B, T, C, H, W)
            actions: (B, T - 1, A), what was done from each frame to the next.
            states: (B, T, P), where the body was in each frame; not read where `state_dim` is 0.
            extrinsics: (B, T, E), of the camera; not read without `use_extrinsics`.
            step: not read, nothing is drawn.

        Raises:
            TypeError: an argument that nothing would read.
            ValueError: too few frames for the rollout; numbers of frames, actions, states that do not fit together.
        """
        with torch.no_grad():
            encoded = self.base_model(pixel_values_videos, return_dict=True, **kwargs)
        out = self.objective(encoded.last_hidden_state, actions, states, extrinsics)
        out.hidden_states, out.attentions = encoded.hidden_states, encoded.attentions
        return out

    def objective(
        self,
        latents: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None = None,
        extrinsics: torch.Tensor | None = None,
    ) -> VJepa2ACForPreTrainingOutput:
        """The loss of frames that are encoded already: the encoder does not change, so its output can be kept.

        Args:
            latents: (B, T, N, D), from `encode_targets`.
            actions, states, extrinsics: see `forward`.
        """
        config, frames = self.config, latents.shape[1]
        if frames < config.fewest_frames:
            raise ValueError(
                f"clips of {frames} frames: auto_steps {config.auto_steps} and rollout_start "
                f"{config.rollout_start!r} need {config.fewest_frames}"
            )
        told = [
            actions,
            *(_before_last(values, frames, name) for name, values in (("states", states), ("extrinsics", extrinsics))),
        ]
        several, causal = config.auto_steps > 1, config.is_frame_causal
        out = self.predictor.predict(latents[:, :-1], *told, use_cache=several and causal)
        first = 1 if config.rollout_start == "first_release" else 0
        rollout = start = out.last_hidden_state[:, first : first + 1]
        if several:
            # Frame 0 is the true one in both terms, so what the first kept of it serves the second.
            past, seen = (out.cache.first(1), start) if causal else (None, torch.cat([latents[:, :1], start], dim=1))
            told = (None if values is None else values[:, causal : config.auto_steps] for values in told)
            rollout = torch.cat([start, self.predictor.rollout(seen, *told, past=past)], dim=1)
        targets = latents[:, 1:]
        terms = (
            self._distance(out.last_hidden_state, targets),
            self._distance(rollout, targets[:, : config.auto_steps]),
        )
        return VJepa2ACForPreTrainingOutput(
            loss=sum(terms),
            prediction_loss=sum(terms),
            predictions=out.last_hidden_state,
            targets=targets,
            context=latents,
            teacher_forcing_loss=terms[0],
            rollout_loss=terms[1],
            rollout=rollout,
        )

    def _distance(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.config.loss_type == "l1":
            return power_loss(predictions, targets, self.config.loss_exp)
        return prediction_loss(predictions, targets, self.config.loss_type)


def _before_last(values: torch.Tensor | None, frames: int, name: str) -> torch.Tensor | None:
    """(B, T, n) -> (B, T - 1, n), of the frames that something is done in."""
    if values is not None and (values.ndim != 3 or values.shape[1] != frames):
        raise ValueError(f"{name} of shape {tuple(values.shape)} beside {frames} frames: want one row for each frame")
    return None if values is None else values[:, :-1]


__all__ = ["VJepa2ACForPreTraining", "VJepa2ACModel"]
