"""Which language models LLM-JEPA is right for, and that it refuses the others."""

import pytest
import torch
from tiny_language_models import PREDICTOR, WINDOW, assert_same, language_model, llm_jepa, make_pairs, of, trained

from hf_jepa.data.text_layouts import PACKINGS, lay_out


LLAMA3 = {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LOCAL = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
# name -> (model type, fields, attention implementations)
BOTH, EAGER = ("sdpa", "eager"), ("eager",)
PACKABLE = {
    "llama": ("llama", {}, BOTH),
    "llama, rope llama3": ("llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}}, BOTH),
    "llama, rope yarn": ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0}}, BOTH),
    "gemma, tied": ("gemma", {"head_dim": 8}, BOTH),
    "gemma 2, windows, soft caps": ("gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0, **LOCAL}, EAGER),
    "gemma 3, windows": ("gemma3_text", {"head_dim": 8, **LOCAL}, BOTH),
    "qwen 2, windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": WINDOW}, BOTH),
    "qwen 3, windows": ("qwen3", {"use_sliding_window": True, "head_dim": 8, **LOCAL}, BOTH),
    "mistral, windows": ("mistral", {"sliding_window": WINDOW}, BOTH),
    "cohere 2, windows, logit scale": ("cohere2", {"logit_scale": 0.3, **LOCAL}, BOTH),
    "gpt-neo, windows, absolute": ("gpt_neo", {"window_size": WINDOW}, EAGER),
    "llama 4, chunks": (
        "llama4_text",
        {"attention_chunk_size": WINDOW, "layer_types": ["chunked_attention"] * 2},
        BOTH,
    ),
    "gpt-2, absolute": ("gpt2", {}, BOTH),
    "olmo 2": ("olmo2", {}, BOTH),
    "gpt-neox": ("gpt_neox", {}, BOTH),
    "phi": ("phi", {"attention_dropout": 0.0, "resid_pdrop": 0.0}, BOTH),
    "granite, logit scale": ("granite", {"logits_scaling": 3.0, "embedding_multiplier": 2.0}, BOTH),
    "cohere, logit scale": ("cohere", {"logit_scale": 0.3}, BOTH),
    "mixture of experts": ("mixtral", {"num_local_experts": 4, "sliding_window": None}, BOTH),
}
ROTARY = ["llama", "llama, rope llama3", "gemma, tied", "olmo 2", "gpt-neox", "phi", "cohere, logit scale"]


def model_of(name: str, attention: str | None = None):
    family, fields, _ = PACKABLE[name]
    return language_model(family, attention, **fields)


@pytest.mark.parametrize(
    ("name", "attention"), [(name, attention) for name, case in PACKABLE.items() for attention in case[2]]
)
def test_packed_equals_three_pass(name, attention):
    model, pairs = model_of(name, attention), make_pairs()
    assert model.config._attn_implementation == attention
    three_pass, packed = of(model, "three_pass"), of(model)
    expected = trained(three_pass, pairs)
    assert expected[0].jepa_loss > 0.1
    for packing in PACKINGS:
        assert_same(trained(packed, pairs, packing=packing), expected)
    assert_same(trained(three_pass, pairs, padding_side="left"), expected)


@pytest.mark.parametrize("attention", BOTH)
@pytest.mark.parametrize("name", ROTARY)
def test_additive_mask_equals_three_pass_where_positions_are_relative(name, attention):
    model, pairs = model_of(name, attention), make_pairs()
    assert_same(trained(of(model, "additive_mask"), pairs), trained(of(model, "three_pass"), pairs))


@pytest.mark.parametrize("name", [*ROTARY, "gpt-2, absolute"])
def test_fused_is_what_the_parts_alone_give(name):
    model, pairs = model_of(name).eval(), make_pairs()
    fused, decoder = of(model, "fused"), model.get_decoder()
    out = fused(**lay_out(pairs, "fused"))
    three_pass = of(model, "three_pass")
    torch.testing.assert_close(out.lm_loss, three_pass(**lay_out(pairs, "three_pass")).lm_loss, rtol=0, atol=1e-5)
    for pair, text, code in zip(pairs, out.text_embedding, out.code_embedding, strict=True):
        branch = [*pair.input_ids[: pair.text_end + 1], PREDICTOR]
        for ids, found in ((branch, text), (pair.code_ids[: pair.code_index + 1], code)):
            alone = decoder(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["additive_mask", "fused"])
@pytest.mark.parametrize("name", [name for name in PACKABLE if "windows" in name or "chunks" in name])
def test_a_dense_mask_would_switch_off_windows(name, layout):
    if "absolute" in name:  # with which "additive_mask" is refused in any case
        layout = "fused"
    model = of(model_of(name), layout)
    with pytest.raises(ValueError, match=f"would switch off the .* of {WINDOW} tokens"):
        model(**lay_out(make_pairs(), layout))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "opt"])
def test_additive_mask_refuses_absolute_positions(family):
    with pytest.raises(ValueError, match="positions are absolute: use layout='packed'"):
        llm_jepa(family, "additive_mask")


RECURRENT = {
    "mamba": {"num_hidden_layers": 2, "state_size": 4},
    "jamba": {},
    "recurrent_gemma": {"attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("layout", ["packed", "fused", "additive_mask"])
@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models_are_three_pass_models(family, layout):
    model = language_model(family, **RECURRENT[family])
    with pytest.raises(ValueError, match="run through a whole row: use layout='three_pass'"):
        of(model, layout)


@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models_are_padded_on_the_right(family):
    model, pairs = of(language_model(family, **RECURRENT[family]), "three_pass").eval(), make_pairs()
    out = model(**lay_out(pairs, "three_pass"))
    for pair, found in zip(pairs, out.text_embedding, strict=True):
        ids = torch.tensor([pair.text_ids[: pair.text_index + 1]])
        alone = model.causal_lm.get_decoder()(input_ids=ids)[0][0, -1]
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="pad on the right"):
        model(**lay_out(pairs, "three_pass", padding_side="left"))


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_models_without_position_ids_are_three_pass_models(family):
    model, pairs = language_model(family), make_pairs()
    for layout, why in (("packed", "no position_ids"), ("fused", "no position_ids"), ("additive_mask", "absolute")):
        with pytest.raises(ValueError, match=why):
            of(model, layout)
    three_pass = of(model, "three_pass")
    trained(three_pass, pairs)
    with pytest.raises(ValueError, match="pad on the right"):
        trained(three_pass, pairs, padding_side="left")


# Those of which transformers makes no masks from the positions: their class does not tell.
LEAKING = {"falcon": {}, "gpt_oss": {"sliding_window": 128}, "opt": {}, "xglm": {}}


@pytest.mark.parametrize("family", LEAKING)
def test_models_that_packed_rows_leak_in_are_found(family):
    model, pairs = language_model(family, **LEAKING[family]), make_pairs()
    packed = of(model)
    for _ in range(2):  # not only the first time
        with pytest.raises(ValueError, match="tokens that it must not see; use layout='three_pass'"):
            packed(**lay_out(pairs))
    with pytest.raises(ValueError, match=r"changes by \d+\.\d%"):
        packed.check_layout(packed)
    three_pass = of(model, "three_pass")
    assert_same(trained(three_pass, pairs, padding_side="left"), trained(three_pass, pairs))


def test_a_fresh_model_is_found_to_leak_a_little():
    model = language_model("xglm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.08 if parameter.ndim > 1 else 1
    with pytest.raises(ValueError, match=r"changes by [0-2]\.\d% with tokens"):
        of(model).check_layout()


def test_falcon_with_alibi_is_a_three_pass_model():
    model, pairs = language_model("falcon", "eager", alibi=True), make_pairs()
    for layout in ("additive_mask", "fused"):
        with pytest.raises(ValueError, match="ALiBi"):
            of(model, layout)
    with pytest.raises(ValueError, match="must not see"):
        trained(of(model), pairs)
    three_pass = of(model, "three_pass")
    assert_same(trained(three_pass, pairs, padding_side="left"), trained(three_pass, pairs))


def test_what_is_no_causal_language_model_is_refused():
    with pytest.raises(ValueError, match="it is no causal language model"):
        trained(llm_jepa("bert", "three_pass"), make_pairs())
    decoder = language_model("bert", is_decoder=True)
    trained(of(decoder, "three_pass"), make_pairs())


@pytest.mark.parametrize("layout", ["packed", "three_pass", "additive_mask", "fused"])
def test_check_layout_lets_a_right_model_pass_and_changes_nothing(layout):
    model = llm_jepa("llama", layout).train()
    model.causal_lm.lm_head.eval()
    modes = [part.training for part in model.modules()]
    state = torch.random.get_rng_state()
    model.check_layout()
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_check_layout_knows_16_bits(dtype):
    llm_jepa("llama").to(dtype).check_layout()
    with pytest.raises(ValueError, match="must not see"):
        llm_jepa("opt").to(dtype).check_layout()


def test_flash_attention_keeps_one_row_apart_only(monkeypatch):
    model, pairs = llm_jepa(), make_pairs()
    monkeypatch.setattr(model.causal_lm.config, "_attn_implementation_internal", "flash_attention_2")
    model._tried = model._settings
    with pytest.raises(ValueError, match="use packing='single'"):
        model(**lay_out(pairs, packing="balanced"))
    for layout in ("additive_mask", "fused"):
        model.config.layout = layout
        model._tried = model._settings
        with pytest.raises(ValueError, match="does not read a mask of four dimensions"):
            model(**lay_out(pairs, layout))
