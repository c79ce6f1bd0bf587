"""Pooled features of a frozen encoder: as tensors, or as a new column of a `datasets.Dataset`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm


if TYPE_CHECKING:
    import datasets

LABEL_KEYS = ("labels", "label")


def _last_four(output: Any, model: nn.Module) -> torch.Tensor:
    """Mean-pooled outputs of the last four layers, each through the final norm as the last one is: (B, 4 * D)."""
    states = output.hidden_states
    if len(states) < 5:  # the embeddings and one entry per layer
        raise ValueError(f"readout 'last4_mean_concat' needs at least 4 layers, the model has {len(states) - 1}")
    norm = getattr(model, "layernorm", None)
    if norm is None:
        raise ValueError(
            f"readout 'last4_mean_concat' needs the final norm, but {type(model).__name__} has no `layernorm`: "
            "pass the bare encoder, not a model with a head"
        )
    # The last level is taken from last_hidden_state: hidden_states[-1] is before the final norm in ViT-like models
    # (tie_last_hidden_states=False) but after it in others.
    levels = [norm(state) for state in states[-4:-1]] + [output.last_hidden_state]
    return torch.cat([level.float().mean(dim=1) for level in levels], dim=-1)


def _mean_and_std(output: Any, model: nn.Module) -> torch.Tensor:
    std, mean = torch.std_mean(output.last_hidden_state.float(), dim=1, correction=0)  # one token has std 0, not NaN
    return torch.cat([mean, std], dim=-1)


# Each maps an encoder output of tokens (B, N, D) to features (B, F) in float32.
READOUTS: dict[str, Callable[[Any, nn.Module], torch.Tensor]] = {
    "mean": lambda output, model: output.last_hidden_state.float().mean(dim=1),
    "last4_mean_concat": _last_four,
    "mean_std": _mean_and_std,
    "max": lambda output, model: output.last_hidden_state.float().amax(dim=1),
}


def extract_features(
    model: nn.Module,
    data: Iterable[Mapping[str, Any]] | Dataset,
    readout: str = "mean",
    batch_size: int = 64,
    collate_fn: Callable | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run a frozen encoder over data and pool its tokens into one feature vector per sample.

    I-JEPA (2301.08243, section 4 and appendix A) probes the target encoder, with the patch tokens of the last layer
    average-pooled ("mean") or those of the last four layers concatenated ("last4_mean_concat"). The paper does not say
    whether the final norm acts on the three earlier layers; here it does, so that all four are on one scale and the
    last D columns equal "mean".

    Args:
        model: an encoder whose output has `last_hidden_state` (B, N, D). It runs without gradients and in eval mode;
            afterwards every module is back in the mode it was in.
        data: batches, from a DataLoader or any iterable, that are mappings with the model's main input (such as
            `pixel_values`) and optionally `labels`; or a map-style torch Dataset of such samples. Empty batches are
            passed over.
        readout: "mean" (F = D), "last4_mean_concat" (4 D), "mean_std" (2 D: mean and standard deviation over tokens)
            or "max" (D).
        batch_size: of the loader made for a Dataset.
        collate_fn: of the loader made for a Dataset; torch's default unless given.
        device: where to run; where the model is unless given. The model returns to its device afterwards.
        dtype: run under autocast in this precision, for example torch.bfloat16; pooling stays in float32.
        progress: show a progress bar.

    Returns:
        features (N, F) float32 and labels (N,), None if the batches carry none; both on the CPU, in the order of the
        data (do not shuffle if you need rows to match the data set).

    Raises:
        ValueError: unknown readout, no sample, a batch without the main input, labels on some batches only, or a model
            without what the readout needs.

    Example:
        >>> import torch
        >>> from transformers import IJepaConfig, IJepaModel
        >>> encoder = IJepaModel(IJepaConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        ...                                  intermediate_size=32, image_size=16, patch_size=8))
        >>> batches = [{"pixel_values": torch.randn(3, 3, 16, 16), "labels": torch.tensor([0, 1, 1])}]
        >>> features, labels = extract_features(encoder, batches, readout="last4_mean_concat", progress=False)
        >>> features.shape, labels.tolist()
        (torch.Size([3, 64]), [0, 1, 1])
    """
    if readout not in READOUTS:
        raise ValueError(f"readout {readout!r} is not one of {', '.join(READOUTS)}")
    if hasattr(model, "target_encoder"):
        raise ValueError(f"{type(model).__name__} has two encoders: pass one, usually `model.target_encoder`")
    batches = DataLoader(data, batch_size, collate_fn=collate_fn) if isinstance(data, Dataset) else data
    name = getattr(model, "main_input_name", "pixel_values")
    features, labels = [], []
    with _frozen(model, device) as device:
        for batch in tqdm(batches, desc="features", unit="batch", disable=not progress):
            if name not in batch:
                raise ValueError(f"a batch has no {name!r}, which {type(model).__name__} reads, only {sorted(batch)}")
            if len(batch[name]) == 0:
                continue
            features.append(_pool_batch(model, batch[name].to(device), name, readout, dtype))
            labels += [torch.as_tensor(batch[key]).cpu() for key in LABEL_KEYS if batch.get(key) is not None][:1]
    if not features:
        raise ValueError("the data holds no sample: nothing to extract features from")
    if labels and len(labels) != len(features):
        raise ValueError(f"{len(labels)} of {len(features)} batches carry labels: give them to all or to none")
    # Concatenated outside inference mode: the results are ordinary tensors on which a head can be trained.
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


@torch.inference_mode()
def _pool_batch(
    model: nn.Module, inputs: torch.Tensor, name: str, readout: str, dtype: torch.dtype | None
) -> torch.Tensor:
    """(B, F) float32 on the CPU."""
    options = {"output_hidden_states": True} if readout == "last4_mean_concat" else {}
    if dtype is None and inputs.is_floating_point():  # a bf16 model takes bf16 images
        inputs = inputs.to(next((p.dtype for p in model.parameters()), inputs.dtype))
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype is not None):
        output = model(**{name: inputs}, **options)
        if getattr(output, "last_hidden_state", None) is None:
            raise ValueError(
                f"{type(model).__name__} returns no last_hidden_state: pass the encoder, for example "
                "`model.target_encoder` of a pretraining model"
            )
        return READOUTS[readout](output, model).float().cpu()


def add_features_column(
    dataset: "datasets.Dataset",
    model: nn.Module,
    processor: Callable,
    column: str = "features",
    batch_size: int = 64,
    image_column: str = "image",
    readout: str = "mean",
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


__all__ = ["READOUTS", "add_features_column", "extract_features"]
