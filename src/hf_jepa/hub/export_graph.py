"""Folders with the encoder of a checkpoint as a graph: an ONNX file, or a program of `torch.export`."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from hf_jepa.hub.export import CARRIED, carry, check_fingerprint, left_out, tell_in_card
from hf_jepa.hub.files import new_folder, read_config
from hf_jepa.hub.fingerprint import load_target_encoder
from hf_jepa.hub.inspect import variant_of_folder
from hf_jepa.hub.onnx_export import export_onnx, require_libraries
from hf_jepa.hub.torch_export import example_input, export_encoder, require_equal, save_program
from hf_jepa.registry import Variant


FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
LIBRARIES = {"onnx": "onnx", "torch": "pytorch"}  # as the Hub calls them

SECTIONS = {
    "onnx": """

## As a graph

This folder holds the encoder as `{file}`, for onnxruntime, without torch and without transformers:

```python
import onnxruntime

encoder = onnxruntime.InferenceSession("{repo}/{file}")
```

Its input is `{name}`, float numbers or tokens of the shape {shape}; its outputs are named as those of the model. The
code under Use is for the checkpoint that it was made from.
""",
    "torch": """

## As a graph

This folder holds the encoder as `{file}`, which torch alone loads:

```python
import torch

encoder = torch.export.load("{repo}/{file}").module()
```

It takes one tensor of the shape {shape} and gives a dictionary of the outputs of the model. The code under Use is for
the checkpoint that it was made from.
""",
}


def export_graph(source: str | Path, output: str | Path, kind: str = "onnx", *, any_size: bool = False) -> str:
    """Write the encoder of a checkpoint as a graph, with its processor, its card and its config.

    Args:
        source: folder of a variant with an encoder of its own.
        output: new or empty folder; nothing is left there when something fails.
        kind: "onnx" for `model.onnx`, or "torch" for `model.pt2`.
        any_size: of images and clips, height and width may be any that divide into patches.

    Returns:
        a report of what was written.

    Raises:
        ImportError: ONNX without the libraries that it needs.
        ValueError: another kind; LLM-JEPA, which has no encoder of its own; any size where there is none.
        FileNotFoundError: the source is not a checkpoint.
        FileExistsError: the output exists.
        ConversionError: the graph computes something else than the model, or the weights are damaged.

    Example:
        >>> import tempfile
        >>> from hf_jepa import VARIANTS, IJepaConfig, IJepaForPreTraining
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny)).save_pretrained(f"{folder}/ijepa")
        ...     _ = export_graph(f"{folder}/ijepa", f"{folder}/graph", "torch")
        ...     sorted(path.name for path in Path(f"{folder}/graph").iterdir())
        ['config.json', 'fingerprint.json', 'model.pt2']
    """
    source = Path(source)
    if kind not in FILES:
        raise ValueError(f"graph {kind!r} is not one of {', '.join(FILES)}")
    if kind == "onnx":
        require_libraries()  # before the weights are read
    variant = variant_of_folder(source)
    if variant.base_model is None:
        raise ValueError(
            f"a checkpoint of {variant.title} is a language model of stock transformers, which other tools export"
        )
    read_config(variant.config_class(), source)  # before the weights, and by name
    with new_folder(output) as folder:
        carried, left = carry(source, folder, (*CARRIED, "config.json"))
        encoder = load_target_encoder(variant, source)
        check_fingerprint(encoder, source, folder)
        difference = _write(kind, variant, encoder, folder / FILES[kind], any_size)
        files = sorted(path.name for path in folder.glob(f"{FILES[kind]}*"))
        shape = " x ".join(map(str, _shape(encoder, any_size)))
        names = {"file": FILES[kind], "repo": Path(output).resolve().name, "name": encoder.main_input_name}
        tell_in_card(folder, SECTIONS[kind].format(shape=shape, **names), [], LIBRARIES[kind])
    lines = [
        f"wrote the encoder of {source} to {output}: {', '.join(files)}, for inputs of {shape}",
        f"  differs from the model by at most {difference:.1e} of the spread of its output",
        *(f"  {name}" for name in carried),
    ]
    return "\n".join([*lines, *left_out([name for name in left if not name.startswith("model")])])


def _write(kind: str, variant: Variant, encoder: PreTrainedModel, path: Path, any_size: bool) -> float:
    if kind == "onnx":
        return export_onnx(variant, encoder, path, any_size=any_size)
    save_program(export_encoder(variant, encoder, any_size=any_size), path, variant)
    return require_equal(torch.export.load(path).module(), encoder, any_size)


def _shape(encoder: PreTrainedModel, any_size: bool) -> tuple[int | str, ...]:
    """The shape of the input, for people."""
    shape = ("batch", *example_input(encoder).shape[1:])
    return (*shape[:-2], "height", "width") if any_size else shape


__all__ = ["FILES", "export_graph"]
