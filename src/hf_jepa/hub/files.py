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

from hf_jepa.core.conversion import is_counter
from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.hub.limits import (
    MAX_JSON_BYTES,
    require_bounded,
    require_header,
    require_intact_archive,
    require_plain_name,
    require_plain_pickles,
    require_plausible_fields,
    require_plausible_size,
    require_real_tensors,
)
from hf_jepa.hub.pickles import FOREIGN
from hf_jepa.registry import find_variant


SHARD_BYTES = 500 * 2**20
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_torch_checkpoint(path: str | Path, verified: bool = False) -> dict:
    """Read a `.pth`, `.pt` or `.pth.tar` file without running code from it and without copying it into memory.

    Args:
        path: the file. Tensors stay mapped from it and are read when they are used.
        verified: skip the checksums of a file that was read before.

    Raises:
        FileNotFoundError: no such file.
        ConversionError: not a PyTorch checkpoint, truncated, one that wants to run code, or one that claims more than
            it has (`hub/limits.py`).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist or is not a file")
    archive = zipfile.is_zipfile(path)
    if not verified:
        (require_intact_archive if archive else require_plain_pickles)(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        reason = FOREIGN
        if not any(word in str(error).lower() for word in ("global", "operand")):
            reason = "it is not a PyTorch checkpoint, or damaged"
        raise ConversionError(f"{path} is refused: {reason}") from error
    except (
        RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError,
        MemoryError, OverflowError,
    ) as error:  # fmt: skip
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"{path} cannot be read as a PyTorch checkpoint ({first_line}): is it complete?"
        ) from error
    require_bounded(value, str(path))
    require_real_tensors(value, path.stat().st_size, str(path))
    return value


def require_new_folder(output: str | Path) -> None:
    """Refuse an output that is there and is not an empty folder.

    Raises:
        FileExistsError: it is.
    """
    output = Path(output).resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output {output} exists and is not an empty folder: choose another or remove it")


def require_new_file(output: str | Path) -> None:
    """Refuse an output that is there.

    Raises:
        FileExistsError: it is.
    """
    if Path(output).exists():
        raise FileExistsError(f"output {output} exists: choose another name or remove it")


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` when all went well and vanishes when not.

    An empty folder that exists stays itself, because it may be a mount point: the files are moved up into it.

    Raises:
        FileExistsError: `output` exists and is not an empty folder.
    """
    require_new_folder(output)
    output = Path(output).resolve()
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
    names = [WEIGHTS]
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
        (folder / INDEX).write_text(text, encoding="utf-8")
    return names


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a folder, as transformers finds them: the one, or those that the index names.

    Raises:
        FileNotFoundError: no weights, or a shard is missing.
        ConversionError: the index is none, or names files outside the folder.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        if shards := sorted(folder.glob("model*.safetensors")):
            raise FileNotFoundError(f"{folder} has {shards[0].name}, but no {INDEX} that says which file holds what")
        raise FileNotFoundError(f"{folder} has no model*.safetensors: it is not a checkpoint")
    names = read_index(folder).values()
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {missing[0]}, which {INDEX} names: is it complete?")
    return [folder / name for name in sorted(set(names))]


def read_index(folder: Path) -> dict[str, str]:
    """Key -> name of its file, from the index of a folder.

    Raises:
        ConversionError: it is no index, or names files outside the folder.
    """
    what = "an index of safetensors files"
    index = read_json(folder / INDEX, what)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not isinstance(index.get("metadata"), dict):
        raise ConversionError(f"{folder / INDEX} is not {what}: it has no weight_map, or no metadata")
    for name in places.values():
        if not require_plain_name(name, str(folder / INDEX)).endswith(".safetensors"):
            raise ConversionError(f"{folder / INDEX} is refused: {name!r:.120} is no safetensors file")
    return places


@contextmanager
def open_weights(file: Path) -> Iterator[safe_open]:
    """A safetensors file, its header checked.

    Raises:
        ConversionError: it is damaged.
    """
    require_header(file)
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ConversionError(f"{file} cannot be read ({error}): is it complete?") from error


def stored_tensors(folder: str | Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Key and tensor of all weights of a folder, as stored, one after the other.

    Raises:
        FileNotFoundError: no safetensors file.
        ConversionError: a file is damaged, or not what the index says.
    """
    for file in _agreeing_files(folder):
        with open_weights(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118
                yield key, tensors.get_tensor(key)


def stored_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Key -> shape of all weights of a folder; their numbers are not read.

    Raises:
        FileNotFoundError: no safetensors file.
        ConversionError: a file is damaged, or not what the index says.
    """
    shapes = {}
    for file in _agreeing_files(folder):
        with open_weights(file) as tensors:
            shapes |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    return shapes


def _agreeing_files(folder: str | Path) -> list[Path]:
    """The files of a folder, each of which holds the keys that the index says, and no others."""
    files = weight_files(folder)
    if len(files) == 1 and files[0].name == WEIGHTS:
        return files
    places = read_index(Path(folder))
    for file in files:
        with open_weights(file) as tensors:
            said = {key for key, name in places.items() if name == file.name}
            if wrong := sorted(said.symmetric_difference(tensors.keys())):
                raise ConversionError(f"{file} does not hold what {INDEX} says: {some(wrong)}")
    return files


def load_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """All of `stored_tensors`."""
    return dict(stored_tensors(folder))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinity."""
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())  # 8-bit floats cannot say


def require_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors with NaN or infinity, and those that are no weights: integers, whose bits say something else."""
    if wrong := [key for key, value in state.items() if not (value.is_floating_point() or is_counter(key, value))]:
        kinds = ", ".join(sorted({str(state[key].dtype) for key in wrong}))
        raise ConversionError(f"{len(wrong)} tensors are not of floating-point numbers but {kinds}: {some(wrong)}")
    if broken := [key for key, value in state.items() if not is_finite(value)]:
        raise ConversionError(f"NaN or infinity in {len(broken)} tensors, the weights are damaged: {some(broken)}")


def read_json(path: Path, what: str) -> dict:
    """The object of a JSON file that should be `what`.

    Raises:
        ConversionError: it holds something else.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConversionError(f"{path} is not {what}: it has {path.stat().st_size} bytes, more than {MAX_JSON_BYTES}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path} is not {what}: {error}") from error
    except RecursionError as error:
        raise ConversionError(f"{path} is not {what}: it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path} is not {what}: it holds a {type(value).__name__}")
    require_bounded(value, str(path))
    return value


def read_config(config_class: type[PreTrainedConfig], folder: Path) -> PreTrainedConfig:
    """The config of a folder, whose numbers are those of the weights beside it.

    Raises:
        FileNotFoundError: there is none.
        ConversionError: it is not one of this class, or of a far larger model than the folder has weights for.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a checkpoint")
    fields = read_json(path, "a config")
    found = fields.get("model_type")
    if found != config_class.model_type and config_class.model_type not in fields:  # or it has a section of its own
        raise ConversionError(f"{path} is of a model of type {found!r}, expected {config_class.model_type!r}")
    shapes = stored_shapes(folder) if any(folder.glob("model*.safetensors*")) else {}
    require_plausible_fields(fields, str(path), shapes)
    try:
        config = config_class.from_dict(fields)
    except (StrictDataclassError, AttributeError, TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ConversionError(
            f"{path} is no {config_class.__name__}: {str(error.__cause__ or error)[:500]}"
        ) from error
    if not isinstance(config.architectures, list | None):
        raise ConversionError(f"{path}: architectures is {config.architectures!r}, expected a list")
    if shapes:
        model_class = find_variant(config_class.model_type, str(folder)).model_class()
        require_plausible_size(model_class, config, shapes, str(path))
    return config


__all__ = [
    "is_finite",
    "load_weights",
    "new_folder",
    "new_name",
    "read_config",
    "read_index",
    "read_json",
    "read_torch_checkpoint",
    "require_finite",
    "require_new_file",
    "require_new_folder",
    "save_weights",
    "stored_shapes",
    "stored_tensors",
    "weight_files",
]
