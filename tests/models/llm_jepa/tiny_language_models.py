"""Tiny random language models of many families, and pairs for them."""

import random

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hf_jepa.data.text_layouts import lay_out
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM, LlmJepaOutput


PREDICTOR = 61  # the predictor token of `make_pairs`
WINDOW = 5  # shorter than the sequences of `make_pairs`

_ANY = {"vocab_size": 64, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = _ANY | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_SPECIAL = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": _ANY | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neo": _ANY
    | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_oss": _LLAMA | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "jamba": _LLAMA | {"use_mamba_kernels": False, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "llama4_text": _LLAMA | {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "opt": _LLAMA | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "xglm": _ANY | {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
}
# Nothing random but the weights.
_WITHOUT_DROPOUT = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "opt": ("dropout", "layerdrop"),
    "xglm": ("dropout", "attention_dropout", "layerdrop"),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}


def language_model(family: str, attention: str | None = None, seed: int = 0, **fields) -> PreTrainedModel:
    """A model of that `model_type`, with weights so large that a token says a lot about those that see it."""
    without_dropout = dict.fromkeys(_WITHOUT_DROPOUT.get(family, ()), 0.0)
    fields = _ANY | _SPECIAL.get(family, _LLAMA) | without_dropout | fields
    config = AutoConfig.for_model(family, **fields)
    options = {} if attention is None else {"attn_implementation": attention}
    model = AutoModelForCausalLM.from_config(config, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25, generator=generator)
    return model


def llm_jepa(
    family: str = "llama", layout: str = "packed", attention: str | None = None, **fields
) -> LlmJepaForCausalLM:
    """An LLM-JEPA of such a model; `fields` are those of the objective."""
    return of(language_model(family, attention), layout, **fields)


def of(model: PreTrainedModel, layout: str = "packed", **fields) -> LlmJepaForCausalLM:
    return LlmJepaForCausalLM(LlmJepaConfig(text_config=model.config, layout=layout, **fields), model)


def make_pairs(count: int = 3, seed: int = 0) -> list[TextPair]:
    """Pairs of sequences of 6 to 14 tokens, whose views go on for one token behind that of their embedding."""
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(3, 60) for _ in range(draw.randint(low, high))]

    pairs = []
    for _ in range(count):
        ids, end = tokens(9, 14), draw.randint(3, 5)
        labels = [-100] * (end + 1) + ids[end + 1 :]
        text, code = [*tokens(7, 11), PREDICTOR, 2], [*tokens(6, 11), 2]
        pairs.append(TextPair(ids, labels, text, len(text) - 2, code, len(code) - 2, end, (PREDICTOR,)))
    return pairs


def trained(model: LlmJepaForCausalLM, pairs: list[TextPair], **options) -> tuple[LlmJepaOutput, dict]:
    """What a step of training computes in the layout of the model, and the gradients."""
    model.train().zero_grad()
    out = model(**lay_out(pairs, model.config.layout, **options))
    out.loss.backward()
    named = model.causal_lm.named_parameters()
    return out, {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def assert_same(found: tuple[LlmJepaOutput, dict], expected: tuple[LlmJepaOutput, dict], atol: float = 1e-5) -> None:
    """Losses, embeddings and gradients are equal."""
    for name in ("loss", "lm_loss", "jepa_loss", "text_embedding", "code_embedding"):
        torch.testing.assert_close(
            found[0][name], expected[0][name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
