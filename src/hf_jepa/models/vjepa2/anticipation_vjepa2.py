"""Action anticipation with V-JEPA 2 (arXiv 2506.09985, section 5): what will be done a moment after the clip ends.

The predictor is asked for the tokens of that moment; an attentive probe reads what was seen and what was predicted.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from hf_jepa.core.video_classification import QUESTIONS, attentive_pooler
from hf_jepa.losses.focal import sigmoid_focal_loss
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Model, VJepa2PreTrainedModel


@dataclass
class ActionAnticipationOutput(ModelOutput):
    """Output of `VJepa2ForActionAnticipation`.

    Args:
        loss: the sum of the focal losses of all questions that have labels.
        verb_logits, noun_logits, action_logits: (B, classes), of the questions that the model answers.
    """

    loss: torch.FloatTensor | None = None
    verb_logits: torch.FloatTensor | None = None
    noun_logits: torch.FloatTensor | None = None
    action_logits: torch.FloatTensor | None = None


class VJepa2ForActionAnticipation(VJepa2PreTrainedModel):
    """Verb, noun and action that follow a clip, as in the EPIC-Kitchens-100 protocol of the paper.

    Questions with classes in the config (`num_verbs`, `num_nouns`, `num_actions`) are answered, each by a query of
    the probe and a linear classifier.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2Config, VJepa2ForActionAnticipation
        >>> model = VJepa2ForActionAnticipation(VJepa2Config(hidden_size=32, num_hidden_layers=1,
        ...     num_attention_heads=2, crop_size=32, patch_size=8, frames_per_clip=8, pred_hidden_size=24,
        ...     pred_num_attention_heads=2, pred_num_hidden_layers=1, num_verbs=5, num_nouns=7, num_actions=11))
        >>> out = model(torch.randn(2, 8, 3, 32, 32), anticipation_times=torch.tensor([1.0, 0.5]))
        >>> out.verb_logits.shape, out.action_logits.shape
        (torch.Size([2, 5]), torch.Size([2, 11]))
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\."]
    reads_predictions = True  # the predictor is part of what fine-tuning trains

    def __init__(self, config: VJepa2Config):
        super().__init__(config)
        config = self.config
        self.questions = [name for name in QUESTIONS if getattr(config, f"num_{name}s")]
        if not self.questions:
            raise ValueError("num_verbs, num_nouns and num_actions are all 0: say how many classes are to be told")
        self.vjepa2 = VJepa2Model(config)
        self.pooler = attentive_pooler(config, num_queries=len(self.questions))
        for name in self.questions:
            setattr(self, f"{name}_classifier", nn.Linear(config.hidden_size, getattr(config, f"num_{name}s")))
        self.post_init()

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        anticipation_times: torch.Tensor,
        verb_labels: torch.Tensor | None = None,
        noun_labels: torch.Tensor | None = None,
        action_labels: torch.Tensor | None = None,
        frames_per_second: float = 8.0,
        num_output_frames: int = 2,
        num_steps: int = 1,
        mask_index: int = 1,
        **kwargs,
    ) -> ActionAnticipationOutput:
        """Anticipate.

        Args:
            pixel_values_videos: (B, T, C, H, W)
            anticipation_times: (B,), seconds from the end of each clip to the moment asked for.
            verb_labels, noun_labels, action_labels: LongTensors (B,); -100 where unknown.
            frames_per_second: of the clips.
            num_output_frames: frames of that moment.
            num_steps: predictions in a row: each takes the place of the oldest tokens of the context.
            mask_index: the learnt mask token; the official protocol uses 1.

        Returns:
            `loss` (the sum of the focal losses, each summed over batch and classes) and the logits.

        Raises:
            ValueError: times that are not one per clip, a moment of no token or longer than the clip.
        """
        features = self.features(
            pixel_values_videos,
            anticipation_times,
            frames_per_second,
            num_output_frames,
            num_steps,
            mask_index,
            **kwargs,
        )
        pooled = self.pooler(features)  # (B, questions, D)
        given = {"verb": verb_labels, "noun": noun_labels, "action": action_labels}
        logits, losses = {}, []
        for query, name in enumerate(self.questions):
            logits[name] = getattr(self, f"{name}_classifier")(pooled[:, query])
            if given[name] is not None:
                losses.append(sigmoid_focal_loss(logits[name], given[name]))
        return ActionAnticipationOutput(
            loss=torch.stack(losses).sum() if losses else None,
            **{f"{name}_logits": values for name, values in logits.items()},
        )

    def features(
        self,
        pixel_values_videos: torch.Tensor,
        anticipation_times: torch.Tensor,
        frames_per_second: float = 8.0,
        num_output_frames: int = 2,
        num_steps: int = 1,
        mask_index: int = 1,
        **kwargs,
    ) -> torch.Tensor:
        """What was seen and what was predicted, (B, N + num_steps * S', D); arguments as of `forward`."""
        if anticipation_times.shape != pixel_values_videos.shape[:1]:
            raise ValueError(
                f"anticipation_times has shape {tuple(anticipation_times.shape)}: expected one time for each of "
                f"{len(pixel_values_videos)} clips"
            )
        encoder, predictor, tubelet = self.vjepa2.encoder, self.vjepa2.predictor, self.config.tubelet_size
        grid = encoder.token_grid(pixel_values_videos)
        if num_output_frames < tubelet or num_output_frames // tubelet > grid[0]:
            raise ValueError(f"num_output_frames {num_output_frames} must be {tubelet} to {grid[0] * tubelet}")
        encoded = encoder(pixel_values_videos, **kwargs, return_dict=True).last_hidden_state
        per_frame, seen = grid[1] * grid[2], encoded.shape[1]
        later = (anticipation_times.to(encoded.device) * frames_per_second / tubelet).long()  # (B,)
        asked = torch.arange(per_frame * (num_output_frames // tubelet), device=encoded.device)
        target_mask = seen + per_frame * later.unsqueeze(1) + asked  # (B, S')
        context_mask = torch.arange(seen, device=encoded.device).expand(len(encoded), -1)
        context, features = encoded, [encoded]
        for _ in range(num_steps):
            (predicted,) = predictor([context], [context_mask], [target_mask], [grid], [mask_index])
            features.append(predicted)
            context = torch.cat([context[:, len(asked) :], predicted], dim=1)
        return torch.cat(features, dim=1)


__all__ = ["ActionAnticipationOutput", "VJepa2ForActionAnticipation"]
