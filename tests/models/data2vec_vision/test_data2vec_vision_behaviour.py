"""What is special about data2vec of images: the teacher, the native encoder, the initialisation."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from perturbed import perturbed
from transformers import AutoModel, AutoModelForPreTraining
from transformers import Data2VecVisionConfig as NativeConfig

from hf_jepa.masking.beit_blocks import BeitBlockMaskSampler
from hf_jepa.models.data2vec_vision.configuration_data2vec_vision import Data2VecVisionConfig
from hf_jepa.models.data2vec_vision.modeling_data2vec_vision import Data2VecVisionForPreTraining, Data2VecVisionModel


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "top_k_layers": 2,
    "drop_path_rate": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture
def model():
    return perturbed(Data2VecVisionForPreTraining(Data2VecVisionConfig(**TINY))).train()


@pytest.fixture
def batch():
    sampler = BeitBlockMaskSampler(4, num_mask_patches=9, min_block_patches=2)
    return {"pixel_values": torch.randn(2, 3, 32, 32), "bool_masked_pos": sampler(torch.arange(2), step=0)}


def test_the_teacher_is_a_frozen_copy_of_the_transformer_only():
    model = Data2VecVisionForPreTraining(Data2VecVisionConfig(**TINY)).train()
    teacher, student = model.teacher.state_dict(), model.data2vec_vision.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in teacher.items())
    assert {name.split(".")[0] for name in student.keys() - teacher.keys()} == {"embeddings"}
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert model.context_encoder is model.data2vec_vision is model.feature_encoder
    assert model.target_encoder is model.teacher and not model.teacher.training
    assert not any(module.training for module in model.teacher.modules())


def test_gradients_reach_the_student_everywhere_and_the_teacher_nowhere(model, batch):
    model(**batch).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    lacking = [name for name, p in model.data2vec_vision.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []  # not even the mask token, or the class token that the loss leaves out


def test_targets_do_not_depend_on_masks_dropout_or_the_mode(batch):
    config = Data2VecVisionConfig(**(TINY | {"hidden_dropout_prob": 0.5, "drop_path_rate": 0.5}))
    model = Data2VecVisionForPreTraining(config).train()
    images, masked = batch["pixel_values"], batch["bool_masked_pos"]
    found = [model(images, masked).targets for _ in range(2)]
    assert torch.equal(*found) and torch.equal(found[0], model.eval().encode_targets(images, masked))
    every = model.encode_targets(images, torch.ones_like(masked)).view(2, 16, -1)
    assert torch.equal(every[masked], found[0])
    assert model.train().data2vec_vision.embeddings.dropout.training


def test_frozen_teacher(batch):
    model = Data2VecVisionForPreTraining(Data2VecVisionConfig(**TINY, target_source="frozen"))
    assert model(**batch).loss.requires_grad
    with pytest.raises(ValueError, match="'frozen'"):
        model.update_target_encoder(0.9)


def test_checkpoints(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    again = Data2VecVisionForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in again.teacher.parameters())
    native, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(native).__module__.startswith("transformers.") and not info["missing_keys"]
    ours = Data2VecVisionModel.from_pretrained(tmp_path)
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is Data2VecVisionForPreTraining
    for images in (batch["pixel_values"], torch.randn(1, 3, 48, 24)):
        expected = native.eval()(images).last_hidden_state
        assert torch.equal(ours.eval()(images).last_hidden_state, expected)
        assert torch.equal(model.eval().data2vec_vision(images).last_hidden_state, expected)


def test_beside_a_16_bit_student_the_teacher_stays_float32(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    half = Data2VecVisionForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.teacher.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.data2vec_vision.parameters()} == {torch.bfloat16}
    out = half(batch["pixel_values"].bfloat16(), batch["bool_masked_pos"])
    assert out.targets.dtype == torch.float32 and out.loss.isfinite()
    half.update_target_encoder(0.999)


def test_initialisation():
    torch.manual_seed(0)
    config = Data2VecVisionConfig(**(TINY | {"hidden_size": 128, "intermediate_size": 512}))
    encoder = Data2VecVisionModel(config)
    for index, layer in enumerate(encoder.encoder.layer):
        scaled = 0.02 / (2 * (index + 1)) ** 0.5
        for linear, std in (
            (layer.attention.output.dense, scaled),
            (layer.output.dense, scaled),
            (layer.intermediate.dense, 0.02),
            (layer.attention.attention.query, 0.02),
        ):
            assert linear.weight.std().item() == pytest.approx(std, rel=0.03)
            assert not linear.bias.any()
        assert layer.lambda_1.eq(1e-4).all() and layer.lambda_2.eq(1e-4).all()
    for token in (encoder.embeddings.cls_token, encoder.embeddings.mask_token):
        assert token.std().item() == pytest.approx(0.02, rel=0.2) and abs(token.mean().item()) < 0.006
    assert not encoder.encoder.relative_position_bias.relative_position_bias_table.any()
    plain = Data2VecVisionModel(Data2VecVisionConfig(**(TINY | {"hidden_size": 128}), rescale_residual_init=False))
    assert plain.encoder.layer[2].output.dense.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_official_start_of_the_tokens():
    encoder = Data2VecVisionModel(Data2VecVisionConfig(**TINY, official_token_init=True))
    torch.manual_seed(1)
    encoder._init_weights(encoder.embeddings)
    torch.manual_seed(1)
    for token in (encoder.embeddings.cls_token, encoder.embeddings.mask_token):
        assert torch.equal(token, torch.nn.init.trunc_normal_(torch.empty(1, 1, 32), 0.02))  # that is the mean


@pytest.mark.parametrize(("size", "parameters"), [("base", 85_666_128), ("large", 303_137_216)])
def test_named_sizes(size, parameters):
    """Of the native encoder, with mask token and final LayerNorm: the 86 and 304 million of BEiT."""
    with torch.device("meta"):
        encoder = Data2VecVisionModel(Data2VecVisionConfig.from_size(size))
    assert encoder.num_parameters() == parameters


def test_a_head_where_one_is_wanted(batch):
    model = Data2VecVisionForPreTraining(Data2VecVisionConfig(**TINY, pred_num_layers=1))
    model(**batch).loss.backward()
    assert model.predictor[0].weight.grad.any()


def test_wrong_inputs(model, batch):
    images, masked = batch["pixel_values"], batch["bool_masked_pos"]
    for arguments, message in (
        ((images, masked[:, :9]), r"\(2, 9\)"),
        ((images, masked.long()), "int64"),
        ((images[..., :30], masked), "30"),
        ((images, torch.zeros_like(masked)), "no token is masked"),
    ):
        with pytest.raises(ValueError, match=message):
            model(*arguments)
    with pytest.raises(TypeError, match="context_mask"):
        model(images, masked, context_mask=masked)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 33}, "image_size 33"),
        ({"image_size": [32, 32]}, r"\[32, 32\]"),
        ({"hidden_size": 33}, "hidden_size 33"),
        ({"top_k_layers": 4}, "top_k_layers 4"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"target_normalization": "batch"}, "batch"),
        ({"loss_type": "mse"}, "mse"),
    ],
)
def test_config_refuses_by_name(fields, message):
    with pytest.raises(Exception, match=message):
        Data2VecVisionConfig(**(TINY | fields))


def test_unknown_size():
    with pytest.raises(ValueError, match="'huge'"):
        Data2VecVisionConfig.from_size("huge")


def test_pretraining_needs_a_mask_token_and_a_last_norm_and_an_encoder_does_not(tmp_path):
    native = AutoModel.from_config(NativeConfig(**{name: TINY[name] for name in TINY if name != "top_k_layers"}))
    native.save_pretrained(tmp_path)  # as transformers has them by default, for fine-tuning
    found = Data2VecVisionModel.from_pretrained(tmp_path, top_k_layers=2)
    assert found.embeddings.mask_token is None and Data2VecVisionModel(found.config).device.type == "cpu"
    with pytest.raises(ValueError, match="use_mask_token=False, use_mean_pooling=True: pretraining needs"):
        Data2VecVisionForPreTraining.from_pretrained(tmp_path, top_k_layers=2)
    with pytest.raises(ValueError, match="use_mean_pooling=True: pretraining needs"):
        Data2VecVisionForPreTraining(Data2VecVisionConfig(**TINY, use_mean_pooling=True))


@pytest.mark.parametrize("wrong", [None, torch.ones(2, 16).long(), torch.ones(2, 4, 4).bool()])
def test_a_mask_that_is_none_is_named(model, batch, wrong):
    for call in (model, model.encode_targets):
        with pytest.raises(ValueError, match=r"bool_masked_pos is .*, expected a BoolTensor \(2, 16\)"):
            call(batch["pixel_values"], wrong)


def test_adapters_on_the_teacher_are_no_average(model):
    adapters = LoraConfig(target_modules=r".*attention\.(query|value)")
    adapted = get_peft_model(model, adapters).get_base_model()
    with pytest.raises(ValueError, match="parameters of the target encoder are trainable, such as"):
        adapted.update_target_encoder(0.999)
