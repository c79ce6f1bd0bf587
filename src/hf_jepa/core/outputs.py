"""What a pretraining model returns."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class JepaForPreTrainingOutput(ModelOutput):
    """Output of every `...ForPreTraining` model.

    Args:
        loss: scalar to backpropagate, the sum of the two below.
        prediction_loss: scalar, the distance between predictions and targets.
        regularization_loss: scalar, or None where the objective has no such term.
        predictions: what the predictor said, (R, K, D); the variant documents the order of the R rows.
        targets: what it was compared with, (R, K, D), without gradient.
        context: what the context encoder said, (E * B, N, D), rows ordered (context mask, sample).
        hidden_states, attentions: of the context encoder, when asked for.

    Example:
        >>> loss = torch.tensor(0.5)
        >>> JepaForPreTrainingOutput(loss=loss, prediction_loss=loss).to_tuple()
        (tensor(0.5000), tensor(0.5000))
    """

    loss: torch.FloatTensor | None = None
    prediction_loss: torch.FloatTensor | None = None
    regularization_loss: torch.FloatTensor | None = None
    predictions: torch.FloatTensor | None = None
    targets: torch.FloatTensor | None = None
    context: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class WorldModelOutput(ModelOutput):
    """Output of a world model that predicts, too.

    Args:
        last_hidden_state: (B, T, *L), the latents of the frames; L is (N, D) for a model of tokens, (D,) for one of a
            vector per frame.
        predictions: (B, t, *L), of the frame after each of the first t actions; None where no actions were given.
        hidden_states, attentions: of the encoder, rows ordered (sample, frame), when asked for.

    Example:
        >>> WorldModelOutput(last_hidden_state=torch.zeros(2, 4, 8)).predictions is None
        True
    """

    last_hidden_state: torch.FloatTensor | None = None
    predictions: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


__all__ = ["JepaForPreTrainingOutput", "WorldModelOutput"]
