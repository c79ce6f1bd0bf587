"""Writing the files of a checkpoint where the disk may be full and the other processes wait."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError


# What PyTorch says where a disk is full: the type of its error is that of a hundred others.
_TORCH_WRITES = re.compile(r"inline_container|iostream|write\(\): fd|No space left|quota")


class Writes:
    """Notes the first failure to write instead of raising it, so that processes stay in step, and can agree later.

    Args:
        staging: folder in which checkpoints are written.
        process: number of this one.

    Example:
        >>> writes = Writes(Path("runs/example"), process=0)
        >>> with writes.noted():
        ...     raise OSError(28, "No space left on device")
        >>> writes.failures
        ['process 0: OSError: [Errno 28] No space left on device']
    """

    def __init__(self, staging: Path, process: int):
        self.staging, self.process = staging, process
        self.failures: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What is in the block ends where writing fails; mistakes of other kinds are raised."""
        try:
            yield
        except BaseException as error:
            if not _failed_to_write(error):
                raise
            first_line = (str(error).splitlines() or [""])[0]
            self.failures = self.failures or [f"process {self.process}: {type(error).__name__}: {first_line}"]

    @contextmanager
    def of_torch(self) -> Iterator[None]:
        """The same for every single `torch.save`: Trainer, Accelerate and DeepSpeed talk to others in between."""
        save = torch.save

        def noted_save(*args: Any, **kwargs: Any) -> None:
            with self.noted():
                save(*args, **kwargs)

        with replaced(torch, "save", noted_save):
            yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _failed_to_write(error: BaseException) -> bool:
    """Whether an error speaks of the disk, not of a mistake."""
    if failures := getattr(error, "failures", None):  # of PyTorch's distributed checkpoints: those of all processes
        return all(_failed_to_write(each) for each, _ in failures.values())
    if isinstance(error, RuntimeError):
        return bool(_TORCH_WRITES.search(str(error)))
    return isinstance(error, (OSError, SafetensorError))


__all__ = ["Writes", "replaced"]
