"""All benchmarks in one table: `python benchmarks [--quick] [--only PART] [--output FILE]`.

Process CPU time of one thread, contestants in turn in one process, ratio of medians. The C library is told to keep
freed memory: giving it back to the system after every step would be measured too, and depends on who came first.
"""

import argparse
import os
import platform
import sys
from itertools import chain
from pathlib import Path

import bench_data
import bench_losses
import bench_masks
import bench_model
import bench_planning
import bench_stream
import bench_text
import bench_train
import bench_video
import bench_views
import bench_world_model
import torch
import transformers
from timing import HEADER

from hf_jepa.cli.tables import table
from hf_jepa.training.kept import write_text


PARTS = {
    "masks": bench_masks,
    "model": bench_model,
    "video": bench_video,
    "losses": bench_losses,
    "views": bench_views,
    "stream": bench_stream,
    "text": bench_text,
    "world_model": bench_world_model,
    "planning": bench_planning,
    "data": bench_data,
    "train": bench_train,
}
RESULTS = Path(__file__).parent / "results/cpu.md"
INTRODUCTION = """# CPU

Written by `make bench` on {processor}:
torch {torch}, transformers {transformers}, process CPU time of one thread, contestants in turn in one process, ratio
of medians. Ratios of two runs differ by up to 0.03, those of the average by up to 0.2.
Milliseconds where no other unit is named; operations and memory are counted and the same in every run.

| what | beside | ours | other | ratio | limit | |
|---|---|---|---|---|---|---|
"""


KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models, one reading, nothing judged or written")
    parser.add_argument("--only", choices=PARTS, help="one part, of which nothing is written")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the table goes")
    args = parser.parse_args()
    if os.name == "posix" and not os.environ.keys() >= KEEP_MEMORY.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_MEMORY)  # read at start only
    torch.set_num_threads(1)
    rows = []
    parts = [args.only] if args.only else PARTS
    for row in chain.from_iterable(PARTS[part].run(args.quick) for part in parts):
        rows.append(row)
        print(" ".join(row.cells()), file=sys.stderr)  # they take minutes: say how far it is
    print(table(HEADER, [row.cells() for row in rows]))
    if args.only:
        return 0
    if not any("timm" in row.beside for row in rows):
        print("timm is not in benchmarks/.site, so it was not measured: `make bench` puts it there")
    if not args.quick:
        lines = "".join("| " + " | ".join(row.cells()) + " |\n" for row in rows)
        introduction = INTRODUCTION.format(
            processor=processor(), torch=torch.__version__, transformers=transformers.__version__
        )
        write_text(args.output, introduction + lines)
        print(f"written to {args.output}")
    return 0


def processor() -> str:
    """Name of the CPU and what PyTorch uses of it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(errors="replace").splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    sys.exit(main())
