"""Reading checkpoints that may be broken or hostile, and writing folders that are either whole or absent."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_jepa.core.key_map import ConversionError


SHARD_BYTES = 500 * 2**20


def read_torch_checkpoint(path: str | Path) -> dict:
    """Read a `.pth`, `.pt` or `.pth.tar` file without running code from it and without copying it into memory.

    Args:
        path: the file. Tensors stay mapped from it and are read when they are used.

    Raises:
        FileNotFoundError: no such file.
        ConversionError: not a PyTorch checkpoint, truncated, or one that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist or is not a file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = "it holds objects other than tensors and plain values, which loading would have to execute"
        if "global" not in str(error):
            reason = "it is not a PyTorch checkpoint, or damaged"
        raise ConversionError(f"{path} is refused: {reason}") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, IndexError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"{path} cannot be read as a PyTorch checkpoint ({first_line}): is it complete?"
        ) from error


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` when all went well and vanishes when not.

    Raises:
        FileExistsError: `output` exists and is not an empty folder.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output {output} exists and is not an empty folder: choose another or remove it")
    temporary = output.with_name(f"{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_weights(state: Mapping[str, torch.Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Write safetensors shards one after the other, so that only one is in memory beside the source.

    Returns:
        the names of the files, with an index beside them when there are several.
    """
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for key, value in state.items():
        if value.nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= value.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, keys in zip(names, shards, strict=True):
        # clone: parts of a fused tensor, and an encoder used twice, share memory, which the format refuses.
        save_file({key: state[key].clone() for key in keys}, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        size = sum(value.nbytes for value in state.values())
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return names


__all__ = ["new_folder", "read_torch_checkpoint", "save_weights"]
