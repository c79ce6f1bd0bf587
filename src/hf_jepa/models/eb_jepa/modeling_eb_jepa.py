"""EB-JEPA (Terver et al. 2026, arXiv 2602.03604): the latents of the next frames are predicted from actions.

One encoder is trained through predictions and their targets alike; there is no stop-gradient and no average. What
keeps it from collapse is a regulariser of all frames: latents vary, differ from one another, are slow, and tell the
actions. The same model without actions learns from videos.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.world_model import (
    WorldModelMixin,
    WorldModelPreTrainingMixin,
    WorldState,
    for_candidates,
    require_actions,
    require_candidates,
    require_frames,
)
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.losses.prediction import prediction_loss
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.encoders_eb_jepa import new_encoder
from hf_jepa.models.eb_jepa.predictors_eb_jepa import new_predictor
from hf_jepa.models.eb_jepa.regularizer_eb_jepa import EbJepaRegularizer


@dataclass
class EbJepaForPreTrainingOutput(JepaForPreTrainingOutput):
    """Output of `EbJepaForPreTraining`.

    Args:
        predictions, targets: (B, K, D), the frames that were predicted: in autoregressive mode those of all steps,
            in parallel mode all frames after the first window, as the last step says them. Of maps all pixels follow
            one another, frame by frame.
        context: (B, K', D), the latents of all frames, laid out alike.
        variance_loss, covariance_loss, similarity_loss, inverse_dynamics_loss: scalars, the terms of the regulariser
            before their weights, without gradient; None where the weight is 0.

    Example:
        >>> from hf_jepa import VARIANTS, EbJepaConfig, EbJepaForPreTraining
        >>> model = EbJepaForPreTraining(EbJepaConfig(**VARIANTS["eb_jepa"].tiny))
        >>> out = model(torch.randn(4, 6, 2, 17, 17), actions=torch.randn(4, 5, 2))
        >>> bool(out.loss == out.prediction_loss + out.regularization_loss), out.covariance_loss.requires_grad
        (True, False)
    """

    variance_loss: torch.FloatTensor | None = None
    covariance_loss: torch.FloatTensor | None = None
    similarity_loss: torch.FloatTensor | None = None
    inverse_dynamics_loss: torch.FloatTensor | None = None


class EbJepaPreTrainedModel(WorldModelMixin, JepaPreTrainedModel):
    """Flags and initialisation of all EB-JEPA classes: what layers of torch start with, as officially."""

    config: EbJepaConfig
    base_model_prefix = "eb_jepa"
    supports_gradient_checkpointing = False
    _supports_flash_attn = False
    _supports_flex_attn = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.GRUCell):
            module.reset_parameters()  # transformers keeps what is loaded
            if std := getattr(module, "_init_std", None):
                init.trunc_normal_(module.weight, std=std)
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class EbJepaModel(EbJepaPreTrainedModel):
    """Encoder, action encoder and predictor: a world model (`hf_jepa.core.world_model.WorldModel`).

    Example:
        >>> from hf_jepa import VARIANTS, EbJepaConfig, EbJepaModel
        >>> model = EbJepaModel(EbJepaConfig(**VARIANTS["eb_jepa"].tiny)).eval()
        >>> state = model.encode(torch.randn(2, 1, 2, 17, 17))  # one frame in each of two environments
        >>> model.unroll(state, torch.randn(2, 5, 3, 2)).shape  # five candidates of three actions each
        torch.Size([2, 5, 3, 12])
    """

    _keys_to_ignore_on_load_unexpected = [r"^regularizer\."]

    def __init__(self, config: EbJepaConfig):
        super().__init__(config)
        config = self.config
        self.encoder = new_encoder(config)
        self.action_encoder = nn.Identity()
        if config.action_encoder_type == "mlp" and config.action_dim:
            width = config.action_hidden_size
            self.action_encoder = nn.Sequential(
                nn.Linear(config.action_dim, width), nn.GELU(), nn.Linear(width, width)
            )
        self.predictor = new_predictor(config, self.encoder)
        if hasattr(self.predictor, "layernorm"):
            names = ("layernorm.weight", "layernorm.bias")
            self._tied_weights_keys = {f"predictor.{name}": f"encoder.{name}" for name in names}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that reads the pixels."""
        if self.config.encoder_type == "backbone":
            return self.encoder.backbone.get_input_embeddings()
        return next(module for module in self.encoder.modules() if isinstance(module, nn.Conv2d))

    def encode(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> WorldState:
        """The latents of frames, which are all encoded as one batch.

        Args:
            pixel_values_videos: (B, T, C, H, W)
            actions: (B, T - 1, A), what was done between the frames; kept for predictors that read more than one.
            states: not read; here because all world models are called alike.

        Returns:
            a state with latents (B, T, D) or (B, T, D, H, W).

        Raises:
            TypeError, ValueError: frames or actions of another shape.
        """
        config = self.config
        fixed = pair(config.image_size) if config.encoder_type == "impala" else None
        require_frames(pixel_values_videos, config.num_channels, fixed)
        shape, frames = pixel_values_videos.shape[:2], pixel_values_videos.flatten(0, 1)
        if actions is not None:
            require_actions(actions, (shape[0], shape[1] - 1), config.action_dim)
        latents = self.encoder(frames.contiguous(memory_format=torch.channels_last)).unflatten(0, shape)
        return WorldState(latents, actions)

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        """The latents of the frames after each action, for several candidates at once.

        Args:
            state: of B environments, with `context_frames` frames or more, of which the newest are read.
            actions: (B, S, H, A)

        Returns:
            (B, S, H, *L)

        Raises:
            ValueError: too few frames, actions of another shape, or no earlier actions where they are read.
        """
        length = self.config.context_frames
        require_candidates(actions, state, self.config.action_dim)
        if state.latents.shape[1] < length:
            raise ValueError(f"the state has {state.latents.shape[1]} frames, the predictor reads {length}")
        samples, horizon = actions.shape[1:3]
        if length > 1 and self.config.action_dim:
            if state.actions is None:
                raise ValueError(
                    f"the predictor reads {length} frames and the actions between them: give these to encode"
                )
            known = state.actions[:, state.actions.shape[1] - length + 1 :, None].transpose(1, 2)
            actions = torch.cat([known.expand(-1, samples, -1, -1), actions], dim=2)
        latents = for_candidates(state.latents[:, -length:], samples)
        actions = actions.flatten(0, 1) if self.config.action_dim else None
        return self.predict_autoregressive(latents, actions, horizon).unflatten(0, (len(state), samples))

    def predict_autoregressive(
        self, latents: torch.Tensor, actions: torch.Tensor | None, num_steps: int
    ) -> torch.Tensor:
        """Frames that follow from a window and from what was predicted before.

        Args:
            latents: (R, w, *L), where w is `context_frames`.
            actions: (R, w - 1 + num_steps, A), from the first frame of the window on; None in a model without.
            num_steps: H.

        Returns:
            (R, H, *L)
        """
        length, frames = self.config.context_frames, list(latents.unbind(1))
        actions = None if actions is None else self.action_encoder(actions)
        for step in range(num_steps):
            window = torch.stack(frames[step:], dim=1)
            known = None if actions is None else actions[:, step : step + length]
            frames.append(self.predictor(window, known)[:, 0])
        return torch.stack(frames[length:], dim=1)

    def predict_parallel(
        self, latents: torch.Tensor, actions: torch.Tensor | None, num_steps: int
    ) -> list[torch.Tensor]:
        """Every frame after the first window, predicted from the window before it, and again from such predictions.

        Args:
            latents: (B, T, *L), more than `context_frames`.
            actions: (B, T - 1, A); None in a model without.
            num_steps: how often.

        Returns:
            of each step (B, T - w, *L), the frames from number w = `context_frames` on.
        """
        length, total = self.config.context_frames, latents.shape[1]
        actions = None if actions is None else self.action_encoder(actions)
        frames, found = latents, []
        for _ in range(num_steps):
            # Without actions the last window has a prediction, too, which batch normalisation officially counts.
            read = frames if actions is None else frames[:, :-1]
            found.append(self.predictor(read, actions)[:, : total - length])
            frames = torch.cat([latents[:, :length], found[-1]], dim=1)
        return found

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> BaseModelOutput:
        """The latents of frames as `last_hidden_state`, (B, T, D) or (B, T, D, H, W); see `encode`.

        Raises:
            TypeError, ValueError: see `encode`.
        """
        return BaseModelOutput(last_hidden_state=self.encode(pixel_values_videos, actions, states).latents)


class EbJepaForPreTraining(WorldModelPreTrainingMixin, EbJepaPreTrainedModel):
    """An EB-JEPA with its objective: predictions of a clip's latents, and the regulariser of all its frames.

    Example:
        >>> from hf_jepa import VARIANTS, EbJepaConfig, EbJepaForPreTraining
        >>> model = EbJepaForPreTraining(EbJepaConfig(**VARIANTS["eb_jepa"].tiny))
        >>> out = model(torch.randn(4, 6, 2, 17, 17), actions=torch.randn(4, 5, 2))
        >>> out.loss.backward()
        >>> out.predictions.shape, out.context.shape
        (torch.Size([4, 4, 12]), torch.Size([4, 6, 12]))
    """

    fewest_samples = 2  # variances need as many
    optional_parts = ("regularizer",)

    def __init__(self, config: EbJepaConfig):
        super().__init__(config)
        self.eb_jepa = EbJepaModel(self.config)
        self.regularizer = EbJepaRegularizer(self.config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        step: int | None = None,
    ) -> EbJepaForPreTrainingOutput:
        """Predict the latents of clips, and regularise them.

        Args:
            pixel_values_videos: (B, T, C, H, W)
            actions: (B, T - 1, A); `actions[:, t]` leads from frame t to t + 1. None in a model without.
            states, step: not read; here because all world models are trained alike.

        Raises:
            ValueError: clips that are too short, or actions of another shape.
        """
        config, model = self.config, self.eb_jepa
        length = pixel_values_videos.shape[1]
        if length < config.fewest_frames:
            raise ValueError(
                f"clips of {length} frames, the objective needs {config.fewest_frames}: give longer ones, or lower "
                f"num_unroll_steps={config.num_unroll_steps}"
            )
        if config.action_dim == 0:
            actions = None
        elif actions is None:
            raise ValueError(
                f"a model with action_dim={config.action_dim} learns from actions (B, T - 1, A): give them"
            )
        latents = model.encode(pixel_values_videos, actions, states).latents
        terms = self.regularizer(latents, actions)
        predict = self._parallel if config.unroll_mode == "parallel" else self._autoregressive
        prediction, predictions, targets = predict(latents, actions)
        return EbJepaForPreTrainingOutput(
            loss=prediction + terms.loss,
            prediction_loss=prediction,
            regularization_loss=terms.loss,
            predictions=_tokens(predictions),
            targets=_tokens(targets).detach(),
            context=_tokens(latents),
            **{f"{name}_loss": term if term is None else term.detach() for name, term in _named(terms)},
        )

    def _parallel(self, latents: torch.Tensor, actions: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The loss counts the first window, too, as officially: its frames are equal, so it is a factor below 1."""
        window = latents[:, : self.config.context_frames]
        steps = self.eb_jepa.predict_parallel(latents, actions, self.config.num_unroll_steps)
        losses = [self._distance(torch.cat([window, found], dim=1), latents) for found in steps]
        return torch.stack(losses).mean(), steps[-1], latents[:, window.shape[1] :]

    def _autoregressive(self, latents: torch.Tensor, actions: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        length, count = self.config.context_frames, self.config.num_unroll_steps
        if actions is not None:
            actions = actions[:, : length - 1 + count]
        found = self.eb_jepa.predict_autoregressive(latents[:, :length], actions, count)
        first = 1 if self.config.window_indexing == "official" else length
        targets = latents[:, first : first + count]
        pairs = zip(found.split(1, dim=1), targets.split(1, dim=1), strict=True)
        return torch.stack([self._distance(*each) for each in pairs]).mean(), found, targets

    def _distance(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The projector normalises over what it is given, so each step passes through it by itself."""
        if self.config.project_predictions:
            targets, predictions = self.regularizer.project(targets), self.regularizer.project(predictions)
        return prediction_loss(predictions, targets, self.config.loss_type)


def _tokens(latents: torch.Tensor) -> torch.Tensor:
    """(B, T, D) as it is, (B, T, D, H, W) -> (B, T * H * W, D)."""
    return latents if latents.ndim == 3 else latents.flatten(3).transpose(2, 3).flatten(1, 2)


def _named(terms) -> list[tuple[str, torch.Tensor | None]]:
    return [(name, term) for name, term in terms._asdict().items() if name != "loss"]


__all__ = [
    "EbJepaForPreTraining",
    "EbJepaForPreTrainingOutput",
    "EbJepaModel",
    "EbJepaPreTrainedModel",
]
