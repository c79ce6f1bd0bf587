"""H-JEPA: levels above a world model that predict farther with fewer steps, so that plans can be made from the top.

It is a latent world model of two or more levels after "Hierarchical Planning with Latent World Models" (2604.03208),
which builds what LeCun's "A Path Towards Autonomous Machine Intelligence" (2022) describes. One step of a level is
several of the level below. Its action is a macro-action, a short code of the actions of these steps. Its states are
those of the level below: what a level predicts is a goal for the level under it (`hf_jepa.planning.hierarchical`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple, logging

from hf_jepa.core.configuration import require_model_fields, without_path
from hf_jepa.core.loading import REMEDY, require_weights
from hf_jepa.core.modeling import JepaPreTrainedModel
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.world_model import (
    WorldModel,
    WorldModelMixin,
    WorldModelPreTrainingMixin,
    WorldState,
    require_actions,
    require_frames,
)
from hf_jepa.models.h_jepa.configuration_h_jepa import HJepaConfig
from hf_jepa.models.h_jepa.levels_h_jepa import HJepaUpperLevel
from hf_jepa.models.h_jepa.objective_h_jepa import level_errors, regularization_term, require_frame_mask


logger = logging.get_logger(__name__)


@dataclass
class HJepaForPreTrainingOutput(JepaForPreTrainingOutput):
    """Output of `HJepaForPreTraining`.

    Args:
        predictions, targets: (B, n, D), of the top level: each state from the one before it, and what it is.
        context: (B, n + 1, D), the states of the top level.
        teacher_forcing_loss, rollout_loss: scalars without gradient, the two parts of `prediction_loss`: each
            state from the true one before it, and all from the first one.

    Example:
        >>> from hf_jepa import VARIANTS, HJepaConfig, HJepaForPreTraining
        >>> model = HJepaForPreTraining(HJepaConfig(**VARIANTS["h_jepa"].tiny))
        >>> out = model(torch.randn(2, 7, 2, 17, 17), actions=torch.randn(2, 6, 2))
        >>> out.predictions.shape, out.teacher_forcing_loss.requires_grad  # three steps of two frames
        (torch.Size([2, 3, 12]), False)
    """

    teacher_forcing_loss: torch.FloatTensor | None = None
    rollout_loss: torch.FloatTensor | None = None


class HJepaPreTrainedModel(WorldModelMixin, JepaPreTrainedModel):
    """Flags, initialisation and loading of all H-JEPA classes; the world model initialises itself."""

    config: HJepaConfig
    base_model_prefix = "h_jepa"
    supports_gradient_checkpointing = False
    _can_compile_fullgraph = False  # level 0 may be any world model
    _supports_flex_attn = False
    remedy = f"{REMEDY}; a new one on a trained world model is made by from_encoder"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, HJepaUpperLevel):
            for buffer in module.buffers(recurse=False):
                init.zeros_(buffer)
        elif isinstance(module, nn.Linear | nn.GRUCell | nn.GRU):
            module.reset_parameters()  # transformers keeps what is loaded
        else:
            super()._init_weights(module)

    @classmethod
    def from_encoder(cls, world_model: str | PreTrainedModel, **fields: Any) -> PreTrainedModel:
        """New levels above a trained world model.

        Args:
            world_model: Hub id or folder of a world model of this package, or such a model, which becomes level 0.
            fields: of `HJepaConfig`. The `world_model_config` is that of the world model; another is left out, with a
                warning.

        Raises:
            ValueError: an unknown field, a world model whose weights are not all there.

        Example:
            >>> from hf_jepa import VARIANTS, EbJepaConfig, EbJepaModel, HJepaModel
            >>> world = EbJepaModel(EbJepaConfig(**VARIANTS["eb_jepa"].tiny))
            >>> HJepaModel.from_encoder(world, levels=[{"stride": 4}]).config.strides
            (4,)
        """
        require_model_fields(cls.config_class, fields)
        if not isinstance(world_model, PreTrainedModel):
            world_model = _load_world_model(world_model)
        world_model = world_model.base_model
        if fields.pop("world_model_config", None) is not None:
            logger.warning("world_model_config is not used: the world model that is given has its own")
        return cls(cls.config_class(**fields, world_model_config=without_path(world_model.config)), world_model)


class HJepaModel(HJepaPreTrainedModel):
    """A world model (`world_model`, level 0) and the `levels` above it.

    `encode` and `unroll` are those of level 0, so that every planner plans flat with it; the levels have an `unroll`
    of their own, and `hf_jepa.planning.HierarchicalAgent` plans with all of them.

    Args:
        config: which world model and which levels.
        world_model: level 0; with random weights unless given.

    Example:
        >>> import torch
        >>> from hf_jepa import VARIANTS, HJepaConfig, HJepaModel
        >>> model = HJepaModel(HJepaConfig(**VARIANTS["h_jepa"].tiny)).eval()
        >>> model.fit_macro_actions([torch.randn(8, 6, 2)])  # actions of trajectories
        >>> state = model.encode(torch.randn(2, 1, 2, 17, 17))
        >>> level = model.levels[0]
        >>> far = level.unroll(WorldState(level.lift(state.latents)), torch.randn(2, 5, 3, level.macro_action_dim))
        >>> far.shape, level.stride  # 5 candidates of 3 steps, each of which is 2 frames
        (torch.Size([2, 5, 3, 12]), 2)
    """

    def __init__(self, config: HJepaConfig, world_model: PreTrainedModel | None = None):
        super().__init__(config)
        config = self.config
        if world_model is None:
            world_model = AutoModel.from_config(config.world_model_config, dtype=torch.get_default_dtype())
        self.world_model = world_model
        self.levels = nn.ModuleList()
        below, action_dim = config.latent_shape, config.action_dim
        for level in config.upper_levels:
            self.levels.append(HJepaUpperLevel(level, below, action_dim))
            below, action_dim = self.levels[-1].state_shape, level.macro_action_dim
        self.freeze_parts()
        self.post_init()

    def freeze_parts(self) -> None:
        """Exclude level 0 from training; also done by `from_pretrained`."""
        self.world_model.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        super().train(mode)
        self.world_model.eval()  # no dropout and no batch statistics in what is not trained
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.world_model.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> BaseModelOutput:
        """The latents of frames at level 0 as `last_hidden_state`, (B, T, *L)."""
        return BaseModelOutput(last_hidden_state=self.encode_frames(pixel_values_videos, states))

    def encode(self, *args: Any, **kwargs: Any) -> WorldState:
        """What level 0 knows after some frames: see its own `encode`."""
        return self.world_model.encode(*args, **kwargs)

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        """The frames after each of H primitive actions, (B, S, H, *L): see `unroll` of level 0."""
        return self.world_model.unroll(state, actions)

    def encode_frames(self, pixel_values_videos: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """The latents of frames, each by itself, as planners see them: (B, T, C, H, W) -> (B, T, *L)."""
        batch, frames = pixel_values_videos.shape[:2]
        told = {} if states is None or not self.config.state_dim else {"states": states.flatten(0, 1).unsqueeze(1)}
        state = self.world_model.encode(pixel_values_videos.flatten(0, 1).unsqueeze(1), **told)
        return state.last.unflatten(0, (batch, frames))

    @torch.no_grad()
    def fit_macro_actions(self, batches: Iterable[torch.Tensor]) -> None:
        """Measure the macro-actions of data: planners search within what was seen.

        Call it after training, and again after any more; `save_pretrained` keeps the result.

        Args:
            batches: primitive actions of trajectories, (B, T - 1, A) each.

        Raises:
            ValueError: fewer than two whole steps of a level, or actions that are not finite.
        """
        found: list[list[torch.Tensor]] = [[] for _ in self.levels]
        for actions in batches:
            actions = actions.to(self.device, self.dtype)
            for rows, level in zip(found, self.levels, strict=True):
                actions = level.macro_actions(actions)
                rows.append(actions.flatten(0, 1).cpu())
        for number, (rows, level) in enumerate(zip(found, self.levels, strict=True), start=1):
            if sum(map(len, rows)) < 2:
                raise ValueError(f"the actions hold fewer than two whole steps of level {number}")
            level.fit(rows)


class HJepaForPreTraining(WorldModelPreTrainingMixin, HJepaPreTrainedModel):
    """The levels of an `HJepaModel` (`h_jepa`) with their losses; its world model is trained before, and frozen.

    Each level learns by itself: nothing flows to the level below it. Targets of shared states are those of the frozen
    world model, so nothing can collapse; learned states train their targets, too, and need their regulariser.

    Example:
        >>> import torch
        >>> from hf_jepa import VARIANTS, HJepaConfig, HJepaForPreTraining
        >>> model = HJepaForPreTraining(HJepaConfig(**VARIANTS["h_jepa"].tiny))
        >>> out = model(torch.randn(3, 7, 2, 17, 17), torch.randn(3, 6, 2), step=0)
        >>> out.loss.backward()
        >>> out.predictions.shape  # three steps of two frames
        torch.Size([3, 3, 12])
    """

    def __init__(self, config: HJepaConfig, world_model: PreTrainedModel | None = None):
        super().__init__(config)
        self.h_jepa = HJepaModel(self.config, world_model)
        self.post_init()

    @property
    def context_encoder(self) -> nn.Module:
        """What says the states that are predicted: the world model, which is frozen."""
        return self.h_jepa.world_model

    @property
    def predictor(self) -> nn.Module:
        """What is trained: the levels."""
        return self.h_jepa.levels

    def fit_macro_actions(self, batches: Iterable[torch.Tensor]) -> None:
        """See `HJepaModel.fit_macro_actions`."""
        self.h_jepa.fit_macro_actions(batches)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        actions: torch.Tensor,
        states: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        step: int | None = None,
    ) -> HJepaForPreTrainingOutput:
        """Predict the states of every level, from the true one before and from the first one.

        Frames after the last whole step of a level are left out there; only frames that a level sees are encoded.

        Args:
            pixel_values_videos: (B, T, C, H, W), T above one step of the top level.
            actions: (B, T - 1, A), the one at t leads from frame t to t + 1.
            states: (B, T, P), where the world model is told them.
            frame_mask: bool (B, T), False where a shorter trajectory was filled up at its end; steps that reach there
                count nothing. None: all frames are real.
            step: optimizer step, from which "sigreg" draws.

        Raises:
            ValueError: shapes that do not fit, too few frames, a mask with holes or without one whole step.
        """
        self._check(pixel_values_videos, actions, frame_mask)
        model, first = self.h_jepa, self.config.strides[0]
        if frame_mask is not None:
            actions = actions.masked_fill(~frame_mask[:, 1:, None], 0.0)
        whole = (actions.shape[1] // first) * first
        seen = slice(0, whole + 1, first)
        with torch.no_grad():
            below = model.encode_frames(pixel_values_videos[:, seen], None if states is None else states[:, seen])
        terms, regularization = [], []
        for level, stride, number in zip(model.levels, self.config.strides, range(len(model.levels)), strict=True):
            latents = level.lift(below if number == 0 else below[:, :: level.stride])
            actions = level.macro_actions(actions)  # (B, n, d)
            latents = latents[:, : actions.shape[1] + 1]
            counts = None if frame_mask is None else frame_mask[:, stride::stride][:, : actions.shape[1]]
            predicted, *errors = level_errors(level, latents, actions, counts)
            terms.append([level.level.coefficient * error for error in errors])
            if level.level.regularizer is not None:
                regularization.append(regularization_term(self, level, latents, counts, step))
            top = predicted, latents
            below, actions = latents.detach(), actions.detach()
        teacher_forcing, rollout = (torch.stack(parts).sum() for parts in zip(*terms, strict=True))
        prediction = teacher_forcing + rollout
        extra = torch.stack(regularization).sum() if regularization else None
        return HJepaForPreTrainingOutput(
            loss=prediction if extra is None else prediction + extra,
            prediction_loss=prediction,
            regularization_loss=extra,
            predictions=top[0].flatten(2),
            targets=top[1][:, 1:].flatten(2).detach(),
            context=top[1].flatten(2),
            teacher_forcing_loss=teacher_forcing.detach(),
            rollout_loss=rollout.detach(),
        )

    def _check(self, pixels: torch.Tensor, actions: torch.Tensor, frame_mask: torch.Tensor | None) -> None:
        config, least = self.config, self.config.strides[-1] + 1
        require_frames(pixels, config.num_channels)
        batch, frames = pixels.shape[:2]
        require_actions(actions, (batch, frames - 1), config.action_dim)
        if frames < least:
            raise ValueError(
                f"{frames} frames are less than {least}, one step of the top level and the frame after it"
            )
        if frame_mask is not None:
            require_frame_mask(frame_mask, (batch, frames), least)


def _load_world_model(source: str) -> PreTrainedModel:
    model, info = AutoModel.from_pretrained(source, output_loading_info=True)
    require_weights(
        info["missing_keys"], source, type(model).__name__, "the world model under the levels must be trained"
    )
    if not isinstance(model, WorldModel):
        raise ValueError(f"{source} is a {type(model).__name__}, not a world model: it has no encode and unroll")
    return model


__all__ = ["HJepaForPreTraining", "HJepaForPreTrainingOutput", "HJepaModel", "HJepaPreTrainedModel"]
