"""Vision tokens of a data set on disk: a frozen encoder, which costs most of a step, reads every clip once.

`<folder>/` holds

    settings.json              what the tokens depend on: encoder, data, type, how many samples
    tokens-00000.safetensors   those of 64 samples, (N, D) each by its index; what could not be read is in the header

Files are written under another name and renamed, so that a folder that a run left behind is continued by the next.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainingArguments

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.shared_epoch import EpochDataset
from hf_jepa.data.videos import UndecodableVideo
from hf_jepa.hub.files import new_name, read_json


SETTINGS = "settings.json"
SHARD = 64  # samples of a file
PROBES = 8  # samples whose pixels stand for the data
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class VisionTokenCache:
    """The tokens of all samples of a folder, read one by one.

    Args:
        folder: written by `cache_vision_tokens`.

    Raises:
        FileNotFoundError: it is no such folder, or a file of it is missing.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} has no {SETTINGS}: it holds no vision tokens")
        self.settings = read_json(self.folder / SETTINGS, "the settings of vision tokens")
        if missing := self.missing():
            raise FileNotFoundError(f"{folder} lacks {len(missing)} of its files, such as {missing[0].name}")

    def __len__(self) -> int:
        return self.settings["samples"]

    def missing(self) -> list[Path]:
        """Files that are not there yet."""
        files = (_shard(self.folder, first) for first in range(0, len(self), SHARD))
        return [file for file in files if not file.is_file()]

    def __getitem__(self, index: int) -> torch.Tensor | str:
        """(N, D) of a sample; why there are none, where it could not be read."""
        with safe_open(_shard(self.folder, index), framework="pt") as file:
            skipped = json.loads(file.metadata()["skipped"])
            return skipped[str(index)] if str(index) in skipped else file.get_tensor(str(index))


def cache_vision_tokens(
    folder: str | Path,
    samples: int,
    encode: Callable[[Sequence[int]], Sequence[torch.Tensor | str]],
    encoder: str,
    data: str,
    dtype: str = "float32",
    progress: bool = True,
) -> VisionTokenCache:
    """Open the tokens in a folder; what is missing of them is computed, each process its share.

    Args:
        folder: that all processes see.
        samples: of the data set.
        encode: called with the indices of a file's samples, gives of each its tokens (N, D), or why it has none.
        encoder, data: fingerprints of what the tokens depend on.
        dtype: in which they are kept: "float32", "bfloat16" or "float16".
        progress: show a bar, in the first process.

    Raises:
        ValueError: the folder holds tokens of another encoder, of other data, or in another type; an unknown type.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp() + "/tokens"
        >>> encode = lambda indices: [torch.full((2, 3), float(index)) for index in indices]
        >>> cache = cache_vision_tokens(folder, 100, encode, "an encoder", "some clips", progress=False)
        >>> cache[99].tolist()
        [[99.0, 99.0, 99.0], [99.0, 99.0, 99.0]]
    """
    if dtype not in DTYPES:
        raise ValueError(f"vision tokens are kept as one of {', '.join(DTYPES)}, not as {dtype!r}")
    folder, state = Path(folder), PartialState()
    settings = {"samples": samples, "encoder": encoder, "data": data, "dtype": dtype}
    if state.is_main_process and not (folder / SETTINGS).is_file():
        with new_name(folder / SETTINGS) as path:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    state.wait_for_everyone()
    found = read_json(folder / SETTINGS, "the settings of vision tokens")
    if differ := [name for name in settings if found.get(name) != settings[name]]:
        shown = ", ".join(f"{name} {found.get(name)}, now {settings[name]}" for name in differ)
        raise ValueError(f"{folder} holds vision tokens that do not fit this run ({shown}): take another folder")
    own = range(state.process_index * SHARD, samples, state.num_processes * SHARD)
    todo = [first for first in own if not _shard(folder, first).is_file()]
    for first in tqdm(todo, desc="vision tokens", unit="file", disable=not (progress and state.is_main_process)):
        _write(_shard(folder, first), range(first, min(first + SHARD, samples)), encode, DTYPES[dtype])
    state.wait_for_everyone()
    return VisionTokenCache(folder)


def _write(file: Path, indices: Sequence[int], encode: Callable, dtype: torch.dtype) -> None:
    found = dict(zip(map(str, indices), encode(indices), strict=True))
    skipped = {index: reason for index, reason in found.items() if isinstance(reason, str)}
    tensors = {index: x.to("cpu", dtype).contiguous() for index, x in found.items() if index not in skipped}
    with new_name(file) as path:
        save_file(tensors, path, metadata={"skipped": json.dumps(skipped)})


def _shard(folder: Path, index: int) -> Path:
    return folder / f"tokens-{index // SHARD:05d}.safetensors"


def encoder_fingerprint(encoder: nn.Module) -> str:
    """A hash of all weights and buffers of an encoder.

    Example:
        >>> torch.nn.init.zeros_((layer := nn.Linear(2, 2)).weight)[0, 0].item()
        0.0
        >>> before = encoder_fingerprint(layer)
        >>> _ = nn.init.constant_(layer.weight[1], 1e-6)
        >>> encoder_fingerprint(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def data_fingerprint(samples: int, pixels: Callable[[int], torch.Tensor | str]) -> str:
    """A hash of how many samples there are, and of the pixels of some of them.

    So other frames, another size, another normalisation or another order are noticed; a file of other contents only
    among the samples that are looked at.

    Args:
        samples: of the data set.
        pixels: called with an index, gives what the encoder would see, or why it cannot be read.

    Example:
        >>> data_fingerprint(3, lambda index: torch.zeros(2)) == data_fingerprint(4, lambda index: torch.zeros(2))
        False
    """
    digest = hashlib.sha256(f"{samples}".encode())
    for index in np.linspace(0, samples - 1, num=min(PROBES, samples)).astype(int).tolist():
        seen = pixels(index)
        if isinstance(seen, torch.Tensor):
            seen = seen.contiguous()
            digest.update(f"{index} {tuple(seen.shape)}".encode())
            digest.update(seen.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def cache_data_set(
    folder: str | Path, samples: Any, collate: Callable, model: nn.Module, training: TrainingArguments, dtype: str
) -> VisionTokenCache:
    """The vision tokens of a data set in its first epoch, by a model's frozen vision encoder, as it runs in training.

    Args:
        folder, dtype: see `cache_vision_tokens`.
        samples: map-style; a sample that cannot be read is an `UndecodableImage`.
        collate: makes `pixel_values_videos` of samples.
        model: a `VLJepaForPreTraining`.
        training: device, precision and batch size.
    """
    device, kind = training.device, "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32"
    base = model.base_model.to(device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    precision = torch.autocast(device.type, types.get(kind), enabled=kind in types)

    def pixels(index: int) -> torch.Tensor | str:
        sample = samples[index]
        return str(sample) if isinstance(sample, UndecodableImage) else collate([sample])["pixel_values_videos"][0]

    def encode(indices: Sequence[int]) -> list[torch.Tensor | str]:
        seen = {index: pixels(index) for index in indices}
        groups: dict[tuple, list[int]] = {}  # of one number of frames
        for index, value in seen.items():
            if isinstance(value, torch.Tensor):
                groups.setdefault(tuple(value.shape), []).append(index)
        for group in groups.values():
            for first in range(0, len(group), training.per_device_train_batch_size):
                part = group[first : first + training.per_device_train_batch_size]
                with torch.no_grad(), precision:
                    tokens = base.get_vision_tokens(torch.stack([seen[index] for index in part]).to(device))
                seen |= zip(part, tokens.cpu().unbind(), strict=True)
        return list(seen.values())

    encoder = f"{encoder_fingerprint(base.vision_model)} {kind}"
    data = data_fingerprint(len(samples), pixels)
    progress = not training.disable_tqdm
    return cache_vision_tokens(folder, len(samples), encode, encoder, data, dtype, progress)


class CachedVision(EpochDataset):
    """Samples with the vision tokens of a cache in place of their videos, those of the first epoch in every epoch.

    Args:
        texts: the same samples, whose videos need not be read.
        cache: of as many.

    Raises:
        ValueError: another number of samples.
    """

    def __init__(self, texts: Any, cache: VisionTokenCache):
        if len(texts) != len(cache):
            raise ValueError(f"{len(texts)} samples, but vision tokens of {len(cache)}")
        super().__init__(texts.seed)  # of the order alone
        self.texts, self.cache = texts, cache

    @property
    def frame_counts(self) -> np.ndarray:
        """int64 (N,), frames of every sample."""
        return np.broadcast_to(self.texts.frame_counts, len(self))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any] | UndecodableImage:
        sample, tokens = self.texts[index], self.cache[index]
        if isinstance(sample, UndecodableImage):
            return sample
        if isinstance(tokens, str):
            source, _, reason = tokens.partition(": ")
            return UndecodableVideo(index, source, reason, (int(self.frame_counts[index]),))
        return {name: value for name, value in sample.items() if name != "video"} | {"vision_tokens": tokens.float()}


__all__ = [
    "DTYPES",
    "CachedVision",
    "VisionTokenCache",
    "cache_data_set",
    "cache_vision_tokens",
    "data_fingerprint",
    "encoder_fingerprint",
]
