"""Reading checkpoints that may be broken or hostile, and writing folders that are either whole or absent."""

import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hf_jepa.core.key_map import ConversionError


SHARD_BYTES = 500 * 2**20


def read_torch_checkpoint(path: str | Path, verified: bool = False) -> dict:
    """Read a `.pth`, `.pt` or `.pth.tar` file without running code from it and without copying it into memory.

    Args:
        path: the file. Tensors stay mapped from it and are read when they are used.
        verified: skip the checksums of a file that was read before.

    Raises:
        FileNotFoundError: no such file.
        ConversionError: not a PyTorch checkpoint, truncated, or one that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist or is not a file")
    if not verified and zipfile.is_zipfile(path):
        _require_intact_archive(path)
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


def _require_intact_archive(path: Path) -> None:
    """Refuse what mapping would read as wrong numbers: PyTorch itself neither checks nor unpacks mapped entries."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            # The sums of stored entries are checked in small pieces; packed ones, perhaps a bomb, are not even opened.
            damaged = None if packed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ConversionError(f"{path} cannot be read as a PyTorch checkpoint ({error}): is it complete?") from error
    if packed:
        raise ConversionError(
            f"{path} is refused: {packed[0]} is compressed, which PyTorch never does; unzip and load it"
        )
    if damaged:
        raise ConversionError(f"{path} is damaged: the checksum of {damaged} is wrong; fetch the file again")


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` when all went well and vanishes when not.

    Raises:
        FileExistsError: `output` exists and is not an empty folder.
    """
    output = Path(output).resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output {output} exists and is not an empty folder: choose another or remove it")
    with new_name(output) as temporary:
        temporary.mkdir()
        yield temporary
        if output.exists():
            output.rmdir()


@contextmanager
def new_name(output: Path) -> Iterator[Path]:
    """A name on the same disk, nobody else's, that is renamed to `output` when all went well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield own / output.name
        (own / output.name).rename(output)
    finally:
        shutil.rmtree(own)


def save_weights(
    read: Callable[[], Mapping[str, torch.Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Write safetensors shards one after the other, so that only one is in memory.

    Args:
        read: gives the tensors. It is called again for every shard: pages of a mapped file that were once read stay
            in memory until the mapping is gone.
        folder: where the files go.
        shard_bytes: size of a shard; a larger tensor has a shard of its own.

    Returns:
        the names of the files, with an index beside them when there are several.
    """
    shards: list[list[str]] = [[]]
    room = shard_bytes
    state = read()
    size = sum(value.nbytes for value in state.values())
    for key, value in state.items():
        if value.nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= value.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    del state, value
    for name, keys in zip(names, shards, strict=True):
        state = read()
        # clone: parts of a fused tensor, and an encoder used twice, share memory, which the format refuses.
        # The format wants contiguous tensors; a convolution saved in channels-last order is not.
        tensors = {key: state[key].clone(memory_format=torch.contiguous_format) for key in keys}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        del state, tensors
    if len(shards) > 1:
        index = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return names


def load_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, as stored.

    Raises:
        FileNotFoundError: no safetensors file.
    """
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no model*.safetensors: it is not a checkpoint")
    return {key: value for file in files for key, value in load_file(file).items()}


__all__ = ["load_weights", "new_folder", "new_name", "read_torch_checkpoint", "save_weights"]
