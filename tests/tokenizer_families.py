"""Small tokenizers of different families, as VL-JEPA has one for each of its language models, and its processor."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor


WORDS = ("a", "an", "two", "seven", "eight", "moves", "left", "up", "and", "what", "does", "the", "do", "?")


def llama_like() -> PreTrainedTokenizerFast:
    """Bytes, a begin token before every text, no pad token, and padding on the left where one is set."""
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.padding_side = "left"
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    return tokenizer


def bert_like() -> PreTrainedTokenizerFast:
    """Word pieces between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def unigram_like() -> PreTrainedTokenizerFast:
    """Sentence pieces with scores; the pad token is the end of text."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), *[(f"▁{word}", -2.0) for word in WORDS]]
    backend = Tokenizer(models.Unigram([*pieces, *[(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz?"]], 0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="</s>", padding_side="left"
    )


def vl_jepa_processor() -> VLJepaProcessor:
    """For frames of 16 pixels a side, with all three tokenizers."""
    frames = VJepa2VideoProcessor(crop_size=16, size={"shortest_edge": 16})
    return VLJepaProcessor(frames, llama_like(), bert_like(), unigram_like())
