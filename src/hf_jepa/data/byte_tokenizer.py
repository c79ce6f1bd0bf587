"""A tokenizer that needs no files: for examples, tests and tiny language models from scratch."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer with one token for each byte, and a chat template.

    Returns:
        a fast tokenizer of 262 tokens, 256 of them bytes; every turn ends with its `eos_token`.

    Example:
        >>> tokenizer = byte_tokenizer()
        >>> len(tokenizer), tokenizer.decode(tokenizer("a é")["input_ids"])
        (262, 'a é')
        >>> tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
        '<s><|user|>hi</s>'
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(role, special=True, normalized=False) for role in ROLES], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


__all__ = ["byte_tokenizer"]
