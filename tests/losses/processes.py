"""Run as `processes.py SHARES...`: every loss over several processes equals that over one.

SHARES are the rows of the processes of one group, such as `5,0,12,7`. The losses of the whole batch are computed
before there is a group, then again, each process with its rows. Gradients are averaged here, not by
`DistributedDataParallel`: it keeps the group, and gloo's sometimes does not return from its destructor.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from hf_jepa.losses.distributed import gather_rows, global_mean, global_rows
from hf_jepa.losses.invariance import invariance_loss
from hf_jepa.losses.rdmreg import RectifiedGeneralizedGaussian, rdmreg
from hf_jepa.losses.sigreg import dense_sigreg, sigreg, sigreg_statistics
from hf_jepa.losses.vicreg import covariance_term, variance_term, vicreg_loss


GOLDEN = load_file(Path(__file__).parents[1] / "fixtures/golden/regularizers/sigreg_ddp/io.safetensors")
GOLDEN_RESULT = GOLDEN["global_loss"].squeeze(), GOLDEN["global_grad_weight"]
ROWS = torch.cat([GOLDEN["x_rank0"], GOLDEN["x_rank1"]])  # (24, 5)


def views(y: torch.Tensor) -> torch.Tensor:
    """(N, 5) -> (2, N, 5), two different ones."""
    return torch.stack([y, (2 * y).sin()])


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "golden sigreg": lambda y: sigreg_statistics(y, GOLDEN["A"]).mean(),
    "sigreg of views": lambda y: sigreg(views(y), step=3, num_slices=8),
    "flattened sigreg": lambda y: sigreg(views(y), step=3, num_slices=8, flattened=True, scale_by_n=False),
    "dense sigreg": lambda y: dense_sigreg(views(y).transpose(0, 1), step=3, num_positions=1, num_slices=8),
    "vicreg": lambda y: vicreg_loss(*views(y)).loss,
    "variance of blocks": lambda y: variance_term(views(y) / 2),
    "covariance of blocks": lambda y: covariance_term(views(y), "eb_jepa"),
    "invariance": lambda y: invariance_loss(views(y), num_global=1),
    "rdmreg": lambda y: rdmreg(*views(y).relu(), step=3, num_projections=13),
    "rdmreg, fewer directions than processes": lambda y: rdmreg(*views(y).relu(), step=3, num_projections=1),
    "rdmreg, singular vectors": lambda y: rdmreg(
        *views(y).relu(), 3, RectifiedGeneralizedGaussian(2.0, -1.0), 9, "torch_svd_bottom_half_eigen_and_random"
    ),
}


def value_and_gradient(name: str, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = GOLDEN["weight"].clone().requires_grad_()
    loss = LOSSES[name](rows @ weight)
    loss.backward()
    return loss.detach(), weight.grad


def run(rank: int, port: int, shares: list[int], alone: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(shares))
    rows = ROWS.split(shares)[rank]
    for name in LOSSES:
        loss, gradient = value_and_gradient(name, rows)
        dist.all_reduce(gradient)
        gradient /= len(shares)  # what data-parallel training does
        for expected in [alone[name]] + [GOLDEN_RESULT] * (name == "golden sigreg"):
            torch.testing.assert_close(
                (loss, gradient), expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert torch.equal(gather_rows(rows), ROWS)
    assert global_rows(len(rows)) == 24 and global_mean(rows).isclose(ROWS.mean())
    store.set(f"done {rank}", "")
    store.wait([f"done {other}" for other in range(len(shares))])  # nobody leaves while others still receive
    os._exit(0)  # past the destructor of the group, which sometimes does not return


def failures(shares: list[int], alone: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> int:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    fork = multiprocessing.get_context("fork")  # what is imported is imported once
    processes = [fork.Process(target=run, args=(rank, store.port, shares, alone)) for rank in range(len(shares))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    alone = {name: value_and_gradient(name, ROWS) for name in LOSSES}
    sys.exit(sum(failures([int(share) for share in shares.split(",")], alone) for shares in sys.argv[1:]))
