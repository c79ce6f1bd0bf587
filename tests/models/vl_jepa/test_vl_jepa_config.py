"""What a config derives, keeps and refuses."""

import json

import pytest
from tiny_vl_jepa import LLAMA, TEXT_ENCODERS, TINY, tiny_config
from transformers import AutoConfig, Gemma3TextConfig, LlamaConfig, Qwen2Config

from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig, last_layers


def test_the_defaults_are_those_of_the_paper():
    config = VLJepaConfig()
    llama, text = config.predictor_config, config.text_config
    assert (llama.model_type, llama.num_hidden_layers, llama.hidden_size) == ("llama", 8, 2048)
    assert llama.rope_parameters["rope_type"] == "llama3" and llama.rope_parameters["factor"] == 32
    assert (config.source_num_layers, config.layer_slice) == (16, [8, 16])
    assert text.use_bidirectional_attention and text.layer_types.count("full_attention") == 4
    assert config.vision_config.model_type == "vjepa2" and config.decoder_config is None
    assert (config.projection_dim, config.image_size, config.max_query_length) == (1536, 256, 512)
    assert config.freeze_vision and config.freeze_token_embeddings and not config.freeze_text


def test_the_predictor_is_cut_once():
    config = tiny_config(predictor_config=LLAMA)
    assert (config.predictor_config.num_hidden_layers, config.layer_slice) == (2, [2, 4])
    assert config.predictor_config.is_causal is False
    again = VLJepaConfig.from_dict(config.to_dict())
    assert again.predictor_config.num_hidden_layers == 2
    assert (again.source_num_layers, again.layer_slice) == (4, [2, 4])


def test_what_belongs_to_each_layer_is_cut_too():
    source = Qwen2Config(
        num_hidden_layers=4,
        layer_types=["full_attention", "full_attention", "sliding_attention", "full_attention"],
        use_sliding_window=True,
        sliding_window=4,
    )
    kept = last_layers(source, 2)
    assert kept.layer_types == ["sliding_attention", "full_attention"]
    assert source.num_hidden_layers == 4 and len(source.layer_types) == 4


def test_causal_reaches_the_language_model():
    assert tiny_config(causal=True).predictor_config.is_causal is True


@pytest.mark.parametrize("times", [1, 3])
def test_a_sliding_window_is_halved_once(times, tmp_path):
    """Gemma keeps a bidirectional window as a radius in memory, and the whole in the file."""
    config = tiny_config()
    assert config.text_config.sliding_window == 4 // 2 + 1
    for _ in range(times):
        config.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["text_config"]["sliding_window"] == 4
        config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is VLJepaConfig and config.text_config.sliding_window == 4 // 2 + 1
    given = tiny_config(text_config=Gemma3TextConfig(**TEXT_ENCODERS["gemma3_text"]))
    assert given.text_config.sliding_window == 4 // 2 + 1


def test_a_config_object_of_another_is_not_changed():
    source = LlamaConfig(**{name: x for name, x in LLAMA.items() if name != "model_type"})
    tiny_config(predictor_config=source)
    assert source.num_hidden_layers == 4 and not hasattr(source, "is_causal")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling='max' is not one of all, query"),
        ({"text_pooling": "max"}, "text_pooling='max'"),
        ({"loss_type": "l3"}, "loss_type='l3'"),
        ({"regularization_type": "ema"}, "regularization_type='ema'"),
        ({"num_predictor_layers": 5}, "num_predictor_layers 5 is more than the 3 layers"),
        ({"num_predictor_layers": 0}, "num_predictor_layers must be at least 1, got 0"),
        ({"projection_dim": 0}, "projection_dim must be at least 1"),
        ({"num_prefix_tokens": 0}, "num_prefix_tokens must be at least 1"),
        ({"prefix_noise": -0.1}, "prefix_noise must be at least 0, got -0.1"),
        ({"regularization_weight": float("nan")}, "regularization_weight must be at least 0, got nan"),
        ({"logit_scale_init": 5.0}, "logit_scale_init 5.0 is above logit_scale_max"),
        (
            {"mask_duplicates": True, "loss_type": "l2", "regularization_type": "vicreg"},
            "mask_duplicates=True changes",
        ),
        ({"text_config": {"model_type": "t5"}}, "'t5' model, an encoder with a decoder"),
        ({"project_text": False}, "the Y-Encoder's own 24 channels, but projection_dim is 16"),
        ({"vision_config": {"model_type": "nothing"}}, "nothing"),
        # Regression collapses unless something forbids it.
        ({"loss_type": "cosine"}, r"freeze_text=False, project_text=True\) makes all embeddings alike"),
        ({"loss_type": "l1", "freeze_text": True}, "freeze_text=True with project_text=False"),
        ({"loss_type": "l2", "project_text": False, "projection_dim": 24}, "makes all embeddings alike"),
        (
            {"loss_type": "l2", "regularization_type": "sigreg", "regularization_weight": 0},
            "makes all embeddings alike",
        ),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"loss_type": "cosine", "regularization_type": "vicreg"},
        {"loss_type": "l2", "regularization_type": "sigreg", "regularization_weight": 0.1},
        {"loss_type": "l1", "freeze_text": True, "project_text": False, "projection_dim": 24},
    ],
)
def test_regressions_that_cannot_collapse_are_allowed(fields):
    assert tiny_config(**fields).loss_type == fields["loss_type"]


def test_a_decoder_may_come_later(tmp_path):
    config = tiny_config(decoder_config=None)
    config.save_pretrained(tmp_path)
    again = VLJepaConfig.from_pretrained(tmp_path, decoder_config=TINY["decoder_config"])
    assert again.decoder_config.model_type == "llama" and config.decoder_config is None
