"""The tiny models that are taught about moving digits: a VL-JEPA, and what it shares with a language model."""

from collections.abc import Iterator

import numpy as np
import torch
from digit_questions import CAPTION_QUERY, FRAMES
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerBase,
    VJEPA2Config,
    VJEPA2Model,
)

from hf_jepa import VLJepaForPreTraining, VLJepaProcessor
from hf_jepa.data.digit_texts import DIGITS, story_captions, story_questions
from hf_jepa.data.moving_digits import MEAN, STD
from hf_jepa.data.pair_tokenizer import train_pair_tokenizer


WIDTH = 96  # of predictor, text encoder, decoder and language model


def vision_config() -> VJEPA2Config:
    return VJEPA2Config(
        crop_size=32,  # a digit is 8 pixels high, as it was drawn
        patch_size=4,
        frames_per_clip=FRAMES,
        tubelet_size=FRAMES,  # a token sees how its patch moves
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2.0,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
        initializer_range=0.1,
    )


def language_config(tokenizer: PreTrainedTokenizerBase, layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_tokenizer() -> PreTrainedTokenizerBase:
    captions = story_captions("all")
    asked = {text for digits in ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9)) for text in _questions(digits)}
    return train_pair_tokenizer([*captions, *sorted(asked), *DIGITS, CAPTION_QUERY], vocab_size=400)


def _questions(digits: tuple[int, int]) -> Iterator[str]:
    for directions in ((0, 1), (2, 3)):
        for question in story_questions(digits, directions):
            yield from (question.question, *question.candidates)


def new_vl_jepa(tokenizer: PreTrainedTokenizerBase) -> tuple[VLJepaForPreTraining, VLJepaProcessor]:
    """A VL-JEPA whose X-Encoder is trained, too: none of this size exists that has seen anything."""
    text = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,  # the language model has none either
        attention_probs_dropout_prob=0.0,
    )
    model = VLJepaForPreTraining.from_parts(
        vision=VJEPA2Model(vision_config()),
        init_predictor_from=LlamaModel(language_config(tokenizer, layers=4)),
        text=BertModel(text, add_pooling_layer=False),
        num_predictor_layers=2,
        projection_dim=WIDTH,
        freeze_vision=False,
        freeze_token_embeddings=False,
        mask_duplicates=True,
        max_query_length=32,
        max_target_length=32,
    )
    statistics = {"crop_pct": 1.0, "image_mean": [MEAN] * 3, "image_std": [STD] * 3}
    return model, VLJepaProcessor.from_config(model.config, tokenizer, tokenizer, tokenizer, **statistics)


def pixels(processor: VLJepaProcessor, frames: np.ndarray) -> torch.Tensor:
    """What the video encoders take, of frames (B, T, H, W, 3)."""
    return processor(videos=list(frames))["pixel_values_videos"]
