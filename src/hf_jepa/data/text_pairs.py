"""From a record, a conversation or two columns of text, to the LM row and the two views of LLM-JEPA as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_jepa.data.text_records import Record, read_columns, read_messages
from hf_jepa.data.text_tokens import (
    OFFICIAL_END_TOKEN,
    PERCEPTION_TOKEN,
    Span,
    Tokens,
    markup_pattern,
    predictor_tokens,
    token_ids,
)
from hf_jepa.data.text_views import ChatFormat, Conversation, PlainFormat


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL_MODES = ("assistant_eot", "assistant", "official")
TRUNCATIONS = ("error", "skip", "truncate")
IGNORED = -100


@dataclass(frozen=True)
class TextPair:
    """One example of LLM-JEPA as plain token ids, before any layout: nothing is padded or joined.

    Args:
        input_ids: the LM row, the whole conversation.
        labels: as long as `input_ids` and before the shift by one token: the id where it is learnt, -100 elsewhere.
        text_ids: the Text view with its predictor tokens and what the chat template puts behind them.
        text_index: position in `text_ids` of the token whose state is Enc(Text).
        code_ids: the Code view.
        code_index: position in `code_ids` of the token whose state is Enc(Code).
        text_end: position in `input_ids` of the last token of the content of the Text view, from which the layout
            "fused" branches.
        predictor_ids: the predictor tokens in the order in which they stand in the Text view.

    Example:
        >>> pair = TextPair([1, 5, 6, 7, 2], [-100, -100, -100, 7, 2], [1, 5, 6, 9, 2], 3, [1, 7, 2], 1, 2, (9,))
        >>> pair.text_ids[pair.text_index]
        9
    """

    input_ids: list[int]
    labels: list[int]
    text_ids: list[int]
    text_index: int
    code_ids: list[int]
    code_index: int
    text_end: int
    predictor_ids: tuple[int, ...] = ()


class _Draft(NamedTuple):
    """A record as text, before tokenization."""

    name: str
    row: Conversation
    text: tuple[str, Span]
    code: tuple[str, Span]
    text_end: int  # character of `row` behind the content of the Text view


class LlmJepaPreprocessor:
    """Make the `TextPair` of a record; the same record always gives the same one.

    A record holds `messages`, at most one system, then one user and one assistant turn, or, with `text_column` and
    `code_column`, two texts, which become the user and the assistant turn. The Text view is the user turn alone, the
    Code view the assistant turn alone, each put through the chat template separately and without a system prompt
    (LLM-JEPA, 2509.14252, section 3; templates that insert one by themselves, as Qwen-2.5's, do so in the views too).
    Records with message lists `text` and `code` beside `messages` bring their own views, as HellaSwag's do.
    There is one beginning-of-sequence token, the template's.

    Args:
        tokenizer: fast; with `num_predictor_tokens` predictor tokens, which `add_predictor_tokens` gives it.
        num_predictor_tokens: k of the paper.
        predictor_position: "append" behind the content of the Text view, "prepend" before it.
        reverse: predict Text from Code: the two views change places, the LM row stays.
        label_mode: what the LM row learns. "assistant_eot" is all that a model has to write after the generation
            prompt, answer and end of turn (an empty think block of the template before the answer too), "assistant"
            the answer without that, "official" every token but those with the id of the padding token, as in the
            official runs. None is "assistant_eot", with `official=True` "official".
        last_token: the embedding stands at the length of a view plus this negative number. None is the last token of
            the content, which for appended predictor tokens is the last of these.
        max_length: tokens of a row.
        date_string: as in `ChatFormat`.
        on_truncation: what happens to a record with a longer row. "error", "skip" (its pair is None), or "truncate":
            cut on the right, which may cut the answer, but is an error where no label or embedding is left.
        fold_system: as in `ChatFormat`.
        text_column, code_column: of records without `messages`.
        system_prompt: of such records.
        plain: no chat template: user, `<|perception|>`, assistant and the tokenizer's `eos_token` in a row, views that
            are the contents.
        train_all: with `plain`: the LM row is the user's content and all of it is learnt, as for paraphrases.
        official: as the official code, for comparison: two beginning-of-sequence tokens, everything cut at
            `max_length`, contents that may hold special tokens, `<|eot_id|>` behind plain rows. Needs `last_token`;
            `fold_system=True` is what it does for Gemma. `date_string` stays pinned, which it is not there.

    Raises:
        TypeError: a tokenizer without character offsets.
        ValueError: an option out of range, tokens that the tokenizer lacks, a chat template that does not fit. From a
            call, with the row: missing columns or roles, more turns than those, an empty content, one with special
            tokens of the tokenizer, a row longer than `max_length`, no label left.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> from hf_jepa.data.text_tokens import add_predictor_tokens
        >>> tokenizer = byte_tokenizer()
        >>> added = add_predictor_tokens(tokenizer, 1)
        >>> preprocess = LlmJepaPreprocessor(tokenizer, text_column="question", code_column="query")
        >>> pair = preprocess({"question": "all names", "query": "SELECT name"})
        >>> tokenizer.decode(pair.text_ids[: pair.text_index + 1])
        '<s><|user|>all names<|predictor_1|>'
        >>> tokenizer.decode([label for label in pair.labels if label != -100])
        'SELECT name</s>'
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        num_predictor_tokens: int = 1,
        predictor_position: str = "append",
        reverse: bool = False,
        label_mode: str | None = None,
        last_token: int | None = None,
        max_length: int = 512,
        date_string: str | None = "26 Jul 2024",
        on_truncation: str = "error",
        fold_system: bool | None = None,
        text_column: str | None = None,
        code_column: str | None = None,
        system_prompt: str | None = None,
        plain: bool = False,
        train_all: bool = False,
        official: bool = False,
    ):
        self.label_mode = label_mode or ("official" if official else "assistant_eot")
        if self.label_mode not in LABEL_MODES:
            raise ValueError(f"label_mode must be one of {LABEL_MODES}, got {label_mode!r}")
        if on_truncation not in TRUNCATIONS:
            raise ValueError(f"on_truncation must be one of {TRUNCATIONS}, got {on_truncation!r}")
        if official and last_token is None:
            raise ValueError(
                "official=True needs last_token; the official runs had -2 for Llama and Gemma, -3 for Qwen, -4 for "
                "OpenELM, -1 for OLMo-2 and the DeepSeek distillations"
            )
        if last_token is not None and last_token >= 0:
            raise ValueError(f"last_token counts from the end, -1 is the last token of a view; got {last_token}")
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        if (text_column is None) != (code_column is None):
            raise ValueError(f"two columns need both: text_column={text_column!r} and code_column={code_column!r}")
        if system_prompt is not None and text_column is None:
            raise ValueError("system_prompt goes with text_column and code_column; messages bring their own")
        if train_all and not plain:
            raise ValueError("train_all is a plain format: pass plain=True with it")
        if train_all and reverse:
            raise ValueError("train_all learns the user's content, which reverse would not predict from: swap the two")
        if not tokenizer.is_fast:
            raise TypeError(
                f"{type(tokenizer).__name__} does not say which characters a token stands for: labels and embedding "
                "positions need a fast tokenizer (one with a tokenizer.json)"
            )
        self.tokenizer, self.max_length, self.last_token = tokenizer, max_length, last_token
        self.predictor_position, self.reverse, self.on_truncation = predictor_position, reverse, on_truncation
        self.text_column, self.code_column, self.system_prompt = text_column, code_column, system_prompt
        self.plain, self.official = plain, official
        self._predictors = predictor_tokens(num_predictor_tokens, predictor_position)
        self.predictor_ids = tuple(token_ids(tokenizer, self._predictors))
        self.format = self._plain_format(train_all) if plain else ChatFormat(tokenizer, date_string, fold_system)
        if self.label_mode == "assistant_eot" and not self.format.ends_turns:
            raise ValueError(
                "the chat template puts no token behind the answer that could end the turn: let it write "
                "eos_token there, or choose label_mode='assistant'"
            )
        self._forbidden = markup_pattern(tokenizer, self.format.markup)

    def __call__(self, record: Mapping[str, Any], row: int | None = None) -> TextPair | None:
        """The pair of one record.

        Args:
            record: with `messages` or the two columns.
            row: its number, for messages.

        Returns:
            the pair; None for a record skipped because of its length.
        """
        return self.batch([record], None if row is None else [row])[0]

    def batch(self, records: Sequence[Mapping[str, Any]], rows: Sequence[int] | None = None) -> list[TextPair | None]:
        """The pairs of many records, tokenized together.

        Args:
            records: as in a call.
            rows: their numbers, for messages.

        Returns:
            as many pairs, None for those skipped because of their length.
        """
        names = ["this record"] * len(records) if rows is None else [f"row {row}" for row in rows]
        drafts = [self._draft(record, name) for record, name in zip(records, names, strict=True)]
        texts = [text for draft in drafts for text in (draft.row.text, draft.text[0], draft.code[0])]
        if not texts:
            return []
        cut = {"truncation": True, "max_length": self.max_length} if self.official else {}
        encoded = self.tokenizer(
            texts,
            add_special_tokens=self.plain or self.official,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **cut,
        )
        tokens = [
            Tokens(ids, np.asarray(offsets).reshape(-1, 2))
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
        return [self._pair(draft, *tokens[3 * i : 3 * i + 3]) for i, draft in enumerate(drafts)]

    def _draft(self, record: Mapping[str, Any], name: str) -> _Draft:
        try:
            contents = self._read(record)
            row = self.format.conversation(contents.system, contents.user, contents.answer)
            text, code = (contents.code, contents.text) if self.reverse else (contents.text, contents.code)
            with_predictors = [text[1], *self._predictors]
            if self.predictor_position == "prepend":
                with_predictors = [*self._predictors, text[1]]
            text_view = self.format.view(text[0], "".join(with_predictors))
            code_view = self.format.view(*code)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        start, text_end = row.answer if text[0] == "assistant" else row.user
        if text[1] not in (contents.user, contents.answer) and row.text.startswith(text[1].strip(), start):
            text_end = start + len(text[1].strip())  # a view of its own that begins the turn, as HellaSwag's context
        return _Draft(name, row, text_view, code_view, text_end)

    def _read(self, record: Mapping[str, Any]) -> Record:
        if self.text_column is None:
            contents = read_messages(record)
        else:
            contents = read_columns(record, self.text_column, self.code_column, self.system_prompt)
        for content in (contents.system or "", contents.user, contents.answer, contents.text[1], contents.code[1]):
            if not self.official and (found := self._forbidden.search(content)):
                raise ValueError(f"a content holds {found[0]!r}, which is a token of the chat's own: {content[:80]!r}")
        return contents

    def _pair(self, draft: _Draft, row: Tokens, text: Tokens, code: Tokens) -> TextPair | None:
        try:
            pair = TextPair(
                input_ids=row.ids,
                labels=self._labels(row, draft.row),
                text_ids=text.ids,
                text_index=self._index(text, draft.text[1], "Text", self.predictor_ids),
                code_ids=code.ids,
                code_index=self._index(code, draft.code[1], "Code"),
                text_end=row.within((0, draft.text_end)).stop - 1,
                predictor_ids=self.predictor_ids,
            )
            return pair if self.official else self._fitting(pair)
        except ValueError as error:
            raise ValueError(f"{draft.name}: {error}") from error

    def _labels(self, row: Tokens, conversation: Conversation) -> list[int]:
        if self.label_mode == "official":
            pad = self.tokenizer.pad_token_id
            pad = self.tokenizer.eos_token_id if pad is None else pad
            return [IGNORED if token == pad else token for token in row.ids]
        learnt = row.within(conversation.answer if self.label_mode == "assistant" else conversation.generated)
        before, after = [IGNORED] * learnt.start, [IGNORED] * (len(row.ids) - learnt.stop)
        return before + row.ids[learnt.start : learnt.stop] + after

    def _index(self, view: Tokens, content: Span, name: str, predictors: tuple[int, ...] = ()) -> int:
        """Where the embedding of a view stands."""
        inside = view.within(content)
        if predictors and not self.official:
            start = inside.start if self.predictor_position == "prepend" else inside.stop - len(predictors)
            found = tuple(view.ids[max(start, 0) : start + len(predictors)])
            if found != predictors:
                raise ValueError(f"the {name} view has the tokens {found} where predictor tokens {predictors} belong")
        if not inside and not self.official:
            raise ValueError(f"the tokenizer leaves nothing of the content of the {name} view")
        index = inside.stop - 1 if self.last_token is None else len(view.ids) + self.last_token
        if index < 0:
            raise ValueError(f"the {name} view has {len(view.ids)} tokens, so last_token={self.last_token} is outside")
        return index

    def _fitting(self, pair: TextPair) -> TextPair | None:
        """The pair within `max_length`."""
        lengths = {"LM row": len(pair.input_ids), "Text view": len(pair.text_ids), "Code view": len(pair.code_ids)}
        limit, name = self.max_length, max(lengths, key=lengths.get)
        if lengths[name] <= limit:
            if all(label == IGNORED for label in pair.labels):
                raise ValueError("the answer has no token to learn")
            return pair
        if self.on_truncation == "skip":
            return None
        if self.on_truncation == "error":
            raise ValueError(
                f"its {name} has {lengths[name]} tokens, more than max_length={limit}: raise that, or leave such "
                "records out by on_truncation='skip' (or cut them by 'truncate')"
            )
        if max(pair.text_index, pair.code_index, pair.text_end) >= limit:
            raise ValueError(
                f"cut at max_length={limit} it would lose the embedding token of a view (Text {pair.text_index}, Code "
                f"{pair.code_index}) or the end of Text in the LM row ({pair.text_end}); leave such records out by "
                "on_truncation='skip'"
            )
        labels = pair.labels[:limit]
        if all(label == IGNORED for label in labels):
            raise ValueError(f"cut at max_length={limit} nothing of its answer is left to learn")
        rows = {"input_ids": pair.input_ids, "text_ids": pair.text_ids, "code_ids": pair.code_ids}
        return replace(pair, labels=labels, **{field: ids[:limit] for field, ids in rows.items()})

    def _plain_format(self, train_all: bool) -> PlainFormat:
        end_token = OFFICIAL_END_TOKEN if self.official else self.tokenizer.eos_token
        if end_token is None:
            raise ValueError("rows of the plain format end with the tokenizer's eos_token, and it has none: set it")
        token_ids(self.tokenizer, [end_token] if train_all else [PERCEPTION_TOKEN, end_token])
        return PlainFormat(end_token, train_all)


__all__ = ["LlmJepaPreprocessor", "TextPair"]
