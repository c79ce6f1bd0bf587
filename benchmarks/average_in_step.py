"""Training steps of ours and of the official program in turn; prints the milliseconds that their averages took.

`python benchmarks/average_in_step.py CONFIG_JSON STEPS`, one process of `bench_model.bench_average_in_step`.
"""

import json
import sys
import time

import torch
from bench_model import contestants

from hf_jepa.layers.onednn import onednn_pays_off, use_onednn
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig


def timed(function, readings: list[float]):
    """The function, which notes its process CPU time in milliseconds."""

    def run(*args):
        start = time.process_time()
        function(*args)
        readings.append(1000 * (time.process_time() - start))

    return run


def main() -> None:
    torch.set_num_threads(1)
    model, optimizer, official, batch = contestants(IJepaConfig.from_dict(json.loads(sys.argv[1])), batch=8)
    if onednn_pays_off():  # as in a run, see `KernelMixin`
        use_onednn(model)
    readings: dict[str, list[float]] = {"ours": [], "loop": []}
    average = timed(model.target_average(), readings["ours"])
    official.average = timed(official.average, readings["loop"])
    for _ in range(int(sys.argv[2])):
        model(*batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average(0.996)
        official(*batch)
    print(json.dumps({name: times[1:] for name, times in readings.items()}))  # the first warms up


if __name__ == "__main__":
    main()
