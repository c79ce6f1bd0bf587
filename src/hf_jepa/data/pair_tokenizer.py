"""A small tokenizer of one's own, for language models that are trained from scratch on pairs of text and code."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast


BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# The template writes the only BOS: the tokenizer itself adds none, so that a rendered conversation keeps one.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Letters merge within a word, together with the blank before it; digits, brackets and all other signs stay alone.
PIECES = r" ?\p{L}+|\s|[^\s\p{L}]"


def train_pair_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a short chat template; the same texts in the same order give the same tokenizer.

    Anything can be encoded. Every digit, bracket and other sign is a token of its own, so that regular expressions are
    spelled the same way everywhere; merges stay within words. The end of a turn is the EOS token, where generation
    stops; PAD differs from it. Text alone gets no BOS, a conversation through the chat template one, however it is
    tokenized.

    Args:
        texts: what the merges are learnt from.
        vocab_size: tokens in all, of which 256 are bytes and 6 special. Fewer if the texts allow no more merges.

    Returns:
        a tokenizer that `save_pretrained` writes and `AutoTokenizer` reads.

    Raises:
        ValueError: a vocabulary without room for bytes and special tokens, or no text.

    Example:
        >>> tokenizer = train_pair_tokenizer(["lines that start with a digit", "[0-9].*"])
        >>> tokenizer.tokenize("[0-9]{2}")
        ['[', '0', '-', '9', ']', '{', '2', '}']
        >>> chat = [{"role": "user", "content": "a digit"}]
        >>> tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        '<|begin|><|user|>a digit<|end|><|assistant|>'
    """
    special = [PAD, BOS, EOS, *ROLES]
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest}, for bytes and special tokens, got {vocab_size}")
    texts = list(texts)
    if not any(texts):
        raise ValueError("no text to train the tokenizer on")
    tokenizer = Tokenizer(BPE())
    split = Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
    )


__all__ = ["CHAT_TEMPLATE", "train_pair_tokenizer"]
