"""What NEPA promises beside the numbers of the official code."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from perturbed import perturbed
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from hf_jepa.layers.causal_transformer import CausalTransformerLayer
from hf_jepa.layers.rotary_2d import patch_centres, perturb_centres, rotary_tables_2d
from hf_jepa.models.nepa.configuration_nepa import NepaConfig
from hf_jepa.models.nepa.image_processing_nepa import NepaImageProcessor
from hf_jepa.models.nepa.modeling_nepa import NepaForImageClassification, NepaForPreTraining, NepaModel
from hf_jepa.registry import VARIANTS
from hf_jepa.training.finetuning import load_classifier, prepare_mode


TINY = VARIANTS["nepa"].tiny | {"patch_size": 8, "layerscale_value": 0.5}
PATCHES = 16


@pytest.fixture
def model():
    return perturbed(NepaForPreTraining(NepaConfig(**TINY)), 0.1).eval()


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 32, 32)


def with_other_patches(pixels: torch.Tensor, first: int) -> torch.Tensor:
    """Other pixels in the patches from `first` on."""
    later = (torch.arange(PATCHES) >= first).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return torch.where(later, pixels + 3.0, pixels)


# --- nothing leaks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("first", [0, 5, 15])
def test_predictions_do_not_see_the_patch_they_predict_nor_later_ones(model, pixels, implementation, first):
    model.set_attn_implementation(implementation)
    before, after = model(pixels), model(with_other_patches(pixels, first))
    # Prediction i is of patch i: those up to the first that changed must not move, all others do.
    assert torch.equal(before.predictions[:, : first + 1], after.predictions[:, : first + 1])
    moved = (before.predictions != after.predictions).any(-1)
    assert moved[:, first + 1 :].all()
    assert torch.equal(before.targets[:, :first], after.targets[:, :first])
    assert (before.targets != after.targets).any(-1)[:, first:].all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_features_see_everything_unless_causal(model, pixels, implementation):
    encoder = model.nepa
    encoder.set_attn_implementation(implementation)
    changed = with_other_patches(pixels, PATCHES - 1)
    assert torch.equal(encoder(pixels).last_hidden_state[:, :-1], encoder(changed).last_hidden_state[:, :-1])
    once = encoder(pixels, is_causal=False).last_hidden_state
    encoder.config.is_causal = False
    assert torch.equal(encoder(pixels).last_hidden_state, once)
    assert (encoder(pixels).last_hidden_state != encoder(changed).last_hidden_state).any(-1).all()
    built = NepaModel(NepaConfig(**TINY, is_causal=False)).eval()
    built.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(
        built(pixels).last_hidden_state, encoder(pixels).last_hidden_state, rtol=1e-4, atol=1e-5
    )


def test_pretraining_that_sees_its_targets_is_refused(model, pixels):
    with pytest.raises(ValueError, match="is_causal=False"):
        model(pixels, is_causal=False)
    model.config.is_causal = False
    with pytest.raises(ValueError, match="is_causal=False"):
        model(pixels)


def test_no_gradient_flows_into_targets(model, pixels):
    pixels.requires_grad_()
    out = model(pixels)
    assert not out.targets.requires_grad
    out.loss.backward()
    gradient = pixels.grad.abs().unfold(2, 8, 8).unfold(3, 8, 8).sum((1, 4, 5)).flatten(1)  # (B, patches)
    assert not gradient[:, -1].any() and gradient[:, :-1].all()  # the last patch is a target only


def test_the_loss_is_minus_the_cosine_of_each_prediction_with_its_patch(model, pixels):
    out = model(pixels)
    patches = model.nepa.embeddings.patch_embeddings(pixels)
    expected = -nn.functional.cosine_similarity(out.context[:, :PATCHES], patches, dim=-1).mean()
    torch.testing.assert_close(out.loss, expected)
    assert torch.equal(out.loss, out.prediction_loss) and out.regularization_loss is None


def test_a_layer_alone_is_causal_as_its_config_says():
    config = NepaConfig(**TINY, attn_implementation="sdpa")
    layer, x = CausalTransformerLayer(config, 32, 4, 64).eval(), torch.randn(1, 4, 32)
    rotary = rotary_tables_2d(patch_centres((2, 2)), 8, 100.0)
    changed = torch.cat([x[:, :3], torch.randn(1, 1, 32)], dim=1)
    assert torch.equal(layer(x, rotary)[:, :3], layer(changed, rotary)[:, :3])
    config.is_causal = False
    assert not torch.equal(layer(x, rotary)[:, :3], layer(changed, rotary)[:, :3])


# --- layers ---------------------------------------------------------------------------------------------------------


def test_perturbed_places_stay_in_range_and_move_together():
    centres = patch_centres((3, 5))
    for seed in range(20):
        torch.manual_seed(seed)
        factor = perturb_centres(centres, rescale=2.0)[0] / centres[0]
        assert 0.5 <= factor[0] <= 2.0 and factor[0] == pytest.approx(factor[1].item())
        factors = perturb_centres(centres, jitter=1.5)[[0, 14]] / centres[[0, 14]]
        assert (factors >= 1 / 1.5 - 1e-6).all() and (factors <= 1.5 + 1e-6).all()
        torch.testing.assert_close(factors[0], factors[1])
        assert factors[0, 0] != factors[0, 1]
        moved = perturb_centres(centres, shift=0.25) - centres
        assert moved.abs().max() <= 0.25 + 1e-6 and moved.std(0).max() < 1e-6
    assert torch.equal(perturb_centres(centres), centres)


def test_places_are_perturbed_only_while_training(pixels):
    encoder = perturbed(NepaModel(NepaConfig(**(TINY | {"pos_embed_rescale": 2.0}))), 0.1).eval()
    assert torch.equal(encoder(pixels).last_hidden_state, encoder(pixels).last_hidden_state)
    encoder.train()
    assert not torch.allclose(encoder(pixels).last_hidden_state, encoder(pixels).last_hidden_state, atol=1e-4)


def test_heads_that_do_not_divide_into_four_are_refused():
    with pytest.raises(ValueError, match="6 channels"):
        rotary_tables_2d(patch_centres((2, 2)), 6, 100.0)


def test_stochastic_depth_leaves_out_whole_branches():
    config = NepaConfig(**TINY, drop_path_prob=0.5)
    layer = CausalTransformerLayer(config, 32, 4, 64, drop_path=0.5)
    branch = torch.ones(4000, 2, 3)
    dropped = layer._drop(branch)
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and dropped.std((1, 2)).max() == 0
    assert dropped.mean() == pytest.approx(1.0, abs=0.1)
    assert layer.eval()._drop(branch) is branch
    depths = [
        layer.drop_path
        for layer in NepaModel(NepaConfig(**(TINY | {"num_hidden_layers": 3}), drop_path_prob=0.3)).layers
    ]
    assert depths == pytest.approx([0.0, 0.15, 0.3])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_initialisation(device):
    with torch.device(device):
        model = NepaForPreTraining(NepaConfig(**(TINY | {"hidden_size": 256, "qk_norm_affine": True})))
    if device == "meta":
        model.to_empty(device="cpu").requires_grad_(False)
        for parameter in model.parameters():
            parameter.fill_(7.0)
        model.init_weights()
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            assert parameter.eq(0.5).all(), name
        elif parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        else:
            assert parameter.eq(float("norm" in name and name.endswith("weight"))).all(), name


# --- run-time options -----------------------------------------------------------------------------------------------


def test_gradient_checkpointing_gives_the_same_gradients(pixels):
    torch.manual_seed(0)
    model = perturbed(NepaForPreTraining(NepaConfig(**(TINY | {"pos_embed_rescale": 2.0}))), 0.1)
    found = []
    for reentrant in (None, False, True):
        if reentrant is not None:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        torch.manual_seed(1)
        model(pixels).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, expected in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], expected)


def test_compiles_without_a_graph_break(pixels):
    model = perturbed(NepaForPreTraining(NepaConfig(**(TINY | {"pos_embed_rescale": 2.0}))), 0.1).train()
    torch.manual_seed(1)
    expected = model(pixels).loss
    torch.manual_seed(1)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(pixels).loss, expected)


def test_16_bits(model, pixels):
    expected = model(pixels).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(pixels)
    assert out.context.dtype == torch.float32 and out.targets.dtype == torch.float32
    torch.testing.assert_close(out.loss, expected, rtol=0.1, atol=0.02)
    torch.testing.assert_close(model.to(torch.bfloat16)(pixels).loss, expected, rtol=0.1, atol=0.02)


def test_recorded_outputs(model, pixels):
    model.set_attn_implementation("eager")
    out = model(pixels, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    assert out.attentions[0].shape == (2, 4, 1 + PATCHES, 1 + PATCHES)
    assert not out.attentions[0].triu(1).any()
    assert torch.equal(model.nepa.layernorm(out.hidden_states[-1]), out.context)
    with pytest.raises(TypeError, match="context_mask"):
        model(pixels, context_mask=[torch.zeros(2, 3, dtype=torch.long)])


def test_images_that_do_not_divide_are_refused(model):
    with pytest.raises(ValueError, match="33x32"):
        model(torch.randn(1, 3, 33, 32))


# --- configuration, files, pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 33}, "hidden_size 33"),
        ({"hidden_size": 24}, "multiple of 4 channels"),
        ({"image_size": 30}, "image_size 30"),
        ({"pos_embed_rescale": 0.5}, "pos_embed_rescale must be at least 1"),
        ({"drop_path_prob": 1.0}, r"drop_path_prob must be in \[0, 1\)"),
        ({"rope_theta": 0.0}, "rope_theta must be above 0"),
        ({"hidden_act": "swiglu"}, "hidden_act='swiglu'"),
        ({"target_source": "ema"}, "target_source='ema' is not one of input_embedding"),
    ],
)
def test_configs_that_no_model_can_have_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        NepaConfig(**(TINY | fields))


def test_our_files_round_trip_and_start_a_classifier(model, pixels, tmp_path):
    model.save_pretrained(tmp_path)
    assert all(key.startswith("nepa.") for key in load_file(tmp_path / "model.safetensors"))
    again = NepaForPreTraining.from_pretrained(tmp_path).eval()
    assert torch.equal(again(pixels).loss, model(pixels).loss)
    fields = {"num_labels": 5, "is_causal": False, "add_pooling_layer": True}
    classifier, info = NepaForImageClassification.from_pretrained(tmp_path, **fields, output_loading_info=True)
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"fc_norm", "classifier"}
    encoder = NepaModel.from_pretrained(tmp_path, is_causal=False).eval()
    tokens = encoder(pixels).last_hidden_state
    assert torch.equal(classifier.nepa.eval()(pixels).last_hidden_state, tokens)
    expected = classifier.classifier(classifier.fc_norm(tokens[:, 1:].mean(1)))
    assert torch.equal(classifier(pixels).logits, expected)


def test_incomplete_files_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["nepa.layers.1.mlp.fc2.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for model_class in (NepaForPreTraining, NepaModel, NepaForImageClassification):
        with pytest.raises(ValueError, match="fc2.weight"):
            model_class.from_pretrained(tmp_path)


def test_images_are_prepared_as_in_the_official_evaluation():
    processor = NepaImageProcessor.from_config(NepaConfig(image_size=28, patch_size=14))
    assert processor.size["shortest_edge"] == 32 and processor.resample == Image.Resampling.BICUBIC
    white, black = (processor(Image.new("RGB", (50, 40), (v,) * 3), return_tensors="pt") for v in (255, 0))
    assert white.pixel_values.shape == (1, 3, 28, 28)
    assert white.pixel_values.eq(1).all() and black.pixel_values.eq(-1).all()


@pytest.fixture
def pretrained(tmp_path):
    random = {"drop_path_prob": 0.9, "pos_embed_shift": 0.5, "pos_embed_jitter": 2.0, "pos_embed_rescale": 2.0}
    perturbed(NepaForPreTraining(NepaConfig(**TINY | random)), 0.1).save_pretrained(tmp_path / "pretrained")
    return str(tmp_path / "pretrained")


def test_a_probe_reads_a_fixed_encoder_as_it_was_pretrained(pretrained, pixels):
    probe = load_classifier(VARIANTS["nepa"], pretrained, ["a", "b"], "probe").train()
    assert torch.equal(probe(pixels).logits, probe(pixels).logits)
    assert probe.config.is_causal and not probe.config.add_pooling_layer


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_fine_tuning_starts_as_the_official_one_and_goes_on_as_it_was(pretrained, pixels, tmp_path, mode):
    tuned = load_classifier(VARIANTS["nepa"], pretrained, ["a", "b"], mode).train()
    assert not tuned.config.is_causal and tuned.config.add_pooling_layer
    assert not torch.equal(tuned(pixels).logits, tuned(pixels).logits)  # the encoder learns, with all that is random
    prepare_mode(tuned, mode)(pixels, labels=torch.tensor([0, 1])).loss.backward()
    causal = NepaForImageClassification(NepaConfig(**TINY, num_labels=2))
    causal.save_pretrained(tmp_path / "causal")
    assert load_classifier(VARIANTS["nepa"], str(tmp_path / "causal"), ["a", "b"], mode).config.is_causal
