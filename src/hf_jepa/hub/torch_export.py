"""Encoders as graphs of `torch.export`, which run where neither this package nor transformers is installed."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel

from hf_jepa import __version__
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import new_name, require_new_file
from hf_jepa.hub.fingerprint import input_shape
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import Variant


# Variants of images and videos whose graph is of one size, and why; the others may be of any.
ONE_SIZE = {
    "data2vec_vision": "transformers makes fixed numbers of the sizes when it stretches relative position biases",
}
MADE_BY = "hf_jepa.json"  # what a file says of its graph
MOST_PATCHES = 4096  # along one side, for graphs of any size; pixels for convolutions
TOLERANCE = 1e-4  # as a share of the spread of an output; kernels differ by about 1e-6


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
    dimensions, sample = {0: Dim("batch")}, example_input(encoder)
    if any_size:
        if reason := fixed_size(variant, encoder):
            raise ValueError(f"{variant.title} is exported for one size only: {reason}")
        backbone = _backbone(encoder)
        height, width = _patch(encoder)
        # Stages of convolutions halve an image, and what is one pixel then is another graph.
        limits = {"min": 2 ** (len(backbone.hidden_sizes) + 1) + 1} if hasattr(backbone, "hidden_sizes") else {}
        # Sizes unlike those of the config, and unlike each other, so that nothing is taken for equal by chance.
        sample = example_input(encoder, more=(2, 3))
        dimensions[sample.ndim - 2] = height * Dim("rows", max=MOST_PATCHES, **limits)
        dimensions[sample.ndim - 1] = width * Dim("columns", max=MOST_PATCHES, **limits)
    with _evaluated(encoder), _sizes_stay_open():
        program = torch.export.export(_Outputs(encoder), (sample,), dynamic_shapes=(dimensions,), strict=False)
    for node in program.graph.nodes:  # lines of files of this machine, which would go into files for others
        node.meta.pop("stack_trace", None)
    return program


def example_input(encoder: PreTrainedModel, batch: int = 2, more: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """What an encoder takes: random numbers, or tokens of a text.

    Args:
        encoder: its config names the size.
        batch: number of samples.
        more: rows and columns of patches that an image or clip has beyond that size.

    Example:
        >>> from hf_jepa import IJepaConfig, IJepaModel
        >>> encoder = IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...                                  image_size=16, patch_size=8, intermediate_size=32))
        >>> example_input(encoder, batch=3, more=(1, 0)).shape
        torch.Size([3, 3, 24, 16])
    """
    generator, shape = torch.Generator().manual_seed(0), [batch, *input_shape(encoder.config)[1:]]
    if any(more):
        shape[-2:] = [side + count * each for side, count, each in zip(shape[-2:], more, _patch(encoder), strict=True)]
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


def require_equal(
    run: Callable[[torch.Tensor], Mapping[str, torch.Tensor]],
    encoder: PreTrainedModel,
    any_size: bool,
    tolerance: float = TOLERANCE,
) -> float:
    """A graph computes what its encoder does, for several batches and, where it may, another size.

    Args:
        run: the graph: takes one tensor, gives the dictionary of `export_encoder`.
        encoder: in `eval()` meanwhile.
        any_size: whether the graph is of any size.
        tolerance: the largest difference of a number that is let pass, as a share of the spread (the standard
            deviation) of its output.

    Returns:
        the largest difference, as such a share.

    Raises:
        ConversionError: it is above the tolerance.
    """
    samples = [example_input(encoder, 1), example_input(encoder, 3)]
    samples += [example_input(encoder, 2, more=(1, 2))] if any_size else []
    largest = 0.0
    for inputs in samples:
        with _evaluated(encoder):
            expected = _Outputs(encoder)(inputs)
        found = run(inputs)
        for name, tensor in expected.items():
            share = ((found[name].to(tensor.device) - tensor).abs().max() / tensor.std()).item()
            if not share <= tolerance:  # NaN is not
                raise ConversionError(
                    f"the graph of {type(encoder).__name__} computes something else than the model: for an input of "
                    f"{' x '.join(map(str, inputs.shape))} its {name} differs by {share:.2g} of the spread, more than "
                    f"{tolerance:g}. Nothing was written"
                )
            largest = max(largest, share)
    return largest


def describe(program: ExportedProgram, variant: Variant) -> dict:
    """What a file says of its graph: the variant, the shape of its inputs, where -1 is any number, and versions."""
    shape = [length if isinstance(length, int) else -1 for length in _input_shape(program)]
    return {"variant": variant.name, "inputs": shape, "hf_jepa": __version__, "torch": torch.__version__}


def save_program(program: ExportedProgram, path: str | Path, variant: Variant) -> None:
    """Write a graph with its weights, for `torch.export.load`.

    Beside them the file holds `hf_jepa.json`, which is `describe`.

    Raises:
        FileExistsError: there is such a file.
    """
    path = Path(path)
    require_new_file(path)
    with new_name(path) as temporary:
        torch.export.save(program, temporary, extra_files={MADE_BY: json.dumps(describe(program, variant))})


def _input_shape(program: ExportedProgram) -> torch.Size:
    """The shape of the one input of a graph, symbols where it is any number."""
    (node,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    return node.meta["val"].shape


def _backbone(encoder: PreTrainedModel):
    return getattr(encoder.config, "backbone_config", encoder.config)


def _patch(encoder: PreTrainedModel) -> tuple[int, int]:
    """Height and width of a patch; of a pixel for convolutions."""
    return pair(getattr(_backbone(encoder), "patch_size", 1))


@contextmanager
def _evaluated(encoder: PreTrainedModel) -> Iterator[None]:
    """Without dropout and gradients; afterwards the encoder is in the mode that it was in."""
    training = encoder.training
    try:
        encoder.eval()
        with torch.no_grad():
            yield
    finally:
        encoder.train(training)


@contextmanager
def _sizes_stay_open() -> Iterator[None]:
    """Backbones of transformers stretch their positions in any case while they are traced, as they mean to.

    What they ask is whether `torch.jit` traces; without that the graph refuses the size it was trained at.
    """
    with mock.patch("torch.jit.is_tracing", return_value=True):
        yield


__all__ = [
    "ONE_SIZE",
    "describe",
    "example_input",
    "export_encoder",
    "fixed_size",
    "require_equal",
    "save_program",
]
