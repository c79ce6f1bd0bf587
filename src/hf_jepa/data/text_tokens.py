"""Tokens of LLM-JEPA: the ones it adds to a vocabulary, their ids, and which characters a token stands for."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # characters of a text, from the first to one past the last

PERCEPTION_TOKEN = "<|perception|>"  # between the two halves of a row in the plain format
OFFICIAL_END_TOKEN = "<|eot_id|>"  # behind a row of the official plain format


def predictor_tokens(count: int, position: str = "append") -> list[str]:
    """The predictor tokens of a Text view in the order in which they stand there.

    Args:
        count: how many, k of the paper.
        position: "append" puts them behind the content with descending numbers, "prepend" before it with ascending
            ones, as the official code does.

    Returns:
        their texts.

    Raises:
        ValueError: a negative number or an unknown position.

    Example:
        >>> predictor_tokens(2), predictor_tokens(2, "prepend")
        (['<|predictor_2|>', '<|predictor_1|>'], ['<|predictor_1|>', '<|predictor_2|>'])
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"the number of predictor tokens must be an integer from 0, got {count!r}")
    if position not in ("append", "prepend"):
        raise ValueError(f"predictor_position must be 'append' or 'prepend', got {position!r}")
    ascending = [f"<|predictor_{number}|>" for number in range(1, count + 1)]
    return ascending if position == "prepend" else ascending[::-1]


def add_predictor_tokens(tokenizer: "PreTrainedTokenizerBase", count: int, plain: bool = False) -> int:
    """Give a tokenizer the tokens of LLM-JEPA that it lacks; those it has stay, and nothing is ever removed.

    The model needs as many rows of embeddings afterwards: `model.resize_token_embeddings` where `len(tokenizer)` is
    more than it has.

    Args:
        tokenizer: changed in place.
        count: predictor tokens `<|predictor_1|>` to `<|predictor_count|>`.
        plain: also `<|perception|>`, which the plain format puts between the halves of a row.

    Returns:
        how many were added.

    Raises:
        ValueError: a negative count.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> tokenizer = byte_tokenizer()
        >>> add_predictor_tokens(tokenizer, 2), add_predictor_tokens(tokenizer, 3), add_predictor_tokens(tokenizer, 1)
        (2, 1, 0)
    """
    from tokenizers import AddedToken

    wanted = predictor_tokens(count, "prepend") + [PERCEPTION_TOKEN] * plain
    present = tokenizer.get_added_vocab()
    missing = [AddedToken(token, special=True, normalized=False) for token in wanted if token not in present]
    return tokenizer.add_tokens(missing, special_tokens=True)


def token_ids(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str]) -> list[int]:
    """The ids of added tokens, each of which is a token wherever it stands in a text.

    Args:
        tokenizer: that should have them.
        tokens: their texts.

    Returns:
        their ids.

    Raises:
        ValueError: it lacks some; the message says how to add them.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> token_ids(byte_tokenizer(), ["<s>", "</s>"])
        [256, 257]
    """
    vocabulary = tokenizer.get_added_vocab()
    if missing := [token for token in tokens if token not in vocabulary]:
        raise ValueError(
            f"the tokenizer lacks {', '.join(missing)}: call add_predictor_tokens(tokenizer, count) for predictor "
            f"tokens, with plain=True for {PERCEPTION_TOKEN} too, tokenizer.add_tokens([...], special_tokens=True) "
            "for others, then resize the embeddings of the model"
        )
    return [vocabulary[token] for token in tokens]


def markup_pattern(tokenizer: "PreTrainedTokenizerBase", markup: str) -> re.Pattern[str]:
    """Find what no content may hold, because it would be read as a token of the chat instead of as text.

    Args:
        tokenizer: of which all special tokens count.
        markup: what a format writes around contents; added tokens that occur there count too.

    Returns:
        a pattern that matches these tokens.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> markup_pattern(byte_tokenizer(), "").search("hi</s>")[0]
        '</s>'
    """
    added = tokenizer.added_tokens_decoder.values()
    tokens = {token.content for token in added if token.special or token.content in markup and token.content.strip()}
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


class Tokens(NamedTuple):
    """Tokens of a text and the characters they stand for.

    Args:
        ids: L token ids.
        offsets: (L, 2) first character and one past the last.

    Example:
        >>> Tokens([7, 8, 9], np.array([[0, 3], [3, 5], [5, 6]])).within((4, 6))
        range(1, 3)
    """

    ids: list[int]
    offsets: np.ndarray

    def within(self, span: Span) -> range:
        """The positions of the tokens of which at least one character lies in the span."""
        start, end = span
        inside = np.flatnonzero((self.offsets[:, 1] > start) & (self.offsets[:, 0] < end))
        return range(int(inside[0]), int(inside[-1]) + 1) if len(inside) else range(0)


__all__ = [
    "OFFICIAL_END_TOKEN",
    "PERCEPTION_TOKEN",
    "Span",
    "Tokens",
    "add_predictor_tokens",
    "markup_pattern",
    "predictor_tokens",
    "token_ids",
]
