"""Scripts, as people run them: in this process, which has imported what they need, or in processes of their own."""

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import pytest


def run_script(script: Path, *arguments: object) -> CompletedProcess:
    """As by `python SCRIPT ARGUMENTS`: its exit status and what it printed."""
    command, out, err, status = [str(script), *map(str, arguments)], StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as changes, redirect_stdout(out), redirect_stderr(err):
        changes.setattr(sys, "argv", command)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            status = left.code or 0
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())


def launch(script: Path, *arguments: object, processes: int = 1) -> CompletedProcess:
    """A training script as users start it, without network; several processes meet over gloo."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    if processes == 1:
        start = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [*start, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@contextmanager
def examples_as_modules(*names: str) -> Iterator[list[ModuleType]]:
    """They import one another, as scripts of a folder do."""
    folder = str(Path(__file__).parents[1] / "examples")
    sys.path.insert(0, folder)
    try:
        yield [import_module(name) for name in names]
    finally:
        sys.path.remove(folder)
