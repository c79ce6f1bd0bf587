"""What LLM-JEPA trains on: a conversation, and its two views as tokens."""

from dataclasses import dataclass


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


__all__ = ["TextPair"]
