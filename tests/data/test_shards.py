"""Shards: what is found in them, what of them is read, and what happens when they are damaged, slow or gone."""

import os
import pickle
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from clips import numbers_of, write_video
from shard_files import EVEN, IMPATIENT, SIZES, log_reads, picture, rows_read, write_parquets, write_tar, write_tars

import hf_jepa.data.shard_reads
import hf_jepa.data.shards
from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.shard_names import find_shards, names_shards
from hf_jepa.data.shard_reads import PatientReader, ReadLimits, ShardError
from hf_jepa.data.shards import ShardedRows, ShardOptions
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import evaluation_transform
from hf_jepa.data.video_readers import open_video
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.videos import VideoCollator, VideoDataset, read_clips


def impatient(name, **options):
    return load_images(str(name), shards=ShardOptions(IMPATIENT), **options)


def pixels(frames, rng):
    """A transform of clips that changes nothing but the form."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()


@pytest.fixture
def broken_reads(monkeypatch):
    """A function that puts another one before every opening of a shard."""

    def replace(before):
        opened = hf_jepa.data.shard_reads.open_shard

        def open_shard(path, **options):
            before(path)
            return opened(path, **options)

        monkeypatch.setattr(hf_jepa.data.shard_reads, "open_shard", open_shard)

    return replace


# --- what is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_tars, write_parquets])
def test_rows_of_all_shards_in_their_order(tmp_path, write):
    pattern = write(tmp_path)
    rows = load_images(pattern)
    assert isinstance(rows, ShardedRows) and len(rows) == sum(SIZES) and rows.column_names == ["image", "label"]
    assert rows.labels == list(range(sum(SIZES))) and rows.class_names is None
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    for index in order:
        assert rows[index]["image"]["bytes"] == picture(index) and rows[index]["label"] == index
    assert rows[-1]["label"] == len(rows) - 1
    with pytest.raises(IndexError, match="row 72 is out of range"):
        rows[72]
    selected = rows.select_columns("image")
    assert list(selected[5]) == selected.column_names == ["image"] and selected.labels is None
    with pytest.raises(ValueError, match="'audio'"):
        rows.select_columns(["audio"])
    again = pickle.loads(pickle.dumps(rows))
    assert again[40]["label"] == 40
    if write is write_parquets:
        assert [len(groups) for groups in rows.groups] == [3, 3, 2, 3, 2, 3, 2, 3]


def test_a_folder_of_archives_and_its_splits(tmp_path):
    write_tars(tmp_path / "train")
    write_tars(tmp_path / "val", (3,))
    assert len(load_images(tmp_path)) == sum(SIZES) and len(load_images(tmp_path, "validation")) == 3
    with pytest.raises(ValueError, match="no split 'test'"):
        load_images(tmp_path, "test")
    (tmp_path / "val/train-00.tar").rename(tmp_path / "train/photos-val-00.tar")
    with pytest.raises(ValueError, match=r"other splits too \(photos-val-00.tar\)"):
        load_images(tmp_path / "train")
    with pytest.raises(ValueError, match="name the shards of every split"):
        load_images(f"{tmp_path}/train/train-*.tar", "validation")


def test_names(tmp_path):
    pattern = write_tars(tmp_path, (1,) * 3)
    assert [Path(shard).name for shard in find_shards(pattern)] == ["train-00.tar", "train-01.tar", "train-02.tar"]
    assert find_shards(f"{tmp_path}/*.tar") == find_shards(pattern)
    with pytest.raises(FileNotFoundError, match="no file matches"):
        find_shards(f"{tmp_path}/valid*.tar")
    with pytest.raises(FileNotFoundError, match=r"2 of 5 shards do not exist: .*train-03.tar, .*train-04.tar"):
        load_images(f"{tmp_path}/train-{{00..04}}.tar")
    with pytest.raises(ValueError, match=r"\{3\.\.1\}"):
        find_shards("a{3..1}.tar")
    with pytest.raises(ValueError, match="names 2 shards twice"):
        find_shards(f"{tmp_path}/train-*{{0..2}}*.tar")
    with pytest.raises(ValueError, match="is not a shard"):
        find_shards(f"{tmp_path}/{{1..2}}.zip")
    assert not names_shards(tmp_path / "nothing") and not names_shards("org/name")


def test_what_is_no_shard_or_damaged_is_named_before_training(tmp_path):
    write_tars(tmp_path, (3,) * 5)
    whole = (tmp_path / "train-00.tar").read_bytes()
    (tmp_path / "train-00.tar").write_bytes(whole[: whole.rindex(b"IEND")])  # in the last picture
    (tmp_path / "train-01.tar").write_bytes(whole[: whole.index(b"0001.cls")])  # between two members
    damaged = bytearray(whole)
    damaged[whole.index(b"0002.cls") + 3] ^= 1
    (tmp_path / "train-02.tar").write_bytes(damaged)
    (tmp_path / "train-03.tar").write_bytes(b"no archive" * 300)
    with pytest.raises(ValueError) as caught:
        load_images(tmp_path)
    message = str(caught.value)
    assert message.startswith("4 of 5 shards cannot be used: ")
    reasons = {part.split(".tar: ")[0]: part.split(".tar: ")[1] for part in message.split(f"{tmp_path}/")[1:]}
    assert "unexpected end of data" in reasons["train-00"] and "truncated" in reasons["train-01"]
    assert "no header of a member at byte" in reasons["train-02"] and "no tar archive" in reasons["train-03"]


def test_members_that_make_no_row(tmp_path):
    texts = {"a.txt": b"a text", "a.json": b"{}"}
    write_tar(
        tmp_path / "a.tar", {**texts, "dir/b.v1.PNG": picture(1), "dir/b.json": b"{}", "readme": b"", ".png": b"x"}
    )
    rows = load_images(tmp_path / "a.tar")
    assert len(rows) == 1 and rows.column_names == ["image"]
    assert rows[0]["image"] == {"bytes": picture(1), "path": f"{tmp_path}/a.tar/dir/b.v1.PNG"}
    write_tar(tmp_path / "b.tar", texts)
    with pytest.raises(ValueError, match=r"no member ends in .*, there are json, txt"):
        load_images(tmp_path / "b.tar")
    write_tar(tmp_path / "c.tar", {"a.left.png": picture(1), "a.right.png": picture(2)})
    with pytest.raises(ValueError, match=r"a has 2 members to choose from: left.png, right.png"):
        load_images(tmp_path / "c.tar")
    write_tar(tmp_path / "d.tar", {"a.png": picture(1), "a.cls": b"cat"})
    with pytest.raises(ValueError, match="a.cls holds b'cat', not the number of a class"):
        load_images(tmp_path / "d.tar")
    write_tar(tmp_path / "e.tar", {"a.png": picture(1), "a.cls": b"3", "b.png": picture(2)})
    assert load_images(tmp_path / "e.tar").labels == [3, None]


def test_long_names(tmp_path):
    name = "folder/" * 30 + "a.png"
    rows = load_images(write_tar(tmp_path / "a.tar", {name: picture(1)}))
    assert rows[0]["image"]["bytes"] == picture(1)


def test_parquet_files_of_other_schemas(tmp_path):
    import datasets

    pattern = write_parquets(tmp_path, (3, 3))
    datasets.Dataset.from_dict({"image": ["a", "b"], "label": [1, 2]}).to_parquet(tmp_path / "train-02.parquet")
    with pytest.raises(ValueError, match=r"train-02.parquet has another schema .* its 'image'"):
        load_images(pattern)
    (tmp_path / "train-02.parquet").write_bytes((tmp_path / "train-00.parquet").read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"train-02.parquet: no parquet file, or a truncated one"):
        load_images(pattern)
    (tmp_path / "train-02.parquet").unlink()
    write_tars(tmp_path, (2,))
    with pytest.raises(ValueError, match="name shards of one kind"):
        ShardedRows([str(tmp_path / "train-00.parquet"), str(tmp_path / "train-00.tar")])
    with pytest.raises(ValueError, match="leave out 'picture'"):
        load_images(tmp_path / "train-00.tar", image_column="picture")


# --- what is read -------------------------------------------------------------------------------------------------


def test_shards_are_looked_into_once(tmp_path, monkeypatch, datasets_cache):
    pattern = write_tars(tmp_path / "shards")
    load_images(pattern)
    index = hf_jepa.data.shard_index._index_tar
    looked = []
    monkeypatch.setattr(
        hf_jepa.data.shard_index, "_index_tar", lambda *args, **kw: looked.append(1) or index(*args, **kw)
    )
    assert load_images(pattern)[9]["label"] == 9 and not looked
    time.sleep(0.01)
    write_tars(tmp_path / "shards", (9,))  # one of them anew
    assert load_images(pattern)[9]["label"] == 9 and len(looked) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_row_is_one_read(tmp_path, monkeypatch):
    rows = load_images(write_tars(tmp_path / "shards"))
    monkeypatch.setattr(hf_jepa.data.shards, "_read_bytes", hf_jepa.data.shards._read_bytes)
    log_reads(tmp_path / "log")
    dataset = ImageDataset(rows, evaluation_transform(16))
    assert dataset.labels == list(range(72)) and not (tmp_path / "log").exists()
    for index in (3, 60, 3):
        assert dataset[index]["labels"] == index
    assert rows_read(tmp_path / "log") == [3, 60, 3]


def test_row_groups_are_kept_for_a_while(tmp_path, monkeypatch):
    rows = load_images(write_parquets(tmp_path))
    reads, read = [], hf_jepa.data.shards._read_row_group
    monkeypatch.setattr(
        hf_jepa.data.shards,
        "_read_row_group",
        lambda path, group, *args: reads.append(group) or read(path, group, *args),
    )
    for index in (0, 3, 1, 4, 2):
        assert rows[index]["label"] == index
    assert reads == [0, 1]
    monkeypatch.setattr(hf_jepa.data.shards, "KEPT_BYTES", 1)
    for index in (8, 8, 0):
        assert rows[index]["label"] == index
    assert reads == [0, 1, 2, 0] and len(rows._kept) == 1


@pytest.mark.parametrize("write", [write_tars, write_parquets])
def test_remote_files(write, tmp_path):
    write(tmp_path / "shards")
    memory = fsspec.filesystem("memory")
    for file in (tmp_path / "shards").iterdir():
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    try:
        suffix = ".tar" if write is write_tars else ".parquet"
        for name in (f"memory://bucket/train-{{00..07}}{suffix}", f"memory://bucket/*{suffix}"):
            rows = load_images(name)
            assert [rows[index]["label"] for index in range(72)] == list(range(72))
    finally:
        memory.rm("/bucket", recursive=True)


def test_videos(tmp_path):
    film = write_video(tmp_path / "film.mp4", 20).read_bytes()
    members = {
        "1.mp4": film,
        "1.cls": b"4",
        "2.mp4": film[: len(film) // 3],
        "2.cls": b"5",
        "3.json": b"{}",
        "4.mp4": film,
        "4.cls": b"6",
    }
    rows = load_videos(write_tar(tmp_path / "films" / "a.tar", members).parent)
    assert len(rows) == 3 and rows.labels == [4, 5, 6]
    dataset = VideoDataset(rows, pixels, ClipSampling(4, frame_step=2), random_position=False)
    batch = VideoCollator()([dataset[index] for index in range(3)])
    assert batch["labels"].tolist() == [4, 6] and batch["sample_index"].tolist() == [0, 2]
    assert len(batch["skipped"]) == 1 and batch["skipped"][0].startswith(f"{tmp_path}/films/a.tar/2.mp4 (row 1): ")
    with open_video(rows[2]["video"]) as video:
        clips = read_clips(video, ClipSampling(4, frame_step=2))
    shown = dataset[2]["pixel_values_videos"].permute(0, 2, 3, 1).numpy()
    assert numbers_of(clips[0]) == numbers_of(shown) and len(set(numbers_of(shown))) == 4
    with pytest.raises(ValueError, match="there are cls, json, mp4"):
        load_images(tmp_path / "films")


# --- what cannot be read ------------------------------------------------------------------------------------------


def test_a_read_that_fails_twice_is_tried_again(tmp_path, broken_reads):
    rows = impatient(write_tars(tmp_path))
    failures = iter([OSError("stale handle"), OSError("stale handle")])

    def fail(path):
        for error in failures:
            raise error

    broken_reads(fail)
    assert rows[5]["label"] == 5 and next(failures, None) is None


@pytest.mark.parametrize("write", [write_tars, write_parquets])
def test_a_shard_that_cannot_be_read_is_named_once_and_tried_anew_in_the_next_epoch(tmp_path, broken_reads, write):
    dataset = ImageDataset(impatient(write(tmp_path)), evaluation_transform(16))
    tried, gone = [], True

    def fail(path):
        if "train-01" in path and gone:
            tried.append(path)
            raise ConnectionError("no route to host")

    broken_reads(fail)
    samples = [dataset[index] for index in range(7, 22)]  # of shards 0 (to 8), 1 (to 19) and 2
    batch = ImageCollator()(samples)
    assert batch["sample_index"].tolist() == [7, 8, 20, 21] and len(tried) == 3
    assert all(isinstance(sample, UndecodableImage) for sample in samples[2:13])
    assert set(batch["skipped"]) == {f"{tried[0]}: 3 attempts, the last one: no route to host"}
    kept = ImageCollator(keep_unreadable=True)(samples)
    assert len(kept["pixel_values"]) == 15 and kept["labels"].tolist().count(-100) == 11
    gone = False
    assert isinstance(dataset[9], UndecodableImage)
    dataset.set_epoch(1)
    assert dataset[9]["labels"] == 9


def test_a_shard_that_hangs_is_given_up_in_time(tmp_path, broken_reads):
    limits = ReadLimits(timeout=0.3, retries=2, pause=0.01)
    rows = load_images(write_tars(tmp_path), shards=ShardOptions(limits))
    dataset = ImageDataset(rows, evaluation_transform(16))
    dataset[0]  # the thread of the reader has a file open
    tried, connection = [], threading.Event()

    def hang(path):
        if "train-01" in path:
            tried.append(path)
            connection.wait(60)

    broken_reads(hang)
    start = time.monotonic()
    sample = dataset[10]
    assert 0.9 < time.monotonic() - start < 60
    assert str(sample) == f"{tmp_path}/train-01.tar: 3 attempts, the last one: no answer within 0.3 s"
    assert isinstance(dataset[11], UndecodableImage) and len(tried) == 3  # nobody waits for it again
    assert dataset[0]["labels"] == 0
    connection.set()


def test_a_shard_that_vanished_or_changed(tmp_path):
    dataset = ImageDataset(impatient(write_tars(tmp_path, EVEN)), evaluation_transform(16))
    (tmp_path / "train-00.tar").unlink()
    whole = (tmp_path / "train-01.tar").read_bytes()
    (tmp_path / "train-01.tar").write_bytes(whole[: len(whole) // 4])
    write_tar(tmp_path / "train-02.tar", {"0016.cls": b"16", "0016.png": picture(16) + b"more"})
    flipped = bytearray((tmp_path / "train-03.tar").read_bytes())
    flipped[flipped.index(b"0026.png") + 2] ^= 1  # a header
    flipped[flipped.index(b"IDAT", flipped.index(b"0027.png")) + 9] ^= 255  # a picture
    (tmp_path / "train-03.tar").write_bytes(flipped)
    reasons = {index: str(dataset[index]) for index in (0, 15, 16, 26, 27)}
    assert "train-00.tar: 3 attempts, the last one: [Errno 2] No such file" in reasons[0]
    assert "train-01.tar: 3 attempts, the last one: truncated: " in reasons[15]
    assert "train-02.tar: no longer the archive of the start: 0016.png has" in reasons[16]
    assert "train-03.tar: damaged or overwritten at byte" in reasons[26]
    assert "train-03.tar/0027.png (row 27): " in reasons[27]
    assert dataset[25]["labels"] == 25 and dataset[28]["labels"] == 28


def test_a_parquet_file_that_was_replaced(tmp_path):
    dataset = ImageDataset(impatient(write_parquets(tmp_path, (8, 8))), evaluation_transform(16))
    write_parquets(tmp_path / "other", (8, 8), group=3)
    (tmp_path / "other/train-01.parquet").replace(tmp_path / "train-01.parquet")
    assert str(dataset[9]).endswith("train-01.parquet: no longer the file of the start: row group 0 has 3 rows")


def test_readers_in_forked_processes_have_threads_of_their_own():
    reader = PatientReader(ReadLimits(timeout=2, retries=0))
    assert reader("a.tar", lambda files: os.getpid()) == os.getpid()
    child = os.fork()
    if child == 0:
        answer = None
        try:
            answer = reader("a.tar", lambda files: os.getpid())
        finally:
            os._exit(0 if answer == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(ShardError, match="a.tar: ZeroDivisionError"):
        reader("a.tar", lambda files: _raise(ZeroDivisionError()))
    with pytest.raises(ValueError, match="timeout above 0"):
        ReadLimits(timeout=0)


def _raise(error):
    raise error
