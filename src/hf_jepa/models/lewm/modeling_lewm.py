"""LeWorldModel (Maes et al. 2026, arXiv 2603.19312): the next frame's embedding is predicted from frames and actions.

Encoder and predictor are trained together from pixels. There is no average, no stop-gradient and no second network:
the prediction loss trains its targets, too, and SIGReg on the embeddings of every time step keeps them apart. Beside
EB-JEPA the latent of a frame is not the state of a recurrent network: the predictor reads a window of frames.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from hf_jepa.core.backbones import Pooling, any_size, backbone_width, build_backbone, freeze_what_is_not_read
from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.core.outputs import JepaForPreTrainingOutput, WorldModelOutput
from hf_jepa.core.regularization import require_step
from hf_jepa.core.world_model import (
    WorldModelMixin,
    WorldModelPreTrainingMixin,
    WorldState,
    for_candidates,
    require_actions,
    require_candidates,
    require_frames,
)
from hf_jepa.layers.projector import Projector
from hf_jepa.losses.prediction import prediction_loss
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.models.lewm.configuration_lewm import LeWorldModelConfig
from hf_jepa.models.lewm.predictor_lewm import LeWorldModelActionEncoder, LeWorldModelPredictor


class LeWorldModelPreTrainedModel(WorldModelMixin, JepaPreTrainedModel):
    """Flags and initialisation of all LeWorldModel classes; the encoder initialises itself as transformers does."""

    config: LeWorldModelConfig
    base_model_prefix = "lewm"
    _supports_flex_attn = False  # of windows of three vectors
    _can_compile_fullgraph = False  # the encoder may be any model
    _no_split_modules = ["LeWorldModelLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, LeWorldModelPredictor):
            init.normal_(module.position_embeddings)
        elif getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv1d):  # as torch does, like the official code
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)


class LeWorldModel(LeWorldModelPreTrainedModel):
    """A world model of frame vectors: encoder, projector, action encoder and predictor.

    It is a `hf_jepa.core.world_model.WorldModel`: `encode` once, then `unroll` for many candidate plans. Plan with it
    in `eval()`: while training, its batch normalisation mixes candidates.

    Example:
        >>> import torch
        >>> from hf_jepa import VARIANTS, LeWorldModel, LeWorldModelConfig
        >>> model = LeWorldModel(LeWorldModelConfig(**VARIANTS["lewm"].tiny)).eval()
        >>> clips, actions = torch.randn(2, 3, 3, 32, 32), torch.randn(2, 2, 4)
        >>> state = model.encode(clips, actions)
        >>> state.latents.shape
        torch.Size([2, 3, 24])
        >>> model.unroll(state, torch.randn(2, 5, 7, 4)).shape  # 5 candidates of 7 actions
        torch.Size([2, 5, 7, 24])
    """

    def __init__(self, config: LeWorldModelConfig):
        super().__init__(config)
        config, activation = self.config, nn.GELU
        self.encoder = build_backbone(config.backbone_config, config.pooling)
        self.pooling = Pooling(self.encoder, config.pooling)
        freeze_what_is_not_read(self.encoder)
        self._any_size = any_size(self.encoder)
        width, hidden, size = backbone_width(config.backbone_config), config.proj_hidden_size, config.hidden_size
        self.projector = Projector([width, hidden, size], activation=activation)
        self.action_encoder = LeWorldModelActionEncoder(config)
        self.predictor = LeWorldModelPredictor(config)
        self.prediction_projector = Projector([size, hidden, size], activation=activation)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> WorldModelOutput:
        """Embed frames, and predict each from those before it where actions are given.

        Args:
            pixel_values_videos: (B, T, C, H, W), normalised; T is at most one more than `context_frames` where
                actions are given.
            actions: (B, T - 1, A), the one at t leads from frame t to t + 1.
            states: not read, because the model is not told states.

        Raises:
            ValueError: shapes that do not fit.
        """
        embeddings = self.encode_frames(pixel_values_videos)
        if actions is None:
            return WorldModelOutput(last_hidden_state=embeddings)
        require_actions(actions, (len(embeddings), embeddings.shape[1] - 1), self.config.action_dim)
        predictions = self.predict(embeddings[:, :-1], self.action_encoder(actions))
        return WorldModelOutput(last_hidden_state=embeddings, predictions=predictions)

    def encode_frames(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> (B, T, D), all frames in one batch.

        Raises:
            TypeError, ValueError: another number of axes or channels, no frame.
        """
        require_frames(pixel_values_videos, self.config.num_channels)
        output = self.encoder(pixel_values_videos.flatten(0, 1), return_dict=True, **self._any_size)
        return self.projector(self.pooling(output)).unflatten(0, pixel_values_videos.shape[:2])

    def predict(self, embeddings: torch.Tensor, action_embeddings: torch.Tensor) -> torch.Tensor:
        """What comes after each frame of a window, see `LeWorldModelPredictor`: (B, F, D) twice -> (B, F, D)."""
        predicted = self.predictor(embeddings, action_embeddings)
        return self.prediction_projector(predicted.flatten(0, 1)).view_as(predicted)

    def encode(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> WorldState:
        """What the model knows after some frames: the last `context_frames` of them, and what was done between.

        Args:
            pixel_values_videos: (B, T, C, H, W), normalised; frames before the window are not encoded.
            actions: (B, T - 1, A); needed where there is more than one frame.
            states: not read, because the model is not told states.

        Returns:
            latents (B, F, D), and actions (B, F - 1, A) where F is above 1.

        Raises:
            ValueError: shapes that do not fit, frames without the actions between them.
        """
        frames = pixel_values_videos.shape[1]
        if actions is not None:
            require_actions(actions, (len(pixel_values_videos), frames - 1), self.config.action_dim)
        elif frames > 1:
            raise ValueError(f"{frames} frames, but not what was done between them: give actions, or one frame")
        latents = self.encode_frames(pixel_values_videos[:, -self.config.context_frames :])
        kept = latents.shape[1] - 1
        return WorldState(latents, actions[:, frames - 1 - kept :] if kept else None)

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        """The frames after each of H actions, for S candidates.

        Positions in the window are learnt ones and start anew at every step, so each step reads its whole window.

        Args:
            state: of `encode`, of B environments.
            actions: (B, S, H, A).

        Returns:
            (B, S, H, D)

        Raises:
            ValueError: shapes that do not fit, a window without its actions.
        """
        window, frames = self.config.context_frames, state.latents.shape[1]
        require_candidates(actions, state, self.config.action_dim)
        batch, samples, horizon = actions.shape[:3]
        if frames > 1 and state.actions is None:
            raise ValueError(f"a state of {frames} frames lacks the actions between them")
        known = state.latents[:, -window:]
        embeddings = list(for_candidates(known, samples).unbind(1))  # of (B * S, D)
        embedded = self.action_encoder(actions.flatten(0, 1))  # (B * S, H, D)
        if len(embeddings) > 1:
            past = self.action_encoder(state.actions[:, -(len(embeddings) - 1) :])
            embedded = torch.cat([for_candidates(past, samples), embedded], dim=1)
        start = len(embeddings)
        for end in range(start, start + horizon):
            first = max(0, end - window)
            seen = torch.stack(embeddings[first:end], dim=1)
            embeddings.append(self.predict(seen, embedded[:, first:end])[:, -1])
        return torch.stack(embeddings[start:], dim=1).unflatten(0, (batch, samples))


class LeWorldModelForPreTraining(WorldModelPreTrainingMixin, LeWorldModelPreTrainedModel):
    """A `LeWorldModel` (`lewm`) with its loss: squared error of the next embedding, and SIGReg per time step.

    Example:
        >>> import torch
        >>> from hf_jepa import VARIANTS, LeWorldModelConfig, LeWorldModelForPreTraining
        >>> model = LeWorldModelForPreTraining(LeWorldModelConfig(**VARIANTS["lewm"].tiny))
        >>> out = model(torch.randn(8, 4, 3, 32, 32), torch.randn(8, 3, 4), step=0)
        >>> out.loss.backward()
        >>> out.predictions.shape, out.targets.shape, out.context.shape
        (torch.Size([8, 3, 24]), torch.Size([8, 3, 24]), torch.Size([8, 4, 24]))
    """

    def __init__(self, config: LeWorldModelConfig):
        super().__init__(config)
        self.lewm = LeWorldModel(self.config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None = None,
        step: int | None = None,
    ) -> JepaForPreTrainingOutput:
        """Predict every frame but the first from those before it.

        Args:
            pixel_values_videos: (B, T, C, H, W), normalised; T is from 2 to `context_frames + 1`.
            actions: (B, T - 1, A), the one at t leads from frame t to t + 1.
            states: not read, because the model is not told states.
            step: optimizer step, which seeds the directions of SIGReg.

        Returns:
            `predictions` and `targets` (B, T - 1, D), and `context` (B, T, D), all embeddings.

        Raises:
            ValueError: shapes that do not fit; a model in training that is not told its step.
        """
        if pixel_values_videos.ndim == 5 and not 2 <= pixel_values_videos.shape[1] <= self._most_frames:
            raise ValueError(
                f"{pixel_values_videos.shape[1]} frames: a sample has from 2 to {self._most_frames}, the longest "
                "window (context_frames) and the frame after it"
            )
        out = self.lewm(pixel_values_videos, actions, return_dict=True)
        embeddings = out.last_hidden_state
        prediction = prediction_loss(out.predictions, embeddings[:, 1:], self.config.loss_type)
        regularization = self._regularization(embeddings, step)
        return JepaForPreTrainingOutput(
            loss=prediction if regularization is None else prediction + regularization,
            prediction_loss=prediction,
            regularization_loss=regularization,
            predictions=out.predictions,
            targets=embeddings[:, 1:].detach(),
            context=embeddings,
        )

    @property
    def _most_frames(self) -> int:
        return self.config.context_frames + 1

    def _regularization(self, embeddings: torch.Tensor, step: int | None) -> torch.Tensor | None:
        config = self.config
        if not config.sigreg_weight:
            return None
        return config.sigreg_weight * sigreg(
            embeddings.transpose(0, 1),
            step=require_step(self, step),
            num_slices=config.sigreg_num_slices,
            t_max=config.sigreg_t_max,
            n_points=config.sigreg_num_points,
        )


__all__ = ["LeWorldModel", "LeWorldModelForPreTraining", "LeWorldModelPreTrainedModel"]
