"""Shards made for tests, and a tiny run on them."""

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from tiny_training import CONFIG

import hf_jepa.data.shards
from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.shard_reads import ReadLimits
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.data.transforms import pretraining_transform
from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


SIZES = (9, 11, 7, 10, 8, 12, 6, 9)  # rows of uneven shards
EVEN = (8,) * 8
IMPATIENT = ReadLimits(timeout=20, retries=2, pause=0.01)  # seconds that a busy machine may need


def picture(number: int) -> bytes:
    """A png, different for every number."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 32), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_tars(folder: Path, sizes: Sequence[int] = SIZES) -> str:
    """Tar archives with so many pictures, numbered over all of them; the class is the number. Their pattern."""
    first = 0
    for shard, size in enumerate(sizes):
        rows = range(first, first + size)
        members = {
            f"{row:04}{kind}": picture(row) if kind == ".png" else str(row).encode()
            for row in rows
            for kind in (".cls", ".png")
        }
        write_tar(folder / f"train-{shard:02}.tar", members)
        first += size
    return f"{folder}/train-{{00..{len(sizes) - 1:02}}}.tar"


def write_parquets(folder: Path, sizes: Sequence[int] = SIZES, group: int = 4) -> str:
    """The same rows in parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    first, features = 0, datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for shard, size in enumerate(sizes):
        rows = [
            {"image": {"bytes": picture(row), "path": f"{row}.png"}, "label": row}
            for row in range(first, first + size)
        ]
        file = folder / f"train-{shard:02}.parquet"
        datasets.Dataset.from_list(rows, features=features).to_parquet(file, batch_size=group)
        first += size
    return f"{folder}/*.parquet"


def log_reads(file: Path) -> None:
    """Let every read of a tar archive, in whatever process, add a line "archive member process" to a file."""
    read_bytes = hf_jepa.data.shards._read_bytes

    def logged(path, *args):
        data = read_bytes(path, *args)
        with open(file, "a") as log:
            log.write(f"{Path(path).name} {data[:16].rstrip(bytes(1)).decode()} {os.getpid()}\n")
        return data

    hf_jepa.data.shards._read_bytes = logged


def rows_read(file: Path) -> list[int]:
    """Of `write_tars`, from such a file."""
    return [int(line.split()[1].partition(".")[0]) for line in file.read_text().splitlines()]


def shard_trainer(folder: Path, shards: list[str], options: ShardOptions | None = None, **arguments) -> JepaTrainer:
    """A tiny I-JEPA; it keeps the indices of every batch in `seen`."""
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**CONFIG))
    rows = ShardedRows(shards, options=options).select_columns("image")
    defaults = {"save_strategy": "no", "logging_steps": 8, "warmup_steps": 2, "use_cpu": True}
    settings = {"report_to": "none", "disable_tqdm": True, "collapse_monitor": False}
    trainer = JepaTrainer(
        model,
        JepaTrainingArguments(str(folder), **(defaults | settings | arguments)),
        build_mask_sampler("corrected", grid_size=model.config.grid_size, target_scale=(0.15, 0.25), min_keep=3),
        train_dataset=ImageDataset(rows, pretraining_transform(48), seed=3),
        data_collator=ImageCollator(),
    )
    trainer.seen = []
    complete = trainer._complete

    def remember(inputs, *args, **kwargs):
        trainer.seen.append(inputs["sample_index"].tolist())
        return complete(inputs, *args, **kwargs)

    trainer._complete = remember
    return trainer
