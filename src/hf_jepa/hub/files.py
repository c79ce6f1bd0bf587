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
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from hf_jepa.core.key_map import ConversionError, some


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
        if not any(word in str(error).lower() for word in ("global", "operand")):
            reason = "it is not a PyTorch checkpoint, or damaged"
        raise ConversionError(f"{path} is refused: {reason}") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
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

    An empty folder that exists stays itself, because it may be a mount point: the files are moved up into it.

    Raises:
        FileExistsError: `output` exists and is not an empty folder.
    """
    output = Path(output).resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output {output} exists and is not an empty folder: choose another or remove it")
    if output.exists():
        with _own_folder(output, output.name) as own:
            yield own
            for path in own.iterdir():
                path.rename(output / path.name)
        return
    with new_name(output) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def new_name(output: Path) -> Iterator[Path]:
    """A name on the same disk, nobody else's, that is renamed to `output` when all went well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with _own_folder(output.parent, output.name) as own:
        yield own / output.name
        (own / output.name).replace(output)


@contextmanager
def _own_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder that vanishes at the end."""
    own = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    try:
        yield own
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

    Raises:
        ConversionError: a tensor holds NaN or infinity.
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
        require_finite(tensors)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        del state, tensors
    if len(shards) > 1:
        index = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return names


def stored_tensors(folder: str | Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Key and tensor of all weights of a folder, as stored, one after the other.

    Raises:
        FileNotFoundError: no safetensors file.
        ConversionError: a file is damaged.
    """
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no model*.safetensors: it is not a checkpoint")
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    yield key, tensors.get_tensor(key)
        except SafetensorError as error:
            raise ConversionError(f"{file} cannot be read ({error}): is it complete?") from error


def load_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """All of `stored_tensors`."""
    return dict(stored_tensors(folder))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinity."""
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())  # 8-bit floats cannot say


def require_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors with NaN or infinity."""
    if broken := [key for key, value in state.items() if not is_finite(value)]:
        raise ConversionError(f"NaN or infinity in {len(broken)} tensors, the weights are damaged: {some(broken)}")


def read_json(path: Path, what: str) -> dict:
    """The object of a JSON file that should be `what`.

    Raises:
        ConversionError: it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path} is not {what}: {error}") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path} is not {what}: it holds a {type(value).__name__}")
    return value


def read_config(config_class: type[PreTrainedConfig], folder: Path) -> PreTrainedConfig:
    """The config of a folder.

    Raises:
        FileNotFoundError: there is none.
        ConversionError: it is not one of this class.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a checkpoint")
    fields = read_json(path, "a config")
    found = fields.get("model_type")
    if found != config_class.model_type and config_class.model_type not in fields:  # or it has a section of its own
        raise ConversionError(f"{path} is of a model of type {found!r}, expected {config_class.model_type!r}")
    try:
        config = config_class.from_dict(fields)
    except (StrictDataclassError, AttributeError, TypeError, ValueError) as error:
        raise ConversionError(f"{path} is no {config_class.__name__}: {error.__cause__ or error}") from error
    if not isinstance(config.architectures, list | None):
        raise ConversionError(f"{path}: architectures is {config.architectures!r}, expected a list")
    return config


__all__ = [
    "is_finite",
    "load_weights",
    "new_folder",
    "new_name",
    "read_config",
    "read_json",
    "read_torch_checkpoint",
    "require_finite",
    "save_weights",
    "stored_tensors",
]
