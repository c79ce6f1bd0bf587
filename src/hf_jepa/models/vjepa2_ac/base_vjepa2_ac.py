"""What all V-JEPA 2-AC classes share: flags, and what pretraining returns."""

from dataclasses import dataclass

import torch

from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.core.world_model import WorldModelMixin
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2PreTrainedModel
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig


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


class VJepa2ACPreTrainedModel(WorldModelMixin, VJepa2PreTrainedModel):
    """Flags of all V-JEPA 2-AC classes."""

    config: VJepa2ACConfig
    base_model_prefix = "vjepa2_ac"
    _no_split_modules = ["VJepa2Embeddings", "VJepa2ACEmbeddings", "PackedTransformerLayer", "FrameCausalLayer"]
    remedy = (
        "it is not a whole checkpoint of a V-JEPA 2-AC. To train a predictor on an encoder, start from "
        "VJepa2ACForPreTraining.from_encoder"
    )


__all__ = ["VJepa2ACForPreTrainingOutput", "VJepa2ACPreTrainedModel"]
