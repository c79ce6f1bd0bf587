"""Samples and batches of images or videos with texts: reproducible, of one clip length, naming what they skip."""

import json
import pickle

import datasets
import numpy as np
import pytest
import torch
from clips import numbered, numbers_of, write_video
from PIL import Image
from shard_files import picture, write_tar
from tokenizer_families import vl_jepa_processor
from torch.utils.data import DataLoader

from hf_jepa.data.video_sampling import uniform_indices
from hf_jepa.data.videos import UndecodableVideo
from hf_jepa.data.vision_text import (
    IterableVisionTextDataset,
    VisionTextDataset,
    VisionTextReader,
    VLJepaDataCollator,
    text_group,
)
from hf_jepa.data.vision_text_sources import load_vision_text


def frames(count):
    return np.stack([numbered(number) for number in range(count)])


def read(row, rng=0, **options):
    return VisionTextReader(**options)(row, 3, np.random.default_rng(rng))


def collator(**options):
    return VLJepaDataCollator(vl_jepa_processor(), **options)


# --- samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "count"), [(40, 4), (41, 16), (16, 16), (7, 2), (5, 1)])
def test_frames_are_spread_over_the_whole_video(tmp_path, length, count):
    path = write_video(tmp_path / "a.mp4", length)
    sample = read({"video": str(path), "target": "a"}, num_frames=count)
    shown = numbers_of(sample["video"])
    assert shown == uniform_indices(length, count).tolist() and shown == [i * length // count for i in range(count)]
    assert sample["video"].shape == (count, 32, 64, 3) and sample["video"].dtype == np.uint8
    assert (sample["query"], sample["target"], sample["sample_index"]) == ("", "a", 3)


def test_frames_are_spread_over_time_where_the_rate_varies(tmp_path):
    times = [*range(0, 1000, 100), *range(1000, 5000, 400)]  # ten frames in one second, then ten in four
    path = write_video(tmp_path / "a.mkv", 20, times=times)
    shown = numbers_of(read({"video": str(path), "target": "a"}, num_frames=4)["video"])
    assert shown == [1, 10, 13, 16]  # those in sight at 0.5, 5.5, 10.5 and 15.5 of twenty equal parts


def test_a_part_of_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", 50, rate=10)
    row = {"video": str(path), "target": "a", "start": 1.0, "end": 3.0}
    assert numbers_of(read(row, num_frames=4)["video"]) == [10, 15, 20, 25]
    assert numbers_of(read(row | {"start": None}, num_frames=3)["video"]) == [0, 10, 20]
    assert numbers_of(read(row | {"end": 9.0}, num_frames=4)["video"]) == [10, 20, 30, 40]
    for part in ({"start": 6.0, "end": 7.0}, {"start": 2.0, "end": 2.0}, {"start": -1.0}):
        assert "the video lasts 5 s" in read(row | part).reason
    assert "has 20 frames, a clip needs 21" in read(row, num_frames=21).reason
    assert numbers_of(read(row, num_frames=22, short_videos="pad")["video"])[-3:] == [29, 29, 29]
    array = {"video": frames(50), "target": "a", "end": 3.0}
    assert "say folder_fps" in read(array).reason
    assert numbers_of(read(array, folder_fps=10.0, num_frames=3)["video"]) == [0, 10, 20]


def test_images_are_single_frames_and_fill_videos(tmp_path):
    Image.fromarray(numbered(7)).save(tmp_path / "7.png")
    still = str(tmp_path / "7.png")
    assert read({"image": still, "target": "a"})["video"].shape == (1, 32, 64, 3)
    for row, count in (({"image": still}, 2), ({"video": still}, 5), ({"video": Image.open(still)}, 5)):
        sample = read(row | {"target": "a"}, num_frames=5, image_frames=2)
        assert numbers_of(sample["video"]) == [7] * count


def test_one_of_several_texts_is_drawn():
    row = {"video": frames(16), "query": ["who?", "which?"], "target": ["a seven", "a digit", "a 7"]}
    drawn = {(sample["query"], sample["target"]) for sample in (read(row, rng) for rng in range(60))}
    assert len(drawn) == 6 and read(row, 5)["target"] == read(row, 5)["target"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"video": "gone.mp4", "target": "a"}, "gone.mp4: .*No such file"),
        ({"image": "gone.png", "target": "a"}, "gone.png: .*No such file"),
        ({"video": b"no video", "target": "a"}, "row 3: "),
        ({"video": b"", "target": "a"}, "row 3: the file is empty"),
        ({"image": {"bytes": b"xyz", "path": "3.png"}, "target": "a"}, r"3.png \(row 3\): the content is not that of"),
        ({"video": None, "target": "a"}, "row 3: cannot read a video from NoneType"),
        ({"video": "1.mp4", "target": "  "}, "1.mp4: the target is empty"),
        ({"video": "1.mp4", "target": None}, "1.mp4: the target is empty"),
        ({"video": "1.mp4", "target": []}, "1.mp4: the target is empty"),
        ({"video": "1.mp4", "target": 7}, "1.mp4: the target must be text, got 7"),
        ({"video": "1.mp4", "target": "a", "query": ["a", 7][1:]}, "1.mp4: the query must be text, got 7"),
        ({"video": np.zeros((3, 8, 8, 3), np.uint8), "target": "a"}, "row 3: the video has 3 frames, a clip needs 16"),
    ],
)
def test_what_cannot_be_read_is_named(row, reason):
    import re

    sample = read(row)
    assert isinstance(sample, UndecodableVideo) and sample.sample_index == 3 and re.match(reason, str(sample))
    assert sample.shape[0] == (1 if "image" in row else 16)


def test_texts_alone():
    sample = read({"video": "gone.mp4", "target": "a two"}, read_media=False)
    assert sample == {"query": "", "target": "a two", "sample_index": 3}
    batch = collator(decoder_labels=True)([sample, sample])
    assert "pixel_values_videos" not in batch and batch["labels"].shape[0] == 2


def test_archives_are_not_read_for_texts_alone(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", {"1.png": picture(1), "1.txt": b"a two"})
    rows = load_vision_text(path, media="image")
    read_members, member = [], rows._member
    monkeypatch.setattr(rows, "_member", lambda *args: read_members.append(args) or member(*args))
    assert VisionTextDataset(rows, VisionTextReader(read_media=False))[0]["target"] == "a two"
    assert len(read_members) == 1
    assert VisionTextDataset(rows)[0]["video"].shape == (1, 32, 40, 3) and len(read_members) == 3


def test_videos_in_archives_and_parquet_files(tmp_path):
    videos = [write_video(tmp_path / f"{length}.mp4", length).read_bytes() for length in (20, 3, 30)]
    members = {}
    for row, video in enumerate(videos):
        members |= {
            f"{row}.mp4": video,
            f"{row}.json": json.dumps({"prompt": f"q{row}", "answer": f"a{row}"}).encode(),
        }
    write_tar(tmp_path / "a.tar", members)
    table = [{"mp4": video, "query": f"q{row}", "target": f"a{row}"} for row, video in enumerate(videos)]
    datasets.Dataset.from_list(table).to_parquet(tmp_path / "a.parquet")
    for name in ("a.tar", "a.parquet"):
        data = VisionTextDataset(load_vision_text(tmp_path / name, media="video"), VisionTextReader(num_frames=5))
        batch = [data[row] for row in range(3)]
        assert numbers_of(batch[0]["video"]) == [0, 4, 8, 12, 16] and numbers_of(batch[2]["video"])[1] == 6
        assert [(batch[row]["query"], batch[row]["target"]) for row in (0, 2)] == [("q0", "a0"), ("q2", "a2")]
        named = f"{tmp_path}/a.tar/1.mp4 (row 1)" if name == "a.tar" else "row 1"
        assert str(batch[1]) == f"{named}: the video has 3 frames, a clip needs 5"


# --- data sets ----------------------------------------------------------------------------------------------------


def test_a_data_set_is_reproducible_and_has_epochs():
    rows = [{"video": frames(16), "target": [f"{i} {k}" for k in range(40)]} for i in range(10)]
    data = VisionTextDataset(rows, seed=4)
    first = [data[i]["target"] for i in range(10)]
    assert first == [data[i]["target"] for i in range(10)] == [data[i - 10]["target"] for i in range(10)]
    data.set_epoch(2)
    assert data.epoch == 2 and first != [data[i]["target"] for i in range(10)]
    assert first != [VisionTextDataset(rows, seed=5)[i]["target"] for i in range(10)]
    data.set_epoch(0)
    loader = DataLoader(data, batch_size=3, num_workers=2, collate_fn=lambda batch: [s["target"] for s in batch])
    assert sum(loader, []) == first
    with pytest.raises(IndexError, match="index 10 is out of range for 10 rows"):
        data[10]


def test_data_sets_refuse_other_rows():
    with pytest.raises(
        ValueError, match=r"rows need a 'target', and an 'image' or a 'video', got \['label', 'video'\]"
    ):
        VisionTextDataset([{"video": "a.mp4", "label": 3}])
    stream = datasets.Dataset.from_list([{"video": "1.mp4", "caption": "a"}]).to_iterable_dataset()
    with pytest.raises(TypeError, match="use IterableVisionTextDataset for streams"):
        VisionTextDataset(stream)
    with pytest.raises(TypeError, match="use VisionTextDataset"):
        IterableVisionTextDataset([{"video": "1.mp4", "target": "a"}])
    raw = datasets.IterableDataset.from_generator(lambda: iter([{"clip": "1.mp4"}]))
    with pytest.raises(ValueError, match=r"got \['clip'\]: see load_vision_text"):
        next(iter(IterableVisionTextDataset(raw)))
    for options, match in (({"num_frames": 0}, "got 0 and 1"), ({"short_videos": "loop"}, "'loop' is not one of")):
        with pytest.raises(ValueError, match=match):
            VisionTextReader(**options)


def test_a_stream(tmp_path):
    for i in range(6):
        Image.fromarray(numbered(i)).save(tmp_path / f"{i}.png")
    records = [{"file_name": f"{i}.png", "text": f"number {i}"} for i in range(6)] + [{"file_name": "x", "text": "x"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
    stream = IterableVisionTextDataset(load_vision_text(tmp_path, streaming=True), VisionTextReader(num_frames=1))
    batch = collator()(list(stream))
    assert batch["sample_index"].tolist() == list(range(6)) and batch["pixel_values_videos"].shape == (6, 1, 3, 16, 16)
    assert len(batch["skipped"]) == 1 and batch["skipped"][0].startswith(f"{tmp_path}/x: ")
    shuffled = IterableVisionTextDataset(stream.dataset, seed=1, shuffle_buffer=7, endless=True)
    drawn = [pending for pending, _ in zip(shuffled, range(14), strict=False)]
    texts = [pending.row["target"] for pending in drawn]
    assert sorted(texts[:7]) == sorted(texts[7:]) and texts[:7] != texts[7:]
    assert [pending.sample_index for pending in drawn] == list(range(14))


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_is_what_the_model_is_called_with():
    texts = [("who?", "a seven"), ("", "a two"), ("what?", "left"), ("", "a seven moves left and a two moves up")]
    samples = [
        {"video": frames(4) + row, "query": query, "target": target, "sample_index": row}
        for row, (query, target) in enumerate(texts)
    ]
    collate = collator(decoder_labels=True)
    batch = collate(samples)
    expected = vl_jepa_processor()(
        videos=[sample["video"] for sample in samples],
        queries=[sample["query"] for sample in samples],
        targets=[sample["target"] for sample in samples],
        decoder_targets=[sample["target"] for sample in samples],
    )
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert set(batch) == {*expected, "target_group", "sample_index", "skipped"} and batch["skipped"] == []
    assert (batch["query_mask"].sum(1) > 0).tolist() == [bool(sample["query"]) for sample in samples]
    assert type(batch) is dict and batch["sample_index"].tolist() == list(range(4))
    without = collate([sample | {"query": ""} for sample in samples])
    assert set(batch) - set(without) == {"query_ids", "query_mask"}  # the model predicts without a query
    from_worker = pickle.loads(pickle.dumps(collate))(samples)
    assert all(torch.equal(from_worker[name], batch[name]) for name in expected)


def test_equal_targets_have_equal_groups_on_every_process():
    sample = {"video": frames(2), "query": "", "sample_index": 0}
    targets = ["yes", "no", "yes ", "Yes"]
    groups = collator()([sample | {"target": target} for target in targets])["target_group"]
    same = groups[:, None] == groups
    assert groups.dtype == torch.int64
    assert same.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert text_group("yes") == -7891968539030933039  # of the text alone, not of the process


def test_what_is_skipped_leaves_no_row():
    collate = collator()
    good = {"video": frames(4), "query": "a", "target": "two", "sample_index": 5}
    bad = [UndecodableVideo(i, f"{i}.mp4", "the file is empty", (4,)) for i in range(2)]
    batch = collate([bad[0], good, bad[1]])
    assert batch["sample_index"].tolist() == [5] and batch["pixel_values_videos"].shape == (1, 4, 3, 16, 16)
    assert batch["skipped"] == ["0.mp4: the file is empty", "1.mp4: the file is empty"]
    nothing = collate(bad)
    assert nothing["skipped"] == batch["skipped"] and nothing["pixel_values_videos"].shape == (0, 4, 3, 16, 16)
    assert {len(nothing[name]) for name in ("target_ids", "target_mask", "target_group", "sample_index")} == {0}


def test_clips_of_two_lengths_share_no_batch():
    samples = [{"video": frames(n), "query": "", "target": "a", "sample_index": n} for n in (1, 4)]
    with pytest.raises(
        ValueError, match=r"clips of \[1, 4\] frames: take the samples in the order of vision_text_samp"
    ):
        collator()(samples)
