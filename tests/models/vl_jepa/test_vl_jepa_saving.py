"""Checkpoints: what is in them, what comes back, and how many parameters there are."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vl_jepa import TEXT_ENCODERS, spread, tiny_batch, tiny_config
from transformers import AutoModel, AutoModelForPreTraining

from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.decoder_vl_jepa import VLJepaForConditionalGeneration
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining, VLJepaModel


CLASSES = [VLJepaModel, VLJepaForPreTraining, VLJepaForConditionalGeneration]


def model_of(model_class=VLJepaForPreTraining, **fields):
    torch.manual_seed(0)
    return spread(model_class(tiny_config(**fields)))


def same_state(first, second) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_round_trip_is_exact_and_freezes_again(model_class, tmp_path):
    model = model_of(model_class)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = model_class.from_pretrained(tmp_path)
    assert same_state(model, again) and again.config.to_dict()["layer_slice"] == [1, 3]
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    again.train()
    assert not again.base_model.vision_model.training
    inv_freq = model.base_model.predictor.language_model.rotary_emb.inv_freq
    assert torch.equal(again.base_model.predictor.language_model.rotary_emb.inv_freq, inv_freq)
    model, again, batch = model.eval(), again.eval(), tiny_batch(model.config)
    predict = {name: batch[name] for name in ("pixel_values_videos", "query_ids", "query_mask")}
    assert torch.equal(again.base_model.predict(**predict), model.base_model.predict(**predict))
    texts = batch["target_ids"], batch["target_mask"]
    assert torch.equal(again.base_model.encode_text(*texts), model.base_model.encode_text(*texts))


@pytest.mark.parametrize("family", TEXT_ENCODERS)
def test_round_trips_with_other_text_encoders(family, tmp_path):
    model = model_of(text_config=TEXT_ENCODERS[family] | {"model_type": family}).eval()
    model.save_pretrained(tmp_path)
    batch = tiny_batch(model.config)
    again = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    assert type(again) is VLJepaForPreTraining and torch.equal(again(**batch).loss, model(**batch).loss)


def test_what_one_class_saves_the_others_load(tmp_path):
    model = model_of(VLJepaForConditionalGeneration)
    model.save_pretrained(tmp_path / "all")
    assert set(load_file(tmp_path / "all/model.safetensors")) <= set(model.state_dict())  # tied ones once
    base = AutoModel.from_pretrained(tmp_path / "all")
    assert type(base) is VLJepaModel and same_state(base, model.vl_jepa)
    pretraining = VLJepaForPreTraining.from_pretrained(tmp_path / "all")
    assert same_state(pretraining.vl_jepa, model.vl_jepa)
    base.save_pretrained(tmp_path / "base")
    assert same_state(VLJepaForPreTraining.from_pretrained(tmp_path / "base").vl_jepa, model.vl_jepa)


def test_a_missing_decoder_starts_afresh_and_says_so(tmp_path, caplog):
    model = model_of(decoder_config=None)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="decoder_config is unset"):
        VLJepaForConditionalGeneration.from_pretrained(tmp_path)
    decoder = tiny_config().decoder_config.to_dict()
    again = VLJepaForConditionalGeneration.from_pretrained(tmp_path, decoder_config=decoder)
    assert "holds no decoder: it starts from a fresh initialisation" in caplog.text
    assert same_state(again.vl_jepa, model.vl_jepa)
    assert 0.01 < again.decoder.prefix_projection.weight.std() < 0.03


@pytest.mark.parametrize("lost", ["vl_jepa.predictor.projection.weight", "vl_jepa.vision_model.layernorm.bias"])
def test_a_checkpoint_that_lacks_a_weight_is_refused_by_key(lost, tmp_path):
    model_of().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[lost]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for model_class in (VLJepaForPreTraining, VLJepaModel):
        with pytest.raises(ValueError, match=lost.removeprefix("vl_jepa.")):
            model_class.from_pretrained(tmp_path)
    _, info = VLJepaForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {lost}


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_checkpoint_without_its_x_encoder_is_told_where_it_is(model_class, tmp_path):
    model = model_of(model_class)
    rest = {name: x for name, x in model.state_dict().items() if "vision_model." not in name}
    model.save_pretrained(tmp_path / "rest", state_dict=rest)
    with pytest.raises(ValueError, match=r"saved without its X-Encoder: name that one by .*vision="):
        model_class.from_pretrained(tmp_path / "rest")
    encoder = model.base_model.vision_model
    encoder.save_pretrained(tmp_path / "vision")
    for vision in (tmp_path / "vision", encoder):
        again = model_class.from_pretrained(tmp_path / "rest", vision=vision)
        assert same_state(again, model)
        assert not any(p.requires_grad for p in again.base_model.vision_model.parameters())
    other = copy.deepcopy(encoder.config)
    other.num_hidden_layers = 2
    with pytest.raises(RuntimeError, match="layer.1"):
        model_class.from_pretrained(tmp_path / "rest", vision=type(encoder)(other))


def test_half_a_decoder_is_refused(tmp_path):
    model_of(VLJepaForConditionalGeneration).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["decoder.prefix_projection.bias"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="decoder.prefix_projection.bias"):
        VLJepaForConditionalGeneration.from_pretrained(tmp_path)


def test_sixteen_bits(tmp_path):
    model_of().save_pretrained(tmp_path)
    model = VLJepaForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    out = model(**tiny_batch(model.config))
    assert out.loss.dtype == torch.float32 and out.predictions.dtype == torch.bfloat16
    expected = VLJepaForPreTraining.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(out.loss, expected(**tiny_batch(model.config)).loss, rtol=0.1, atol=0.1)
    model.save_pretrained(tmp_path / "half")
    again = VLJepaForPreTraining.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16} and same_state(again, model)


def test_attention_and_fields_of_the_objective_are_chosen_at_loading(tmp_path):
    model = model_of().eval()
    model.save_pretrained(tmp_path)
    given = {"attn_implementation": "eager", "freeze_text": True, "mask_duplicates": True}
    again = VLJepaForPreTraining.from_pretrained(tmp_path, **given).eval()
    parts = again.vl_jepa.predictor.language_model, again.vl_jepa.text_model, again.vl_jepa.vision_model
    assert {part.config._attn_implementation for part in parts} == {"eager"}
    assert not any(p.requires_grad for p in again.vl_jepa.text_model.parameters())
    batch = tiny_batch(model.config)
    found = again(**batch, target_group=torch.arange(3)).loss
    torch.testing.assert_close(found, model(**batch).loss, rtol=1e-5, atol=1e-5)
    causal = VLJepaForPreTraining.from_pretrained(tmp_path, causal=True).vl_jepa.eval()
    clips, queries = batch["pixel_values_videos"], (torch.tensor([[word]] * 3) for word in (5, 6))
    states = [causal(clips, query_ids=query).last_hidden_state[:, 0] for query in queries]
    assert torch.equal(*states)  # vision tokens do not see what follows them
    with pytest.raises(Exception, match="makes all embeddings alike"):
        VLJepaForPreTraining.from_pretrained(tmp_path, loss_type="cosine")


@pytest.mark.parametrize("model_class", CLASSES)
def test_made_on_the_meta_device_and_initialised_later(model_class):
    with torch.device("meta"):
        model = model_class(tiny_config())
    assert {p.device.type for p in model.parameters()} == {"meta"}
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    torch.manual_seed(0)
    expected = model_class(tiny_config())
    for (name, value), wanted in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(value, wanted), name
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and parameter.abs().max() < 10, name
    assert model.base_model.logit_scale.item() == pytest.approx(model.config.logit_scale_init)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in expected.parameters()]


def test_the_paper_in_numbers():
    """What can be reconciled with 2512.10942, section 3.1: 304M and 490M, the latter without token embeddings."""
    with torch.device("meta"):
        model = VLJepaForPreTraining(VLJepaConfig())
    report = {line.part: line for line in model.parameter_report()}
    assert report["X-Encoder"].parameters == 303_885_312 and report["X-Encoder"].trainable == 0
    predictor = [line for part, line in report.items() if part.startswith(("vision proj", "predictor"))]
    assert sum(line.trainable for line in predictor) == 491_820_544
    assert sum(line.parameters for line in predictor) == 491_820_544 + 128_256 * 2048
    assert round(report["Y-Encoder"].parameters / 1e6, 1) == 302.9
    assert report["text projection"].parameters == 768 * 1536 + 1536
    assert report["total"].parameters == sum(p.numel() for p in model.parameters()) == 1_362_418_433
    assert report["total"].trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_report_of_a_model_with_a_decoder():
    model = model_of(VLJepaForConditionalGeneration)
    report = {line.part: line for line in model.parameter_report()}
    assert report["total"].parameters == sum(p.numel() for p in model.parameters())
    assert {part for part, line in report.items() if line.trainable} == {"Y-Decoder prefix", "Y-Decoder", "total"}
    assert report["Y-Decoder prefix"].parameters == 16 * 2 * 32 + 2 * 32
