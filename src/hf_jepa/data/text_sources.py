"""Open a data set of text pairs: JSONL, parquet, a folder of these, or a Hub id; and preprocess it."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from hf_jepa.data.json_lines import check_json_lines
from hf_jepa.data.sources import load_from_hub
from hf_jepa.data.splits import SPLIT_FOLDERS
from hf_jepa.data.text_pairs import LlmJepaPreprocessor, TextPair


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
CHUNK = 1000  # records tokenized together


def open_text_pairs(
    source: str | Path,
    split: str = "train",
    text_column: str | None = None,
    code_column: str | None = None,
    **load_options: Any,
) -> "datasets.Dataset":
    """Open the records of LLM-JEPA: conversations in a column `messages`, or two columns of text.

    A file is one training split. Of a folder, the files `*.jsonl` and `*.parquet` in it and one level below are read;
    a word of their names says which split they are (`synth_train.jsonl`, `test/0.parquet`), and without any such word
    all of them are the training split.

    Args:
        source: what exists on disk is taken from there, everything else is a Hub id.
        split: also in slice form, "train[:10%]".
        text_column, code_column: of records without messages.
        load_options: passed to `datasets.load_dataset`, for example `name` (configuration) or `revision`.

    Returns:
        the records.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without such files.
        ValueError: an unknown split, suffix or column, or a line that is no JSON, with its file and number.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "queries.jsonl"
        >>> _ = path.write_text('{"question": "all names", "query": "SELECT name"}')
        >>> open_text_pairs(path, text_column="question", code_column="query")[0]["query"]
        'SELECT name'
    """
    import datasets

    if (text_column is None) != (code_column is None):
        raise ValueError(f"two columns need both: text_column={text_column!r} and code_column={code_column!r}")
    path, base = Path(source).expanduser(), split.split("[")[0]
    if path.is_dir():
        files = _files_of_split(path, base)
    elif path.is_file():
        files = [path]
    elif path.suffix in SUFFIXES:
        raise FileNotFoundError(f"no such file or folder: {source}")
    else:
        files = []
    if files:
        kinds = {SUFFIXES.get(file.suffix) for file in files}
        if len(kinds) > 1 or None in kinds:
            raise ValueError(f"{source}: text pairs come from files of one kind of {sorted(SUFFIXES)}, got {files}")
        if not any(file.stat().st_size for file in files):
            raise ValueError(f"{source} holds no record: {', '.join(file.name for file in files)} is empty")
        load_options["data_files"] = {base if path.is_dir() else "train": [str(file) for file in files]}
        source = kinds.pop()
    try:
        load = datasets.load_dataset if files else load_from_hub
        records = load(str(source), split=split, **load_options)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        if isinstance(error.__cause__, datasets.table.CastError):
            raise ValueError(f"files of {path} have different columns: open each of them by itself") from error
        for file in files:
            if file.suffix == ".jsonl":
                check_json_lines(file)
        raise
    columns = ["messages"] if text_column is None else [text_column, code_column]
    if missing := [column for column in columns if column not in records.column_names]:
        raise ValueError(
            f"there is no column {missing[0]!r} among {sorted(records.column_names)}; records hold 'messages', or two "
            "columns of text that text_column and code_column name"
        )
    return records


def _files_of_split(folder: Path, split: str) -> list[Path]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        raise ValueError(
            f"{folder} was written by save_to_disk: open it with datasets.load_from_disk and pass the result"
        )
    files = sorted(
        file for level in ("*", "*/*") for end in ("jsonl", "parquet") for file in folder.glob(f"{level}.{end}")
    )
    if not files:
        raise FileNotFoundError(f"{folder} holds neither .jsonl nor .parquet files")
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        words = set(re.split(r"[^a-z]+", str(file.relative_to(folder)).lower()))
        name = next((name for name, known in SPLIT_FOLDERS.items() if words & set(known)), None)
        splits.setdefault(name, []).append(file)
    if set(splits) == {None}:
        splits = {"train": files}
    if None in splits:
        raise ValueError(f"the names of some files in {folder} say a split, that of {splits[None][0].name} does not")
    if split not in splits:
        raise ValueError(f"{folder} has no split {split!r}, only {sorted(splits)}")
    return splits[split]


class TextPairDataset(Dataset):
    """Records with their `TextPair`s.

    Args:
        records: a `datasets.Dataset` or a list of records.
        preprocess: makes the pairs.
        lazy: preprocess a record whenever it is asked for instead of all of them now, which also finds every unusable
            record before training.

    Attributes:
        skipped: numbers of the records that `preprocess` left out because of their length; they do not count.

    Raises:
        ValueError: no record, none that is not skipped, one that is unusable, `lazy` with a `preprocess` that skips.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> preprocess = LlmJepaPreprocessor(
        ...     byte_tokenizer(), 0, text_column="q", code_column="a", max_length=20, on_truncation="skip"
        ... )
        >>> pairs = TextPairDataset([{"q": "one", "a": "1"}, {"q": "a number of words", "a": "many"}], preprocess)
        >>> len(pairs), pairs.skipped
        (1, [1])
    """

    def __init__(
        self,
        records: "datasets.Dataset | Sequence[dict[str, Any]]",
        preprocess: LlmJepaPreprocessor,
        lazy: bool = False,
    ):
        if not len(records):
            raise ValueError("there is no record to preprocess")
        if lazy and preprocess.on_truncation == "skip":
            raise ValueError("which records are skipped is known only after preprocessing all: use lazy=False")
        self.records, self.preprocess, self.skipped = records, preprocess, []
        self._pairs: list[TextPair] | None = None if lazy else []
        if lazy:
            return
        for start in range(0, len(records), CHUNK):
            rows = range(start, min(start + CHUNK, len(records)))
            for row, pair in zip(rows, preprocess.batch([records[row] for row in rows], rows), strict=True):
                if pair is None:
                    self.skipped.append(row)
                else:
                    self._pairs.append(pair)
        if not self._pairs:
            raise ValueError(f"all {len(records)} records are longer than max_length={preprocess.max_length}")
        if self.skipped:
            logger.warning(
                "left out %d of %d records that are longer than max_length=%d",
                len(self.skipped),
                len(records),
                preprocess.max_length,
            )

    def __len__(self) -> int:
        return len(self.records if self._pairs is None else self._pairs)

    def __getitem__(self, index: int) -> TextPair:
        """The pair of a record, counted without those skipped."""
        if self._pairs is not None:
            return self._pairs[index]
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} records")
        row = index % len(self)
        return self.preprocess(self.records[row], row)


__all__ = ["TextPairDataset", "open_text_pairs"]
