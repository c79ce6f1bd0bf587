"""Tiny VL-JEPA models, and weights large enough that a mix-up shows."""

import copy

import torch
from tiny_batches import clips_and_texts

from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["vl_jepa"].tiny
LLAMA = TINY["predictor_config"] | {
    "num_hidden_layers": 4,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
TEXT_ENCODERS = {
    "gemma3_text": TINY["text_config"],
    "bert": {
        "vocab_size": 64,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "modernbert": {
        "vocab_size": 64,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}


def tiny_config(**fields) -> VLJepaConfig:
    """The config of `Variant.tiny` with other fields; parts are replaced, not merged."""
    return VLJepaConfig(**copy.deepcopy(TINY) | fields)


def spread(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights so large that every input says something about the output, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and parameter.ndim:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def tiny_batch(config: VLJepaConfig, **changed) -> dict:
    """Three clips with queries and texts, see `clips_and_texts`."""
    return clips_and_texts(config) | changed
