"""A fingerprint of what an encoder computes: enough numbers to notice a wrong weight, small enough for a file."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.core.quiet import quiet_loading
from hf_jepa.core.world_model import WorldModel
from hf_jepa.hub.files import new_name, read_json
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import Variant


FRAMES = 8  # of a clip: enough for positions in time to count, few enough for a large model
FILE_NAME = "fingerprint.json"
TOLERANCE = 1e-3  # relative to the spread of the output; kernels differ by about 1e-6
EFFECT_TOLERANCE = 0.01  # of what an action changes, relative to itself


def compute_fingerprint(model: PreTrainedModel) -> dict:
    """Statistics of the encoder's output for a fixed input.

    Args:
        model: an encoder. A video is a clip of the size that the config names, of at most `FRAMES` frames; a
            recording has 4,000 samples, a text 16 tokens. Of a world model: what it says of such a clip, and of the
            frame after one more action.

    Returns:
        a dictionary for JSON: shape, mean, standard deviation, mean absolute value, first values, and what the input
        was.

    Raises:
        ValueError: the output is not finite.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaModel
        >>> config = IJepaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=32,
        ...                      patch_size=8)
        >>> compute_fingerprint(IJepaModel(config))["shape"]
        [1, 16, 32]
    """
    drawn, kind = fixed_input(model.config)
    training = model.training
    with torch.no_grad():
        output, more = _answer(model.eval(), drawn.to(model.device))
        output = output.double().cpu()
    model.train(training)
    if not output.isfinite().all():
        raise ValueError("the encoder's output is not finite: the weights are damaged or hold NaN or infinity")
    return {
        "torch": torch.__version__,
        "input": f"numpy default_rng(0) {kind}, {' x '.join(map(str, drawn.shape))}",
        "shape": list(output.shape),
        "mean": output.mean().item(),
        "std": output.std().item(),
        "mean_abs": output.abs().mean().item(),
        "first_values": output.flatten()[:8].tolist(),
        **more,
    }


def _answer(model: PreTrainedModel, drawn: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """What an encoder says of an input; of a world model with the frame that follows, and how far an action counts."""
    if not isinstance(model, WorldModel):
        return model(drawn).last_hidden_state, {}
    config, rng = model.config, np.random.default_rng(1)
    rows, frames = drawn.shape[:2]
    actions = torch.from_numpy(rng.standard_normal((rows, frames, config.action_dim))).to(drawn)
    told = {}
    if config.state_dim:
        told["states"] = torch.from_numpy(rng.random((rows, frames, config.state_dim))).to(drawn)
    if getattr(config, "use_extrinsics", False):
        told["extrinsics"] = torch.from_numpy(rng.random((rows, frames, config.extrinsics_dim))).to(drawn)
    state = model.encode(drawn, actions[:, :-1], **told)
    candidates = torch.stack([actions[:, -1:], torch.zeros_like(actions[:, -1:])], dim=1)  # (B, 2, 1, A)
    after, still = model.unroll(state, candidates).unbind(1)  # (B, 1, *L) each
    # The first values need encoder and predictor; one token in hundreds, an action, is hardly seen in them.
    effect = {"action_effect": (after - still).abs().mean().item()}
    return torch.cat([after, state.latents], dim=1), effect


def fixed_input(config: PreTrainedConfig) -> tuple[torch.Tensor, str]:
    """What a fingerprint asks an encoder about, of `input_shape`, and how it is drawn."""
    shape, rng = input_shape(config), np.random.default_rng(0)
    if len(shape) == 2 and not hasattr(config, "conv_stride"):  # tokens of a text
        return torch.from_numpy(rng.integers(config.vocab_size, size=shape)), "integers"
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)), "standard normal"


def input_shape(config: PreTrainedConfig) -> tuple[int, ...]:
    """(1, C, H, W) of the images of a config, (1, T, C, H, W) of its clips, of few frames, (1, L) of sound and text.

    Example:
        >>> from hf_jepa import VJepa2Config
        >>> input_shape(VJepa2Config(frames_per_clip=64))
        (1, 8, 3, 256, 256)
    """
    if not hasattr(config, "image_size"):
        return 1, 4000 if hasattr(config, "conv_stride") else 16
    image = (config.num_channels, *pair(config.image_size))
    if not hasattr(config, "frames_per_clip"):
        return 1, *image
    tubelet = getattr(config, "tubelet_size", 1)
    return 1, max(tubelet, min(config.frames_per_clip, FRAMES) // tubelet * tubelet), *image


def load_target_encoder(variant: Variant, folder: str | Path) -> PreTrainedModel:
    """The encoder that users of a folder get, or a whole world model, in float32, whatever other parts there are.

    Raises:
        ConversionError: weights are missing or have other shapes than the config says.
    """
    with quiet_loading():  # what does not fit is told below, in one line
        model, report = variant.base_class().from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    encoder = model if isinstance(model, WorldModel) else variant.encoder_of(model)
    missing = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if encoder is not model:  # a part beside the encoder may be absent as a whole
        own = {name for name, child in model.named_children() if child is encoder}
        for name, child in model.named_children():
            keys = {f"{name}.{key}" for key in child.state_dict()}
            if name not in own and keys <= set(report["missing_keys"]):
                missing -= keys
    if wrong := sorted(missing):
        raise ConversionError(f"{folder}: {len(wrong)} weights are missing or not as in config.json: {some(wrong)}")
    return encoder


def write_fingerprint(model: PreTrainedModel, folder: str | Path) -> dict:
    """Compute the fingerprint and put it beside the weights."""
    fingerprint = compute_fingerprint(model)
    with new_name(Path(folder) / FILE_NAME) as path:
        path.write_text(json.dumps(fingerprint, indent=2) + "\n", encoding="utf-8")
    return fingerprint


def in_words(fingerprint: dict) -> str:
    """A fingerprint in the facts of a card.

    Example:
        >>> in_words({"mean": 0.25, "std": 1.0})
        'mean 0.250000, std 1.000000 (`fingerprint.json`)'
    """
    return f"mean {fingerprint['mean']:.6f}, std {fingerprint['std']:.6f} (`{FILE_NAME}`)"


def differences(model: PreTrainedModel, folder: str | Path) -> list[str]:
    """Compare an encoder with the fingerprint beside its weights.

    Returns:
        one line per value that differs; an empty list when all agree.

    Raises:
        FileNotFoundError: there is no fingerprint.
        ValueError: the file is not a fingerprint; the message names it.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {FILE_NAME}: it was not written by a converter of this package")
    expected, found = read_json(path, "a fingerprint"), compute_fingerprint(model)
    if lost := [name for name in found if name not in expected]:
        raise ValueError(f"{path} is not a fingerprint: it lacks {', '.join(lost)}")
    if expected["shape"] != found["shape"]:
        return [f"shape is {found['shape']}, the fingerprint says {expected['shape']}"]
    for name in ("mean", "std", "mean_abs", "first_values", *({"action_effect"} & found.keys())):
        if not _alike(expected[name], found[name]):
            raise ValueError(f"{path} is not a fingerprint: {name} is {expected[name]!r}")
    scale = TOLERANCE * found["std"]
    values = {name: (expected[name], found[name]) for name in ("mean", "std", "mean_abs")}
    pairs = zip(expected["first_values"], found["first_values"], strict=True)
    values |= {f"value {i}": pair for i, pair in enumerate(pairs)}
    unlike = {name: pair for name, pair in values.items() if not math.isclose(*pair, rel_tol=0.0, abs_tol=scale)}
    if "action_effect" in found:
        pair = expected["action_effect"], found["action_effect"]
        if not math.isclose(*pair, rel_tol=EFFECT_TOLERANCE):
            unlike["action_effect"] = pair
    return [f"{name} is {now:.6g}, the fingerprint says {then:.6g}" for name, (then, now) in unlike.items()]


def _alike(then, now) -> bool:
    """Whether both are numbers, or lists of equally many numbers."""
    if isinstance(now, list):
        return isinstance(then, list) and len(then) == len(now) and all(map(_alike, then, now))
    return isinstance(then, int | float)


__all__ = [
    "FILE_NAME",
    "compute_fingerprint",
    "differences",
    "fixed_input",
    "in_words",
    "input_shape",
    "load_target_encoder",
    "write_fingerprint",
]
