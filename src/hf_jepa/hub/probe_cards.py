"""The card of a converted probe: what it tells apart, what it reads, and how it is officially evaluated."""

from huggingface_hub import ModelCard
from transformers import PreTrainedConfig

from hf_jepa.core.probe_conversion import Probe, Protocol
from hf_jepa.hub.cards import build_card
from hf_jepa.hub.fingerprint import in_words
from hf_jepa.registry import Variant


def build_probe_card(
    variant: Variant,
    config: PreTrainedConfig,
    probe: Probe,
    protocol: Protocol | None,
    *,
    name: str,
    origin: str,
    fingerprint: dict,
    released: bool,
) -> ModelCard:
    """Write the card.

    Args:
        variant, config: of the model.
        probe: that was converted.
        protocol: the official evaluation; None where it is not known.
        name: heading, and folder that the snippet loads.
        origin: the files that it was made of.
        fingerprint: of the encoder.
        released: the probe is a released one, of known licence.
    """
    anticipates = probe.task == "anticipation"
    facts = {
        "Converted from": origin,
        "Probe": described(config, probe),
        "Reads": layers_read(config, anticipates),
        "Official evaluation": "not known" if protocol is None else f"{protocol}, at {config.image_size} pixels",
        "Fingerprint": f"of the encoder: {in_words(fingerprint)}",
    }
    if variant.native:
        facts["Stock transformers"] = _stock(config, anticipates)
    return build_card(
        variant,
        config,
        name,
        facts,
        variant.weights_license if released else None,
        "Not verified: published accuracies were not measured again with these files.",
        name,
        task="action-anticipation" if anticipates else "video-classification",
    )


def described(config: PreTrainedConfig, probe: Probe) -> str:
    """Size and classes of a probe in words."""
    classes = {name: number for name, number in probe.fields.items() if name != "num_pooler_layers"}
    told = [f"{n} {'classes' if name == 'num_labels' else name.removeprefix('num_')}" for name, n in classes.items()]
    depth, heads = config.num_pooler_layers + 1, config.pooler_num_attention_heads
    return f"depth {depth}, {heads} heads, {', '.join(told)}"


def layers_read(config: PreTrainedConfig, anticipates: bool) -> str:
    """What a probe reads, in words."""
    if anticipates:
        return "the encoder's last layer, and what the predictor foresees"
    if config.classifier_layers:
        return f"layers {', '.join(map(str, config.classifier_layers))} of the encoder"
    return "the encoder's last layer"


def _stock(config: PreTrainedConfig, anticipates: bool) -> str:
    if anticipates:
        return "has no such model; `AutoModel` loads encoder and predictor"
    theirs = (config.num_attention_heads, config.layer_norm_eps, None)
    ours = (config.pooler_num_attention_heads, config.pooler_layer_norm_eps, config.classifier_layers)
    if theirs == ours:
        return "`AutoModelForVideoClassification` computes the same"
    return (
        f"loads the weights as another function: with the encoder's {theirs[0]} heads and epsilon {theirs[1]} in the "
        f"probe, which has {ours[0]} and {ours[1]}, on the last layer alone. Load it with `hf_jepa`"
    )


__all__ = ["build_probe_card", "described", "layers_read"]
