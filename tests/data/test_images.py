"""From files to batches: sources, labels, corrupt files, determinism."""

import copy
import itertools
import pickle

import datasets
import numpy as np
import pytest
import torch
from pictures import CORRUPT, picture
from torch.utils.data import DataLoader

from hf_jepa.data.columns import standard_columns
from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.images import ImageCollator, ImageDataset, IterableImageDataset, load_images
from hf_jepa.data.transforms import evaluation_transform, pretraining_transform


@pytest.fixture
def parquet(folder, tmp_path):
    """The pictures of `folder` embedded in a parquet file, as the Hub stores them."""
    rows = []
    for path in sorted(folder.rglob("*.jpg")):
        rows.append({"image": {"bytes": path.read_bytes(), "path": path.name}, "label": path.parent.name})
    path = tmp_path / "rows" / "train.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def batches(dataset, **options):
    return list(DataLoader(dataset, batch_size=4, collate_fn=ImageCollator(), **options))


def by_index(loader_batches):
    """sample_index -> pixels, with each index at most once."""
    pairs = [(int(i), x) for b in loader_batches for i, x in zip(b["sample_index"], b["pixel_values"], strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def assert_same_pixels(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[i], second[i]) for i in first)


def test_corrupt_files_in_a_folder_are_named_counted_and_skipped(folder):
    dataset = ImageDataset(load_images(folder), pretraining_transform(16))
    assert len(dataset) == 11
    loaded = batches(dataset)
    skipped = [line for batch in loaded for line in batch["skipped"]]
    assert {line.split(": ")[0] for line in skipped} == {str(folder / "cat" / name) for name in CORRUPT}
    reasons = {line.split(": ")[0].rsplit("/")[-1]: line.split(": ", 1)[1].lower() for line in skipped}
    assert "truncated" in reasons["truncated.jpg"] and "empty" in reasons["empty.jpg"]
    assert "not that of an image" in reasons["text.jpg"]
    assert len(skipped) == 3 and sum(len(batch["pixel_values"]) for batch in loaded) == 8
    for batch in loaded:
        assert set(batch) == {"pixel_values", "sample_index", "labels", "skipped"}
        assert batch["pixel_values"].shape == (len(batch["sample_index"]), 3, 16, 16)
        for i, label in zip(batch["sample_index"].tolist(), batch["labels"].tolist(), strict=True):
            assert dataset.class_names[label] in dataset.dataset[i]["image"]["path"]
    assert dataset.labels == [0] * 7 + [1] * 4 and dataset.class_names == ["cat", "dog"]


def test_parquet_names_the_row(parquet, folder):
    dataset = ImageDataset(load_images(parquet), evaluation_transform(16))
    names = [row["image"]["path"] for row in dataset.dataset]
    skipped = {line.split(": ")[0] for batch in batches(dataset) for line in batch["skipped"]}
    assert skipped == {f"{name} (row {names.index(name)})" for name in CORRUPT}
    assert dataset.class_names == ["cat", "dog"] and dataset.labels == [0] * 7 + [1] * 4
    from_files = by_index(batches(ImageDataset(load_images(folder), evaluation_transform(16))))
    assert_same_pixels(from_files, by_index(batches(dataset)))
    assert load_images(parquet.parent).column_names == ["image", "label"]


def test_parquet_in_a_folder_inside_is_found(parquet):
    nested = parquet.parent.parent / "repository" / "data"
    nested.mkdir(parents=True)
    parquet.rename(nested / "train-00000-of-00001.parquet")
    rows = load_images(nested.parent)
    assert len(rows) == 11 and rows.column_names == ["image", "label"]


def test_parquet_without_file_names(tmp_path):
    rows = [{"img": {"bytes": b"junk", "path": None}, "text": "a"}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
    (marker,) = ImageDataset(load_images(tmp_path / "x.parquet"), evaluation_transform(8))
    assert isinstance(marker, UndecodableImage) and str(marker).startswith(
        "row 0: the content is not that of an image"
    )


def test_crops_depend_on_seed_epoch_and_index_only(folder):
    rows = load_images(folder)

    def crops(seed=0, epoch=0, **options):
        dataset = ImageDataset(rows, pretraining_transform(16), seed=seed)
        dataset.set_epoch(epoch)
        return by_index(batches(dataset, **options))

    reference = crops()
    assert_same_pixels(reference, crops(num_workers=2))
    shuffled = torch.Generator().manual_seed(3)
    assert_same_pixels(reference, crops(shuffle=True, generator=shuffled))
    for other in (crops(seed=1), crops(epoch=1)):
        assert other.keys() == reference.keys()
        assert not any(torch.equal(other[i], reference[i]) for i in reference)
    dataset = ImageDataset(rows, pretraining_transform(16))
    assert torch.equal(dataset[-1]["pixel_values"], dataset[10]["pixel_values"]) and dataset[-1]["sample_index"] == 10
    assert torch.equal(dataset[np.int64(10)]["pixel_values"], reference[10])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_follow_the_epoch(folder, persistent):
    rows = load_images(folder)
    dataset = ImageDataset(rows, pretraining_transform(16))
    loader = DataLoader(
        dataset, batch_size=4, collate_fn=ImageCollator(), num_workers=2, persistent_workers=persistent
    )
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        expected = ImageDataset(rows, pretraining_transform(16))
        expected.set_epoch(epoch)
        assert_same_pixels(by_index(list(loader)), by_index(batches(expected)))


def test_copies_keep_the_epoch(folder):
    dataset = ImageDataset(load_images(folder), pretraining_transform(16))
    dataset.set_epoch(4)
    for twin in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert twin.epoch == 4 and torch.equal(twin[0]["pixel_values"], dataset[0]["pixel_values"])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_streams_give_the_same_images(folder, parquet, source, workers):
    expected = by_index(batches(ImageDataset(load_images(folder), pretraining_transform(16), seed=2)))
    rows = load_images(folder if source == "folder" else parquet, streaming=True)
    loaded = batches(IterableImageDataset(rows, pretraining_transform(16), seed=2), num_workers=workers)
    skipped = {line.split(": ")[0].split(" (")[0].rsplit("/")[-1] for batch in loaded for line in batch["skipped"]}
    assert skipped == CORRUPT
    assert_same_pixels(by_index(loaded), expected)
    assert all(("labels" in batch) == (source == "folder") for batch in loaded)  # text cannot be numbered


def test_streams_of_several_shards_number_uniquely_and_follow_the_epoch():
    rows = datasets.Dataset.from_dict({"image": [picture(i) for i in range(12)]}).to_iterable_dataset(num_shards=4)
    stream = IterableImageDataset(rows, pretraining_transform(16))
    loader = DataLoader(stream, 4, collate_fn=ImageCollator(), num_workers=2, persistent_workers=True)
    first = by_index(list(loader))
    assert len(first) == 12
    assert_same_pixels(first, by_index(list(loader)))
    stream.set_epoch(1)
    second = by_index(list(loader))
    assert first.keys() == second.keys() and not any(torch.equal(first[i], second[i]) for i in first)


def test_shuffled_streams_change_their_order_with_the_epoch():
    rows = datasets.Dataset.from_dict({"image": [picture(i) for i in range(12)], "label": list(range(12))})
    stream = IterableImageDataset(rows.to_iterable_dataset().shuffle(seed=0, buffer_size=12), evaluation_transform(8))
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append([row.load()["labels"] for row in stream])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1]) == list(range(12))


@pytest.mark.parametrize("workers", [0, 2])
def test_endless_streams_shuffle_every_pass_anew(workers):
    rows = datasets.Dataset.from_dict({"image": [picture(i) for i in range(12)], "label": list(range(12))})

    def first(number, **options):
        stream = IterableImageDataset(rows.to_iterable_dataset(4), evaluation_transform(8), endless=True, **options)
        loader = DataLoader(stream, 3, collate_fn=ImageCollator(), num_workers=workers)
        return torch.cat([batch["labels"] for batch in itertools.islice(loader, number)]).split(12)

    passes = first(12, shuffle_buffer=12)
    assert all(sorted(labels.tolist()) == list(range(12)) for labels in passes)
    orders = {tuple(labels.tolist()) for labels in passes}
    assert len(orders) == 3 and tuple(range(12)) not in orders
    assert all(torch.equal(a, b) for a, b in zip(passes, first(12, shuffle_buffer=12), strict=True))
    assert not torch.equal(passes[0], first(4, shuffle_buffer=12, seed=1)[0])
    plain = first(8)
    assert torch.equal(plain[0], plain[1])
    nothing = rows.to_iterable_dataset().take(0)
    with pytest.raises(ValueError, match="the stream has no rows"):
        next(iter(IterableImageDataset(nothing, evaluation_transform(8), endless=True)))


def test_workers_without_a_share_in_an_endless_stream_end():
    rows = datasets.Dataset.from_dict({"image": [picture(i) for i in range(3)]}).to_iterable_dataset(num_shards=1)
    stream = IterableImageDataset(rows, evaluation_transform(8), endless=True)
    loader = DataLoader(stream, 3, collate_fn=ImageCollator(), num_workers=2, timeout=20)
    found = [batch["sample_index"].tolist() for batch in itertools.islice(loader, 4)]
    assert found == [[0, 2, 4], [6, 8, 10], [12, 14, 16], [18, 20, 22]]


def test_folders_divided_into_splits_number_classes_alike(tmp_path):
    for split, kinds in (("train", ("bird", "cat", "dog")), ("val", ("cat", "dog"))):
        for kind in kinds:
            (tmp_path / "d" / split / kind).mkdir(parents=True)
            picture(0).save(tmp_path / "d" / split / kind / "test_1.png")  # the name must not make it a test set
    train, validation = load_images(tmp_path / "d"), load_images(tmp_path / "d", split="validation")
    assert train.features["label"].names == validation.features["label"].names == ["bird", "cat", "dog"]
    assert train["label"][:] == [0, 1, 2] and validation["label"][:] == [1, 2]
    with pytest.raises(ValueError, match=r"no split 'test', only \['train', 'validation'\]"):
        load_images(tmp_path / "d", split="test")
    assert len(load_images(tmp_path / "d", split="train[:2]")) == 2
    assert load_images(tmp_path / "d" / "train")["label"][:] == [0, 1, 2]


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (("val", "test"), "validation"),
        (("val", "test"), "test"),
        (("training",), "train"),
        (("training", "extra"), "train"),
    ],
)
def test_folders_are_divided_by_any_usual_name(tmp_path, folders, split):
    for folder in folders:
        for kind in ("cat", "dog"):
            (tmp_path / "d" / folder / kind).mkdir(parents=True)
            picture(0).save(tmp_path / "d" / folder / kind / "1.png")
    rows = load_images(tmp_path / "d", split)
    assert len(rows) == 2 and rows.features["label"].names == ["cat", "dog"]


def test_folders_without_splits_and_without_classes(folder, tmp_path):
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_images(folder, split="validation")
    (tmp_path / "flat").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "flat" / f"test-{i}.png")
    rows = load_images(tmp_path / "flat")
    assert rows.column_names == ["image"] and len(rows) == 3
    (batch,) = batches(ImageDataset(rows, evaluation_transform(8)))
    assert "labels" not in batch and ImageDataset(rows, evaluation_transform(8)).labels is None


def test_sources_that_do_not_exist(tmp_path):
    for missing in (tmp_path / "nowhere", "./nowhere", "some/deep/path", "rows.parquet"):
        with pytest.raises(FileNotFoundError, match="nowhere|path|parquet"):
            load_images(missing)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").write_text("no images")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_images(tmp_path / "nothing")
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(ValueError, match="not a parquet file"):
        load_images(tmp_path / "a.csv")
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="load_from_disk"):
        load_images(tmp_path / "saved")


def table(**columns):
    return datasets.Dataset.from_dict(columns)


def test_columns_are_found_by_type_and_name():
    image = [picture(0)]
    assert standard_columns(table(photo=image, other=[1.0])).column_names == ["image"]
    assert standard_columns(table(photo=image, labels=[3]))["label"][:] == [3]
    assert standard_columns(table(img=image, mask=image, label=["b"])).column_names == ["image", "label"]
    fine = table(img=image, fine=[1]).cast_column("fine", datasets.ClassLabel(names=["x", "y"]))
    assert standard_columns(fine).features["label"].names == ["x", "y"]
    plain = table(jpg=[b"abc"], cls=[2])
    assert standard_columns(plain)[0] == {"image": {"bytes": b"abc", "path": None}, "label": 2}
    once = standard_columns(table(photo=image, animal=["dog"]), label_column="animal")
    assert standard_columns(once).features == once.features


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"text": ["a"]}, {}, r"no image column among the columns \['text'\]; choose one by image_column"),
        (
            {"image": "picture", "y": [1]},
            {"label_column": "lable"},
            r"'lable' is not one of the columns \['image', 'y'",
        ),
        ({"image": "picture"}, {"image_column": "img"}, r"'img' is not one of the columns \['image'\]"),
        ({"image": "picture", "y": [1]}, {"image_column": "y"}, r"'y' holds neither images, nor their bytes or paths"),
        ({"a": "picture", "b": "picture"}, {}, r"more than one image column: \['a', 'b'\]"),
        ({"image": "picture", "y": [0.5]}, {"label_column": "y"}, "neither class names nor integers"),
    ],
)
def test_column_errors_list_what_there_is(columns, options, message):
    rows = table(**{name: [picture(0)] if value == "picture" else value for name, value in columns.items()})
    with pytest.raises(ValueError, match=message):
        standard_columns(rows, **options)


def test_streams_refuse_text_labels():
    rows = table(image=[picture(0)], label=["cat"]).to_iterable_dataset()
    assert standard_columns(rows).column_names == ["image"]
    with pytest.raises(ValueError, match="streaming=False"):
        standard_columns(rows, label_column="label")


def test_decoding_data_sets_are_switched_to_undecoded(folder):
    """A data set opened by the user decodes by itself and would raise; ImageDataset prevents that."""
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    with pytest.raises(OSError):
        [rows[i] for i in range(len(rows))]
    assert sum(isinstance(sample, UndecodableImage) for sample in ImageDataset(rows, evaluation_transform(8))) == 3


@pytest.mark.parametrize("format", ["pandas", "arrow"])
def test_data_sets_with_a_format_give_the_same_samples(folder, format):
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    plain = ImageDataset(rows, evaluation_transform(8))[0]
    found = ImageDataset(rows.with_format(format), evaluation_transform(8))[0]
    assert torch.equal(found["pixel_values"], plain["pixel_values"]) and found["labels"] == plain["labels"]


def test_wrong_use_is_refused(folder):
    transform = evaluation_transform(8)
    with pytest.raises(TypeError, match="IterableImageDataset"):
        ImageDataset(load_images(folder, streaming=True), transform)
    with pytest.raises(TypeError, match="use ImageDataset"):
        IterableImageDataset(load_images(folder), transform)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        ImageDataset(load_images(folder), transform, seed=-1)
    dataset = ImageDataset(load_images(folder), transform)
    with pytest.raises(ValueError, match="epoch must be 0 or more, got -2"):
        dataset.set_epoch(-2)
    with pytest.raises(IndexError, match="index 11 is out of range for 11 images"):
        dataset[11]
    with pytest.raises(ValueError, match=r"need an 'image', got the columns \['photo'\]"):
        ImageDataset([{"photo": picture(0)}], transform)
    with pytest.raises(ValueError, match="row 1 has no label"):
        ImageDataset([{"image": picture(0), "label": 1}, {"image": picture(0), "label": None}], transform)[1]


def test_a_transform_that_fails_is_not_taken_for_a_corrupt_image():
    def broken(image, rng):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        ImageDataset([{"image": picture(0)}], broken)[0]


def test_collator():
    good = {"pixel_values": torch.ones(3, 4, 4), "sample_index": 7, "labels": 2}
    bad = [UndecodableImage(i, f"{i}.jpg", "broken", (3, 4, 4)) for i in (1, 2)]
    batch = ImageCollator()([bad[0], good, bad[1], good])
    assert batch["pixel_values"].shape == (2, 3, 4, 4) and batch["labels"].tolist() == [2, 2]
    assert batch["sample_index"].dtype == torch.int64 and batch["skipped"] == ["1.jpg: broken", "2.jpg: broken"]
    assert ImageCollator()([good])["skipped"] == []
    nothing = ImageCollator()(bad)
    assert nothing["pixel_values"].shape == (0, 3, 4, 4) and nothing["skipped"] == ["1.jpg: broken", "2.jpg: broken"]
    assert nothing["sample_index"].tolist() == [] and nothing["sample_index"].dtype == torch.int64
    kept = ImageCollator(keep_unreadable=True)(bad)
    assert kept["pixel_values"].shape == (2, 3, 4, 4) and not kept["pixel_values"].any()
    assert kept["labels"].tolist() == [-100, -100] and kept["sample_index"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="1 of 2 samples have labels"):
        ImageCollator()([good, {"pixel_values": torch.ones(3, 4, 4), "sample_index": 1}])


def test_importing_the_package_is_cheap():
    import subprocess
    import sys

    code = "import sys, hf_jepa.data; print(sorted({'datasets', 'torch', 'PIL', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    code = "import sys, hf_jepa.data.images; print('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_name_that_neither_disk_nor_hub_knows_says_so(monkeypatch):
    def unreachable(name, **options):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match="fotos is no file or folder here, and the Hub has not given it: Couldn't reach"):
        load_images("fotos")
