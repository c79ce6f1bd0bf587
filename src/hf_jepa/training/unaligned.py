"""Processors of several tokenizers, which transformers' `Trainer` would take for one of a single tokenizer."""

from typing import Any

from transformers import ProcessorMixin


class Unaligned:
    """A processor that `Trainer` saves and otherwise leaves alone.

    Of a `ProcessorMixin` it writes the special tokens of `processor.tokenizer` into the config of the model, which for
    a model of several language models has none that is right. In everything else this is the processor.

    Args:
        processor: with `save_pretrained`.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> Unaligned(byte_tokenizer()).decode([71, 72])
        'hi'
    """

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        if name == "processor":  # while it is copied
            raise AttributeError(name)
        return getattr(self.processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.processor(*args, **kwargs)


def unaligned(processor: Any) -> Any:
    """`Unaligned` of a processor, anything else as it is."""
    return Unaligned(processor) if isinstance(processor, ProcessorMixin) else processor


__all__ = ["Unaligned", "unaligned"]
