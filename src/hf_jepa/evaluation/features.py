"""Pooled features of a frozen encoder: as tensors, or as a new column of a `datasets.Dataset`."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.videos import VideoCollator, VideoDataset


if TYPE_CHECKING:
    import datasets

LABEL_KEYS = ("labels", "label")


def _mean_and_std(tokens: torch.Tensor) -> torch.Tensor:
    std, mean = torch.std_mean(tokens, dim=1, correction=0)  # one token has std 0, not NaN
    return torch.cat([mean, std], dim=-1)


def _mean(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.mean(dim=1)


LAST_FOUR = (-4, -3, -2, -1)

# Each maps float32 tokens (B, N, D) of a layer to features (B, F); `last4_mean_concat` stands for the mean of four.
READOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": _mean,
    "last4_mean_concat": _mean,
    "mean_std": _mean_and_std,
    "max": lambda tokens: tokens.amax(dim=1),
}
POOLED = "pooled"  # what the model itself makes of its tokens


def default_readout(model: nn.Module) -> str:
    """The read-out of an encoder unless another is chosen: what it was trained by, where it says so.

    Example:
        >>> default_readout(nn.Identity())
        'mean'
    """
    return getattr(model, "default_readout", "mean")


def extract_features(
    model: nn.Module,
    data: Iterable[Mapping[str, Any]] | Dataset,
    readout: str | None = None,
    batch_size: int = 64,
    collate_fn: Callable | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    layers: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run a frozen encoder over data and pool its tokens into one feature vector per sample.

    I-JEPA (2301.08243, section 4 and appendix A) probes the target encoder, with the patch tokens of the last layer
    average-pooled ("mean") or those of the last four layers concatenated ("last4_mean_concat"). The paper does not say
    whether the final norm acts on the three earlier layers; here it does, so that all four are on one scale and the
    last D columns equal "mean".

    Tokens of clips are pooled over time and space alike. Where a sample has several clips or views of one video
    (`ClipSampling(num_clips=...)`), its feature is the mean over them. A predictor beside the encoder does not run.

    Args:
        model: an encoder whose output has `last_hidden_state` (B, N, D). It runs without gradients and in eval mode;
            afterwards every module is back in the mode it was in.
        data: batches, from a DataLoader or any iterable, that are mappings with the model's main input
            (`pixel_values`, or `pixel_values_videos` (B, T, C, H, W) or (B, clips * views, T, C, H, W)) and optionally
            `labels`; or a map-style torch Dataset of such samples, such as an `ImageDataset` or a `VideoDataset`.
            Empty batches are passed over.
        readout: "mean" (F = D), "last4_mean_concat" (4 D), "mean_std" (2 D: mean and standard deviation over tokens)
            or "max" (D); "pooled" is the `pooler_output` of the model. Unless given, that one for encoders that were
            trained by it (the multi-view variants), and the mean for all others.
        batch_size: of the loader made for a Dataset, in samples.
        collate_fn: of the loader made for a Dataset; unless given, that of an `ImageDataset` or `VideoDataset`, which
            leaves out what cannot be read (a warning names it), else torch's default.
        device: where to run; where the model is unless given. The model returns to its device afterwards.
        dtype: run under autocast in this precision, for example torch.bfloat16; pooling stays in float32.
        progress: show a progress bar.
        layers: which layers' tokens are read, counted from 0 or from the end by negative numbers, all behind the final
            norm; their features stand side by side in this order. The last one alone unless given.

    Returns:
        features (N, F) float32 and labels (N,), None if the batches carry none; both on the CPU, in the order of the
        data (do not shuffle if you need rows to match the data set).

    Raises:
        ValueError: unknown readout, no sample, a batch without the main input or with clips of several lengths, labels
            on some batches only, layers that do not exist, or a model without what the readout needs.

    Example:
        >>> import torch
        >>> from transformers import IJepaConfig, IJepaModel
        >>> encoder = IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        ...                                  intermediate_size=32, image_size=16, patch_size=8))
        >>> batches = [{"pixel_values": torch.randn(3, 3, 16, 16), "labels": torch.tensor([0, 1, 1])}]
        >>> features, labels = extract_features(encoder, batches, readout="last4_mean_concat", progress=False)
        >>> features.shape, labels.tolist()
        (torch.Size([3, 64]), [0, 1, 1])
        >>> from hf_jepa import VJepa2Config, VJepa2Model
        >>> model = VJepa2Model(VJepa2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, crop_size=32,
        ...     patch_size=8, frames_per_clip=4, pred_hidden_size=24, pred_num_attention_heads=2))
        >>> batches = [{"pixel_values_videos": torch.randn(3, 2, 4, 3, 32, 32)}]  # three videos, two clips of each
        >>> extract_features(model, batches, layers=[0, 1], progress=False)[0].shape
        torch.Size([3, 64])
    """
    readout = readout or default_readout(model)
    if readout != POOLED and readout not in READOUTS:
        raise ValueError(f"readout {readout!r} is not one of {', '.join(READOUTS)}, {POOLED}")
    if hasattr(model, "target_encoder"):
        raise ValueError(f"{type(model).__name__} has two encoders: pass one, usually `model.target_encoder`")
    if readout == "last4_mean_concat":
        if layers:
            raise ValueError(f"readout {readout!r} stands for layers {list(LAST_FOUR)}: give either it or layers")
        layers = LAST_FOUR
    loaded = isinstance(data, Dataset)
    batches = DataLoader(data, batch_size, collate_fn=collate_fn or _collator(data)) if loaded else data
    name = getattr(model, "main_input_name", "pixel_values")
    features, labels = [], []
    with _frozen(model, device) as device:
        for batch in tqdm(batches, desc="features", unit="batch", disable=not progress):
            if name not in batch:
                raise ValueError(f"a batch has no {name!r}, which {type(model).__name__} reads, only {sorted(batch)}")
            for file in batch.get("skipped", ()) if loaded else ():  # who collates can see for himself
                warnings.warn(f"left out, because it cannot be read: {file}", stacklevel=2)
            if isinstance(batch[name], (list, tuple)):
                lengths = [clips.shape[-4] for clips in batch[name]]
                raise ValueError(f"a batch holds clips of {lengths} frames: give data whose clips have one length")
            if len(batch[name]) == 0:
                continue
            features.append(_pool_batch(model, batch[name].to(device), name, readout, layers, dtype))
            labels += [torch.as_tensor(batch[key]).cpu() for key in LABEL_KEYS if batch.get(key) is not None][:1]
    if not features:
        raise ValueError("the data holds no sample: nothing to extract features from")
    if labels and len(labels) != len(features):
        raise ValueError(f"{len(labels)} of {len(features)} batches carry labels: give them to all or to none")
    return torch.cat(features), torch.cat(labels) if labels else None


@contextmanager
def _frozen(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Eval mode on `device`; afterwards every module is in its former mode and the model on its former device."""
    modes = [(module, module.training) for module in model.modules()]
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    device = home if device is None else torch.device(device)
    try:
        model.eval()
        if device != home:
            model.to(device)
        yield device
    finally:
        for module, training in modes:  # one by one: a frozen target encoder may sit in a model that trains
            module.training = training
        if device != home:
            model.to(home)


def _collator(data: Dataset) -> Callable | None:
    """The collator that leaves out what cannot be read, where there is one for the data."""
    known = {ImageDataset: ImageCollator, VideoDataset: VideoCollator}
    return next((collator() for kind, collator in known.items() if isinstance(data, kind)), None)


@torch.no_grad()
def _pool_batch(
    model: nn.Module,
    inputs: torch.Tensor,
    name: str,
    readout: str,
    layers: Sequence[int],
    dtype: torch.dtype | None,
) -> torch.Tensor:
    """(B, F) float32 on the CPU."""
    if dtype is None and inputs.is_floating_point():  # a bf16 model takes bf16 images
        inputs = inputs.to(next((p.dtype for p in model.parameters()), inputs.dtype))
    clips = inputs.shape[:2] if inputs.ndim == 6 else None  # (videos, clips of each)
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype is not None):
        inputs = inputs if clips is None else inputs.flatten(0, 1)
        if readout == POOLED:
            features = _pooled(model, inputs, name, layers)
        else:
            tokens = _tokens(model, inputs, name, layers)
            features = torch.cat([READOUTS[readout](level.float()) for level in tokens], dim=-1).float()
    return (features if clips is None else features.unflatten(0, clips).mean(dim=1)).cpu()


def _pooled(model: nn.Module, inputs: torch.Tensor, name: str, layers: Sequence[int]) -> torch.Tensor:
    """What the model pools by itself, float32 (B, F)."""
    found = None if layers else getattr(model(**{name: inputs}), "pooler_output", None)
    if found is None:
        what = f"layers {list(layers)}" if layers else "no pooler_output"
        raise ValueError(f"readout {POOLED!r}: {type(model).__name__} gives {what}; take 'mean'")
    return found.flatten(1).float()


def _tokens(model: nn.Module, inputs: torch.Tensor, name: str, layers: Sequence[int]) -> list[torch.Tensor]:
    """Tokens (B, N, D) of each layer asked for, or of the last one, behind the final norm."""
    if name == "pixel_values_videos" and hasattr(model, "get_video_features"):
        found = model.get_video_features(inputs, layers=layers)
        return [grid.flatten(1, 3) for grid in (found.layers if layers else [found.grid])]
    options = {"output_hidden_states": True} if layers else {}
    if "skip_predictor" in inspect.signature(model.forward).parameters:  # native V-JEPA 2 predicts unless told not to
        options["skip_predictor"] = True
    output = model(**{name: inputs}, **options)
    if getattr(output, "last_hidden_state", None) is None:
        raise ValueError(
            f"{type(model).__name__} returns no last_hidden_state: pass the encoder, for example "
            "`model.target_encoder` of a pretraining model"
        )
    if layers:
        return _normed_levels(model, output, layers)
    last = output.last_hidden_state
    if last.ndim == 4:  # of a convolutional network, (B, D, H, W)
        return [last.flatten(2).mT]
    return [last[:, getattr(model, "num_prefix_tokens", 0) :]]  # a CLS token is no token of the image


def _normed_levels(model: nn.Module, output: Any, layers: Sequence[int]) -> list[torch.Tensor]:
    """The outputs of layers, each through the final norm as the last one is."""
    from hf_jepa.core.clips import layer_indices

    depth = len(output.hidden_states) - 1  # the embeddings and one entry per layer
    if tuple(layers) == LAST_FOUR and depth < len(LAST_FOUR):
        raise ValueError(f"readout 'last4_mean_concat' needs at least 4 layers, the model has {depth}")
    chosen = layer_indices(layers, depth)
    norm = getattr(model, "layernorm", None)
    if norm is None:
        raise ValueError(
            f"earlier layers need the final norm, but {type(model).__name__} has no `layernorm`: pass the bare "
            "encoder, not a model with a head"
        )
    # The last level is taken from last_hidden_state: hidden_states[-1] is before the final norm in ViT-like models
    # (tie_last_hidden_states=False) but after it in others.
    last = output.last_hidden_state
    return [last if index == depth - 1 else norm(output.hidden_states[index + 1]) for index in chosen]


def add_features_column(
    dataset: "datasets.Dataset",
    model: nn.Module,
    processor: Callable,
    column: str = "features",
    batch_size: int = 64,
    image_column: str = "image",
    readout: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> "datasets.Dataset":
    """Add the features of every image to a data set, ready for `dataset.add_faiss_index`, `push_to_hub` or a probe.

    Args:
        dataset: with a column of images; its other columns and its format are kept.
        model: see `extract_features`.
        processor: an image processor, called as `processor(images=[...], return_tensors="pt")` on RGB images.
        column: name of the new column, a list of F float32 per row.
        batch_size: images per step.
        image_column: where the images are.
        readout, device, dtype, progress: see `extract_features`.

    Returns:
        a new data set with one column more.

    Raises:
        TypeError: a streaming data set, which cannot take a column of tensors.
        ValueError: `image_column` does not exist or `column` already does, no row.

    Example:
        >>> import datasets, numpy as np
        >>> from transformers import IJepaConfig, IJepaModel, ViTImageProcessorPil
        >>> encoder = IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...                                  intermediate_size=32, image_size=16, patch_size=8))
        >>> images = datasets.Dataset.from_dict({"image": [np.zeros((20, 20, 3), np.uint8)] * 3},
        ...                                     features=datasets.Features({"image": datasets.Image()}))
        >>> processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
        >>> with_features = add_features_column(images, encoder, processor, progress=False)
        >>> with_features.column_names, len(with_features[0]["features"])
        (['image', 'features'], 16)
    """
    import datasets

    from hf_jepa.data.decoding import to_rgb

    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"expected a datasets.Dataset, got {type(dataset).__name__}: load it with streaming=False")
    if image_column not in dataset.column_names:
        raise ValueError(f"no column {image_column!r} among {dataset.column_names}: name it by image_column")
    if column in dataset.column_names:
        raise ValueError(f"the data set already has a column {column!r}: choose another name or remove it first")
    if len(dataset) == 0:
        raise ValueError("the data set has no row")
    plain = dataset.with_format(None)  # images as PIL; a shuffled data set in numpy format cannot take a column
    images = plain.select_columns(image_column)

    def batches() -> Iterator[Mapping[str, torch.Tensor]]:
        with tqdm(total=len(dataset), desc="features", unit="image", disable=not progress) as bar:
            for batch in images.iter(batch_size):
                rgb = [to_rgb(image) for image in batch[image_column]]
                yield processor(images=rgb, return_tensors="pt")
                bar.update(len(rgb))

    features, _ = extract_features(model, batches(), readout, device=device, dtype=dtype, progress=False)
    feature_type = datasets.List(datasets.Value("float32"), length=features.shape[1])
    result = plain.add_column(column, list(features.numpy()), feature=feature_type)
    shown = dataset.format  # restored; a choice of columns is joined by the new one
    columns = None if set(shown["columns"]) == set(dataset.column_names) else [*shown["columns"], column]
    return result.with_format(shown["type"], columns, shown["output_all_columns"], **shown["format_kwargs"])


__all__ = ["POOLED", "READOUTS", "add_features_column", "default_readout", "extract_features"]
