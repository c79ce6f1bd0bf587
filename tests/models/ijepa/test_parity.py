"""I-JEPA beside the recorded numbers of the official code, and beside native transformers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from peft import LoraConfig, get_peft_model
from perturbed import perturbed
from safetensors.torch import load_file

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.layers.position import sincos_2d
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification, IJepaForPreTraining, IJepaModel
from hf_jepa.registry import VARIANTS


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/ijepa"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TINY = VARIANTS["ijepa"].tiny


@pytest.fixture(scope="module")
def golden():
    official = read_torch_checkpoint(GOLDEN / "encoder_forward/checkpoint.pt")
    config = LAYOUT.infer_config(official, num_attention_heads=4)
    model = IJepaForPreTraining(config)
    model.load_state_dict(LAYOUT.convert(official, config))
    return model.eval(), load_file(GOLDEN / "encoder_forward/io.safetensors")


def test_every_stage_of_the_encoder(golden):
    model, io = golden
    encoder = model.context_encoder
    encoder.set_attn_implementation("eager")
    out = encoder(io["images"], output_hidden_states=True, output_attentions=True)
    encoder.set_attn_implementation("sdpa")
    torch.testing.assert_close(encoder.embeddings.patch_embeddings(io["images"]), io["patch_embed"], **CLOSE)
    for found, name in zip(out.hidden_states, ("after_pos_embed", "block_0", "block_1"), strict=True):
        torch.testing.assert_close(found, io[name], **CLOSE)
    torch.testing.assert_close(out.attentions[0], io["block_0_attention"], **CLOSE)
    torch.testing.assert_close(out.last_hidden_state, io["last_hidden_state"], **CLOSE)
    torch.testing.assert_close(out.last_hidden_state.mean(1), io["pooled_mean"], **CLOSE)


def test_masked_encoding_keeps_the_order_of_the_mask(golden):
    model, io = golden
    found = model.context_encoder(io["images"], context_mask=[io["mask_0"], io["mask_1"]]).last_hidden_state
    torch.testing.assert_close(found, io["last_hidden_state_masked"], **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_output_of_some_tokens_is_part_of_the_full_output(golden, implementation):
    model, io = golden
    encoder = model.context_encoder
    encoder.set_attn_implementation(implementation)
    wanted = torch.stack([torch.randperm(io["last_hidden_state"].shape[1])[:5] for _ in io["images"]])
    found = encoder(io["images"], output_mask=wanted).last_hidden_state
    expected = io["last_hidden_state"].gather(1, wanted.unsqueeze(-1).expand(-1, -1, found.shape[-1]))
    encoder.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, expected, **CLOSE)


def test_targets_are_part_of_the_normalised_full_output(golden):
    model, io = golden
    full = model.target_encoder(io["images"]).last_hidden_state
    full = torch.nn.functional.layer_norm(full, full.shape[-1:])
    tokens = full.shape[1]
    for size in (3, tokens // 2 + 1):  # below, and together above the number of tokens
        masks = [torch.stack([torch.randperm(tokens)[:size] for _ in io["images"]]) for _ in range(2)]
        expected = torch.cat([full.gather(1, m.unsqueeze(-1).expand(-1, -1, full.shape[-1])) for m in masks])
        torch.testing.assert_close(model.encode_targets(io["images"], masks), expected, **CLOSE)


def test_other_image_sizes(golden):
    model, _ = golden
    io = load_file(GOLDEN / "encoder_forward/io_interpolated.safetensors")
    sizes = [name.removeprefix("images_") for name in io if name.startswith("images_")]
    assert sizes
    for size in sizes:
        found = model.context_encoder(io[f"images_{size}"]).last_hidden_state
        torch.testing.assert_close(found, io[f"last_hidden_state_{size}"], **CLOSE)


@pytest.mark.parametrize(("dim", "grid"), [(32, 6), (24, 5), (384, 14)])
def test_position_tables(dim, grid):
    expected = load_file(GOLDEN / "pos_embed/io.safetensors")[f"dim{dim}_grid{grid}"]
    torch.testing.assert_close(sincos_2d(dim, (grid, grid))[0], expected, rtol=0, atol=1e-7)


def test_recomputed_positions_equal_a_model_of_that_size():
    torch.manual_seed(0)
    small = IJepaModel(IJepaConfig(**TINY, position_resize="recompute")).eval()
    large = IJepaModel(IJepaConfig(**(TINY | {"image_size": [48, 24]}))).eval()
    weights = {k: v for k, v in small.state_dict().items() if "position" not in k}
    large.load_state_dict(large.state_dict() | weights)
    pixels = torch.randn(1, 3, 48, 24)
    torch.testing.assert_close(small(pixels).last_hidden_state, large(pixels).last_hidden_state)


def test_image_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="33x32"):
        IJepaModel(IJepaConfig(**TINY))(torch.randn(1, 3, 33, 32))


@pytest.mark.parametrize(
    ("size", "patch", "encoder", "predictor"),
    [
        ("vit_tiny", 16, 5_486_400, None),
        ("vit_small", 16, 21_589_632, None),
        ("vit_base", 16, 85_646_592, None),
        ("vit_large", 16, 303_098_880, None),
        ("vit_huge", 14, 630_434_560, 22_279_424),
        ("vit_huge", 16, 630_664_960, 22_279_424),
        ("vit_giant", 16, 1_011_092_608, 29_475_712),
    ],
)
def test_parameter_counts_of_named_sizes(size, patch, encoder, predictor):
    with torch.device("meta"):
        model = IJepaForPreTraining(IJepaConfig.from_size(size, patch_size=patch))
    assert model.context_encoder.num_parameters() == encoder
    if predictor:
        assert sum(p.numel() for p in model.predictor.parameters()) == predictor


def test_prediction_rows_are_ordered_target_context_image():
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**TINY)).eval()
    pixels = torch.randn(3, 3, 32, 32)
    order = torch.stack([torch.randperm(64) for _ in range(3)])
    contexts, targets = [order[:, :9], order[:, 9:18]], [order[:, 20:24], order[:, 24:28], order[:, 28:32]]
    together = model(pixels, contexts, targets)
    for m, target in enumerate(targets):
        for e, context in enumerate(contexts):
            for b in range(3):
                alone = model(pixels[b : b + 1], [context[b : b + 1]], [target[b : b + 1]])
                row = (m * 2 + e) * 3 + b
                torch.testing.assert_close(together.predictions[row], alone.predictions[0], **CLOSE)
                torch.testing.assert_close(together.targets[row], alone.targets[0], **CLOSE)


# --- stock transformers ---------------------------------------------------------------------------------------------


@pytest.mark.hub  # a process of its own
def test_stock_classes_load_our_checkpoint_without_this_package(tmp_path):
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**TINY)).eval()
    model.update_target_encoder(0.5)
    perturbed(model.target_encoder)  # so that it differs from the context encoder
    pixels = torch.randn(2, 3, 32, 32)
    model.save_pretrained(tmp_path)
    torch.save(pixels, tmp_path / "pixels.pt")
    code = f"""
import sys; sys.modules["hf_jepa"] = None
import torch
from transformers import AutoModel, AutoModelForImageClassification
pixels = torch.load({str(tmp_path / "pixels.pt")!r}, weights_only=True)
encoder = AutoModel.from_pretrained({str(tmp_path)!r}).eval()
classifier = AutoModelForImageClassification.from_pretrained({str(tmp_path)!r}).eval()
out = [encoder(pixels).last_hidden_state, classifier.ijepa(pixels).last_hidden_state]
torch.save([x.detach() for x in out], {str(tmp_path / "out.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    expected = model.target_encoder(pixels).last_hidden_state
    assert all(torch.equal(found, expected) for found in torch.load(tmp_path / "out.pt", weights_only=True))


@pytest.mark.parametrize("old_layout", [True, False])
def test_native_encoder_checkpoints_start_pretraining(tmp_path, old_layout):  # trap T5
    torch.manual_seed(0)
    fields = {k: v for k, v in TINY.items() if not k.startswith("pred_")}
    native = transformers.IJepaModel(transformers.IJepaConfig(**fields, layer_norm_eps=1e-6)).eval()
    native.save_pretrained(tmp_path, save_original_format=old_layout)
    model = IJepaForPreTraining.from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, 32, 32)
    expected = native(pixels).last_hidden_state
    for encoder in (model.context_encoder, model.target_encoder):
        torch.testing.assert_close(encoder(pixels).last_hidden_state, expected, rtol=1e-5, atol=1e-6)


def test_classifier_equals_the_native_one_and_loads_there(tmp_path):
    torch.manual_seed(0)
    ours = IJepaForImageClassification(IJepaConfig(**TINY, num_labels=5)).eval()
    ours.save_pretrained(tmp_path)
    native = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(native) is transformers.IJepaForImageClassification
    pixels, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 4])
    found, expected = ours(pixels, labels=labels), native(pixels, labels=labels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
    # Position tables are trained in the native class, never in ours.
    trainable = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert not any("position" in name for name in trainable)


def test_feature_extraction_pipeline():
    from PIL import Image

    from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor

    model = IJepaModel(IJepaConfig(**TINY)).eval()
    processor = IJepaImageProcessor.from_config(model.config)
    pipe = transformers.pipeline("image-feature-extraction", model=model, image_processor=processor)
    assert torch.tensor(pipe(Image.new("RGB", (50, 40)))).shape == (1, 64, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must be above 0, got -1.0"),
        ({"initializer_range": 0.0}, "initializer_range must be above 0, got 0.0"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob must be in \[0, 1\), got 1.5"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob must be"),
    ],
)
def test_numbers_that_no_model_can_have_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        IJepaConfig(**fields)


def test_a_feature_extraction_adapter_runs():
    config = IJepaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8)
    lora = LoraConfig(target_modules="all-linear", task_type="FEATURE_EXTRACTION", r=2)
    pixels = torch.randn(2, 3, 16, 16)
    model = IJepaModel(config).eval()
    expected = model(pixels).last_hidden_state
    found = get_peft_model(model, lora)(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(found, expected)  # adapters begin as nothing
