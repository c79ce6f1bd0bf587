"""Speed of mask sampling: the default sampler beside a plain restatement of the official algorithm.

`python benchmarks/bench_masks.py`: process CPU time of one batch of 64 images, one thread, median of several runs.
"""

import statistics
import time
from collections.abc import Callable

import torch

from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler


BATCH_SIZE = 64
TARGET_MS = 1.5  # the project's limit for 64 images of 14 x 14 tokens


def cpu_ms(sample: Callable[[int], object], steps: int, repeats: int = 7) -> float:
    """Median over `repeats` of the process CPU time of one call, in milliseconds, over `steps` different steps."""
    sample(0)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for step in range(steps):
            sample(step)
        times.append((time.process_time() - start) / steps * 1e3)
    return statistics.median(times)


def run() -> list[dict]:
    """Time both samplers on three grids; `target` is the limit that the row must keep, or None.

    Returns:
        Rows {"name", "ours_ms", "reference_ms", "ratio", "target"}.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_row(grid_size) for grid_size in (14, 16, 28)]
    finally:
        torch.set_num_threads(threads)


def _row(grid_size: int) -> dict:
    index = torch.arange(BATCH_SIZE)
    ours, reference = MultiBlockMaskSampler(grid_size), OfficialMultiBlockMaskSampler(grid_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference_ms = cpu_ms(lambda step: reference(index, step=step), steps=10)
    ours_ms = cpu_ms(lambda step: ours(index, step=step), steps=100)
    return {
        "name": f"masks of {BATCH_SIZE} images, {grid_size} x {grid_size} tokens",
        "ours_ms": ours_ms,
        "reference_ms": reference_ms,
        "ratio": ours_ms / reference_ms,
        "target": f"ours <= {TARGET_MS} ms" if grid_size == 14 else None,
    }


def main() -> None:
    """Print the table."""
    print(f"{'process CPU time, 1 thread':<38} {'ours ms':>9} {'official ms':>12} {'ratio':>7}  target")
    for row in run():
        print(
            f"{row['name']:<38} {row['ours_ms']:>9.3f} {row['reference_ms']:>12.3f} {row['ratio']:>7.3f}  "
            f"{row['target'] or '-'}"
        )


if __name__ == "__main__":
    main()
