"""What `embed` and `probe` share: a checkpoint's encoder and processor, and the features of a data set of images."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import AutoConfig, PreTrainedModel

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.evaluation.features import extract_features
from hf_jepa.hub.processors import ProcessorTransform
from hf_jepa.layers.onednn import use_onednn
from hf_jepa.registry import find_variant


if TYPE_CHECKING:
    import datasets


class Features(NamedTuple):
    """Features of the readable images of a data set.

    Args:
        features: (N, F) float32
        labels: (N,), -1 for a row without label; None where the data set has none.
        sample_index: (N,) row of each in the data set.
        skipped: "path: reason" of every image that could not be read.
    """

    features: torch.Tensor
    labels: torch.Tensor | None
    sample_index: torch.Tensor
    skipped: list[str]


def load_encoder(checkpoint: str, onednn: bool = False) -> PreTrainedModel:
    """The encoder of a folder or Hub id; of a pretraining checkpoint the target encoder.

    Args:
        checkpoint: folder or Hub id.
        onednn: see `use_onednn`.

    Raises:
        OSError: no such checkpoint.
        ValueError: a model of no variant of this package, or not all weights of the encoder are there.
    """
    if (Path(checkpoint) / "adapter_config.json").is_file() and not (Path(checkpoint) / "config.json").is_file():
        raise ValueError(f"{checkpoint} holds adapters only: use the folder of the run, where they are merged")
    variant = find_variant(AutoConfig.from_pretrained(checkpoint).model_type, checkpoint)
    model, report = variant.model_class(variant.base_model).from_pretrained(checkpoint, output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"{checkpoint} lacks {len(missing)} weights of the encoder, among them {missing[0]}")
    return (use_onednn(model) if onednn else model).eval()


def embed_images(
    model: PreTrainedModel, processor: Callable, dataset: "datasets.Dataset", readout: str, batch_size: int
) -> Features:
    """Pooled features of every readable image; what cannot be read is named on stderr.

    Args:
        model: from `load_encoder`.
        processor: from `load_processor`.
        dataset: from `load_images`.
        readout: see `extract_features`.
        batch_size: images per step.

    Raises:
        ValueError: no image can be read.
    """
    skipped, sample_index = [], []
    images = ImageDataset(dataset.select_columns("image"), ProcessorTransform(processor))

    def batches():
        for batch in DataLoader(images, batch_size, collate_fn=ImageCollator()):
            for line in batch["skipped"]:
                print(f"skipped {line}", file=sys.stderr)
            skipped.extend(batch["skipped"])
            if len(skipped) == len(images):
                raise ValueError(f"none of the {len(images)} images can be read")
            sample_index.append(batch["sample_index"])
            yield batch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, _ = extract_features(model, batches(), readout, device=device, progress=False)
    rows = torch.cat(sample_index)
    if "label" not in dataset.features:
        return Features(features, None, rows, skipped)
    labels = torch.tensor([-1 if label is None else int(label) for label in dataset["label"]])
    return Features(features, labels[rows], rows, skipped)


def model_line(model: PreTrainedModel, checkpoint: str) -> str:
    """One line that says which model is at work."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return f"{checkpoint}: {type(model).__name__}, {size:,} parameters, image size {model.config.image_size}"


__all__ = ["Features", "embed_images", "load_encoder", "model_line"]
