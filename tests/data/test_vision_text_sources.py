"""Images and videos with texts from every kind of source: one form of rows, and faults with a name."""

import json
import pickle

import datasets
import numpy as np
import pytest
from shard_files import IMPATIENT, picture, write_tar

from hf_jepa.data.decoding import decode_image
from hf_jepa.data.shard_reads import ShardError
from hf_jepa.data.shards import ShardOptions
from hf_jepa.data.vision_text_columns import VisionTextRows, find_text_column, find_vision_text_columns
from hf_jepa.data.vision_text_shards import VisionTextShards
from hf_jepa.data.vision_text_sources import load_vision_text


TEXT = datasets.Value("string")
RECORDS = [
    {"video": "clips/1.mp4", "question": "what does the seven do?", "answer": "moves left"},
    {"video": "clips/2.mp4", "question": "", "answer": "yes"},
]


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows_of(rows):
    return [rows[index] for index in range(len(rows))]


# --- lists and folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_list_with_paths_beside_it(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    table = datasets.Dataset.from_list(RECORDS)
    {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[kind](path)
    rows = load_vision_text(path)
    queries = [None if kind == "csv" and not record["question"] else record["question"] for record in RECORDS]
    assert rows_of(rows) == [
        {"video": str(tmp_path / record["video"]), "query": query, "target": record["answer"]}
        for record, query in zip(RECORDS, queries, strict=True)
    ]
    assert not rows.is_image.any() and len(load_vision_text(path, "train[:50%]")) == 1
    assert list(load_vision_text(path, streaming=True)) == rows_of(rows)
    with pytest.raises(ValueError, match="validation"):
        load_vision_text(path, "validation")


def test_paths_that_are_absolute_or_addresses_stay(tmp_path):
    videos = ["/data/1.mp4", "https://example.org/2.mp4", "3.mp4"]
    path = write_lines(tmp_path / "clips.jsonl", [{"clip": video, "text": "x"} for video in videos])
    assert [row["video"] for row in rows_of(load_vision_text(path))] == [*videos[:2], str(tmp_path / "3.mp4")]


def test_texts_that_say_the_same_and_parts_of_videos(tmp_path):
    records = [
        {"video": "1.mp4", "caption": ["a seven", "the digit seven"], "start": 1.5, "end": 4.0},
        {"video": "1.mp4", "caption": ["a two"], "start": 4.0, "end": None},
    ]
    rows = rows_of(load_vision_text(write_lines(tmp_path / "clips.jsonl", records)))
    assert rows[0]["target"] == ["a seven", "the digit seven"] and (rows[0]["start"], rows[0]["end"]) == (1.5, 4.0)
    assert rows[1]["start"] == 4.0 and "end" not in rows[1]


def test_images_and_videos_in_one_list(tmp_path):
    records = [
        {"image": "1.jpg", "video": None, "target": "a cat"},
        {"image": None, "video": "2.mp4", "target": "a dog barks"},
        {"image": "3.jpg", "video": None, "target": "a horse"},
    ]
    path = write_lines(tmp_path / "both.jsonl", records)
    both = load_vision_text(path)
    assert both.is_image.tolist() == [True, False, True]
    assert [sorted(row) for row in rows_of(both)] == [
        ["image", "query", "target"],
        ["query", "target", "video"],
        ["image", "query", "target"],
    ]
    for media, numbers in (("image", [0, 2]), ("video", [1])):
        some = load_vision_text(path, media=media)
        assert [row[media] for row in rows_of(some)] == [str(tmp_path / records[i][media]) for i in numbers]
        assert (some.is_image == (media == "image")).all() and len(some.is_image) == len(numbers)


@pytest.mark.parametrize("name", ["captions.jsonl", "metadata.jsonl", "metadata.csv"])
def test_a_folder_with_a_list_of_captions(tmp_path, name):
    records = [{"file_name": "a/1.mp4", "text": "a seven"}, {"file_name": "2.PNG", "text": "a two"}]
    for split in ("train", "val"):
        path = tmp_path / split / name
        path.parent.mkdir()
        datasets.Dataset.from_list(records).to_csv(path) if name.endswith("csv") else write_lines(path, records)
        records = records[:1]
    rows = load_vision_text(tmp_path)
    assert rows_of(rows) == [
        {"video": str(tmp_path / "train/a/1.mp4"), "query": None, "target": "a seven"},
        {"image": str(tmp_path / "train/2.PNG"), "query": None, "target": "a two"},
    ]
    assert rows.is_image.tolist() == [False, True]
    assert len(load_vision_text(tmp_path, "validation")) == len(load_vision_text(tmp_path, "train[1:]")) == 1
    images = load_vision_text(tmp_path, media="image")
    assert len(images) == 1 and images[0]["target"] == "a two"
    assert [row["target"] for row in load_vision_text(tmp_path, media="image", streaming=True)] == ["a two"]
    with pytest.raises(ValueError, match="no split 'test', only"):
        load_vision_text(tmp_path, "test")
    (tmp_path / "train/captions.csv").touch()
    with pytest.raises(ValueError, match="captions.* and .*: name the one to be read"):
        load_vision_text(tmp_path)


# --- parquet and the Hub ------------------------------------------------------------------------------------------


def embedded(count=6):
    features = datasets.Features({"image": datasets.Image(), "question": TEXT, "answer": TEXT, "id": TEXT})
    rows = [
        {"image": {"bytes": picture(i), "path": f"{i}.png"}, "question": f"q{i}", "answer": f"a{i}", "id": "x"}
        for i in range(count)
    ]
    return datasets.Dataset.from_list(rows, features=features)


def test_parquet_with_embedded_images(tmp_path):
    embedded().to_parquet(tmp_path / "part-0.parquet")
    rows = load_vision_text(tmp_path)
    assert [row["image"]["bytes"] for row in rows_of(rows)] == [picture(i) for i in range(6)]  # not decoded
    assert rows[3]["query"] == "q3" and rows[3]["target"] == "a3" and rows.is_image.all()
    streamed = list(load_vision_text(tmp_path, streaming=True))
    assert [(row["image"]["bytes"], row["query"], row["target"]) for row in streamed] == [
        (picture(i), f"q{i}", f"a{i}") for i in range(6)
    ]


def test_parquet_with_video_bytes(tmp_path):
    datasets.Dataset.from_list([{"mp4": b"1", "txt": "one"}]).to_parquet(tmp_path / "named.parquet")
    assert load_vision_text(tmp_path / "named.parquet")[0] == {"video": b"1", "query": None, "target": "one"}
    datasets.Dataset.from_list([{"data": b"1", "txt": "one"}]).to_parquet(tmp_path / "unnamed.parquet")
    chosen = load_vision_text(tmp_path / "unnamed.parquet", media="video", media_column="data")
    assert chosen[0]["video"] == b"1"
    with pytest.raises(ValueError, match="say media='video' or 'image'"):
        load_vision_text(tmp_path / "unnamed.parquet", media_column="data")


def test_a_data_set_of_the_hub(monkeypatch):
    asked = {}

    def load_dataset(name, **options):
        asked.update(options, name=name)
        return embedded().to_iterable_dataset() if options["streaming"] else embedded()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load_vision_text("org/photos", "test[:5]", revision="main", query_column="question", target_column="answer")
    assert len(rows) == 6 and rows[5]["target"] == "a5"
    assert asked == {"name": "org/photos", "split": "test[:5]", "streaming": False, "revision": "main"}
    stream = load_vision_text("org/photos", streaming=True)
    assert [row["query"] for row in stream] == [f"q{i}" for i in range(6)] and asked["streaming"] is True


def test_a_stream_that_does_not_say_its_columns():
    def rows():
        yield {"video": "1.mp4", "caption": "one"}
        yield {"video": "2.mp4", "caption": "two"}

    from hf_jepa.data.vision_text_columns import standard_stream

    stream = datasets.IterableDataset.from_generator(rows)
    assert stream.features is None
    assert [row["target"] for row in standard_stream(stream)] == ["one", "two"]
    with pytest.raises(ValueError, match="the stream holds no records"):
        standard_stream(datasets.IterableDataset.from_generator(lambda: iter(())))


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["answer", "caption"], "'caption' and 'answer' may both be meant: choose one by target_column"),
        (["target", "caption", "text"], "target"),
        (["txt"], "txt"),
        ([], None),
    ],
)
def test_the_name_of_the_target(names, expected):
    usual = ("target", "caption", "text", "answer", "txt")
    if expected and " " in expected:
        with pytest.raises(ValueError, match=expected):
            find_text_column(names, usual, option="target_column")
    else:
        assert find_text_column(names, usual, option="target_column") == expected


@pytest.mark.parametrize(
    ("features", "options", "match"),
    [
        (
            {"a": datasets.Image(), "b": datasets.Image(), "text": TEXT},
            {},
            r"one column of media: \['a', 'b'\]",
        ),
        ({"id": TEXT, "text": TEXT}, {}, r"no column of images or videos among \['id', 'text'\]"),
        ({"image": TEXT}, {}, r"no column of targets among \['image'\]"),
        ({"image": TEXT, "text": datasets.Value("int64")}, {}, "column 'text' holds Value.*not text"),
        ({"image": TEXT, "text": TEXT}, {"media_column": "photo"}, "media_column 'photo' is not one of"),
        ({"image": TEXT, "text": TEXT}, {"query_column": "ask"}, "query_column 'ask' is not one of"),
        ({"image": TEXT, "text": TEXT}, {"media": "sound"}, "media 'sound' is not one of video, image"),
    ],
)
def test_columns_that_are_not_clear(features, options, match):
    with pytest.raises(ValueError, match=match):
        find_vision_text_columns(datasets.Features(features), **options)


def test_rows_take_any_data_set():
    rows = VisionTextRows(embedded(2))
    assert rows[1]["target"] == "a1" and pickle.loads(pickle.dumps(rows))[1]["target"] == "a1"


# --- faults -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nothing.jsonl"):
        load_vision_text(tmp_path / "nothing.jsonl")
    with pytest.raises(FileNotFoundError, match="holds neither a list of captions"):
        load_vision_text(tmp_path)
    (tmp_path / "clips.txt").write_text("1.mp4 a seven")
    with pytest.raises(ValueError, match="clips.txt is none of .jsonl"):
        load_vision_text(tmp_path / "clips.txt")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty.jsonl is empty"):
        load_vision_text(tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"video": "1.mp4", "text": "one"}\n{"video": "2.mp4" "text"}\n')
    with pytest.raises(ValueError, match="broken.jsonl, line 2 is not JSON"):
        load_vision_text(tmp_path / "broken.jsonl")


# --- shards -------------------------------------------------------------------------------------------------------


def write_pairs(folder, texts=("txt", "json"), shards=2, rows=3):
    """Archives of pictures with texts; their names."""
    for shard in range(shards):
        members = {}
        for row in range(shard * rows, shard * rows + rows):
            content = {"txt": f"caption {row}", "json": json.dumps({"question": f"q {row}", "caption": f"told {row}"})}
            members |= {f"{row:04}.{kind}": content[kind].encode() for kind in texts} | {f"{row:04}.png": picture(row)}
        write_tar(folder / f"pairs-{shard}.tar", members)
    return f"{folder}/pairs-{{0..{shards - 1}}}.tar"


@pytest.mark.parametrize("texts", [("txt",), ("json",), ("txt", "json")])
def test_archives_with_texts(tmp_path, texts):
    rows = load_vision_text(write_pairs(tmp_path, texts), media="image")
    assert isinstance(rows, VisionTextShards) and len(rows) == 6 and rows.column_names == ["image", "query", "target"]
    for index in (5, 0, 3):
        row = rows[index]
        assert row["image"]["bytes"] == picture(index)
        assert row["target"] == (f"caption {index}" if "txt" in texts else f"told {index}")
        assert row["query"] == (f"q {index}" if "json" in texts else None)
    assert rows.is_image.tolist() == [True] * 6 and [len(groups) for groups in rows.groups] == [1, 1]
    assert pickle.loads(pickle.dumps(rows))[4]["target"] == rows[4]["target"]
    assert rows.select_columns(["target"])[2] == {"target": rows[2]["target"]}
    assert rows.select_columns("image")[2] == {"image": rows[2]["image"]}


def test_names_in_the_json_of_archives_are_chosen(tmp_path):
    name = write_pairs(tmp_path)
    rows = load_vision_text(name, media="image", target_column="caption", query_column="question")
    assert rows[4]["target"] == "told 4" and rows[4]["query"] == "q 4"
    wrong = load_vision_text(name, media="image", target_column="title")
    assert isinstance(wrong[4]["target"], ShardError) and "title" in wrong[4]["target"].reason


def test_the_index_with_texts_is_another_one_than_without(tmp_path):
    from hf_jepa.data.sources import load_images

    name = write_pairs(tmp_path)
    assert load_images(name)[4]["image"]["bytes"] == picture(4)
    assert load_vision_text(name, media="image")[4]["target"] == "caption 4"
    assert load_images(name).column_names == ["image"]  # both from the cache now
    assert load_vision_text(name, media="image")[3]["target"] == "caption 3"


def test_a_text_that_cannot_be_read_costs_its_row(tmp_path):
    members = {}
    for row, text in enumerate([b'{"caption": "good"}', b"{broken", b'["a list"]', b"\xff\xfe", b'{"title": "x"}']):
        members |= {f"{row}.json": text, f"{row}.png": picture(row)}
    path = write_tar(tmp_path / "a.tar", members)
    rows = load_vision_text(path, media="image")
    assert rows[0]["target"] == "good" and rows[4]["target"] is None
    for row, reason in ((1, "Expecting property name"), (2, r"must be a JSON object, got \['a list'\]"), (3, "utf-8")):
        target = rows[row]["target"]
        assert isinstance(target, ShardError) and target.path == f"{path}/{row}.json"
        with pytest.raises(ShardError, match=reason):
            raise target
    data = bytearray(path.read_bytes())
    data[data.index(b"0.json") + 1] ^= 1  # a header
    path.write_bytes(data)
    assert isinstance(rows[0]["target"], ShardError) and "damaged or overwritten" in rows[0]["target"].reason


def test_a_shard_that_is_gone_costs_its_rows(tmp_path):
    rows = load_vision_text(write_pairs(tmp_path), media="image", shards=ShardOptions(IMPATIENT))
    (tmp_path / "pairs-1.tar").unlink()
    row = rows[4]
    assert isinstance(row["image"], ShardError) and row["query"] is row["target"] is None
    assert rows[1]["target"] == "caption 1"


def test_parquet_shards(tmp_path):
    for shard in range(2):
        table = embedded().select(range(3 * shard, 3 * shard + 3))
        table.to_parquet(tmp_path / f"part-{shard}.parquet", batch_size=2)
    rows = load_vision_text(f"{tmp_path}/part-*.parquet", media="image")
    assert rows.column_names == ["image", "query", "target"] and len(rows) == 6
    assert [len(groups) for groups in rows.groups] == [2, 2]
    assert np.array_equal(decode_image(rows[4]["image"]), decode_image(picture(4)))
    assert (rows[4]["query"], rows[4]["target"]) == ("q4", "a4")
    embedded().remove_columns("question").to_parquet(tmp_path / "part-2.parquet")
    with pytest.raises(ValueError, match="has another schema"):
        load_vision_text(f"{tmp_path}/part-*.parquet", media="image")
    only = load_vision_text(f"{tmp_path}/part-{{2..2}}.parquet", media="image")
    assert only.select_columns(["target"])[4] == {"target": "a4"}
    assert only.column_names == ["image", "target"]


def test_shards_say_what_they_need(tmp_path):
    name = write_pairs(tmp_path)
    with pytest.raises(ValueError, match="say media='video' or media='image' for the shards"):
        load_vision_text(name)
    with pytest.raises(ValueError, match="leave out streaming=True"):
        load_vision_text(name, media="image", streaming=True)
    with pytest.raises(ValueError, match="no member ends in .3gp, .* there are json, png, txt"):
        load_vision_text(name, media="video")
    with pytest.raises(ValueError, match="has no columns: leave out 'jpg'"):
        load_vision_text(name, media="image", media_column="jpg")
    write_tar(tmp_path / "silent.tar", {"1.png": picture(1), "1.cls": b"3"})
    with pytest.raises(ValueError, match="silent.tar holds no text: a target is a .txt or .json beside its image"):
        load_vision_text(tmp_path / "silent.tar", media="image")
