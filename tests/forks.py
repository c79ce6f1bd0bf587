"""Functions called in several processes that can meet over gloo, as if torchrun had started them.

They are forked from a server that has imported what they need, which takes longer than what they do.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore


IMPORTS = "fork_imports"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([IMPORTS])
_stores: list[TCPStore] = []  # which a launcher keeps for its processes, also when these have ended


def _start_server() -> None:
    """Once; some versions of Python do not tell it where modules are, and it does without those it does not find."""
    with pytest.MonkeyPatch.context() as changes:
        changes.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


def start(
    target: Callable[..., None], *arguments: Any, logs: Path, processes: int = 2, own_store: bool = False
) -> list[BaseProcess]:
    """Start `target(*arguments)` in each process; what it prints goes to `LOGS/TARGET-RANK.log`.

    Args:
        own_store: the first process keeps the store by which they meet, which is gone when it ends.
    """
    _start_server()
    _stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    port = _stores[-1].port
    if own_store:
        del _stores[-1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variables |= {"TORCHELASTIC_USE_AGENT_STORE": str(not own_store)}
    variables |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "HF_HUB_OFFLINE": "1"}
    started = []
    for rank in range(processes):
        own = (variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) if processes > 1 else {}
        log = logs / f"{target.__name__}-{rank}.log"
        started.append(_context.Process(target=_run, args=(target, arguments, own, log)))
        started[-1].start()
    return started


def _run(target: Callable[..., None], arguments: tuple, variables: dict[str, str], log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= variables
    multiprocessing.set_start_method("fork", force=True)  # of workers of data loaders, as in any other process
    assert IMPORTS in sys.modules
    target(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # past the destructor of the group of processes, which sometimes does not return


def statuses(started: list[BaseProcess], timeout: float = 250) -> list[int | None]:
    """How the processes ended, after as many seconds at most; those that did not are killed, and have None."""
    until = time.monotonic() + timeout
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes


def run(target: Callable[..., None], *arguments: Any, logs: Path, processes: int = 2, timeout: float = 250) -> str:
    """Call `target(*arguments)` in each process, and give back what the first one printed."""
    codes = statuses(start(target, *arguments, logs=logs, processes=processes), timeout)
    printed = [(logs / f"{target.__name__}-{rank}.log").read_text() for rank in range(processes)]
    assert codes == [0] * processes, f"statuses {codes}\n" + "\n\n".join(text[-4000:] for text in printed)
    return printed[0]
