"""Runs on shards: complete epochs, a resume that reads nothing twice, recipes."""

from pathlib import Path

import pytest
import torch
from clips import write_video
from shard_files import IMPATIENT, SIZES, log_reads, rows_read, shard_trainer, write_tar, write_tars

import hf_jepa.data.shards
from hf_jepa.data.shard_names import find_shards
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.training.classification import build_datasets
from hf_jepa.training.finetune_image import ClassificationArguments, open_split
from hf_jepa.training.pretrain_image import PretrainingArguments, build_dataset
from hf_jepa.training.run_cards import dataset_names
from hf_jepa.training.video_sources import VideoDataArguments
from hf_jepa.training.video_sources import build_dataset as build_clips


STEPS = sum(SIZES) // 8  # of an epoch
SAVED = 2 * STEPS - 2  # in the middle of the second one


def assert_same_weights(first, second):
    weights, others = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_resumed_run_reads_only_what_is_left_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    shards = find_shards(write_tars(tmp_path / "shards"))
    steps = {"max_steps": 2 * STEPS, "per_device_train_batch_size": 8}
    whole = shard_trainer(tmp_path / "run", shards, save_strategy="steps", save_steps=SAVED, **steps)
    whole.train()
    epochs = [sum(whole.seen[:STEPS], []), sum(whole.seen[STEPS:], [])]
    assert epochs[0] != epochs[1] and all(sorted(rows) == list(range(72)) for rows in epochs)

    monkeypatch.setattr(hf_jepa.data.shards, "_read_bytes", hf_jepa.data.shards._read_bytes)
    log_reads(tmp_path / "log")
    checkpoint = str(tmp_path / f"run/checkpoint-{SAVED}")
    resumed = shard_trainer(tmp_path / "resumed", shards, **steps)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.seen == whole.seen[SAVED:] and rows_read(tmp_path / "log") == sum(resumed.seen, [])
    assert_same_weights(whole, resumed)

    # The same global batch in smaller parts, as on more devices: it goes on where the other one would have.
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2 * STEPS}
    smaller = shard_trainer(tmp_path / "smaller", shards, **parts)
    smaller.train(resume_from_checkpoint=checkpoint)
    pairs = [first + second for first, second in zip(smaller.seen[::2], smaller.seen[1::2], strict=True)]
    assert pairs == resumed.seen
    fresh = shard_trainer(tmp_path / "fresh", shards, ShardOptions(chunk=8), **(parts | {"max_steps": 1}))
    fresh.train()
    assert sum(fresh.seen, []) == whole.seen[0]


def test_a_run_goes_on_without_a_shard(tmp_path):
    pattern = write_tars(tmp_path / "shards")
    options = {"max_steps": STEPS, "per_device_train_batch_size": 8}
    trainer = shard_trainer(tmp_path / "run", find_shards(pattern), ShardOptions(IMPATIENT), **options)
    (tmp_path / "shards/train-05.tar").unlink()
    trainer.train()
    assert trainer.state.global_step == STEPS
    seen = set(sum(trainer.seen, []))
    assert set(range(72)) - seen == set(range(sum(SIZES[:5]), sum(SIZES[:6])))
    assert len(trainer.skipped) == 1 and "train-05.tar: 3 attempts" in next(iter(trainer.skipped))


def test_recipes_open_shards(tmp_path):
    pattern = write_tars(tmp_path / "train", (4, 5))
    write_tars(tmp_path / "validation", (9,))
    config, processor = IJepaConfig(image_size=32), IJepaImageProcessor()
    arguments = PretrainingArguments(dataset=pattern, shard_timeout=7, shard_retries=1, shard_chunk=2, shard_lanes=2)
    rows = build_dataset(arguments, config, processor, 0).dataset
    assert isinstance(rows, ShardedRows) and rows.column_names == ["image"] and len(rows) == 9
    assert (rows.options.limits.timeout, rows.options.limits.retries) == (7, 1)
    assert (rows.options.chunk, rows.options.lanes) == (2, 2)
    streamed = PretrainingArguments(dataset=str(tmp_path), streaming=True)
    assert len(build_dataset(streamed, config, processor, 0).dataset) == 9
    assert dataset_names(pattern) == {"dataset": Path(pattern).name}

    arguments = ClassificationArguments("checkpoint", str(tmp_path), eval_split="validation")
    train, test, names = build_datasets(
        arguments, lambda split, train: open_split(arguments, split, processor, 32, 0, train), 0
    )
    assert isinstance(train.dataset, ShardedRows) and train[5]["labels"] == 5 and test[8]["labels"] == 8
    assert names == [str(number) for number in range(9)]


@pytest.mark.parametrize("images", [False, True])
def test_video_recipes_open_shards(tmp_path, images):
    film = write_video(tmp_path / "film.mp4", 12).read_bytes()
    write_tar(tmp_path / "films/a.tar", {"1.mp4": film, "2.mp4": film})
    pictures = write_tars(tmp_path / "pictures", (4, 5))
    source = {"path": pictures, "images": True} if images else {"path": str(tmp_path / "films"), "frame_step": 2}
    arguments = VideoDataArguments(dataset={"shards": source}, shard_retries=1)
    config = VJepa2Config(crop_size=32, frames_per_clip=4)
    dataset = build_clips(arguments, config, VJepa2VideoProcessor(), 0)
    assert len(dataset) == (9 if images else 2) and dataset.dataset.options.limits.retries == 1
    sample = dataset[1]
    assert sample["pixel_values_videos"].shape == (4, 3, 32, 32) and "labels" not in sample
