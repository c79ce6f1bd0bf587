"""What fine-tuning of images learns from and is measured on: splits, classes, crops, and what is refused."""

import datasets
import pytest
import torch
from PIL import Image
from tiny_classifiers import PROCESSOR, arguments, classifier, make_trainer, splits_of

from hf_jepa.data.augmentations import RandomHorizontalFlip
from hf_jepa.data.transforms import RandomResizedCrop
from hf_jepa.hub.processors import ProcessorTransform
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.training.finetune_image import open_split


def test_images_are_normalised_as_the_processor_says(labelled_photos):
    datasets = {
        mean: splits_of(
            arguments(labelled_photos),
            IJepaImageProcessor.from_config(IJepaConfig(image_size=48), image_mean=[mean] * 3, image_std=[2.0] * 3),
            48,
            seed=0,
        )[:2]
        for mean in (0.0, 1.0)
    }
    for plain, shifted in zip(datasets[0.0], datasets[1.0], strict=True):  # training, evaluation
        torch.testing.assert_close(shifted[0]["pixel_values"], plain[0]["pixel_values"] - 0.5)
        assert plain[0]["pixel_values"].min() >= 0 and plain[0]["pixel_values"].max() <= 0.5


def test_low_shot_and_held_out_rows(labelled_photos):
    train, test, names = splits_of(
        arguments(labelled_photos, eval_fraction=0.25, train_per_class=4), PROCESSOR, 48, seed=0
    )
    assert names == ["dark", "light"] and len(train) == 8 and len(test) == 6
    assert not set(train.indices) & set(test.indices)
    labels = [train.dataset.labels[row] for row in train.indices]
    assert sorted(labels) == [0] * 4 + [1] * 4
    first, again = train[0]["pixel_values"], train[0]["pixel_values"]
    train.set_epoch(1)
    assert torch.equal(first, again) and not torch.equal(first, train[0]["pixel_values"])  # a new crop in a new epoch


def test_the_seed_chooses_the_few_rows(labelled_photos):
    few = [splits_of(arguments(labelled_photos, train_per_class=4), PROCESSOR, 48, seed)[0].indices for seed in (0, 1)]
    assert few[0] != few[1]


@pytest.mark.parametrize("fraction", [None, 0.25])
def test_only_training_images_are_cropped_at_random(labelled_photos, fraction):
    train, test, _ = splits_of(arguments(labelled_photos, eval_fraction=fraction), PROCESSOR, 48, seed=0)
    train, test = (data if fraction is None else data.dataset for data in (train, test))
    assert isinstance(train.transform.steps[0], RandomResizedCrop)
    assert isinstance(test.transform, ProcessorTransform)


@pytest.mark.parametrize("flip", [True, False])
def test_training_images_are_mirrored_where_it_is_asked_for(labelled_photos, flip):
    chosen = arguments(labelled_photos, horizontal_flip=flip)
    transform = open_split(chosen, "train", PROCESSOR, 48, seed=0, train=True).transform
    assert any(isinstance(step, RandomHorizontalFlip) for step in transform.steps) == flip


def test_a_class_without_training_images_is_refused(labelled_photos):
    (labelled_photos / "test/light").rename(labelled_photos / "test/bright")
    with pytest.raises(ValueError, match=r"classes \['bright'\] of 'test' do not occur in 'train'"):
        splits_of(arguments(labelled_photos), PROCESSOR, 48, seed=0)


def test_crops_change_from_epoch_to_epoch(pretrained, labelled_photos, tmp_path, monkeypatch):
    train, _, names = splits_of(arguments(labelled_photos, train_per_class=4), PROCESSOR, 48, seed=0)
    trainer = make_trainer(
        classifier(pretrained, names=names), tmp_path / "run", train, per_device_train_batch_size=8, max_steps=3
    )
    seen = []
    original = trainer.training_step
    monkeypatch.setattr(
        trainer, "training_step", lambda m, x, n=None: seen.append(x["pixel_values"]) or original(m, x, n)
    )
    trainer.train()
    sums = [sorted(batch.sum(dim=(1, 2, 3)).tolist()) for batch in seen]
    assert len(sums) == 3 and sums[0] != sums[1] != sums[2] != sums[0]


def test_splits_that_number_classes_differently_are_refused(tmp_path):
    picture = {"bytes": b"", "path": None}
    for split, labels in (("train", ["cat", "dog", "cow"]), ("test", ["dog", "cow"])):
        rows = datasets.Dataset.from_dict({"image": [picture] * len(labels), "label": labels})
        rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="'train' and 'test' number their classes differently .only one has cat"):
        splits_of(arguments(tmp_path), PROCESSOR, 48, seed=0)


@pytest.mark.parametrize(
    ("fraction", "message"), [(0.5, r"holds out all samples of \['1'\]"), (1.0, "eval_fraction=1.0 is not between")]
)
def test_nothing_to_learn_from_is_refused(tmp_path, fraction, message):
    rows = {"image": [{"bytes": b"", "path": None}] * 5, "label": [0, 0, 0, 0, 1]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=message):
        splits_of(arguments(tmp_path, eval_fraction=fraction), PROCESSOR, 48, seed=0)


def test_data_without_labels_is_refused(tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "flat/1.png")
    with pytest.raises(ValueError, match="has no labels: name their column by label_column"):
        splits_of(arguments(tmp_path / "flat", eval_fraction=0.5), PROCESSOR, 48, seed=0)


@pytest.mark.parametrize("missing", [None, -1])
def test_rows_without_a_label_are_refused(tmp_path, missing):
    rows = {"image": [{"bytes": b"", "path": None}] * 3, "label": [0, 1, missing]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="1 rows of split 'train' have no label, the first is row 2"):
        splits_of(arguments(tmp_path, eval_fraction=0.5), PROCESSOR, 48, seed=0)


def test_one_class_is_refused(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 3, "label": ["cat"] * 3})
    rows.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="'train' holds one class only"):
        splits_of(arguments(tmp_path), PROCESSOR, 48, seed=0)


def test_two_ways_to_choose_few_are_refused(labelled_photos):
    with pytest.raises(ValueError, match="train_fraction and train_per_class"):
        arguments(labelled_photos, train_fraction=0.1, train_per_class=2)
