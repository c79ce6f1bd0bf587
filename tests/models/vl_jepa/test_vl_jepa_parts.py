"""Models of trained parts: the last layers of a language model, encoders of clips and images, encoders of texts."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vl_jepa import LLAMA, TEXT_ENCODERS, TINY, spread, tiny_batch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertForMaskedLM,
    GPT2Config,
    GPT2Model,
    LlamaModel,
    VideoMAEConfig,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)

from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining, IJepaModel
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder, VJepa2ForPreTraining, VJepa2Model
from hf_jepa.models.vl_jepa.language_model_vl_jepa import predictor_of
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining, VLJepaModel
from hf_jepa.registry import VARIANTS


FIELDS = {name: x for name, x in TINY.items() if not name.endswith("_config")}
VJEPA2 = VARIANTS["vjepa2"].tiny


def config_of(fields: dict):
    return AutoConfig.for_model(**copy.deepcopy(fields))


VISION, TEXT = config_of(TINY["vision_config"]), config_of(TINY["text_config"])


def language_model(seed: int = 1, **fields):
    return spread(AutoModelForCausalLM.from_config(config_of(LLAMA | fields)), seed)


def from_parts(model_class=VLJepaModel, **parts):
    torch.manual_seed(0)
    return model_class.from_parts(
        **{"vision": VISION, "init_predictor_from": config_of(LLAMA), "text": TEXT} | FIELDS | parts
    )


# --- the predictor ---


def require_last_layers(model: VLJepaModel, source: LlamaModel, count: int = 2) -> None:
    """Tensor by tensor, and nothing else is there."""
    kept, depth = model.predictor.language_model, len(source.layers)
    assert len(kept.layers) == count
    expected = {"embed_tokens.weight": source.embed_tokens.weight, "norm.weight": source.norm.weight}
    for index in range(count):
        layer = source.layers[depth - count + index]
        expected |= {f"layers.{index}.{name}": x for name, x in layer.named_parameters()}
    state = dict(kept.named_parameters())
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
        assert state[name] is not value  # copies: the source is not trained
    first = source.layers[0].mlp.up_proj.weight
    assert not any(torch.equal(layer.mlp.up_proj.weight, first) for layer in kept.layers)
    assert torch.equal(kept.rotary_emb.inv_freq, source.rotary_emb.inv_freq)
    plain = type(source)(config_of({name: x for name, x in LLAMA.items() if name != "rope_parameters"}))
    assert not torch.equal(kept.rotary_emb.inv_freq, plain.rotary_emb.inv_freq)  # the scaling counts
    assert kept.config.rope_parameters == source.config.rope_parameters


@pytest.mark.parametrize("kind", ["whole", "sharded", "headless", "untied", "bfloat16"])
def test_a_folder_gives_exactly_its_last_layers(kind, tmp_path):
    source = language_model(tie_word_embeddings=kind != "untied")
    saved = source.model if kind == "headless" else source
    if kind == "bfloat16":
        saved = copy.deepcopy(source).to(torch.bfloat16)
        source.load_state_dict(saved.state_dict())  # rounded, but for what is no weight
    saved.save_pretrained(tmp_path, max_shard_size="20KB" if kind == "sharded" else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (kind == "sharded")
    model = from_parts(init_predictor_from=tmp_path)
    require_last_layers(model, source.model)
    assert model.predictor.language_model.config._attn_implementation == "sdpa"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (model.config.source_num_layers, model.config.layer_slice) == (4, [2, 4])
    assert str(tmp_path.parent) not in json.dumps(model.config.to_dict())  # for others, too


def test_sixteen_bits_do_not_round_what_is_no_weight():
    source = AutoModelForCausalLM.from_config(config_of(LLAMA), dtype=torch.bfloat16)
    kept = predictor_of(source, 2)
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}
    exact = AutoModelForCausalLM.from_config(config_of(LLAMA)).model.rotary_emb.inv_freq
    assert kept.rotary_emb.inv_freq.dtype == torch.float32 and torch.equal(kept.rotary_emb.inv_freq, exact)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_another_number_of_layers(count):
    source = language_model()
    model = from_parts(init_predictor_from=source, num_predictor_layers=count)
    kept = model.predictor.language_model
    for index in range(count):
        expected = source.model.layers[4 - count + index].self_attn.q_proj.weight
        assert torch.equal(kept.layers[index].self_attn.q_proj.weight, expected)
    assert model.config.layer_slice == [4 - count, 4] and len(kept.layers) == count


def test_the_predictor_computes_what_the_last_layers_do():
    """Causal, so that the source itself can be asked: its last two layers and its norm, on the same states."""
    source = language_model()
    model = from_parts(init_predictor_from=source, causal=True)
    states = torch.randn(2, 5, 32)
    found = model.predictor.language_model(inputs_embeds=states).last_hidden_state
    source.model.layers = source.model.layers[2:]
    source.model.config.num_hidden_layers = 2
    expected = source.model(inputs_embeds=states, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected)


def test_language_models_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_predictor_layers 5 is more than the 4 layers"):
        from_parts(init_predictor_from=language_model(), num_predictor_layers=5)
    with pytest.raises(ValueError, match="GPT2Model cannot be a predictor"):
        from_parts(init_predictor_from=GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64)))
    language_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.3.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of the language model.*layers.3.mlp.up_proj.weight"):
        from_parts(init_predictor_from=tmp_path)


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValueError, match=r"no field poolling \(did you mean pooling\?\)"):
        from_parts(poolling="all")


def test_a_class_without_decoder_takes_none():
    with pytest.raises(ValueError, match="VLJepaModel has no decoder"):
        from_parts(decoder=config_of(TINY["decoder_config"]))


# --- the X-Encoder ---


def clip_encoders() -> dict:
    config = VJEPA2Config(**VJEPA2)
    return {
        "native": spread(VJEPA2Model(config)),
        "ours": spread(VJepa2Model(VJepa2Config(**VJEPA2))),
        "pretraining": spread(VJepa2ForPreTraining(VJepa2Config(**VJEPA2))),
    }


@pytest.mark.parametrize("kind", ["native", "ours", "pretraining"])
@pytest.mark.parametrize("saved", [False, True])
def test_encoders_of_clips(kind, saved, tmp_path):
    source = clip_encoders()[kind].eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    encoder = source.target_encoder if kind == "pretraining" else source
    options = {} if kind == "pretraining" else {"skip_predictor": True}
    with torch.no_grad():
        expected = encoder(clips, **options).last_hidden_state
        static = encoder(clips[:, :1].repeat(1, 2, 1, 1, 1), **options).last_hidden_state
    if saved:
        source.save_pretrained(tmp_path)
    model = from_parts(vision=tmp_path if saved else source).eval()
    assert type(model.vision_model) is VJepa2Encoder  # without a predictor, which nothing reads
    torch.testing.assert_close(model.get_vision_tokens(clips), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.get_vision_tokens(clips[:, :1]), static, rtol=1e-5, atol=1e-5)  # an image


@pytest.mark.parametrize("saved", [False, True])
def test_an_encoder_of_images_sees_each_frame_alone(saved, tmp_path):
    source = spread(IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny))).eval()
    if saved:
        source.save_pretrained(tmp_path)
    model = from_parts(vision=tmp_path if saved else source).eval()
    assert type(model.vision_model) is IJepaModel
    clips = torch.randn(2, 3, 3, 32, 32)
    tokens = model.get_vision_tokens(clips)
    assert tokens.shape == (2, 3 * 64, 32)
    with torch.no_grad():
        for frame in range(3):
            alone = source.ijepa(clips[:, frame]).last_hidden_state
            torch.testing.assert_close(tokens[:, 64 * frame : 64 * (frame + 1)], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.get_vision_tokens(clips[:, :1]), tokens[:, :64], rtol=1e-5, atol=1e-5)
    assert model.predict(clips).shape == (2, 16)


@pytest.mark.parametrize("family", ["vit", "convnext", "videomae"])
def test_encoders_of_transformers(family):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"image_size": 32, "patch_size": 8}
    if family == "videomae":
        source = VideoMAEModel(VideoMAEConfig(**sizes, num_frames=4))
    elif family == "vit":
        source = AutoModel.from_config(AutoConfig.for_model("vit", **sizes))
    else:
        sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
        source = AutoModel.from_config(AutoConfig.for_model("convnext", **sizes))
    model = from_parts(vision=source, freeze_vision=family == "convnext")  # whose last norm is of its own pooling
    clips = torch.randn(2, 4, 3, 32, 32)
    tokens = model.get_vision_tokens(clips)
    counts = {"vit": 4 * 17, "videomae": 32, "convnext": 4 * 16}
    assert tokens.shape == (2, counts[family], model.config.vision_hidden_size)
    model.predict(clips).sum().backward()  # DDP waits for the gradient of every trained parameter
    unread = [name for name, p in model.vision_model.named_parameters() if p.requires_grad and p.grad is None]
    assert unread == []


def test_an_x_encoder_without_all_its_weights_is_refused(tmp_path):
    spread(IJepaModel(IJepaConfig(**VARIANTS["ijepa"].tiny))).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of IJepaModel.*layernorm.weight: an X-Encoder"):
        from_parts(vision=tmp_path)


# --- the Y-Encoder ---


@pytest.mark.parametrize("family", TEXT_ENCODERS)
def test_text_encoders_of_folders(family, tmp_path):
    source = spread(AutoModel.from_config(config_of(TEXT_ENCODERS[family] | {"model_type": family}))).eval()
    source.save_pretrained(tmp_path)
    model = from_parts(text=tmp_path).eval()
    batch = tiny_batch(model.config)
    ids, mask = batch["target_ids"], batch["target_mask"]
    with torch.no_grad():
        states = source(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = torch.stack([row[: mask[i].sum()].mean(dim=0) for i, row in enumerate(states)])
        expected = model.text_projection(pooled)
        torch.testing.assert_close(model.encode_text(ids, mask), expected, rtol=1e-5, atol=1e-5)
    trained = [p for p in model.text_model.parameters() if p.requires_grad]
    model.encode_text(ids, mask).sum().backward()
    assert all(p.grad is not None for p in trained)


def test_a_checkpoint_of_a_masked_language_model_lacks_only_its_pooler(tmp_path):
    spread(BertForMaskedLM(config_of(TEXT_ENCODERS["bert"] | {"model_type": "bert"}))).save_pretrained(tmp_path)
    model = from_parts(text=tmp_path)
    assert model.text_model.pooler is None and not any("pooler" in name for name in model.state_dict())


# --- all of it ---


def test_parts_that_were_trained_are_not_drawn_again(tmp_path):
    parts = {"vision": clip_encoders()["ours"].encoder, "text": spread(AutoModel.from_config(TEXT))}
    before = {name: {key: x.clone() for key, x in part.state_dict().items()} for name, part in parts.items()}
    model = from_parts(VLJepaForPreTraining, **parts)
    for name, module in (("vision", model.vl_jepa.vision_model), ("text", model.vl_jepa.text_model)):
        state = module.state_dict()
        assert all(torch.equal(state[key], x) for key, x in before[name].items())
    assert 0.01 < model.vl_jepa.predictor.projection.weight.std() < 0.03  # new, by initializer_range
    model.save_pretrained(tmp_path)
    again = VLJepaForPreTraining.from_pretrained(tmp_path)
    batch = tiny_batch(model.config)
    assert torch.equal(again.eval()(**batch).loss, model.eval()(**batch).loss)
