"""Opening records of text pairs, and the data set of their pairs."""

import json

import pytest
from torch.utils.data import DataLoader

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.data.text_pairs import LlmJepaPreprocessor
from hf_jepa.data.text_sources import TextPairDataset, open_text_pairs


def rows(count, prefix="answer"):
    return [
        {
            "messages": [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": f"{prefix} {number}"},
            ]
        }
        for number in range(count)
    ]


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def preprocess():
    return LlmJepaPreprocessor(byte_tokenizer(), 0)


def test_jsonl_file(tmp_path):
    path = write(tmp_path / "pairs_test.jsonl", rows(4))
    assert open_text_pairs(path).to_list() == rows(4)  # the name of a single file says nothing
    assert len(open_text_pairs(str(path), "train[:2]")) == 2
    with pytest.raises(ValueError, match="Unknown split"):
        open_text_pairs(path, "test")


def test_parquet_and_two_columns(tmp_path):
    import datasets

    records = datasets.Dataset.from_dict({"q": ["a", "b"], "a": ["1", "2"]})
    records.to_parquet(tmp_path / "pairs.parquet")
    opened = open_text_pairs(tmp_path / "pairs.parquet", text_column="q", code_column="a")
    assert opened["q"][:] == ["a", "b"]
    columns = LlmJepaPreprocessor(byte_tokenizer(), 0, text_column="q", code_column="a")
    assert TextPairDataset(opened, columns)[1] == columns({"q": "b", "a": "2"})


def test_folder_with_splits(tmp_path):
    write(tmp_path / "synth_train.jsonl", rows(3))
    write(tmp_path / "turk-train.jsonl", rows(2, "other"))
    write(tmp_path / "dev" / "0.jsonl", rows(1))
    (tmp_path / "README.md").write_text("not data")
    assert len(open_text_pairs(tmp_path)) == 5
    assert len(open_text_pairs(tmp_path, "validation[:1]")) == 1
    with pytest.raises(ValueError, match=r"no split 'test', only \['train', 'validation'\]"):
        open_text_pairs(tmp_path, "test")
    write(tmp_path / "more.jsonl", rows(1))
    with pytest.raises(ValueError, match=r"that of more.jsonl does not"):
        open_text_pairs(tmp_path)


def test_folder_of_different_columns(tmp_path):
    write(tmp_path / "a.jsonl", rows(1))
    write(tmp_path / "b.jsonl", [{"q": "a", "a": "b"}])
    with pytest.raises(ValueError, match="have different columns: open each of them by itself"):
        open_text_pairs(tmp_path)


def test_folder_without_splits(tmp_path):
    write(tmp_path / "a.jsonl", rows(3))
    write(tmp_path / "b.jsonl", rows(2))
    assert len(open_text_pairs(tmp_path)) == 5
    with pytest.raises(ValueError, match=r"no split 'test', only \['train'\]"):
        open_text_pairs(tmp_path, "test")


def test_views_of_hellaswag_survive(tmp_path):
    record = rows(1)[0] | {"text": rows(1)[0]["messages"][:1], "code": rows(1)[0]["messages"][1:]}
    assert open_text_pairs(write(tmp_path / "pairs.jsonl", [record])).to_list() == [record]


@pytest.mark.parametrize(
    "line, problem",
    [
        ('{"messages": [{"role": "user", "con', "pairs.jsonl, line 3 is not JSON: Unterminated string"),
        ("[1, 2]", "pairs.jsonl, line 3 must be a JSON object"),
        ('{"messages": "\udcff"}', "pairs.jsonl, line 3 is not JSON: 'utf-8' codec"),
    ],
)
def test_corrupt_line(tmp_path, line, problem):
    path = tmp_path / "pairs.jsonl"
    good = json.dumps(rows(1)[0])
    path.write_text(f"{good}\n\n{line}\n{good}\n", errors="surrogateescape")
    with pytest.raises(ValueError, match=problem):
        open_text_pairs(path)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_text_pairs(tmp_path / "missing.jsonl")
    with pytest.raises(FileNotFoundError, match="no such file or folder: pairs.jsonl"):
        open_text_pairs("pairs.jsonl")
    with pytest.raises(FileNotFoundError, match="neither .jsonl nor .parquet"):
        open_text_pairs(tmp_path)
    (tmp_path / "pairs.csv").write_text("q,a")
    with pytest.raises(ValueError, match="pairs.csv: text pairs come from files of one kind"):
        open_text_pairs(tmp_path / "pairs.csv")
    path = write(tmp_path / "pairs.jsonl", [{"q": "a"}])
    with pytest.raises(ValueError, match=r"no column 'messages' among \['q'\]"):
        open_text_pairs(path)
    with pytest.raises(ValueError, match=r"no column 'a' among \['q'\]"):
        open_text_pairs(path, text_column="q", code_column="a")
    with pytest.raises(ValueError, match="two columns need both: text_column='q' and code_column=None"):
        open_text_pairs(path, text_column="q")
    import datasets

    datasets.Dataset.from_list(rows(1)).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="load_from_disk"):
        open_text_pairs(tmp_path / "saved")


def test_dataset_equals_single_calls(preprocess, monkeypatch):
    monkeypatch.setattr("hf_jepa.data.text_sources.CHUNK", 3)
    for lazy in (False, True):
        pairs = TextPairDataset(rows(7), preprocess, lazy=lazy)
        assert len(pairs) == 7
        assert [pairs[i] for i in range(7)] == [preprocess(record) for record in rows(7)]
        assert pairs[-1] == pairs[6]
        with pytest.raises(IndexError):
            pairs[7]


def test_dataset_keeps_what_it_skipped(caplog):
    skipping = LlmJepaPreprocessor(byte_tokenizer(), 0, max_length=30, on_truncation="skip")
    records = rows(5)
    records[1] = rows(1, "a much longer answer")[0]
    records[3] = records[1]
    pairs = TextPairDataset(records, skipping)
    assert (len(pairs), pairs.skipped) == (3, [1, 3])
    assert pairs[1] == skipping(records[2])
    assert "left out 2 of 5 records that are longer than max_length=30" in caplog.text
    with pytest.raises(ValueError, match="all 1 records are longer"):
        TextPairDataset(records[1:2], skipping)
    with pytest.raises(ValueError, match="use lazy=False"):
        TextPairDataset(records, skipping, lazy=True)


def test_dataset_names_the_row(preprocess, monkeypatch):
    monkeypatch.setattr("hf_jepa.data.text_sources.CHUNK", 2)
    records = rows(5)
    records[3]["messages"][1]["content"] = ""
    with pytest.raises(ValueError, match="row 3: the assistant turn"):
        TextPairDataset(records, preprocess)
    lazy = TextPairDataset(records, preprocess, lazy=True)
    with pytest.raises(ValueError, match="row 3: the assistant turn"):
        lazy[-2]
    with pytest.raises(ValueError, match="no record"):
        TextPairDataset([], preprocess)


@pytest.mark.parametrize("lazy", [False, True])
def test_dataset_in_workers(tmp_path, preprocess, lazy):
    pairs = TextPairDataset(open_text_pairs(write(tmp_path / "pairs.jsonl", rows(6))), preprocess, lazy=lazy)
    loader = DataLoader(pairs, batch_size=3, num_workers=1, collate_fn=list)
    assert [pair for batch in loader for pair in batch] == [preprocess(record) for record in rows(6)]
