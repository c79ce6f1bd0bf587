"""Data sets of clips: reproducible, of every kind of source, and naming what they had to skip."""

import numpy as np
import pytest
import torch
from clips import BITS, number_of, numbered, numbers_of, write_video
from PIL import Image
from torch.utils.data import DataLoader

from hf_jepa.data.sources import load_images
from hf_jepa.data.video_columns import find_video_column, standard_video_columns
from hf_jepa.data.video_readers import open_video
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.video_transforms import clip_evaluation_transform, clip_pretraining_transform, frames_to_tensor
from hf_jepa.data.videos import UndecodableVideo, VideoCollator, VideoDataset, read_clips


def plain(frames, rng=None):
    """Frames as they are, so that their numbers can be read."""
    return frames_to_tensor(frames).float()


def shown(pixels):
    """Numbers that a sample's frames show."""
    return numbers_of(pixels.reshape(-1, *pixels.shape[-3:]).permute(0, 2, 3, 1).numpy())


@pytest.fixture
def folder(tmp_path):
    """Two classes; in `run` two videos and a folder of frames, in `walk` two videos, of which one is cut off."""
    root = tmp_path / "videos"
    for kind in ("run", "walk"):
        (root / kind).mkdir(parents=True)
    for i in (1, 2, 10):
        write_video(root / "run" / f"{i}.mp4", 40 + i)
    (root / "run" / "clip3").mkdir()
    for i in range(20):
        Image.fromarray(numbered(i)).save(root / "run" / "clip3" / f"{i}.png")
    write_video(root / "walk" / "a.mkv", 30)
    write_video(root / "walk" / "short.mp4", 5)
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 256, (32, 64, 3), dtype=np.uint8) for _ in range(30)]
    cut = write_video(root / "walk" / "cut.mp4", frames, container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return root


SAMPLING = ClipSampling(4, frame_step=3)


def test_a_folder_becomes_clips_with_labels(folder):
    rows = load_videos(folder)
    assert rows.features["label"].names == ["run", "walk"]
    names = [row["video"]["path"].rsplit("/", 1)[1] for row in rows]
    assert names == ["1.mp4", "2.mp4", "10.mp4", "clip3", "a.mkv", "cut.mp4", "short.mp4"]
    dataset = VideoDataset(rows, plain, SAMPLING, random_position=False)
    assert dataset.labels == [0, 0, 0, 0, 1, 1, 1] and dataset.class_names == ["run", "walk"] and len(dataset) == 7
    sample = dataset[0]
    assert shown(sample["pixel_values_videos"]) == [15, 18, 21, 24] and sample["labels"] == 0
    assert shown(dataset[3]["pixel_values_videos"]) == [5, 8, 11, 14]
    skipped = [dataset[i] for i in (5, 6)]
    assert all(isinstance(sample, UndecodableVideo) for sample in skipped)
    assert "cut.mp4: the file is damaged or cut off" in str(skipped[0]) and skipped[0].shape == (4, 3, 16, 16)
    assert str(skipped[1]).endswith("short.mp4: the video has 5 frames, a clip of 4 x 3 needs 10")
    batch = VideoCollator()([dataset[i] for i in range(7)][2:])
    assert len(batch["skipped"]) == 2 and batch["sample_index"].tolist() == [2, 3, 4]
    assert batch["labels"].tolist() == [0, 0, 1] and batch["pixel_values_videos"].shape == (3, 4, 3, 32, 64)


def test_divided_folders_number_classes_alike(folder, tmp_path):
    root = tmp_path / "divided"
    for split, kinds in (("train", ("a", "b", "c")), ("val", ("c", "b"))):
        for kind in kinds:
            (root / split / kind).mkdir(parents=True)
            write_video(root / split / kind / "x.mp4", 8)
    train, validation = load_videos(root), load_videos(root, split="validation")
    assert train.features["label"].names == validation.features["label"].names == ["a", "b", "c"]
    assert validation["label"] == [1, 2]
    with pytest.raises(ValueError, match=r"no split 'test', only \['train', 'validation'\]"):
        load_videos(root, split="test")
    with pytest.raises(ValueError, match="not divided"):
        load_videos(folder, split="test")


def test_folders_without_classes_and_of_mixed_depth(tmp_path):
    (tmp_path / "flat").mkdir()
    write_video(tmp_path / "flat" / "1.mp4", 8)
    assert load_videos(tmp_path / "flat").column_names == ["video"]
    (tmp_path / "flat" / "deep").mkdir()
    write_video(tmp_path / "flat" / "deep" / "2.mp4", 8)
    with pytest.raises(ValueError, match="1 and 2 levels deep"):
        load_videos(tmp_path / "flat")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="neither videos nor folders"):
        load_videos(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_videos(tmp_path / "missing")


def test_a_single_video_and_a_folder_of_its_frames(tmp_path):
    write_video(tmp_path / "one.mp4", 8)
    (tmp_path / "frames").mkdir()
    for i in range(8):
        Image.fromarray(numbered(i)).save(tmp_path / "frames" / f"{i}.png")
    for source in (tmp_path / "one.mp4", tmp_path / "frames"):
        rows = load_videos(source)
        assert rows.column_names == ["video"]
        sampling = ClipSampling(4, frame_step=2)
        (clip,) = VideoDataset(rows, plain, sampling, random_position=False)
        assert shown(clip["pixel_values_videos"]) == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="single clip and has no split 'test'"):
        load_videos(tmp_path / "one.mp4", "test")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_videos(tmp_path / "two.mp4")


def test_lists_in_the_official_form(folder, tmp_path):
    (folder / "list.csv").write_text(f"run/1.mp4 3\n{folder}/run/2.mp4 0\n\nrun/my clip.mp4,7\n")
    write_video(folder / "run" / "my clip.mp4", 30)
    rows = load_videos(folder / "list.csv")
    assert rows["label"] == [3, 0, 7]
    dataset = VideoDataset(rows, plain, SAMPLING, random_position=False)
    assert all(shown(dataset[i]["pixel_values_videos"])[0] > 0 for i in range(3))
    (folder / "quoted.csv").write_text('"run/my clip.mp4" 7\n"run/2.mp4",0\nrun/1.mp4 3\n', encoding="utf-8-sig")
    paths = [row["path"] for row in load_videos(folder / "quoted.csv")["video"]]
    assert paths == [str(folder / f"run/{name}.mp4") for name in ("my clip", "2", "1")]
    (folder / "bare.csv").write_text("run/1.mp4\nwalk/a.mkv\n")
    assert load_videos(folder / "bare.csv").column_names == ["video"]
    (folder / "mixed.csv").write_text("run/1.mp4 3\nwalk/a.mkv\n")
    with pytest.raises(ValueError, match="line 2 has no integer label"):
        load_videos(folder / "mixed.csv")
    with pytest.raises(ValueError, match="has no split 'test'"):
        load_videos(folder / "list.csv", split="test")
    (folder / "list.json").write_text("{}")
    with pytest.raises(ValueError, match="neither a folder"):
        load_videos(folder / "list.json")


def test_parquet_files_and_video_columns(folder, tmp_path):
    import datasets

    stored = (folder / "run" / "1.mp4").read_bytes()
    features = datasets.Features({"film": datasets.Video(decode=False), "kind": datasets.Value("string")})
    rows = datasets.Dataset.from_dict(
        {"film": [{"bytes": stored, "path": None}] * 2, "kind": ["run", "jump"]}, features=features
    )
    (tmp_path / "data").mkdir()
    rows.to_parquet(str(tmp_path / "data" / "train.parquet"))
    loaded = load_videos(tmp_path / "data", label_column="kind")
    assert loaded.features["label"].names == ["jump", "run"] and loaded["label"] == [1, 0]
    assert shown(VideoDataset(loaded, plain, SAMPLING, random_position=False)[1]["pixel_values_videos"])[0] == 15
    decoding = rows.cast_column("film", datasets.Video())  # would ask for torchcodec by itself
    assert VideoDataset(decoding, plain, SAMPLING)[0]["pixel_values_videos"].shape == (4, 3, 32, 64)
    damaged = rows.map(lambda row: {"film": {"bytes": b"no", "path": None}})
    assert str(VideoDataset(damaged, plain, SAMPLING)[1]).startswith("row 1: ")


def test_columns_are_found_or_named():
    import datasets

    video, text = datasets.Video(decode=False), datasets.Value("string")
    assert find_video_column(datasets.Features({"a": video, "path": text})) == "a"
    assert find_video_column(datasets.Features({"path": text, "caption": text})) == "path"
    assert find_video_column(datasets.Features({"caption": text, "photo": datasets.Image()})) == "photo"
    assert find_video_column(datasets.Features({"a": video, "b": video}), "b") == "b"
    for features, wanted, message in (
        ({"a": video, "b": video}, None, r"more than one video column: \['a', 'b'\]"),
        ({"caption": text}, None, r"no video column among the columns \['caption'\]"),
        ({"a": video}, "c", "'c' is not one of"),
        ({"a": video, "n": datasets.Value("int64")}, "n", "holds neither videos"),
    ):
        with pytest.raises(ValueError, match=message):
            find_video_column(datasets.Features(features), wanted)
    rows = datasets.Dataset.from_dict({"path": ["a.mp4"], "label": ["x"]})
    again = standard_video_columns(standard_video_columns(rows))
    assert again.column_names == ["video", "label"] and again[0]["label"] == 0


def moving(count=3, frames=60):
    return [{"video": np.stack([numbered(i) for i in range(frames)]), "label": n} for n in range(count)]


def test_samples_depend_on_seed_epoch_and_index_alone():
    make = lambda seed=0: VideoDataset(moving(), clip_pretraining_transform(16), SAMPLING, seed=seed)  # noqa: E731
    first, again, other = make(), make(), make(1)
    torch.manual_seed(0), np.random.seed(0)
    sample = first[1]["pixel_values_videos"]
    torch.manual_seed(1), np.random.seed(1)
    again[2], again[0]
    assert torch.equal(sample, again[1]["pixel_values_videos"]) and torch.equal(
        sample, again[-2]["pixel_values_videos"]
    )
    assert not torch.equal(sample, other[1]["pixel_values_videos"])
    assert not torch.equal(sample, first[2]["pixel_values_videos"])
    again.set_epoch(1)
    assert again.epoch == 1 and not torch.equal(sample, again[1]["pixel_values_videos"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_clips(folder, workers):
    dataset = VideoDataset(load_videos(folder), clip_pretraining_transform(16), SAMPLING)
    batches = list(DataLoader(dataset, 3, num_workers=workers, collate_fn=VideoCollator()))
    found = torch.cat([batch["pixel_values_videos"] for batch in batches])
    expected = [dataset[i]["pixel_values_videos"] for i in range(5)]
    assert torch.equal(found, torch.stack(expected)) and sum((batch["skipped"] for batch in batches), []) != []


def test_positions_are_random_in_training_and_fixed_in_evaluation():
    starts = set()
    dataset = VideoDataset(moving(1), plain, SAMPLING)
    for epoch in range(30):
        dataset.set_epoch(epoch)
        numbers = shown(dataset[0]["pixel_values_videos"])
        assert np.diff(numbers).tolist() == [3, 3, 3]
        starts.add(numbers[0])
    assert len(starts) > 15
    fixed = VideoDataset(moving(1), plain, SAMPLING, random_position=False)
    assert shown(fixed[0]["pixel_values_videos"]) == [25, 28, 31, 34]


def test_several_clips_and_views():
    sampling = ClipSampling(4, frame_step=2, num_clips=3)
    dataset = VideoDataset(moving(1), plain, sampling, random_position=False)
    pixels = dataset[0]["pixel_values_videos"]
    assert pixels.shape == (3, 4, 3, 32, 64)
    assert shown(pixels) == [6, 8, 10, 12, 26, 28, 30, 32, 46, 48, 50, 52]
    views = VideoDataset(moving(1), clip_evaluation_transform(32, views=2), sampling, random_position=False)
    pixels = views[0]["pixel_values_videos"]
    assert pixels.shape == (6, 4, 3, 32, 32)  # (clip 0, view 0), (clip 0, view 1), (clip 1, view 0), ...
    single = VideoDataset(moving(1), clip_evaluation_transform(32, views=2), SAMPLING, random_position=False)
    assert single[0]["pixel_values_videos"].shape == (2, 4, 3, 32, 32)
    left = numbered(26)[:, :32]
    expected = clip_evaluation_transform(32, crop_pct=1.0)(left[None])[0]
    assert torch.allclose(pixels[2, 0], expected, atol=1e-6)


def test_images_become_static_clips(tmp_path):
    Image.fromarray(numbered(7)).save(tmp_path / "7.png")
    rows = [
        {"video": str(tmp_path / "7.png")},
        {"video": Image.fromarray(numbered(8))},
        {"image": Image.fromarray(numbered(9))},
    ]
    for frames in (None, 1, 6):
        dataset = VideoDataset(rows, plain, ClipSampling(4, fps=2), image_frames=frames)
        for i in range(3):
            assert shown(dataset[i]["pixel_values_videos"]) == [7 + i] * (frames or 4)
    (tmp_path / "photos").mkdir()
    Image.fromarray(numbered(5)).save(tmp_path / "photos" / "5.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"nothing")
    photos = VideoDataset(
        load_images(tmp_path / "photos"), clip_evaluation_transform(16), ClipSampling(4, fps=2), image_frames=1
    )
    assert photos[0]["pixel_values_videos"].shape == (1, 3, 16, 16) and "broken.png" in str(photos[1])
    with pytest.raises(ValueError, match="image_frames must be 1 or more, got 0"):
        VideoDataset(rows, plain, SAMPLING, image_frames=0)


def test_rates_go_by_time_and_steps_by_number(tmp_path):
    times = [i * 40 for i in range(20)] + [800 + i * 200 for i in range(20)]
    path = write_video(tmp_path / "a.mkv", 40, times=times)
    with open_video(path) as video:
        by_step = read_clips(video, ClipSampling(8, frame_step=4))[0]
        by_rate = read_clips(video, ClipSampling(8, fps=video.fps / 4))[0]
    assert np.diff(numbers_of(by_step)).tolist() == [4] * 7
    gaps = np.diff([times[number] for number in numbers_of(by_rate)])
    assert gaps.std() < 0.3 * gaps.mean() and len(set(np.diff(numbers_of(by_rate)))) > 1


def test_folders_of_frames_need_a_rate_for_seconds(folder):
    rows = [{"video": str(folder / "run" / "clip3")}]
    assert "frame rate is not known" in str(VideoDataset(rows, plain, ClipSampling(4, fps=5))[0])
    dataset = VideoDataset(rows, plain, ClipSampling(4, fps=5), random_position=False, folder_fps=10)
    assert np.diff(shown(dataset[0]["pixel_values_videos"])).tolist() == [2, 2, 2]


def test_a_transform_that_fails_is_not_taken_for_a_corrupt_video():
    def broken(frames, rng):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        VideoDataset(moving(1), broken, SAMPLING)[0]


def test_wrong_use_is_refused():
    with pytest.raises(TypeError, match="has no length"):
        VideoDataset(iter([]), plain, SAMPLING)
    with pytest.raises(ValueError, match=r"need a 'video' or an 'image', got the columns \['film'\]"):
        VideoDataset([{"film": 0}], plain, SAMPLING)
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        VideoDataset(moving(1), plain, SAMPLING, seed=-1)
    with pytest.raises(IndexError, match="index 3 is out of range for 3 videos"):
        VideoDataset(moving(), plain, SAMPLING)[3]
    rows = moving(2)
    rows[1]["label"] = None
    with pytest.raises(ValueError, match="row 1 has no label"):
        VideoDataset(rows, plain, SAMPLING)[1]
    assert VideoDataset(rows, plain, SAMPLING).labels == [0, None]


def sample(frames, index, **more):
    return {"pixel_values_videos": torch.full((frames, 3, 4, 4), float(index)), "sample_index": index} | more


def test_collator_groups_by_length():
    bad = UndecodableVideo(9, "9.mp4", "broken", (8, 3, 4, 4))
    batch = VideoCollator()([sample(8, 0), sample(2, 1), bad, sample(8, 2), sample(2, 3)])
    assert [clips.shape[:2] for clips in batch["pixel_values_videos"]] == [(2, 2), (2, 8)]
    assert [index.tolist() for index in batch["sample_index"]] == [[1, 3], [0, 2]]
    assert batch["pixel_values_videos"][1][1, 0, 0, 0, 0] == 2 and batch["skipped"] == ["9.mp4: broken"]
    ordered = VideoCollator(frame_counts=[8, 4, 2])([sample(2, 1, labels=5), sample(8, 0, labels=6)])
    assert [index.tolist() for index in ordered["sample_index"]] == [[0], [1]]
    assert [labels.tolist() for labels in ordered["labels"]] == [[6], [5]]
    with pytest.raises(ValueError, match=r"3 frames, which is not one of frame_counts=\[8, 2\]"):
        VideoCollator(frame_counts=[8, 2])([sample(3, 0), sample(8, 1)])


def test_collator_of_equal_lengths():
    bad = UndecodableVideo(9, "9.mp4", "broken", (8, 3, 4, 4))
    batch = VideoCollator()([sample(8, 3, labels=1), bad, sample(8, 4, labels=2)])
    assert batch["pixel_values_videos"].shape == (2, 8, 3, 4, 4) and batch["labels"].tolist() == [1, 2]
    assert batch["sample_index"].dtype == torch.int64
    nothing = VideoCollator()([bad])
    assert nothing["pixel_values_videos"].shape == (0, 8, 3, 4, 4) and nothing["sample_index"].tolist() == []
    kept = VideoCollator(keep_unreadable=True)([bad, sample(8, 1, labels=3)])
    assert not kept["pixel_values_videos"][0].any() and kept["labels"].tolist() == [-100, 3]
    with pytest.raises(ValueError, match="1 of 2 samples have labels"):
        VideoCollator()([sample(8, 0, labels=1), sample(8, 1)])
    with pytest.raises(ValueError, match="differ in shape"):
        VideoCollator()([sample(8, 0), {"pixel_values_videos": torch.zeros(8, 3, 5, 4), "sample_index": 1}])


def test_test_frames_show_their_numbers():
    assert [number_of(numbered(i)) for i in range(1 << BITS)] == list(range(1 << BITS))
