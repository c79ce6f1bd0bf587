"""Where the tokens of text pairs lie in a batch: one table of layouts, and the collator that uses it.

A pair is three sequences that must not see each other: the whole conversation, of which the language model learns (the
LM row), the Text view and the Code view. A layout says how they become rows of a batch and what keeps them apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from heapq import heapreplace
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_jepa.data.text_pairs import TextPair


LAYOUTS = ("packed", "three_pass", "additive_mask", "fused")
PACKINGS = ("balanced", "pairs", "single")
IGNORED = -100  # label of a token that is not learnt

Batch = dict[str, torch.Tensor]


class Segment(NamedTuple):
    """A sequence of its own somewhere in a batch."""

    ids: list[int]
    labels: list[int] | None = None  # before the shift; None: nothing is learnt


def lay_out(
    pairs: Sequence[TextPair],
    layout: str = "packed",
    packing: str = "pairs",
    pad_token_id: int = 0,
    padding_side: str = "right",
    length: int | None = None,
    last_token: int | None = None,
    views: bool = True,
) -> Batch:
    """The tensors of a batch of pairs.

    - "packed": sequences lie one after another in rows, and the positions of each start at 0, which is what keeps them
      apart: transformers lets a token see its own sequence only, where no 2-D mask is given and no cache is made. Of a
      view nothing behind the token of its embedding is kept, for no token sees what follows it.
    - "three_pass": a row for each sequence, LM rows, Text rows, Code rows, with a 2-D mask (the official default).
    - "additive_mask": LM rows, then rows that hold both views, with a 4-D mask and without positions, so that those of
      Code go on after Text (the official cheaper path: right for rotary positions).
    - "fused": the predictor tokens are a branch of the LM row behind the end of Text, and only Code is a view of its
      own. Text so sees what the LM row says before it (system prompt, headers): other numbers than the official ones.

    Args:
        pairs: B of them.
        layout: one of `LAYOUTS`.
        packing: of "packed": "pairs", a row for each pair; "balanced", as many rows, over which the sequences are
            spread evenly, longest first, so that hardly any padding remains; "single", one row without any padding,
            for attention that computes no more than the sequences (flash attention's variable lengths).
        pad_token_id: of empty places, which nothing sees and of which nothing is learnt.
        padding_side: "right" or "left", of "three_pass".
        length: of the rows; as long as the longest unless given. A multiple saves recompilations.
        last_token: of "additive_mask": the official code cuts LM rows at `len + last_token`, and so may cut tokens
            from which something is learnt; not cut unless given.
        views: False for the LM rows alone, for steps without JEPA loss.

    Returns:
        `input_ids` and `labels` (R, P); `position_ids` (R, P) but for "additive_mask"; `attention_mask`, (R, P) of
        "three_pass", bool (R, 1, P, P) with True where a token may see another of "additive_mask" and "fused";
        `label_index`, where among the R * P places labels are learnt; `text_index` and `code_index` (B,), where among
        them the embeddings of the views are read.

    Raises:
        ValueError: no pairs, unknown names, rows longer than `length`, "fused" of predictor tokens that do not stand
            at the end of Text.

    Example:
        >>> pair = TextPair([1, 2, 3], [-100, -100, 3], [1, 9], 1, [1, 3], 1, 1, (9,))
        >>> batch = lay_out([pair])
        >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
        ([[1, 2, 3, 1, 9, 1, 3]], [[0, 1, 2, 0, 1, 0, 1]])
        >>> batch["label_index"].tolist(), batch["text_index"].tolist(), batch["code_index"].tolist()
        ([2], [4], [6])
    """
    if not pairs:
        raise ValueError("a batch without pairs has no layout")
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    if packing not in PACKINGS:
        raise ValueError(f"packing {packing!r} is not one of {', '.join(PACKINGS)}")
    if padding_side not in ("right", "left"):
        raise ValueError(f"padding_side {padding_side!r} is neither 'right' nor 'left'")
    places = {"pad_token_id": pad_token_id, "length": length}
    if layout == "packed":
        return _packed(pairs, packing, views, **places)
    if layout == "three_pass" or not views:
        return _three_pass(pairs, views, padding_side, **places)
    if layout == "additive_mask":
        return _additive_mask(pairs, last_token, **places)
    return _fused(pairs, **places)


class _Rows:
    """Rows that are filled from the left, and what is known of their places."""

    def __init__(self, count: int, pad_token_id: int, length: int | None):
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.labels: list[list[int]] = [[] for _ in range(count)]
        self.positions: list[list[int]] = [[] for _ in range(count)]
        self.pad_token_id, self.length = pad_token_id, length

    def add(self, row: int, segment: Segment, first_position: int = 0) -> tuple[int, int]:
        """Place a segment behind what a row holds; where its first token is."""
        start = len(self.ids[row])
        self.ids[row] += segment.ids
        self.labels[row] += _learnt(segment)
        self.positions[row] += range(first_position, first_position + len(segment.ids))
        return row, start

    def tensors(self, padding_side: str = "right") -> tuple[Batch, np.ndarray]:
        """`input_ids`, `labels`, `position_ids`, `label_index`, and the place of each row's first token (R,)."""
        used = np.array([len(row) for row in self.ids])
        longest = int(used.max())
        length = longest if self.length is None else self.length
        if longest > length:
            raise ValueError(f"a row has {longest} tokens, more than length={length}")
        shape = (len(self.ids), length)
        first = length - used if padding_side == "left" else np.zeros_like(used)
        ids, labels = np.full(shape, self.pad_token_id), np.full(shape, IGNORED)
        # Empty places are a sequence of their own, whose positions start again.
        positions = np.arange(length) - np.where(padding_side == "left", 0, used)[:, None]
        for row, (start, count) in enumerate(zip(first, used, strict=True)):
            filled = slice(start, start + count)
            ids[row, filled], labels[row, filled] = self.ids[row], self.labels[row]
            positions[row, filled] = self.positions[row]
        batch = {"input_ids": ids, "labels": labels, "position_ids": positions}
        batch["label_index"] = np.flatnonzero(labels != IGNORED)
        tensors = {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}
        return tensors, first + length * np.arange(len(used))


def _learnt(segment: Segment) -> list[int]:
    """Labels of a segment: nothing is learnt of its first token, which no token of the segment precedes."""
    return [IGNORED] * len(segment.ids) if segment.labels is None else [IGNORED, *segment.labels[1:]]


def _views(pair: TextPair) -> tuple[Segment, Segment]:
    """Both views up to the tokens of their embeddings."""
    return Segment(pair.text_ids[: pair.text_index + 1]), Segment(pair.code_ids[: pair.code_index + 1])


def _packed(pairs: Sequence[TextPair], packing: str, views: bool, **places: Any) -> Batch:
    per_pair = [[Segment(pair.input_ids, pair.labels), *(_views(pair) if views else ())] for pair in pairs]
    segments = [segment for segments in per_pair for segment in segments]
    lengths = [len(segment.ids) for segment in segments]
    if packing == "balanced":
        # LM rows alone: as many as it takes for none to be longer than the longest, by much.
        row_of = _spread(lengths, len(pairs) if views else -(-sum(lengths) // max(lengths)))
    else:
        row_of = [number if packing == "pairs" else 0 for number, found in enumerate(per_pair) for _ in found]
    rows = _Rows(max(row_of) + 1, **places)
    starts = [rows.add(row, segment) for row, segment in zip(row_of, segments, strict=True)]
    batch, first = rows.tensors()
    if not views:
        return batch
    last = torch.tensor([first[row] + start for row, start in starts]) + torch.tensor(lengths) - 1
    return batch | {"text_index": last[1::3], "code_index": last[2::3]}


def _spread(lengths: Sequence[int], count: int) -> list[int]:
    """The row of each segment: longest first, each into the row that is shortest so far."""
    shortest, row_of = [(0, row) for row in range(count)], [0] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        filled, row = shortest[0]
        row_of[number] = row
        heapreplace(shortest, (filled + lengths[number], row))
    return row_of


def _three_pass(pairs: Sequence[TextPair], views: bool, padding_side: str, **places: Any) -> Batch:
    segments = [Segment(pair.input_ids, pair.labels) for pair in pairs]
    if views:
        segments += [Segment(pair.text_ids) for pair in pairs] + [Segment(pair.code_ids) for pair in pairs]
    rows = _Rows(len(segments), **places)
    for row, segment in enumerate(segments):
        rows.add(row, segment)
    batch, first = rows.tensors(padding_side)
    mask = torch.zeros_like(batch["input_ids"])
    for row, segment in enumerate(segments):
        mask.view(-1)[first[row] : first[row] + len(segment.ids)] = 1
    batch["attention_mask"] = mask
    if not views:
        return batch
    count, first = len(pairs), torch.from_numpy(first)
    batch["text_index"] = first[count : 2 * count] + torch.tensor([pair.text_index for pair in pairs])
    batch["code_index"] = first[2 * count :] + torch.tensor([pair.code_index for pair in pairs])
    return batch


def _additive_mask(pairs: Sequence[TextPair], last_token: int | None, **places: Any) -> Batch:
    rows = _Rows(2 * len(pairs), **places)
    ends: list[tuple[int, ...]] = []  # of the sequences of each row
    for row, pair in enumerate(pairs):
        rows.add(row, Segment(pair.input_ids, pair.labels))
        ends.append((len(pair.input_ids) + (0 if last_token is None else last_token + 1),))
    for row, pair in enumerate(pairs, start=len(pairs)):
        text, code = _views(pair)
        merged = [*text.ids, *code.ids]
        # The official code writes Code over the row of Text, of which the rest stays where it was.
        rows.add(row, Segment(merged + pair.text_ids[len(merged) :]))
        ends.append((len(text.ids), len(merged)))
    batch, first = rows.tensors()
    del batch["position_ids"]
    batch["attention_mask"] = _block_causal(ends, batch["input_ids"].shape[1])
    views, first = torch.tensor(ends[len(pairs) :]), torch.from_numpy(first[len(pairs) :])
    return batch | {"text_index": first + views[:, 0] - 1, "code_index": first + views[:, 1] - 1}


def _block_causal(ends: Sequence[tuple[int, ...]], length: int) -> torch.Tensor:
    """Whether a token may see another (R, 1, P, P): what precedes it in its sequence, and itself.

    Itself also where a place is empty: attention to nothing at all is NaN in some implementations.
    """
    places = torch.arange(length)
    sequence = torch.stack([sum((places >= end).long() for end in row) for row in ends])  # (R, P)
    mask = (sequence[:, :, None] == sequence[:, None, :]) & (places[:, None] >= places)
    used = places < torch.tensor([row[-1] for row in ends])[:, None]
    return (mask & used[:, :, None] | torch.eye(length, dtype=torch.bool))[:, None]


def _fused(pairs: Sequence[TextPair], **places: Any) -> Batch:
    rows = _Rows(len(pairs), **places)
    branches, text, code = [], [], []  # (end of Text, start of the branch, start of Code) in each row
    for row, pair in enumerate(pairs):
        branch, view = list(pair.predictor_ids), _views(pair)[1]
        if branch and pair.text_ids[pair.text_index + 1 - len(branch) : pair.text_index + 1] != branch:
            raise ValueError(
                "the fused layout appends the predictor tokens to Text, but those of this pair are not the last of "
                "the Text view: use predictor_position='append' and no last_token, or another layout"
            )
        rows.add(row, Segment(pair.input_ids, pair.labels))
        start = rows.add(row, Segment(branch), first_position=pair.text_end + 1)[1]
        end = rows.add(row, view)[1]
        branches.append((pair.text_end, start, end, end + len(view.ids)))
        text.append(end - 1 if branch else pair.text_end)
        code.append(end + len(view.ids) - 1)
    batch, first = rows.tensors()
    batch["attention_mask"] = _branched(torch.tensor(branches), batch["input_ids"].shape[1])
    first = torch.from_numpy(first)
    return batch | {"text_index": first + torch.tensor(text), "code_index": first + torch.tensor(code)}


def _branched(marks: torch.Tensor, length: int) -> torch.Tensor:
    """Whether a token may see another (R, 1, P, P): as in `_block_causal`, and the branch sees Text.

    Args:
        marks: end of Text, start of the branch, start of Code, end of Code (R, 4).
    """
    mask = _block_causal([tuple(row[1:]) for row in marks.tolist()], length)[:, 0]
    places = torch.arange(length)
    text_end, branch, code, _ = marks.unbind(1)
    in_branch = (places >= branch[:, None]) & (places < code[:, None])
    in_text = places <= text_end[:, None]
    return (mask | in_branch[:, :, None] & in_text[:, None, :])[:, None]


@dataclass
class LlmJepaDataCollator:
    """Batches of text pairs for `LlmJepaForCausalLM`.

    Args:
        pad_token_id: of empty places.
        layout, packing, padding_side, last_token: see `lay_out`.
        pad_to_multiple_of: of the length of rows, where shapes should not vary much (`torch.compile`).
        views: False for batches of the LM rows alone.
        with_lm_only: also the batch of a step without JEPA loss, as "lm_only" (see `LlmJepaTrainer`).
        preprocessor: makes pairs of what is no `TextPair`, such as an `LlmJepaPreprocessor` of records.

    Example:
        >>> pair = TextPair([1, 2, 3], [-100, -100, 3], [1, 9], 1, [1, 3], 1, 1, (9,))
        >>> sorted(LlmJepaDataCollator(pad_token_id=0)([pair, pair]))
        ['code_index', 'input_ids', 'label_index', 'labels', 'position_ids', 'text_index']
    """

    pad_token_id: int
    layout: str = "packed"
    packing: str = "balanced"
    padding_side: str = "right"
    pad_to_multiple_of: int | None = None
    last_token: int | None = None
    views: bool = True
    with_lm_only: bool = False
    preprocessor: Any = None

    def __post_init__(self):
        if self.pad_token_id is None:
            raise ValueError("pad_token_id is None: give the tokenizer a pad_token, for example its eos_token")

    def __call__(self, examples: Iterable[Any]) -> dict[str, Any]:
        pairs = [self._pair(example) for example in examples]
        batch: dict[str, Any] = self._lay_out(pairs, self.views)
        if self.with_lm_only:
            batch["lm_only"] = self._lay_out(pairs, views=False)
        return batch

    def _pair(self, example: Any) -> TextPair:
        if isinstance(example, TextPair):
            return example
        if isinstance(example, Mapping) and {field.name for field in fields(TextPair)} <= example.keys():
            return TextPair(**{field.name: example[field.name] for field in fields(TextPair)})
        if self.preprocessor is None:
            raise ValueError(
                f"an example of type {type(example).__name__} is no TextPair: preprocess the records, or give the "
                "collator a preprocessor"
            )
        return self.preprocessor(example)

    def _lay_out(self, pairs: list[TextPair], views: bool) -> Batch:
        options = {
            "pad_token_id": self.pad_token_id,
            "padding_side": self.padding_side,
            "last_token": self.last_token,
            "views": views,
        }
        batch = lay_out(pairs, self.layout, self.packing, **options)
        length, multiple = batch["input_ids"].shape[1], self.pad_to_multiple_of or 1
        if length % multiple:
            options["length"] = length + multiple - length % multiple
            batch = lay_out(pairs, self.layout, self.packing, **options)
        return batch


__all__ = ["LAYOUTS", "PACKINGS", "LlmJepaDataCollator", "lay_out"]
