"""The Trainer tells the data sets their epoch: every epoch new crops, also with workers and after a resume."""

import datasets
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from pictures import picture
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hf_jepa.data.images import ImageCollator, ImageDataset, IterableImageDataset, load_images
from hf_jepa.data.transforms import pretraining_transform
from hf_jepa.training.epochs import SetEpochCallback


class Recorder(torch.nn.Module):
    """Keeps what it is given, in order: (sample index, one number that tells the crop)."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.skipped = [], []

    def forward(self, pixel_values, sample_index, skipped, labels=None):
        self.seen += zip(sample_index.tolist(), fingerprints(pixel_values), strict=True)
        self.skipped += skipped
        return {"loss": self.weight.square()}


def fingerprints(pixels):
    return pixels.double().flatten(1).sum(1).tolist()


def expected(epoch, rows):
    dataset = ImageDataset(rows, pretraining_transform(16))
    dataset.set_epoch(epoch)
    return {i: fingerprints(dataset[i]["pixel_values"][None])[0] for i in range(len(rows))}


def train(dataset, folder, resume=None, **options):
    model = Recorder()
    options = {"per_device_train_batch_size": 2, "num_train_epochs": 3, "save_strategy": "no"} | options
    arguments = TrainingArguments(
        output_dir=str(folder), remove_unused_columns=False, report_to=[], disable_tqdm=True, use_cpu=True, **options
    )
    trainer = Trainer(
        model, arguments, train_dataset=dataset, data_collator=ImageCollator(), callbacks=[SetEpochCallback()]
    )
    trainer.train(resume_from_checkpoint=resume)
    return model


@pytest.fixture
def rows():
    return [{"image": picture(i)} for i in range(8)]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_every_epoch_has_its_own_crops(tmp_path, rows, workers, persistent):
    options = {"dataloader_num_workers": workers, "dataloader_persistent_workers": persistent}
    seen = train(ImageDataset(rows, pretraining_transform(16)), tmp_path, **options).seen
    assert len(seen) == 24
    epochs = [dict(seen[start : start + 8]) for start in (0, 8, 16)]
    assert epochs == [expected(epoch, rows) for epoch in range(3)]
    assert len(set(epochs[0].values()) | set(epochs[1].values()) | set(epochs[2].values())) == 24


@pytest.mark.parametrize("step", [4, 6])  # the end of the first epoch, the middle of the second
def test_resuming_continues_with_the_same_crops(tmp_path, rows, step):
    options = {"save_strategy": "steps", "save_steps": 2, "seed": 3}
    whole = train(ImageDataset(rows, pretraining_transform(16)), tmp_path, **options).seen
    resumed = train(
        ImageDataset(rows, pretraining_transform(16)), tmp_path, resume=str(tmp_path / f"checkpoint-{step}"), **options
    ).seen
    assert resumed == whole[step * 2 :]


def test_the_callback_reaches_every_kind_of_loader(rows):
    """Loaders of several ranks and of a resumed epoch, for which accelerate itself forgets the data set."""
    dataset = ImageDataset(rows, pretraining_transform(16))
    # Every rank has a loader of its own: one sampler would go on to another shuffle between the two.
    loaders = [DataLoader(dataset, 2, shuffle=True, collate_fn=ImageCollator()) for _ in range(2)]
    parts = [
        prepare_data_loader(loader, num_processes=2, process_index=rank, use_seedable_sampler=True)
        for rank, loader in enumerate(loaders)
    ]
    state = type("State", (), {"epoch": 2.5})
    for loaders in (parts, [skip_first_batches(part, 1) for part in parts]):
        dataset.set_epoch(0)
        seen = {}
        for part in loaders:
            SetEpochCallback().on_epoch_begin(None, state, None, train_dataloader=part)
            part.set_epoch(2)
            for batch in part:
                seen |= dict(zip(batch["sample_index"].tolist(), fingerprints(batch["pixel_values"]), strict=True))
        assert seen.items() <= expected(2, rows).items() and len(seen) == (8 if loaders is parts else 4)


def test_streams_train_and_skip_what_is_corrupt(tmp_path, folder):
    stream = IterableImageDataset(load_images(folder, streaming=True), pretraining_transform(16))
    model = train(
        stream,
        tmp_path / "run",
        per_device_train_batch_size=4,
        max_steps=6,
        accelerator_config={"dispatch_batches": False},
    )
    assert len(model.seen) == 16 and len(model.skipped) == 6  # 11 files in 3 batches, two epochs
    good = ImageDataset(load_images(folder), pretraining_transform(16))
    for epoch in (0, 1):
        good.set_epoch(epoch)
        for index, fingerprint in model.seen[8 * epoch : 8 * epoch + 8]:
            assert fingerprint == fingerprints(good[index]["pixel_values"][None])[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_a_stream_without_overlap(workers):
    table = datasets.Dataset.from_dict({"image": [picture(i) for i in range(12)], "label": range(12)})
    stream = IterableImageDataset(table.to_iterable_dataset(4), pretraining_transform(16), shuffle_buffer=12)
    orders = []
    for epoch in (0, 1):
        indices, labels = [], []
        for rank in (0, 1):
            loader = DataLoader(stream, 3, collate_fn=ImageCollator(), num_workers=workers)
            part = prepare_data_loader(loader, num_processes=2, process_index=rank, dispatch_batches=False)
            part.set_epoch(epoch)
            for batch in part:
                indices += batch["sample_index"].tolist()
                labels += batch["labels"].tolist()
            assert len(labels) == 6 * (rank + 1)
        assert sorted(indices) == sorted(labels) == list(range(12))
        orders.append(labels)
    assert orders[0] != orders[1]
