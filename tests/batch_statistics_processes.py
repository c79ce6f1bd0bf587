"""Whole models whose losses are statistics of a batch, in one process or in several under DDP.

Each process of a group takes its share of the rows. All is in float64, so that nothing but a wrong gradient differs by
1e-6.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_pairs import LLAMA, draw_pairs
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.registry import VARIANTS


ROWS = 8


def variant(name: str, **fields) -> nn.Module:
    variant = VARIANTS[name]
    torch.manual_seed(1)
    model = variant.model_class()(variant.config_class()(**(variant.tiny | fields)))
    return model.train().double()


def views(model: nn.Module) -> Callable[[slice], dict]:
    size = model.config.image_size
    pixels = torch.randn(ROWS, 2, 3, size, size, generator=torch.Generator().manual_seed(2)).double()
    return lambda rows: {"pixel_values": pixels[rows], "step": 3}


def masked(model: nn.Module) -> Callable[[slice], dict]:
    size, tokens = model.config.image_size, model.config.grid_size[0] * model.config.grid_size[1]
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(ROWS, 3, size, size, generator=generator).double()
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(ROWS)])
    context, *targets = (order[:, part].sort().values for part in (slice(9), slice(9, 13), slice(13, 17)))
    return lambda rows: {
        "pixel_values": pixels[rows],
        "context_mask": [context[rows]],
        "target_mask": [mask[rows] for mask in targets],
    }


def pairs(model: nn.Module) -> Callable[[slice], dict]:
    drawn, collate = draw_pairs(ROWS), LlmJepaDataCollator(pad_token_id=0)
    whole = collate(drawn)
    learnt = len(whole["label_index"]) if "label_index" in whole else int((whole["labels"][:, 1:] != -100).sum())
    # As the trainer does it: sums over rows, divided by those of all processes.
    return lambda rows: dict(collate(drawn[rows])) | {"num_items_in_batch": learnt, "num_pairs_in_batch": ROWS}


def llm(symmetric: bool) -> nn.Module:
    objective = {"distance": "infonce", "infonce_gather": True, "infonce_symmetric": symmetric}
    torch.manual_seed(1)
    fields = VARIANTS["llm_jepa"].config_class()(text_config=LLAMA, **objective)
    return VARIANTS["llm_jepa"].model_class()(fields).train().double()


# name -> model, its batches, whether its loss is a share of a sum over all processes
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Callable[[slice], dict]], bool]] = {
    "SIGReg (LeJEPA)": (lambda: variant("lejepa"), views, False),
    "RDMReg (Rectified LpJEPA)": (lambda: variant("rectified_lpjepa"), views, False),
    "VICReg": (lambda: variant("vicreg"), views, False),
    "VICReg in C-JEPA": (lambda: variant("cjepa", vicreg_weight=1.0), masked, False),
    "InfoNCE (LLM-JEPA)": (lambda: llm(False), pairs, True),
    "symmetric InfoNCE (LLM-JEPA)": (lambda: llm(True), pairs, True),
}


def gradients(name: str, rank: int = 0, processes: int = 1) -> dict[str, torch.Tensor]:
    make, batches, share = CASES[name]
    model = make()
    for module in model.modules():
        if isinstance(module, _BatchNorm):  # whose own statistics are a matter of SyncBatchNorm
            module.eval()
    whole = model if processes == 1 else DistributedDataParallel(model, find_unused_parameters=True)
    rows = slice(rank * ROWS // processes, (rank + 1) * ROWS // processes)
    loss = whole(**batches(model)(rows)).loss
    (loss * processes if share else loss).backward()  # DDP divides by their number
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare_gradients(file: Path) -> None:
    """With those of a single process, name of the case -> name of the parameter -> gradient, that a file holds."""
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    for name, expected in torch.load(file, weights_only=True).items():
        found = gradients(name, rank, processes)
        assert found.keys() == expected.keys(), name
        largest = max((found[key] - expected[key]).abs().max().item() for key in expected)
        print(f"{name}, {processes} processes: {largest:.1e}")
        assert largest < 1e-6, f"{name}: gradients of {processes} processes differ by {largest}"
        assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3, name
    dist.barrier()
