"""What a process of ZeRO-1, ZeRO-3 and FSDP2 holds, counted after a step."""

import json
from pathlib import Path

import torch
from cpu_processes import without_shared_memory
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from hf_jepa.core.ema import local_shard
from hf_jepa.training.estimate_recipes import Job, read_job


FIELDS = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 1024, "num_attention_heads": 2}
FIELDS |= {"pred_num_hidden_layers": 2}
RECIPE = ("ijepa", "--model_config", json.dumps(FIELDS))


def size(tensors: list) -> int:
    found = {x.untyped_storage().data_ptr(): x for x in tensors if isinstance(x, torch.Tensor) and x.dim()}
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def batch(job: Job, model: nn.Module) -> dict:
    return tree_map_only(torch.Tensor, lambda x: torch.randn(x.shape) if x.is_meta else x, job.inputs(model, 2))


def of_deepspeed(job: Job, stage: int) -> dict[str, int]:
    import deepspeed

    model = job.model("cpu")
    inputs = batch(job, model)
    settings = {"stage": stage, "reduce_bucket_size": 100_000}
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": settings,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for _ in range(2):
        engine.backward(engine(**inputs)["loss"])
        engine.step()
    zero = engine.optimizer
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    copies = zero.single_partition_of_fp32_groups if stage == 1 else []
    return {
        "weights": size([local_shard(p) for p in trained]),
        "frozen": size([local_shard(p) for p in frozen]),
        "copies": size(list(copies)),
        "optimizer": size(tree_leaves([list(zero.optimizer.state.values())])),
    }


def of_fsdp2(job: Job) -> dict[str, int]:
    from torch.distributed.fsdp import fully_shard

    model = job.model("cpu")
    inputs = batch(job, model)
    for part in model.modules():
        if type(part).__name__ in model._no_split_modules:
            fully_shard(part)
    fully_shard(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(**inputs)["loss"].backward()
    optimizer.step()
    state = tree_leaves([list(optimizer.state.values())])
    return {
        "weights": size([local_shard(p) for p in model.parameters() if p.requires_grad]),
        "frozen": size([local_shard(p) for p in model.parameters() if not p.requires_grad]),
        "copies": 0,
        "optimizer": size([local_shard(x) for x in state if isinstance(x, torch.Tensor)]),
    }


def count_shares(folder: Path) -> None:
    """Writes `RANK.json`: strategy -> part -> bytes."""
    without_shared_memory()
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    name, *fields = RECIPE
    job = read_job(name, fields)
    found = {"fsdp2": of_fsdp2(job), "zero1": of_deepspeed(job, 1), "zero3": of_deepspeed(job, 3)}
    rank = torch.distributed.get_rank()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
