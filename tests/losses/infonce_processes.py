"""Run as a script: InfoNCE over two processes with 3 and 5 rows equals that over one (see `processes.py`)."""

import multiprocessing
import os
import sys

import torch
import torch.distributed as dist

from hf_jepa.losses.infonce import infonce


SHARES = [3, 5]
torch.manual_seed(0)
ROWS, WEIGHT = torch.randn(2, 8, 6), torch.randn(6, 4)


GROUPS = torch.tensor([1, 2, 3, 1, 4, 2, 2, 5])  # equal ones in one process and in both


def gradient(rows: torch.Tensor, symmetric: bool, gather: bool) -> torch.Tensor:
    """Of the sum over rows divided by those of all processes, which `forward(num_pairs_in_batch=...)` does."""
    weight = WEIGHT.clone().requires_grad_()
    queries, keys = rows @ weight
    (infonce(queries, keys, 0.3, symmetric, gather).sum() / 8).backward()
    return weight.grad


def learnt(rows: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Gradients of the weight and of the scale, with rows that mean the same, divided likewise."""
    weight, scale = WEIGHT.clone().requires_grad_(), torch.tensor([1.2], requires_grad=True)
    queries, keys = rows @ weight
    losses = infonce(queries, keys, symmetric=True, gather=True, logit_scale=scale, groups=groups)
    (losses.sum() / 8).backward()
    return torch.cat([weight.grad.flatten(), scale.grad])


def run(rank: int, port: int, alone: dict) -> None:
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    rows = ROWS.split(SHARES, dim=1)[rank]
    for symmetric in (False, True):
        local = gradient(rows, symmetric, gather=False)
        torch.testing.assert_close(local, alone[rank, symmetric], rtol=0, atol=1e-6, msg="negatives are not local")
        found = gradient(rows, symmetric, gather=True)
        dist.all_reduce(found)  # the average of the processes, of a loss that is multiplied by their number
        torch.testing.assert_close(found, alone["all", symmetric], rtol=0, atol=1e-6)
    found = learnt(rows, GROUPS.split(SHARES)[rank])
    dist.all_reduce(found)
    torch.testing.assert_close(found, alone["learnt"], rtol=0, atol=1e-6)
    store.set(f"done {rank}", "")
    store.wait(["done 0", "done 1"])
    os._exit(0)  # past the destructor of the group, which sometimes does not return


if __name__ == "__main__":
    torch.set_num_threads(1)
    alone: dict = {"learnt": learnt(ROWS, GROUPS)}
    for symmetric in (False, True):
        alone["all", symmetric] = gradient(ROWS, symmetric, gather=False)
        for rank, rows in enumerate(ROWS.split(SHARES, dim=1)):
            alone[rank, symmetric] = gradient(rows, symmetric, gather=False)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run, args=(rank, store.port, alone)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(sum(process.exitcode != 0 for process in processes))
