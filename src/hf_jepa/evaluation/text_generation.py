"""Answers of a causal language model to the questions of conversations: in batches, greedily, on any device."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm.auto import tqdm

from hf_jepa.core.data2vec import without_dropout
from hf_jepa.data.text_tokens import OFFICIAL_END_TOKEN, PERCEPTION_TOKEN
from hf_jepa.data.text_views import ChatFormat
from hf_jepa.evaluation.inputs import check_count
from hf_jepa.evaluation.text_scoring import LETTERS


if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

DATE = "26 Jul 2024"  # for templates that write one, as in training
TOO_LONG = ("error", "skip")


class Prompts:
    """What a model reads before it answers: the turns before the assistant's, and the header of its own.

    It begins as the rows of `LlmJepaPreprocessor` do, with one beginning-of-sequence token: the template's, or without
    one the tokenizer's. (The official code has both, in training and here.)

    Args:
        tokenizer: with a chat template, unless `plain`.
        date_string: the date for templates that write one; None leaves it to the template.
        plain: the last user turn and `<|perception|>`, for models trained without a chat template.

    Raises:
        ValueError: no chat template, or one that cannot be used (see `ChatFormat`).

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> tokenizer = byte_tokenizer()
        >>> turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        >>> tokenizer.decode(Prompts(tokenizer)({"messages": turns}))
        '<s><|user|>hi</s><|assistant|>'
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", date_string: str | None = DATE, plain: bool = False):
        self.tokenizer = tokenizer
        self.chat = None if plain else ChatFormat(tokenizer, date_string)
        bos = [tokenizer.bos_token_id]
        self.bos = bos if plain and tokenizer("a").input_ids[:1] == bos else []

    def __call__(self, record: Mapping[str, Any]) -> list[int]:
        """Token ids of the prompt of `{"messages": [{"role": ..., "content": ...}, ...]}`.

        Raises:
            ValueError: no messages, or none of a user before the answer.
        """
        return self.tokens(self.text(record))

    def text(self, record: Mapping[str, Any]) -> str:
        """The prompt before it is made into tokens."""
        turns, _ = split_messages(record)
        if self.chat is None:
            return turns[-1]["content"] + PERCEPTION_TOKEN
        if turns[0]["role"] == "system" and self.chat.folds_system:
            system, user, *others = turns
            turns = [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *others]
        options = {"tokenize": False, "add_generation_prompt": True, **self.chat.date}
        return self.tokenizer.apply_chat_template(turns, **options)

    def tokens(self, text: str) -> list[int]:
        """Token ids of the text of a prompt."""
        return self.bos + self.tokenizer(text, add_special_tokens=False).input_ids

    def end_ids(self, model: nn.Module) -> list[int]:
        """All tokens that end an answer: those of the tokenizer, of the model's generation config, of the template."""
        settings = getattr(model, "generation_config", None)
        found = getattr(settings, "eos_token_id", None)
        ends = {self.tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])}
        if self.chat is None:
            ends.add(self.tokenizer.get_added_vocab().get(OFFICIAL_END_TOKEN))
        elif self.chat.ends_turns:
            row = self.chat.conversation(None, "a", "b")
            end_of_turn = row.text[row.answer[1] : row.generated[1]]
            ends.add(self.tokenizer(end_of_turn, add_special_tokens=False).input_ids[-1])
        return sorted(ends - {None})


def split_messages(record: Mapping[str, Any]) -> tuple[list[dict[str, str]], str | None]:
    """The turns before the answer, and the answer: the last turn, where it is the assistant's.

    Raises:
        ValueError: no list of messages with role and content, or no turn of a user right before the answer.

    Example:
        >>> turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        >>> split_messages({"messages": turns})
        ([{'role': 'user', 'content': 'hi'}], 'hello')
    """
    turns = record.get("messages")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"no messages, only the columns {sorted(record)}")
    if not all(isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns):
        raise ValueError("a message must have the texts 'role' and 'content'")
    answer = turns[-1]["content"] if turns[-1]["role"] == "assistant" else None
    before = turns if answer is None else turns[:-1]
    if not before or before[-1]["role"] != "user":
        raise ValueError(
            f"the turns are {[turn['role'] for turn in turns]}: the last before the answer must be a user's"
        )
    return before, answer


def generate_answers(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Mapping[str, Any]],
    batch_size: int = 16,
    max_new_tokens: int = 128,
    max_prompt_tokens: int | None = None,
    too_long: str = "error",
    date_string: str | None = DATE,
    plain: bool = False,
    progress: bool = True,
) -> list[str | None]:
    """Answer each record greedily, as LLM-JEPA (2509.14252) is evaluated.

    Prompts of similar length share a batch, padded on the left, which changes no token in float32. An answer ends at
    the first of all end tokens, or after `max_new_tokens`. Only that of the model's generation config is used: no
    sampling, and no penalty of repetition, whatever a checkpoint brings.

    Args:
        model: a causal language model of transformers, or an `LlmJepaForCausalLM`; it runs where it is.
        tokenizer: of the model; see `Prompts`.
        records: `{"messages": [...]}`; a last turn of the assistant is the reference and not shown.
        batch_size: prompts per batch.
        max_new_tokens: longest answer.
        max_prompt_tokens: longest prompt; unless given, what the model's positions leave beside the answer.
        too_long: "error" refuses prompts that are longer, "skip" passes them over with a warning. None is ever cut.
        date_string, plain: see `Prompts`.
        progress: show a bar.

    Returns:
        texts in the order of the records, without special tokens and stripped; None for a prompt passed over.

    Raises:
        ValueError: a record that is none (its row is named), a prompt that is too long, or an unusable option.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> tokenizer = byte_tokenizer()
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
        >>> records = [{"messages": [{"role": "user", "content": text}]} for text in ("hi", "hello")]
        >>> len(generate_answers(model, tokenizer, records, max_new_tokens=4, progress=False))
        2
    """
    prompts = Prompts(tokenizer, date_string, plain)
    ids = _prompt_ids(prompts, records)
    ends = prompts.end_ids(model)
    answers: list[str | None] = [None] * len(ids)
    rows = _fitting(model, ids, max_new_tokens, max_prompt_tokens, too_long)
    settings = _greedy(tokenizer, ends, max_new_tokens)
    for batch, output in _generate(model, ids, rows, batch_size, settings, progress):
        for row, new in zip(batch, output.sequences.tolist(), strict=True):
            length = next((i for i, token in enumerate(new) if token in ends), len(new))
            text = tokenizer.decode(new[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            answers[row] = text.strip()
    return answers


def choose_letters(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Mapping[str, Any]],
    letters: Sequence[str] = LETTERS,
    batch_size: int = 16,
    max_prompt_tokens: int | None = None,
    too_long: str = "error",
    date_string: str | None = DATE,
    plain: bool = False,
    progress: bool = True,
) -> list[str | None]:
    """The most probable of some letters as the next token after each prompt: how HellaSwag is answered.

    The whole prompt is read; the official code cuts it to 128 tokens, which loses the question.

    Args:
        letters: the answers to choose from, each a single token; of equal ones the first is chosen.
        others: as of `generate_answers`.

    Returns:
        letters in the order of the records; None for a prompt passed over.

    Raises:
        ValueError: as `generate_answers`, or a letter that is not a single token after the prompt.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> tokenizer = byte_tokenizer()
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
        >>> record = {"messages": [{"role": "user", "content": "A) yes B) no"}]}
        >>> choose_letters(model, tokenizer, [record], letters=("A", "B"), progress=False)[0] in ("A", "B")
        True
    """
    prompts = Prompts(tokenizer, date_string, plain)
    ids = _prompt_ids(prompts, records)
    answers: list[str | None] = [None] * len(ids)
    rows = _fitting(model, ids, 1, max_prompt_tokens, too_long)
    tokens = [_letter_token(prompts, records[rows[0]], letter) for letter in letters] if rows else []
    settings = _greedy(tokenizer, [], max_new_tokens=1, output_logits=True)
    for batch, output in _generate(model, ids, rows, batch_size, settings, progress):
        for row, choice in zip(batch, output.logits[0][:, tokens].argmax(dim=1).tolist(), strict=True):
            answers[row] = letters[choice]
    return answers


def _letter_token(prompts: Prompts, record: Mapping[str, Any], letter: str) -> int:
    """The token that a letter is behind a prompt, where some tokenizers write it otherwise than alone."""
    text = prompts.text(record)
    before, after = prompts.tokens(text), prompts.tokens(text + letter)
    if after[:-1] != before:
        raise ValueError(f"the answer {letter!r} is not a single token behind the prompt: generate answers instead")
    return after[-1]


def _prompt_ids(prompts: Prompts, records: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    ids = []
    for row, record in enumerate(records):
        try:
            ids.append(prompts(record))
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
    return ids


def _fitting(
    model: nn.Module, ids: list[list[int]], max_new_tokens: int, max_prompt_tokens: int | None, too_long: str
) -> list[int]:
    """Rows whose prompts are short enough, the longest first, so that the largest batch is the first."""
    check_count(max_new_tokens, "max_new_tokens")
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long {too_long!r} is not one of {', '.join(TOO_LONG)}")
    limit = max_prompt_tokens
    if limit is None:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limit = max(map(len, ids), default=0) if positions is None else positions - max_new_tokens
    if longer := [row for row, prompt in enumerate(ids) if len(prompt) > limit]:
        named = ", ".join(f"row {row} ({len(ids[row])} tokens)" for row in longer[:5])
        message = (
            f"{len(longer)} of {len(ids)} prompts are longer than {limit} tokens, which leaves room for "
            f"{max_new_tokens} new ones: {named}"
        )
        if too_long == "error":
            raise ValueError(f"{message}; skip them, or allow for more tokens")
        warnings.warn(f"{message} are passed over", stacklevel=3)
    return sorted((row for row, prompt in enumerate(ids) if len(prompt) <= limit), key=lambda row: -len(ids[row]))


def _greedy(
    tokenizer: "PreTrainedTokenizerBase", ends: list[int], max_new_tokens: int, output_logits: bool = False
) -> "GenerationConfig":
    from transformers import GenerationConfig

    # What is not said here would come from the checkpoint, such as a penalty of repetition.
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    unused = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_new_tokens": 0}
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        **plain,
        **unused,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=next(iter(ends), 0) if pad is None else pad,  # any serves, because the mask hides it
        use_cache=True,
        output_logits=output_logits,
        return_dict_in_generate=True,
    )


@torch.inference_mode()
def _generate(
    model: nn.Module,
    ids: list[list[int]],
    rows: list[int],
    batch_size: int,
    settings: "GenerationConfig",
    progress: bool,
) -> Iterator[tuple[list[int], Any]]:
    """Rows and output of every batch; `sequences` holds the new tokens alone."""
    check_count(batch_size, "batch_size")
    pad = settings.pad_token_id
    device = next(model.parameters()).device
    with without_dropout(model), tqdm(total=len(rows), disable=not progress, unit="prompt") as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            width = max(len(ids[row]) for row in batch)
            padded = torch.tensor([[pad] * (width - len(ids[row])) + ids[row] for row in batch], device=device)
            length = torch.tensor([[len(ids[row])] for row in batch], device=device)
            mask = (torch.arange(width, device=device) >= width - length).long()
            output = model.generate(input_ids=padded, attention_mask=mask, generation_config=settings)
            output.sequences = output.sequences[:, width:]
            yield batch, output
            bar.update(len(batch))


__all__ = ["DATE", "Prompts", "choose_letters", "generate_answers", "split_messages"]
