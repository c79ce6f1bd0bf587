"""Encoders as ONNX files, which run in onnxruntime and others, without torch."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from hf_jepa.hub.files import new_name, require_new_file
from hf_jepa.hub.torch_export import TOLERANCE, describe, export_encoder, require_equal
from hf_jepa.registry import Variant


LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
METADATA = "hf_jepa"  # the entry of a file that says what it holds
LARGEST_FILE = 3 * 2**29  # bytes of weights; the format ends at 2 GiB, what is larger lies in a file beside


def export_onnx(
    variant: Variant,
    encoder: PreTrainedModel,
    path: str | Path,
    *,
    any_size: bool = False,
    tolerance: float = TOLERANCE,
) -> float:
    """Write an encoder as an ONNX file for batches of any number.

    It is the graph of `export_encoder`, translated by `torch.onnx`. onnxruntime computes from what was written, on the
    CPU, and the numbers are compared with those of the model before the file gets its name.

    The input has the name that the model and its processor use (`pixel_values`, `pixel_values_videos`, `input_values`,
    `input_ids`), the outputs are `last_hidden_state` and, where the encoder has one, `pooler_output`. The metadata has
    an entry `hf_jepa`, the JSON of `describe`. Weights of more than 1.5 GiB lie beside the file, in `<name>.data`.

    Args:
        variant: of the encoder.
        encoder: as `load_target_encoder` gives it, in float32 and on the CPU.
        path: of the new file.
        any_size: as in `export_encoder`.
        tolerance: as in `require_equal`.

    Returns:
        the largest difference from the model, as a share of the spread of the output.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        FileExistsError: there is such a file.
        ValueError: an encoder in other numbers or elsewhere; or a file of any size is asked for where there is none.
        ConversionError: onnxruntime computes something else than the model.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaModel
        >>> from hf_jepa.registry import VARIANTS
        >>> model = IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        ...                                patch_size=8, intermediate_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(VARIANTS["ijepa"], model, f"{folder}/model.onnx", any_size=True) < 1e-5
        True
    """
    path = Path(path)
    data = path.with_name(f"{path.name}.data")
    require_libraries()
    require_new_file(path)
    require_new_file(data)
    if encoder.dtype != torch.float32 or encoder.device.type != "cpu":
        raise ValueError(
            f"the encoder is in {encoder.dtype} on {encoder.device}: load it with dtype=torch.float32 on the CPU, "
            "where the file is compared with it"
        )
    program = export_encoder(variant, encoder, any_size=any_size)
    translated = _translate(program, encoder, variant)
    size = sum(tensor.nbytes for tensor in [*program.state_dict.values(), *program.constants.values()])
    with new_name(path) as temporary:
        translated.save(temporary, external_data=size > LARGEST_FILE)
        difference = require_equal(_runner(temporary), encoder, any_size, tolerance)
        if (written := temporary.with_name(data.name)).exists():  # which the file names; it may not come after it
            written.replace(data)
    return difference


def require_libraries() -> None:
    """What this needs is installed.

    Raises:
        ImportError: something is missing.
    """
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise ImportError(f'ONNX files need {", ".join(missing)}: run `pip install "hf_jepa[onnx]"`')


def _translate(program: ExportedProgram, encoder: PreTrainedModel, variant: Variant) -> "torch.onnx.ONNXProgram":
    described = describe(program, variant)
    _lay_out(program)
    with _quiet():
        translated = torch.onnx.export(
            program,
            input_names=[encoder.main_input_name],
            output_names=list(program.call_spec.out_spec.context),  # the keys of the dictionary
            dynamo=True,
            verbose=False,
        )
    model = translated.model
    for node in model.graph.all_nodes():  # where each comes from: a large part of the text of a file
        node.metadata_props.clear()
    (inputs,) = model.graph.inputs
    places = {len(inputs.shape) - 2: "rows", len(inputs.shape) - 1: "columns", 0: "batch"}
    symbols = {place: re.search(r"[a-z]\w*", str(length)) for place, length in enumerate(inputs.shape)}
    translated.rename_axes({symbol[0]: places[place] for place, symbol in symbols.items() if symbol})
    model.metadata_props[METADATA] = json.dumps(described)
    return translated


def _lay_out(program: ExportedProgram) -> None:
    """Copies before views of permuted tensors.

    A model makes these copies too, but where it was traced the kernel of attention had laid out its output so that
    there was nothing to copy. The matrix products that stand for attention in ONNX do not.
    """
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.view.default and node.args[0].target is torch.ops.aten.permute.default:
            (permuted, shape) = node.args
            with program.graph.inserting_before(node):
                copy = program.graph.call_function(torch.ops.aten.clone.default, (permuted,))
            copy.kwargs, copy.meta = {"memory_format": torch.contiguous_format}, dict(permuted.meta)
            node.args = (copy, shape)


def _runner(path: Path) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """What onnxruntime computes from a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def run(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = session.run(names, {taken.name: inputs.numpy()})
        return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """The translation tells of each of its steps, which say nothing to those who export."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["export_onnx", "require_libraries"]
