"""A training script in processes that have the environment of `accelerate launch`, without its time to start them."""

import os
import runpy
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command, launch_command_parser
from cpu_processes import without_gpus


def launched_environment(config: Path, script: Path, port: int) -> dict[str, str]:
    """What Accelerate sets for two processes, by its own command: only its last step, starting them, is left out."""
    before, found = dict(os.environ), {}
    options = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", str(port)]
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr("torch.distributed.run.run", lambda args: found.update(os.environ))
        launch_command(launch_command_parser().parse_args([*options, str(script)]))
    assert found, f"{config} starts no processes"
    return {name: value for name, value in found.items() if before.get(name) != value}


def run_program(environment: dict[str, str], folder: Path, command: list[str]) -> None:
    """To be called by `forks.run`."""
    os.environ |= environment
    os.chdir(folder)
    without_gpus()
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
