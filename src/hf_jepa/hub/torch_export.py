"""Encoders as graphs of `torch.export`, which run where neither this package nor transformers is installed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel

from hf_jepa.hub.files import new_name
from hf_jepa.hub.fingerprint import input_shape
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import Variant


# Variants of images and videos whose graph is of one size, and why; the others may be of any.
ONE_SIZE = {
    "data2vec_vision": "transformers makes fixed numbers of the sizes when it stretches relative position biases",
}
MADE_BY = "hf_jepa.json"  # what a file says of its graph
MOST_PATCHES = 4096  # along one side, for graphs of any size; pixels for convolutions


class _Outputs(nn.Module):
    """An encoder that gives a plain dictionary of tensors: a class of transformers could not be loaded without it."""

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self.encoder(inputs, return_dict=True)
        names = ("last_hidden_state", "pooler_output")
        return {name: output[name] for name in names if output.get(name) is not None}


def export_encoder(variant: Variant, encoder: PreTrainedModel, *, any_size: bool = False) -> ExportedProgram:
    """Trace an encoder into a graph for batches of any number.

    Args:
        variant: of the encoder.
        encoder: as `load_target_encoder` gives it. It is in `eval()` meanwhile.
        any_size: of images and clips, height and width may be any that divide into patches; else they are those of
            the config. The number of frames is that of `input_shape` in any case, also the length of sound and text.

    Returns:
        a program whose `module()` takes one tensor, called `inputs`, and gives a dictionary: `last_hidden_state`, and
        `pooler_output` where the encoder has one.

    Raises:
        ValueError: a graph of any size is asked for where there is none; the message says why.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaModel
        >>> from hf_jepa.registry import VARIANTS
        >>> model = IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        ...                                patch_size=8, intermediate_size=32))
        >>> graph = export_encoder(VARIANTS["ijepa"], model, any_size=True).module()
        >>> graph(torch.randn(5, 3, 24, 16))["last_hidden_state"].shape
        torch.Size([5, 6, 16])
    """
    config = encoder.config
    dimensions, sample = {0: Dim("batch")}, example_input(encoder)
    if any_size:
        if reason := fixed_size(variant, encoder):
            raise ValueError(f"{variant.title} is exported for one size only: {reason}")
        backbone = getattr(config, "backbone_config", config)
        height, width = pair(getattr(backbone, "patch_size", 1))
        # Stages of convolutions halve an image, and what is one pixel then is another graph.
        limits = {"min": 2 ** (len(backbone.hidden_sizes) + 1) + 1} if hasattr(backbone, "hidden_sizes") else {}
        # Sizes unlike those of the config, and unlike each other, so that nothing is taken for equal by chance.
        sample = _larger(sample, 2 * height, 3 * width)
        dimensions[sample.ndim - 2] = height * Dim("rows", max=MOST_PATCHES, **limits)
        dimensions[sample.ndim - 1] = width * Dim("columns", max=MOST_PATCHES, **limits)
    training = encoder.training
    try:
        with torch.no_grad(), _sizes_stay_open():
            return torch.export.export(_Outputs(encoder.eval()), (sample,), dynamic_shapes=(dimensions,), strict=False)
    finally:
        encoder.train(training)


def example_input(encoder: PreTrainedModel, batch: int = 2) -> torch.Tensor:
    """What an encoder takes, of the size that its config names: random numbers, or tokens of a text.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaModel
        >>> example_input(IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     image_size=16, patch_size=8, intermediate_size=32))).shape
        torch.Size([2, 3, 16, 16])
    """
    generator, shape = torch.Generator().manual_seed(0), (batch, *input_shape(encoder.config)[1:])
    if encoder.main_input_name == "input_ids":
        drawn = torch.randint(encoder.config.vocab_size, shape, generator=generator)
    else:
        drawn = torch.randn(shape, generator=generator, dtype=encoder.dtype)
    return drawn.to(encoder.device)


def fixed_size(variant: Variant, encoder: PreTrainedModel) -> str | None:
    """Why the graph of an encoder is of one size only; None where it may be of any."""
    if variant.modality not in ("image", "video"):
        return f"{variant.modality} has no height and width"
    if getattr(encoder.config, "position_resize", None) == "recompute":
        return "position_resize='recompute' computes a table for every size, load it with 'interpolate'"
    return ONE_SIZE.get(variant.name)


def save_program(program: ExportedProgram, path: str | Path, variant: Variant) -> None:
    """Write a graph with its weights, for `torch.export.load`.

    Beside them the file holds `hf_jepa.json`, the variant and the shape of its inputs, where -1 is any number.

    Raises:
        FileExistsError: there is such a file.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another name or remove it")
    (node,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    shape = [length if isinstance(length, int) else -1 for length in node.meta["val"].shape]
    told = json.dumps({"variant": variant.name, "inputs": shape, "torch": torch.__version__})
    with new_name(path) as temporary:
        torch.export.save(program, temporary, extra_files={MADE_BY: told})


@contextmanager
def _sizes_stay_open() -> Iterator[None]:
    """Backbones of transformers stretch their positions in any case while they are traced, as they mean to.

    What they ask is whether `torch.jit` traces; without that the graph refuses the size it was trained at.
    """
    with mock.patch("torch.jit.is_tracing", return_value=True):
        yield


def _larger(sample: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """An input of the same kind, higher and wider by so many pixels."""
    return sample.new_zeros(*sample.shape[:-2], sample.shape[-2] + height, sample.shape[-1] + width)


__all__ = ["ONE_SIZE", "example_input", "export_encoder", "fixed_size", "save_program"]
