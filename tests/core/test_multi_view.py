"""What LeJEPA, Rectified LpJEPA, VICReg and SimSiam share."""

import importlib.util

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining, ResNetConfig, ViTModel

from hf_jepa.core.backbones import SIZES, Pooling, has_batch_norm, residual_norms
from hf_jepa.core.multi_view import view_groups
from hf_jepa.models.lejepa.configuration_lejepa import LeJepaConfig
from hf_jepa.models.lejepa.modeling_lejepa import LeJepaForPreTraining, LeJepaModel
from hf_jepa.models.vicreg.configuration_vicreg import VicRegConfig
from hf_jepa.models.vicreg.modeling_vicreg import VicRegForPreTraining, VicRegModel
from hf_jepa.registry import VARIANTS


MULTI_VIEW = [name for name, variant in VARIANTS.items() if variant.inputs == "views"]
DRAWING = ("lejepa", "rectified_lpjepa")
_TOKENS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
_MAPS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
RESNET = {"model_type": "resnet", "embedding_size": 8} | _MAPS
BACKBONES = [
    _TOKENS | {"model_type": "vit", "intermediate_size": 64},
    _TOKENS | {"model_type": "ijepa", "intermediate_size": 64},
    _TOKENS | {"model_type": "beit", "intermediate_size": 64},
    _TOKENS | {"model_type": "dinov2_with_registers", "mlp_ratio": 2, "num_register_tokens": 3},
    _TOKENS | {"model_type": "siglip_vision_model", "intermediate_size": 64},
    RESNET,
    _MAPS | {"model_type": "convnext", "num_stages": 2},
]


def named(backbone: dict) -> str:
    return backbone["model_type"]


@pytest.fixture(params=MULTI_VIEW)
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture
def model(variant):
    return variant.model_class()(variant.config_class()(**variant.tiny)).train()


@pytest.fixture
def views():
    return torch.randn(6, 2, 3, 32, 32)


def small(backbone: dict | None = None, **fields) -> LeJepaConfig:
    fields = {"proj_hidden_size": 16, "proj_size": 8, "sigreg_num_slices": 8} | fields
    return LeJepaConfig(backbone_config=backbone or VARIANTS["lejepa"].tiny["backbone_config"], **fields)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# The objective


def test_output(variant, model, views):
    out = model(views, step=0)
    assert out.predictions.shape == out.targets.shape == (2, 6, model.config.proj_size)
    assert out.context.shape == (2, 6, 32) and not out.targets.requires_grad
    rest = 0 if out.regularization_loss is None else out.regularization_loss
    torch.testing.assert_close(out.loss, out.prediction_loss + rest)
    out.loss.backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()
    assert model.context_encoder is model.target_encoder is getattr(model, variant.name)
    with pytest.raises(ValueError, match="there is no target encoder"):
        model.update_target_encoder(0.9)


def test_embeddings_are_ordered_by_view_and_image(model, views):
    model.eval()
    out = model(views)
    for view in range(2):
        torch.testing.assert_close(out.context[view], model.context_encoder(views[:, view]).pooler_output)
    swapped = model(views.flip(1)).context
    torch.testing.assert_close(swapped, out.context.flip(0))


def test_views_of_different_sizes():
    model = LeJepaForPreTraining(small()).eval()
    groups = [torch.randn(4, 2, 3, 32, 32), torch.randn(4, 3, 3, 16, 16), torch.randn(4, 1, 3, 48, 24)]
    out = model(groups)
    assert out.predictions.shape == (5 + 1, 4, 8)
    torch.testing.assert_close(out.context[5], model.lejepa(groups[2][:, 0]).pooler_output)
    torch.testing.assert_close(out.targets, out.predictions[:2].mean(0).expand(6, -1, -1))


def test_draws_follow_the_step(variant, model, views):
    with torch.no_grad():
        first, again, later = (model(views, step=step).loss for step in (3, 3, 4))
        assert torch.equal(first, again) and torch.equal(first, later) == (variant.name not in DRAWING)
        if variant.name in DRAWING:
            with pytest.raises(ValueError, match="step=..."):
                model(views)
        assert torch.equal(model.eval()(views).loss, model(views, step=0).loss)


def test_the_losses_are_float32_under_autocast(model, views):
    embeddings = {}
    objective = model.objective

    def recorded(values, *rest):
        embeddings["dtype"] = values.dtype
        embeddings["expected"] = [x for x in objective(values.detach().double(), *rest).values() if x.ndim == 0]
        return objective(values, *rest)

    if not hasattr(model, "predictor"):  # which is another layer in bfloat16
        model.objective = recorded
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(views, step=0)
    assert out.loss.dtype == out.prediction_loss.dtype == torch.float32
    if embeddings:
        assert embeddings["dtype"] == torch.bfloat16
        torch.testing.assert_close(out.loss.double(), embeddings["expected"][0].double(), rtol=1e-5, atol=1e-6)
    out.loss.backward()


@pytest.mark.parametrize(
    ("pixel_values", "error", "message"),
    [
        (torch.zeros(4, 3, 32, 32), ValueError, r"\(4, 3, 32, 32\).*expected \(B, V, C, H, W\)"),
        (torch.zeros(4, 1, 3, 32, 32), ValueError, "needs two views"),
        ([], ValueError, "expected"),
        ([torch.zeros(4, 1, 3, 8, 8), torch.zeros(3, 1, 3, 8, 8)], ValueError, "all of the same B images"),
        ([torch.zeros(4, 2, 3, 8, 8), torch.zeros(4, 0, 3, 8, 8)], ValueError, "a group without images, views"),
        (torch.zeros(0, 2, 3, 8, 8), ValueError, "a group without images, views"),
        ([[1.0]], TypeError, "holds a list"),
        (torch.zeros(4, 2, 3, 8, 8, dtype=torch.uint8), TypeError, "torch.uint8, expected normalised pixels"),
    ],
)
def test_wrong_views_are_refused(pixel_values, error, message):
    with pytest.raises(error, match=message):
        view_groups(pixel_values)


def test_pairs_are_pairs(variant, model):
    groups = [torch.randn(4, 2, 3, 32, 32), torch.randn(4, 1, 3, 16, 16)]
    if variant.name == "lejepa":
        assert model(groups, step=0).loss.isfinite()
    else:
        with pytest.raises(ValueError, match="compares 2 views, got 3"):
            model(groups, step=0)


def test_unknown_arguments_are_refused(model, views):
    with pytest.raises(TypeError, match="no argument 'context_mask'"):
        model(views, step=0, context_mask=[])
    assert isinstance(model(views, step=0, return_dict=False, labels=None), tuple)


# Batch normalisation


@pytest.mark.parametrize("scope", ["view", "all"])
def test_scope_of_batch_normalisation(scope):
    config = VicRegConfig(backbone_config=RESNET, proj_hidden_size=16, proj_size=8, batch_norm_scope=scope)
    model = VicRegForPreTraining(config).train()
    views = torch.randn(4, 2, 3, 32, 32) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1)
    found = model(views).predictions
    with torch.no_grad():
        if scope == "view":
            expected = [model.projector(model.vicreg(views[:, view]).pooler_output) for view in range(2)]
        else:
            rows = model.vicreg(torch.cat([views[:, 0], views[:, 1]])).pooler_output
            expected = model.projector(rows).split(4)
    torch.testing.assert_close(found, torch.stack(list(expected)))
    calls = model.vicreg.backbone.embedder.embedder.normalization.num_batches_tracked
    assert calls == (4 if scope == "view" else 2)  # those of this test included


def test_backbones_without_batch_normalisation_see_all_views_at_once(model, views):
    sizes = []
    model.context_encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    model(views, step=0)
    assert sizes == [12]


def test_synchronised_batch_normalisation(model):
    before = {name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm1d)}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    after = {name for name, part in converted.named_modules() if isinstance(part, nn.SyncBatchNorm)}
    assert before == after and len(after) >= 2 and has_batch_norm(converted)
    assert converted.state_dict().keys() == model.state_dict().keys()


# Checkpoints


def test_round_trip(variant, model, views, tmp_path):
    model(views, step=0)  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again(views).predictions, model(views).predictions)
    assert all(p.requires_grad for p in again.parameters())
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder).__name__ == variant.base_model
    assert torch.equal(encoder(views[:, 0]).pooler_output, model(views).context[0])


def test_a_missing_projector_starts_afresh_and_half_a_one_is_refused(model, tmp_path, caplog):
    model.base_model.save_pretrained(tmp_path / "encoder")
    again = type(model).from_pretrained(tmp_path / "encoder")
    assert "projector: the" in caplog.text and "starts from a fresh initialisation" in caplog.text
    assert all(
        torch.equal(a, b) for a, b in zip(again.base_model.parameters(), model.base_model.parameters(), strict=True)
    )
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["projector.3.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="projector.3.weight"):
        type(model).from_pretrained(tmp_path)


def test_made_on_the_meta_device_and_initialised_later(variant):
    config = variant.config_class()(**variant.tiny | {"backbone_config": RESNET, "zero_init_residual": True})
    with torch.device("meta"):
        model = variant.model_class()(config)
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    torch.manual_seed(1)
    expected = variant.model_class()(config)
    for (name, value), wanted in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        same = value.isfinite().all() and value.float().std() > 0 if value.ndim > 1 else None
        assert same or name.endswith("bias") or torch.equal(value, wanted), name
    assert all(not norm.weight.any() for norm in residual_norms(model))


def test_initialisation_of_the_projector_is_that_of_torch():
    model = VicRegForPreTraining(VicRegConfig(backbone_config=RESNET, proj_hidden_size=512, proj_size=512))
    for layer in (model.projector[3], model.projector[6]):
        assert layer.weight.abs().max() <= 512**-0.5 and layer.weight.std().item() == pytest.approx(
            (3 * 512) ** -0.5, rel=0.02
        )


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(model, views, reentrant):
    model(views, step=0).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model(views, step=0).loss.backward()
    torch.testing.assert_close(gradients(model), expected)


# Backbones


@pytest.mark.parametrize("backbone", BACKBONES, ids=named)
def test_any_backbone(backbone, tmp_path):
    model = LeJepaForPreTraining(small(backbone)).train()
    model([torch.randn(3, 2, 3, 32, 32), torch.randn(3, 1, 3, 16, 16)], step=0).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None and p.requires_grad]
    assert without == []  # DDP would wait for their gradients
    model.eval().save_pretrained(tmp_path / "all")
    again = LeJepaForPreTraining.from_pretrained(tmp_path / "all")
    images = torch.randn(2, 3, 32, 32)
    features = model.lejepa(images)
    assert torch.equal(again.lejepa(images).pooler_output, features.pooler_output)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in again.named_parameters() if p.requires_grad] == trainable

    model.lejepa.backbone.save_pretrained(tmp_path / "backbone")
    stock = AutoModel.from_pretrained(tmp_path / "backbone")
    assert type(stock).__module__.startswith("transformers.")
    assert torch.equal(stock.eval()(images).last_hidden_state, features.last_hidden_state)
    started = LeJepaForPreTraining.from_pretrained_backbone(tmp_path / "backbone", proj_hidden_size=16, proj_size=8)
    assert torch.equal(started.eval().lejepa(images).pooler_output, features.pooler_output)


POOLED = {
    "vit": lambda out: out.last_hidden_state[:, 0],
    "ijepa": lambda out: out.last_hidden_state.mean(1),
    "dinov2_with_registers": lambda out: out.last_hidden_state[:, 0],
    "siglip_vision_model": lambda out: out.last_hidden_state.mean(1),
    "resnet": lambda out: out.last_hidden_state.mean((2, 3)),
    "convnext": lambda out: out.pooler_output,  # the mean, normalised
    "beit": lambda out: out.pooler_output,  # the mean over patches, normalised
}


@pytest.mark.parametrize("backbone", BACKBONES, ids=named)
def test_automatic_pooling(backbone):
    encoder = LeJepaModel(small(backbone)).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = POOLED[backbone["model_type"]](encoder.backbone(images))
    torch.testing.assert_close(encoder(images).pooler_output, expected)


def test_the_mean_leaves_out_what_is_no_patch():
    for backbone, front in zip(BACKBONES[:4], (1, 0, 1, 4), strict=True):
        encoder = LeJepaModel(small(backbone, pooling="mean")).eval()
        out = encoder(torch.randn(2, 3, 32, 32))
        torch.testing.assert_close(out.pooler_output, out.last_hidden_state[:, front:].mean(1))


def test_cls_needs_a_cls_token():
    for backbone in (RESNET, BACKBONES[1]):
        with pytest.raises(ValueError, match="has no CLS token"):
            LeJepaModel(small(backbone, pooling="cls"))
    assert Pooling(LeJepaModel(small(BACKBONES[3], pooling="cls")).backbone, "cls").use_cls


def test_weights_of_a_backbone_must_be_complete(tmp_path):
    backbone = ViTModel(LeJepaModel(small()).backbone.config)
    backbone.save_pretrained(tmp_path)
    assert LeJepaForPreTraining.from_pretrained_backbone(tmp_path).lejepa.backbone.pooler is None
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of the backbone, among them layernorm.weight"):
        LeJepaForPreTraining.from_pretrained_backbone(tmp_path)


def test_a_backbone_keeps_the_attention_that_it_is_loaded_with(tmp_path):
    LeJepaModel(small()).backbone.save_pretrained(tmp_path)
    for wanted in ("eager", "sdpa"):
        model = LeJepaForPreTraining.from_pretrained_backbone(tmp_path, {"attn_implementation": wanted}, proj_size=8)
        assert model.lejepa.backbone.config._attn_implementation == wanted


def test_residual_branches_start_at_zero_where_asked():
    for zero in (False, True):
        model = VicRegForPreTraining(
            VicRegConfig(backbone_config=RESNET, zero_init_residual=zero, proj_hidden_size=8, proj_size=8)
        )
        norms = residual_norms(model)
        assert len(norms) == 2 and all(bool(norm.weight.any()) != zero for norm in norms)
    with pytest.raises(StrictDataclassClassValidationError, match="'resnet', not 'vit'"):
        VicRegConfig(zero_init_residual=True)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_the_error_says_what_to_install():
    config = small({"model_type": "timm_wrapper", "architecture": "resnet18", "hidden_size": 512})
    assert config.hidden_size == 512
    with pytest.raises(ImportError, match="pip install timm"):
        LeJepaModel(config)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("vit_tiny", 5_524_416),
        ("vit_small", 21_665_664),
        ("vit_small_patch8", 21_670_272),
        ("vit_base", 85_798_656),
        ("vit_large", 303_301_632),
        ("vit_huge_patch14", 630_764_800),
        ("resnet18", 11_176_512),
        ("resnet50", 23_508_032),
    ],
)
def test_named_sizes_have_the_parameters_of_timm_and_torchvision(size, parameters):
    with torch.device("meta"):
        encoder = VicRegModel(VicRegConfig.from_size(size))
    assert encoder.num_parameters() == parameters


def test_sizes_take_other_fields():
    config = VicRegConfig.from_size("vit_small", {"image_size": 64}, proj_size=8)
    assert (config.image_size, config.hidden_size, config.proj_size) == (64, 384, 8)
    assert VicRegConfig.from_size("resnet18").image_size == 224 and SIZES["resnet18"].get("image_size") is None
    with pytest.raises(ValueError, match="size 'vit_micro' is not one of vit_tiny"):
        VicRegConfig.from_size("vit_micro")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {
                "backbone_config": {
                    "model_type": "llama",
                    "num_hidden_layers": 1,
                    "vocab_size": 9,
                    "hidden_size": 64,
                    "intermediate_size": 8,
                }
            },
            "input is input_ids",
        ),
        ({"backbone_config": {"model_type": "vitt"}}, "vitt"),
        ({"backbone_config": {"model_type": "mobilenet_v2"}}, "'mobilenet_v2' backbone names no width"),
        ({"pooling": "max"}, "pooling='max' is not one of auto, cls, mean"),
        ({"batch_norm_scope": "batch"}, "batch_norm_scope='batch' is not one of view, all"),
        ({"proj_size": 0}, "proj_size must be at least 1, got 0"),
        ({"target_normalization": "layer_norm"}, "target_normalization='layer_norm'"),
        ({"use_timm_backbone": True}, "use_timm_backbone=True is no field .*timm_wrapper"),
        ({"backbone": "resnet50"}, "backbone='resnet50' is no field"),
        ({"image_size": 32}, "image_size=32 is no field .*backbone_config"),
    ],
)
def test_wrong_configs_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        VicRegModel(VicRegConfig(**fields))  # a config, or where that knows too little, the encoder


def test_a_width_that_is_not_that_of_the_features_is_refused():
    config = small({"model_type": "mobilenet_v2", "hidden_size": 7, "depth_multiplier": 0.25})
    with pytest.raises(ValueError, match="features have width 1280, but hidden_size of backbone_config says 7"):
        LeJepaModel(config)(torch.randn(2, 3, 32, 32))


def test_config_round_trip(variant, tmp_path):
    config = variant.config_class()(**variant.tiny | {"backbone_config": ResNetConfig(**_MAPS)})
    config.save_pretrained(tmp_path)
    again = type(config).from_pretrained(tmp_path)
    assert isinstance(again.backbone_config, ResNetConfig) and again.hidden_size == 16
    ignored = {"transformers_version": 0, "_name_or_path": 0}
    assert again.to_dict() | ignored == config.to_dict() | ignored
