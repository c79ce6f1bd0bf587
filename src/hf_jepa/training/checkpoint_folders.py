"""Folders of checkpoints on a disk: which are complete, and how one takes its place at once.

A checkpoint is written below `_incomplete`, where nothing looks for one. Its last file is a manifest with the sizes of
all others; only then is it renamed. So a folder `checkpoint-N` is whole, or it was damaged later, which its manifest
shows. Uploads leave out names that begin with an underscore.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging


logger = logging.get_logger(__name__)

STAGING = "_incomplete"
MANIFEST = "manifest.json"
PATIENCE = 60.0  # seconds until a network disk must show what another node wrote

_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
# One of these holds the weights, whatever wrote the checkpoint.
_WEIGHTS = ("model*.safetensors", "pytorch_model*", "adapter_model*", "*/adapter_model*", "global_step*")


def checkpoint_folders(run: str | Path) -> list[Path]:
    """The folders `checkpoint-N` of a run, complete or not, the newest first."""
    found = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _NAME.fullmatch(path.name)]
    return sorted(filter(Path.is_dir, found), key=lambda path: -int(_NAME.fullmatch(path.name)[1]))


def write_manifest(folder: Path, facts: dict[str, Any], seen: Sequence[dict[str, int]]) -> None:
    """Write the last file of a checkpoint: `facts`, and names and sizes of the other files.

    Args:
        folder: of the checkpoint.
        facts: what else it shall say.
        seen: `file_sizes` from every node that wrote into the folder: on a network disk only the one that wrote a file
            is sure to know it at once.

    Raises:
        OSError: files of another node do not appear.
    """
    sizes: dict[str, int] = {}
    for view in seen:
        sizes |= {name: max(size, sizes.get(name, 0)) for name, size in view.items()}
    until = time.monotonic() + PATIENCE
    while missing := [name for name in sizes if not (folder / name).is_file()]:
        if time.monotonic() > until:
            raise OSError(
                f"{missing[0]}, which another node wrote, is not in {folder}: output_dir must be on a disk that all "
                "nodes share; for a disk of each node set save_on_each_node"
            )
        time.sleep(0.5)
    text = json.dumps(facts | {"files": dict(sorted(sizes.items()))}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What `write_manifest` wrote; empty for a checkpoint of an earlier version, which has none."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fault_of(folder: str | Path) -> str | None:
    """Why a run cannot be resumed from a folder, or None where it can.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "model.safetensors").write_bytes(b"1234")
        >>> write_manifest(folder, {"step": 3}, [file_sizes(folder)])
        >>> fault_of(folder)
        >>> _ = (folder / "model.safetensors").write_bytes(b"12")
        >>> fault_of(folder)
        'model.safetensors has 2 bytes instead of 4'
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return f"{MANIFEST} is damaged ({error})"
    if not manifest:
        if not (folder / TRAINER_STATE_NAME).is_file():
            return f"{TRAINER_STATE_NAME} is missing"
        if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
            return "it holds no weights"
        return None
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file of a folder, by its name there."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}


def fresh_folder(folder: Path) -> None:
    """Make an empty folder, whatever was there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def give_up(staged: Path) -> None:
    """Remove what could not be written to its end."""
    shutil.rmtree(staged, ignore_errors=True)
    _leave(staged.parent)


def put_in_place(staged: Path, final: Path) -> None:
    """Rename a checkpoint with a manifest from `_incomplete` to its name, and make that last.

    An older one of that name is moved aside first. A process that dies in between leaves both in `_incomplete`, and
    `clear_staging` brings the new one to its place.
    """
    aside = staged.with_name(f"{final.name}.replaced")
    if final.exists():
        final.rename(aside)
    staged.rename(final)
    sync(staged.parent)
    sync(final.parent)
    if aside.exists():
        shutil.rmtree(aside)
    _leave(staged.parent)


def clear_staging(run: str | Path) -> None:
    """Remove what an earlier process left in `_incomplete`, except a checkpoint that only lacked its name."""
    staging = Path(run) / STAGING
    if not staging.is_dir():
        return
    for staged in checkpoint_folders(staging):
        final = Path(run) / staged.name
        if (staged / MANIFEST).is_file() and fault_of(staged) is None and not final.exists():
            put_in_place(staged, final)
            logger.warning(f"{final} was complete but for its name, which it has now")
    logger.warning(f"{staging}: what an earlier run left unfinished is removed")
    shutil.rmtree(staging, ignore_errors=True)  # the last one put in place took the folder with it


def move_up(staged: Path, folder: Path) -> None:
    """Move files to where they are wanted, each at once, and remove weights of which they take the place."""
    sync_tree(staged)
    names = {path.name for path in staged.iterdir()}
    for path in sorted(staged.iterdir()):
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    weights = "model*.safetensors*"
    if any(Path(name).match(weights) for name in names):
        for path in folder.glob(weights):  # one file instead of shards, or the other way round
            if path.name not in names:
                path.unlink()
    sync(folder)
    staged.rmdir()
    _leave(staged.parent)


def rotate(run: str | Path, limit: int | None, keep: Iterable[str | Path]) -> None:
    """Remove the oldest checkpoints of a run until `limit` complete ones are left.

    Damaged ones are not counted: they are nothing to go back to. Those in `keep` stay.
    """
    if not limit or limit < 0:
        return
    kept = {Path(path).resolve() for path in keep}
    complete = [path for path in sort_checkpoints(str(run), use_mtime=True) if fault_of(path) is None]
    removable = [Path(path) for path in complete if Path(path).resolve() not in kept]
    surplus = min(len(complete) - limit, len(removable))
    for path in removable[: max(0, surplus)]:
        aside = Path(run) / STAGING / f"{path.name}.removed"  # a half-removed one must not look like a checkpoint
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
        shutil.rmtree(aside)
        _leave(aside.parent)


def sync_tree(folder: Path) -> None:
    """Have the system write all files of a folder to the disk, and the folder itself."""
    for path in _files(folder):
        sync(path)
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)


def sync(path: Path) -> None:
    """The same for one file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leave(staging: Path) -> None:
    with suppress(OSError):  # something else lies there
        staging.rmdir()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


__all__ = [
    "MANIFEST",
    "STAGING",
    "checkpoint_folders",
    "clear_staging",
    "fault_of",
    "file_sizes",
    "fresh_folder",
    "give_up",
    "move_up",
    "put_in_place",
    "read_manifest",
    "rotate",
    "sync",
    "sync_tree",
    "write_manifest",
]
