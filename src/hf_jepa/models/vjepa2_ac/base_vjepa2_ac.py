"""What all V-JEPA 2-AC classes share: what they return, freezing, and checkpoints that are whole."""

from dataclasses import dataclass

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2PreTrainedModel
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig


@dataclass
class VJepa2ACOutput(ModelOutput):
    """Output of `VJepa2ACModel`.

    Args:
        last_hidden_state: (B, T, N, D), the normalised tokens of the frames.
        predictions: (B, t, N, D), those of the frames after each action, normalised; None without actions.
    """

    last_hidden_state: torch.FloatTensor | None = None
    predictions: torch.FloatTensor | None = None


@dataclass
class VJepa2ACForPreTrainingOutput(JepaForPreTrainingOutput):
    """Output of `VJepa2ACForPreTraining`.

    Args:
        prediction_loss: the sum of the two terms below.
        teacher_forcing_loss: of frames that are predicted from true ones.
        rollout_loss: of frames that are predicted from predicted ones.
        predictions: (B, T - 1, N, D), frames 1 to T - 1 predicted from true ones.
        rollout: (B, auto_steps, N, D), frames from 1 on predicted from predicted ones, but the first.
        targets: (B, T - 1, N, D), what the frozen encoder says of frames 1 to T - 1.
        context: (B, T, N, D), what it says of all frames.
        others: see `JepaForPreTrainingOutput`.
    """

    teacher_forcing_loss: torch.FloatTensor | None = None
    rollout_loss: torch.FloatTensor | None = None
    rollout: torch.FloatTensor | None = None


class VJepa2ACPreTrainedModel(VJepa2PreTrainedModel):
    """Flags and freezing of all V-JEPA 2-AC classes."""

    config: VJepa2ACConfig
    base_model_prefix = "vjepa2_ac"
    _no_split_modules = ["VJepa2Embeddings", "VJepa2ACEmbeddings", "PackedTransformerLayer", "FrameCausalLayer"]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs
    ) -> PreTrainedModel:
        """As in transformers, but nothing is left at random weights, unless the loading info is asked for.

        What is never trained is frozen again: loading makes every parameter trainable.

        Raises:
            ValueError: weights are not in the checkpoint, as where it is one of V-JEPA 2.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model.base_model.freeze_parts()
        if output_loading_info:
            return model, info
        if lost := sorted(info["missing_keys"]):
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(lost)} weights of {cls.__name__}, among them "
                f"{', '.join(lost[:5])}: it is not a whole checkpoint of a V-JEPA 2-AC. To train a predictor on an "
                "encoder, start from VJepa2ACForPreTraining.from_encoder"
            )
        return model


__all__ = ["VJepa2ACForPreTrainingOutput", "VJepa2ACOutput", "VJepa2ACPreTrainedModel"]
