"""Limits of what is read from others: nothing is allocated, built or opened before it was found to be within them.

Sizes are judged by what is there. A file of a megabyte holds no tensor of a gigabyte, and a model has no more layers
than its folder has tensors. Where there is nothing to compare with, a limit is far above anything that was released.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.pickles import MAX_BYTES, MAX_DEPTH, claimed_storages


MAX_ENTRIES = 200_000  # of a nested value; the largest official file, with its optimizer, has about 20,000
MAX_JSON_BYTES = 2**25
MAX_HEADER_BYTES = 2**24  # of a safetensors file: about 100,000 tensors
MAX_NUMBER = 2**31
MAX_SIDE = 2**16  # of a size that no tensor of the folder has
MAX_PIXELS = 2**12  # of the side of an image
MAX_LAYERS = 512  # where fewer tensors are there
MAX_LIST = 4096
SHARED = 4  # times that the numbers of a file may be used: by an encoder and its copies
SLACK = 2**26  # numbers that a model may have beside: a predictor that starts afresh

_LAYERS = re.compile(r"layer|depth|block|level|stage|expert")
_SIDES = re.compile(r"^num_|size|dim|width|channel|chans|frames|hidden|heads|tokens|embeddings|slices|points")
_PIXELS = re.compile(r"image_size|crop_size|frames_per_clip")
_FREE = re.compile(r"max_position|position_embeddings|_ids?$|seed|max_length")
_LABELS = ("id2label", "label2id")
_CLASS_REFERENCE = re.compile(r"([\w.-]+(/[\w.-]+)?--)?\w+(\.\w+)+")


def require_bounded(value: Any, what: str) -> None:
    """Refuse nested containers of too many levels or entries, and those that contain themselves.

    A container that lies in several places counts in each, because so does whoever prints or walks it.

    Args:
        value: what was read.
        what: for the message.

    Raises:
        ConversionError: it is beyond the limits.

    Example:
        >>> require_bounded({"encoder": {"weight": [1, 2]}}, "checkpoint")
    """
    todo, entries = [(value, 1)], 0
    while todo:
        item, depth = todo.pop()
        if isinstance(item, dict):
            if getattr(item, "__dict__", {}).keys() - {"_metadata"}:
                raise ConversionError(f"{what} is refused: it gives a dictionary attributes of its own")
            children = [*dict.keys(item), *dict.values(item)]
        elif isinstance(item, list | tuple | set | frozenset):
            children = list(item)
        else:
            continue
        entries += len(children)
        if depth > MAX_DEPTH:
            raise ConversionError(f"{what} is refused: it is nested more than {MAX_DEPTH} levels deep")
        if entries > MAX_ENTRIES:
            raise ConversionError(f"{what} is refused: it has more than {MAX_ENTRIES} entries")
        todo += [(child, depth + 1) for child in children if isinstance(child, dict | list | tuple | set | frozenset)]


def require_plain_name(name: object, what: str) -> str:
    """The name of a file inside a folder; refuses one that leads out of it.

    Args:
        name: a relative path as repositories and archives have it, with forward slashes.
        what: for the message.

    Raises:
        ConversionError: it is no text, or absolute, or climbs out.

    Example:
        >>> require_plain_name("model-00001-of-00002.safetensors", "index")
        'model-00001-of-00002.safetensors'
    """
    text = name if isinstance(name, str) else ""
    path = PurePosixPath(text)
    odd = not text or any(char in text for char in "\\:\0") or not text.isprintable()
    if odd or path.is_absolute() or ".." in path.parts or text.endswith("/"):
        raise ConversionError(f"{what} is refused: {name!r:.120} is not the name of a file inside its folder")
    return text


def require_intact_archive(path: Path) -> None:
    """Refuse an archive of PyTorch that mapping would read as wrong numbers, or that claims more than it has.

    PyTorch itself neither checks nor unpacks mapped entries.

    Raises:
        ConversionError: it is damaged, packed, hostile or not one of PyTorch.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _require_archive_entries(path, entries)
            # The sums of stored entries are checked in small pieces; packed ones, perhaps a bomb, are not even opened.
            damaged = archive.testzip()
            main = next((entry for entry in entries if entry.filename.endswith("/data.pkl")), None)
            pickle = io.BytesIO(archive.read(main) if main and not damaged else b"")
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{path} cannot be read as a PyTorch checkpoint ({error}): is it complete?") from error
    if damaged:
        raise ConversionError(f"{path} is damaged: the checksum of {damaged} is wrong; fetch the file again")
    if main is None:
        raise ConversionError(f"{path} cannot be read as a PyTorch checkpoint: the archive has no data.pkl")
    folder = main.filename.removesuffix("data.pkl")
    sizes = {entry.filename: entry.file_size for entry in entries}
    for key, claimed in _claims(path, pickle).items():
        if (there := sizes.get(f"{folder}data/{key}")) != claimed:
            raise ConversionError(
                f"{path} is refused: it claims {claimed} bytes for data/{key}, which has {there or 0}"
            )


def _require_archive_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names = [require_plain_name(entry.filename, str(path)) for entry in entries]
    if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
        raise ConversionError(
            f"{path} is refused: {packed[0]} is compressed, which PyTorch never does; unzip and load it"
        )
    if len(names) > MAX_ENTRIES or len({name.lower() for name in names}) < len(names):
        raise ConversionError(f"{path} is refused: the archive has {len(names)} entries, some of one name or too many")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ConversionError(f"{path} is refused: its entries claim more bytes than the file has")
    if any(entry.filename.endswith("data.pkl") and entry.file_size > MAX_BYTES for entry in entries):
        raise ConversionError(f"{path} is refused: its data.pkl is larger than {MAX_BYTES} bytes")


def require_plain_pickles(path: Path) -> None:
    """Refuse a checkpoint of PyTorch's layout without archive that claims more numbers than the file has bytes.

    Raises:
        ConversionError: it does, or would call something.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_BYTES))
    claimed: dict[str, int] = {}
    for _ in range(4):  # a magic number, a version, the machine's, the objects; behind them names and numbers
        claimed |= _claims(path, head)
        if head.tell() == len(head.getvalue()):
            break
    if sum(claimed.values()) > size:
        raise ConversionError(f"{path} is refused: it claims {sum(claimed.values())} bytes of numbers and has {size}")


def _claims(path: Path, pickle: io.BytesIO) -> dict[str, int]:
    try:
        return claimed_storages(pickle)
    except ConversionError as error:
        refused = "is refused" if "would have to execute" in str(error) else "cannot be read as a PyTorch checkpoint"
        raise ConversionError(f"{path} {refused}: {error}") from error


def require_real_tensors(value: Any, size: int, what: str) -> None:
    """Refuse tensors that are larger than the numbers behind them, or together than their file allows.

    Args:
        value: nested containers, within the limits of `require_bounded`.
        size: of the file, in bytes.
        what: for the message.

    Raises:
        ConversionError: a tensor repeats a number instead of having them all, has none, or all together are too large.
    """
    todo, total = [value], 0
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += dict.values(item)
        elif isinstance(item, list | tuple | set):
            todo += item
        elif isinstance(item, torch.Tensor) and item.layout == torch.strided and not item.is_quantized:
            there = 0 if item.is_meta else item.untyped_storage().nbytes()
            if item.nbytes > there:
                raise ConversionError(
                    f"{what} is refused: a tensor of shape {tuple(item.shape)} takes {item.nbytes} bytes, of which "
                    f"the file has {there}"
                )
            total += item.nbytes
    if total > SHARED * size:
        raise ConversionError(f"{what} is refused: a file of {size} bytes gives tensors of {total} bytes")


def require_header(path: Path) -> None:
    """Refuse a safetensors file whose header is larger than any, before it is parsed.

    Raises:
        ConversionError: it is, or the file is too short for it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise ConversionError(f"{path} cannot be read: it claims a header of {length} bytes and has {size} in all")


def require_plausible_fields(fields: Mapping[str, Any], what: str, shapes: Mapping[str, tuple] | None = None) -> None:
    """Refuse numbers of a config that no model with these weights has, before anything is built by them.

    Args:
        fields: of the config, from JSON.
        what: for the message.
        shapes: of the tensors of the folder; without them the limits are those of any model.

    Raises:
        ConversionError: a number is absurd, or a class is named by a path.

    Example:
        >>> require_plausible_fields({"num_hidden_layers": 10**6}, "config.json", {"norm.weight": (8,)})
        Traceback (most recent call last):
        hf_jepa.core.key_map.ConversionError: config.json: num_hidden_layers is 1000000, but ...
    """
    shapes = shapes or {}
    longest = max((side for shape in shapes.values() for side in shape), default=0)
    todo = list(fields.items())
    while todo:
        name, value = todo.pop()
        if name == "auto_map":
            _require_class_references(value, what)
        elif isinstance(value, Mapping):
            todo += [item for item in value.items() if name not in _LABELS]
        elif isinstance(value, list):
            if len(value) > max(MAX_LIST, len(shapes)):
                raise ConversionError(
                    f"{what}: {name} is a list of {len(value)}, but the folder has {len(shapes)} tensors"
                )
            todo += [(name, item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            limit, there = _limit(str(name), len(shapes), longest)
            if not abs(value) <= limit:  # nor NaN
                raise ConversionError(
                    f"{what}: {name} is {value}, but {there}: a number above {limit} cannot be right"
                )


def _limit(name: str, tensors: int, longest: int) -> tuple[int, str]:
    """The largest number that a field of this name may be, and why."""
    if _FREE.search(name):
        return MAX_NUMBER, "no model needs that"
    if _LAYERS.search(name):
        return max(MAX_LAYERS, tensors, longest * ("size" in name)), f"the folder has {tensors} tensors"
    if _PIXELS.search(name):
        return MAX_PIXELS, "no model is made for that"
    if _SIDES.search(name):
        return max(MAX_SIDE, longest), f"the longest side of a tensor in the folder is {longest}"
    return MAX_NUMBER, "no model needs that"


def _require_class_references(value: object, what: str) -> None:
    """`auto_map` names classes of files of the repository ("modeling.Model"), perhaps of another one ("a/b--m.M")."""
    names = value.values() if isinstance(value, Mapping) else [value]
    for name in [part for entry in names for part in (entry if isinstance(entry, list) else [entry])]:
        if name is not None and (not isinstance(name, str) or not _CLASS_REFERENCE.fullmatch(name) or ".." in name):
            raise ConversionError(
                f"{what} is refused: auto_map names {name!r:.120}, which is no class of its repository"
            )


def require_plausible_size(
    model_class: type, config: PreTrainedConfig, shapes: Mapping[str, tuple], what: str
) -> None:
    """Refuse a config whose model is far larger than the weights that are there; the model is built without numbers.

    Args:
        model_class: built from the config, on the meta device.
        config: within the limits of `require_plausible_fields`.
        shapes: of the tensors of the folder.
        what: for the message.

    Raises:
        ConversionError: it is, or it cannot be built.
    """
    stored = sum(torch.Size(shape).numel() for shape in shapes.values())
    try:
        with torch.device("meta"):
            needed = sum(value.numel() for value in model_class(config).state_dict().values())
    except (RuntimeError, TypeError, ZeroDivisionError, OverflowError, AttributeError, KeyError, IndexError) as error:
        raise ConversionError(f"{what} describes no {model_class.__name__}: {error}") from error
    if needed > SHARED * stored + SLACK:
        raise ConversionError(
            f"{what} describes a model of {needed} numbers, but the folder has {stored}: it is of another model"
        )


__all__ = [
    "MAX_JSON_BYTES",
    "require_bounded",
    "require_header",
    "require_intact_archive",
    "require_plain_name",
    "require_plain_pickles",
    "require_plausible_fields",
    "require_plausible_size",
    "require_real_tensors",
]
