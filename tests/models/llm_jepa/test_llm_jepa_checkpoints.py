"""A checkpoint of LLM-JEPA is one of its language model, and its config comes back as it was."""

import copy
import json
import logging

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from tiny_language_models import PREDICTOR, language_model, llm_jepa, make_pairs, of
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, ViTConfig
from transformers.utils import logging as transformers_logging

from hf_jepa.data.text_layouts import lay_out
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig, objective_fields
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


LLAMA = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
FIELDS = {"distance": "l2", "jepa_weight": 0.5, "num_predictor_tokens": 3, "reverse": True, "stop_gradient": "code"}
IDS = torch.arange(3, 13)[None]


@pytest.fixture
def saved(tmp_path):
    """A model and the folder it was saved to."""
    model = llm_jepa(**FIELDS).eval()
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def logits_of_stock(folder, **options) -> torch.Tensor:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model(IDS).logits


# --- checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_stock_transformers_reads_the_folder(family, tmp_path):
    model = llm_jepa(family, **FIELDS).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of_stock(tmp_path), model(IDS).logits)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(stock) is type(model.causal_lm) and type(AutoConfig.from_pretrained(tmp_path)) is type(stock.config)
    tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    assert tied == stock.config.tie_word_embeddings == (family != "llama")
    asked = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(stock.generate(IDS, **asked), model.generate(IDS, **asked))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == [type(stock).__name__] and written["model_type"] == family
    assert written["llm_jepa"] == model.config.objective() and set(written["llm_jepa"]) == set(objective_fields())
    again = LlmJepaForCausalLM.from_pretrained(tmp_path)
    assert again.config.objective() == model.config.objective() and not again.training
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_nothing_is_warned_of(saved, caplog):
    transformers_logging.get_logger("transformers").propagate = True
    with caplog.at_level(logging.WARNING, logger="transformers"):
        LlmJepaForCausalLM.from_pretrained(saved[1])
    assert not caplog.records


def test_given_fields_override_saved_ones(saved):
    model, folder = saved
    again = LlmJepaForCausalLM.from_pretrained(folder, distance="infonce", layout="three_pass")
    assert again.config.objective() == model.config.objective() | {"distance": "infonce", "layout": "three_pass"}
    config = LlmJepaConfig.from_pretrained(folder, distance="mse")
    given = LlmJepaForCausalLM.from_pretrained(folder, config=config, jepa_weight=4.0)
    assert (given.config.distance, given.config.jepa_weight) == ("mse", 4.0)
    assert config.jepa_weight == 0.5  # the caller's stays as it is


def test_bad_fields_are_refused_before_weights_are_read(saved, tmp_path):
    (saved[1] / "model.safetensors").unlink()
    config = LlmJepaConfig.from_pretrained(saved[1])
    for options in ({}, {"config": config}):
        with pytest.raises(StrictDataclassError, match="distance='l3' is not one of cosine, l2, mse, infonce"):
            LlmJepaForCausalLM.from_pretrained(saved[1], distance="l3", **options)
    with pytest.raises(OSError, match="model.safetensors"):
        LlmJepaForCausalLM.from_pretrained(saved[1])


def test_a_misspelt_field_is_refused(saved):
    with pytest.raises(TypeError, match="distanse"):
        LlmJepaForCausalLM.from_pretrained(saved[1], distanse="l2")


def test_a_plain_language_model_has_the_default_fields(tmp_path):
    language_model("llama").save_pretrained(tmp_path)
    model = LlmJepaForCausalLM.from_pretrained(tmp_path, num_predictor_tokens=2)
    assert model.config.objective() == LlmJepaConfig().objective() | {"num_predictor_tokens": 2}


def test_stock_saving_keeps_the_fields(saved, tmp_path):
    model, folder = saved
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert LlmJepaConfig.from_pretrained(tmp_path / "again").objective() == model.config.objective()
    # Saved by us again, with other fields: these count.
    again = LlmJepaForCausalLM.from_pretrained(tmp_path / "again", distance="mse")
    again.config.jepa_weight = 7.0
    again.save_pretrained(tmp_path / "last")
    last = LlmJepaConfig.from_pretrained(tmp_path / "last")
    assert (last.distance, last.jepa_weight, last.num_predictor_tokens) == ("mse", 7.0, 3)


def test_shards_dtypes_and_devices(saved, tmp_path):
    model, folder = saved
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert torch.equal(LlmJepaForCausalLM.from_pretrained(tmp_path / "shards")(IDS).logits, model(IDS).logits)
    assert LlmJepaForCausalLM.from_pretrained(folder, device_map="cpu").device.type == "cpu"
    half = LlmJepaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half(**lay_out(make_pairs())).text_embedding.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert LlmJepaForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["eager", "sdpa", None])
def test_the_attention_asked_for_reaches_the_language_model(saved, attention):
    options = {"attn_implementation": attention} if attention else {}
    models = [LlmJepaForCausalLM.from_pretrained(saved[1], **options)]
    models += [LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA | options))]
    models += [LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA, **options))]
    models += [of(language_model("llama", attention))]
    models += [LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA), language_model("llama", attention))]
    for model in models:
        found = {model.config._attn_implementation, model.causal_lm.config._attn_implementation}
        found.add(model.causal_lm.model.layers[0].self_attn.config._attn_implementation)
        assert found == {attention or "sdpa"}


def test_weights_that_are_missing_are_named(saved):
    file = saved[1] / "model.safetensors"
    weights = load_file(file)
    left_out = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 weights of LlamaForCausalLM, among them model.layers.1.mlp.up_proj"
    ):
        LlmJepaForCausalLM.from_pretrained(saved[1])
    weights["model.layers.1.mlp.up_proj.weight"] = left_out[:, :-1].contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="size mismatch|mismatched|shape"):
        LlmJepaForCausalLM.from_pretrained(saved[1])


def test_broken_and_foreign_folders_are_refused(saved, tmp_path):
    file = saved[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Exception, match="incomplete|invalid|corrupt"):
        LlmJepaForCausalLM.from_pretrained(saved[1])
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    with pytest.raises(ValueError, match="has no model_type"):
        LlmJepaForCausalLM.from_pretrained(tmp_path)
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ViTConfig"):
        LlmJepaForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        LlmJepaForCausalLM.from_pretrained(tmp_path / "nowhere")


def test_a_gathered_state_dict_is_saved(saved, tmp_path):
    for model in (saved[0], llm_jepa("gpt2").eval()):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path / "gathered", state_dict=state)
        assert torch.equal(logits_of_stock(tmp_path / "gathered"), model(IDS).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_more_tokens(family, tmp_path):
    model = llm_jepa(family).eval()
    model.resize_token_embeddings(70)
    assert model.config.text_config.vocab_size == 70
    model.save_pretrained(tmp_path)
    again = LlmJepaForCausalLM.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == 70 and again(IDS).logits.shape[-1] == 70
    assert torch.equal(logits_of_stock(tmp_path), model(IDS).logits)


def test_settings_of_generation_are_kept(saved, tmp_path):
    model = saved[0]
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path)
    again = LlmJepaForCausalLM.from_pretrained(tmp_path)
    assert again.generation_config.max_new_tokens == 3 and again.generate(IDS).shape[1] <= 13


# --- adapters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters(family, tmp_path):
    peft = pytest.importorskip("peft")
    base = language_model(family)
    base.save_pretrained(tmp_path / "base")
    model = of(base)
    options = {"r": 4, "trainable_token_indices": [PREDICTOR], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    options["target_modules"] = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]
    if family == "gpt2":
        options["fan_in_fan_out"] = True
    model.language_model = peft.get_peft_model(model.language_model, peft.LoraConfig(**options))
    assert model.causal_lm is base
    model.train()
    out = model(**lay_out(make_pairs()))
    out.loss.backward()
    learnt = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[-3] if "lora" in name else name.split(".")[-2] for name in learnt} <= {
        "lora_A",
        "lora_B",
        "trainable_tokens_delta",
    }
    rows = next(grad for name, grad in learnt.items() if "trainable_tokens" in name)
    assert rows.shape == (1, 32) and rows.abs().max() > 0  # of the predictor token
    assert all(grad.abs().max() > 0 for grad in learnt.values())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter -= 0.1 * parameter.grad

    model.eval().save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter/adapter_config.json").exists()
    ids = torch.tensor([[5, 6, PREDICTOR, 7]])
    expected = model(ids).logits
    stock = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    assert torch.equal(stock.eval()(ids).logits, expected)
    assert (AutoModelForCausalLM.from_pretrained(tmp_path / "base")(ids).logits - expected).abs().max() > 1e-2
    assert torch.equal(model.generate(ids, max_new_tokens=3), stock.generate(ids, max_new_tokens=3))

    model.language_model = model.language_model.merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(ids).logits, expected, rtol=0, atol=1e-5)
    assert LlmJepaConfig.from_pretrained(tmp_path / "merged").objective() == model.config.objective()


# --- config -----------------------------------------------------------------------------------------------------


def test_a_config_comes_back(tmp_path):
    config = LlmJepaConfig(text_config=LLAMA, **FIELDS)
    assert isinstance(config.text_config, LlamaConfig) and config.get_text_config() is config.text_config
    config.save_pretrained(tmp_path)
    config.to_json_file(tmp_path / "whole.json")
    others = [LlmJepaConfig.from_pretrained(tmp_path), LlmJepaConfig.from_pretrained(tmp_path / "config.json")]
    others += [LlmJepaConfig.from_json_file(tmp_path / "whole.json"), copy.deepcopy(config)]
    others += [LlmJepaConfig.from_dict(config.to_dict()), LlmJepaConfig(**json.loads(config.to_json_string()))]
    for other in others:
        assert other.objective() == config.objective() == LlmJepaConfig().objective() | FIELDS
        assert other.text_config.to_dict() | {"llm_jepa": 0} == config.text_config.to_dict() | {"llm_jepa": 0}
    assert not any(hasattr(other.text_config, "llm_jepa") for other in others[:1])
    loaded, rest = LlmJepaConfig.from_pretrained(tmp_path, reverse=False, hello=1, return_unused_kwargs=True)
    assert not loaded.reverse and rest == {"hello": 1}


def test_without_a_language_model_it_is_a_llama():
    assert LlmJepaConfig().text_config.model_type == "llama" and LlmJepaConfig().layout == "packed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distanse": "l2"}, r"no field distanse \(did you mean distance\?\)"),
        ({"hidden_size": 8}, "no field hidden_size"),
        ({"layout": "varlen"}, "layout='varlen' is not one of packed, three_pass, additive_mask, fused"),
        ({"distance": "l3"}, "distance='l3' is not one of cosine, l2, mse, infonce"),
        ({"predictor_position": "middle"}, "predictor_position='middle' is not one of append, prepend"),
        ({"stop_gradient": "both"}, "stop_gradient='both' is not one of None, text, code"),
        ({"jepa_weight": -1}, "jepa_weight must be at least 0, got -1"),
        ({"lm_weight": -0.5}, "lm_weight must be at least 0, got -0.5"),
        ({"num_predictor_tokens": -1}, "num_predictor_tokens must be at least 0, got -1"),
        ({"jepa_dropout": 1.0}, r"jepa_dropout must be in \[0, 1\), got 1.0"),
        ({"jepa_dropout": -0.1}, r"jepa_dropout must be in \[0, 1\), got -0.1"),
        ({"infonce_temperature": 0}, "infonce_temperature must be above 0, got 0"),
        ({"layout": "fused", "predictor_position": "prepend"}, "use predictor_position='append'"),
        ({"num_predictor_tokens": "2"}, "num_predictor_tokens"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        LlmJepaConfig(text_config=LLAMA, **fields)
