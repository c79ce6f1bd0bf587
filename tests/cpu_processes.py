"""Run a script in processes without GPUs, under any engine.

    accelerate launch --config_file FILE --num_processes 2 tests/cpu_processes.py SCRIPT ARGUMENTS

Accelerate offers several processes on CPUs for DDP alone, and only where the script itself says that it wants no GPU.
"""

import os
import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import training_args


_prepare_backend = PartialState._prepare_backend


def _over_gloo(self: PartialState, *args, **kwargs) -> tuple[str | None, DistributedType]:
    if "LOCAL_RANK" not in os.environ:
        return _prepare_backend(self, *args, **kwargs)
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
    # FSDP is offered for some types of devices only, which are told apart by no more than their name.
    return "gloo", DistributedType.MULTI_GPU if sharded else DistributedType.MULTI_CPU


def without_gpus() -> None:
    """Let processes meet over gloo, also under DeepSpeed and FSDP."""
    PartialState._prepare_backend = _over_gloo
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    training_args.is_torch_bf16_gpu_available = lambda: True  # which is asked of processes that may have GPUs
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        without_shared_memory()


def without_shared_memory() -> None:
    """Let DeepSpeed do without an operation that only speeds up CPUs, and takes longer to compile than the tests."""
    import deepspeed  # not where tests are collected: it is an extra

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


if __name__ == "__main__":
    without_gpus()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo and DeepSpeed, which nobody can end, sometimes abort a process that shuts down
