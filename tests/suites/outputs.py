"""Outputs that are one tensor in some variants and one tensor per mask in others; which variants have what."""

import torch

from hf_jepa.core.modeling import JepaPreTrainingMixin


def keeps_the_contract(variant) -> bool:
    """Whether it has encoders that the contract speaks of: not LLM-JEPA, which is any language model."""
    return issubclass(variant.model_class(), JepaPreTrainingMixin)


def predicts_by_masks(variant) -> bool:
    """Whether tokens are left out and predicted, and a moving average makes the targets: the plain members."""
    return variant.inputs == "masks" and "ema" in variant.config_class().target_sources


def parts(x) -> list[torch.Tensor]:
    """The tensors of an output that is one tensor, or one per mask."""
    return [x] if isinstance(x, torch.Tensor) else list(x)


def same_parts(first, second) -> bool:
    """Whether two such outputs are equal."""
    pairs = zip(parts(first), parts(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def initialised_later(variant, config) -> torch.nn.Module:
    """A model that was made on the meta device, after making sure that its tables and weights are in order."""
    with torch.device("meta"):
        model = variant.model_class()(config)
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    torch.manual_seed(0)
    expected = variant.model_class()(config)
    for (name, value), wanted in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(value, wanted), name
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and parameter.abs().max() < 10, name
    return model
