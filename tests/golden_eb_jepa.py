"""The recorded EB-JEPA models: their configs, checkpoints, inputs and outputs."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.modeling_eb_jepa import EbJepaForPreTraining
from hf_jepa.models.eb_jepa.official_eb_jepa import from_official


GOLDEN = Path(__file__).parent / "fixtures/golden/eb_jepa"


def config_of(case: str, **fields) -> EbJepaConfig:
    """The config of a recorded model."""
    if case == "unroll_ac":
        tiny = {
            "image_size": 17,
            "frames_per_clip": 6,
            "hidden_size": 12,
            "encoder_hidden_sizes": [4, 6, 8],
            "num_unroll_steps": 4,
            "inverse_dynamics_hidden_size": 10,
        }
        return EbJepaConfig(**(tiny | fields))
    tiny = {
        "image_size": 12,
        "frames_per_clip": 6,
        "hidden_size": 3,
        "encoder_hidden_sizes": [4, 4, 8],
        "pred_hidden_size": 4,
        "num_unroll_steps": 3,
        "proj_sizes": [12, 12],
    }
    return EbJepaConfig.from_size("moving_mnist", **(tiny | fields))


def checkpoint_of(case: str) -> dict:
    """The recorded file, in the official layout."""
    return torch.load(GOLDEN / case / "checkpoint.pt", weights_only=True)


def model_of(case: str, **fields) -> EbJepaForPreTraining:
    """A recorded model, in evaluation mode."""
    return from_official(checkpoint_of(case), config_of(case, **fields))


def io_of(case: str) -> dict[str, torch.Tensor]:
    """What was recorded."""
    return load_file(GOLDEN / case / "io.safetensors")


def frames_first(recorded: torch.Tensor) -> torch.Tensor:
    """Recorded (B, D, T, H, W) or (B, A, T) as here: (B, T, ...), without axes of one pixel."""
    recorded = recorded.transpose(1, 2)
    return recorded.flatten(2) if recorded.shape[3:].numel() == 1 else recorded


__all__ = ["GOLDEN", "checkpoint_of", "config_of", "frames_first", "io_of", "model_of"]
