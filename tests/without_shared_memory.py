"""Run a script whose DeepSpeed does without its compiled operation for processes that share memory.

    accelerate launch ... tests/without_shared_memory.py SCRIPT ARGUMENTS

That operation only speeds up communication of CPU processes; compiling it takes longer than the tests.
"""

import runpy
import sys


if __name__ == "__main__":
    import deepspeed  # not where tests are collected: it is an extra

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
