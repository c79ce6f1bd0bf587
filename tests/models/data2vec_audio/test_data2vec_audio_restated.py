"""data2vec of speech against the same step written down plainly, since no official step is recorded."""

import math

import pytest
import torch
from data2vec_steps import check_step, layer_norm, linear
from perturbed import perturbed
from torch.nn import functional

from hf_jepa.masking.spans import SpanMaskSampler
from hf_jepa.models.data2vec_audio.configuration_data2vec_audio import Data2VecAudioConfig
from hf_jepa.models.data2vec_audio.modeling_data2vec_audio import Data2VecAudioForPreTraining, Data2VecAudioModel


TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "conv_dim": [8, 12],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "num_conv_pos_embedding_groups": 4,
    "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 5,
    "top_k_layers": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
}


@pytest.fixture
def model():
    return perturbed(Data2VecAudioForPreTraining(Data2VecAudioConfig(**TINY))).train()


@pytest.fixture
def batch():
    """Waveforms of 22 and 17 frames, padded."""
    samples = torch.tensor([452, 352])
    attention_mask = (torch.arange(452) < samples[:, None]).long()
    waves = torch.randn(2, 452) * attention_mask
    masked = SpanMaskSampler(0.65, 4)(torch.arange(2), torch.arange(22) < torch.tensor([[22], [17]]), step=0)
    return {"input_values": waves, "attention_mask": attention_mask, "mask_time_indices": masked}


def frames_of(wave, state):
    """One unpadded waveform (samples,) -> (T, D)."""
    x = wave[None, None]
    for i, stride in enumerate(TINY["conv_stride"]):
        name = f"data2vec_audio.feature_extractor.conv_layers.{i}"
        x = functional.conv1d(x, state[f"{name}.conv.weight"], stride=stride).transpose(1, 2)
        x = functional.gelu(layer_norm(x, state, f"{name}.layer_norm")).transpose(1, 2)
    x = layer_norm(x[0].T, state, "data2vec_audio.feature_projection.layer_norm")
    return linear(x, state, "data2vec_audio.feature_projection.projection")


def transformer(x, state, prefix):
    """(T, D) -> output (T, D), and what the feed-forward networks gave.

    Of several convolutions for positions all but the first see what the one before made of the padding, officially,
    too: so these run over zeros up to the 22 frames of the batch.
    """
    position = functional.pad(x.T[None], (0, 22 - len(x)))
    for i in range(TINY["num_conv_pos_embeddings"]):
        name = f"{prefix}.pos_conv_embed.layers.{i}.conv"
        groups = TINY["num_conv_pos_embedding_groups"]
        position = functional.conv1d(
            position, state[f"{name}.weight"], state[f"{name}.bias"], padding=2, groups=groups
        )
        position = functional.gelu(layer_norm(position.transpose(1, 2))).transpose(1, 2)
    x = layer_norm(x + position[0].T[: len(x)], state, f"{prefix}.layer_norm")
    heads, networks = TINY["num_attention_heads"], []
    for i in range(TINY["num_hidden_layers"]):
        name = f"{prefix}.layers.{i}"
        q, k, v = (
            linear(x, state, f"{name}.attention.{part}_proj").unflatten(1, (heads, -1)).transpose(0, 1)
            for part in "qkv"
        )
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        attended = (weights @ v).transpose(0, 1).flatten(1)
        x = layer_norm(x + linear(attended, state, f"{name}.attention.out_proj"), state, f"{name}.layer_norm")
        hidden = functional.gelu(linear(x, state, f"{name}.feed_forward.intermediate_dense"))
        networks.append(linear(hidden, state, f"{name}.feed_forward.output_dense"))
        x = layer_norm(x + networks[-1], state, f"{name}.final_layer_norm")
    return x, networks


def plain_step(state, batch):
    """Loss, predictions and targets, waveform by waveform."""
    predictions, targets = [], []
    for wave, samples, masked in zip(
        batch["input_values"], batch["attention_mask"].sum(dim=1), batch["mask_time_indices"], strict=True
    ):
        frames = frames_of(wave[:samples], state)
        masked = masked[: len(frames)]
        with torch.no_grad():
            _, networks = transformer(frames, state, "teacher.encoder")
            networks = networks[-TINY["top_k_layers"] :]
            normal = [(y - y.mean(dim=0)) / (y.var(dim=0, correction=0) + 1e-5).sqrt() for y in networks]
            targets.append((sum(normal) / len(normal))[masked])
        seen = torch.where(masked[:, None], state["data2vec_audio.masked_spec_embed"], frames)
        output, _ = transformer(seen, state, "data2vec_audio.encoder")
        predictions.append(linear(output[masked], state, "predictor.0"))
    predictions, targets = torch.cat(predictions), torch.cat(targets)
    distance = (predictions - targets).square().sum(dim=1) / math.sqrt(TINY["hidden_size"])
    return distance.mean(), predictions, targets


def test_a_step(model, batch):
    check_step(model, batch, plain_step)


def test_padding_counts_in_the_statistics_of_the_official_code(model, batch):
    ours = model.encode_targets(**batch)
    model.config.official_padded_statistics = True
    official = model.encode_targets(**batch)
    first = batch["mask_time_indices"][0].sum()  # the waveform that is not padded
    torch.testing.assert_close(official[:first], ours[:first])
    assert (official[first:] - ours[first:]).abs().max() > 1e-3


def test_padded_frames_are_no_targets(model, batch):
    everywhere = torch.ones_like(batch["mask_time_indices"])
    out = model(**(batch | {"mask_time_indices": everywhere}))
    assert len(out.targets) == 22 + 17


def test_the_frames_that_student_and_teacher_share_are_not_written_to(model, batch):
    """Native encoders write into what they are given where it is padded."""
    with torch.no_grad():
        frames, _, valid = model.context_encoder.frames(batch["input_values"], batch["attention_mask"])
        before = frames.clone()
        model.context_encoder.encode(frames, valid)
        model._targets(frames, valid, batch["mask_time_indices"])
    assert torch.equal(frames, before) and before[~valid].any()


def test_targets_have_no_dropout_and_no_masks():
    model = Data2VecAudioForPreTraining(Data2VecAudioConfig(**(TINY | {"hidden_dropout": 0.5, "layerdrop": 0.5})))
    model.config.feat_proj_dropout = 0.5
    model.data2vec_audio.feature_projection.dropout.p = 0.5
    waves, masked = torch.randn(1, 452), torch.zeros(1, 22, dtype=torch.bool)
    masked[0, 3:9] = True
    targets = [model.train()(waves, masked).targets for _ in range(2)]
    assert torch.equal(*targets)
    assert torch.equal(targets[0], model.eval().encode_targets(waves, masked))


def test_average_of_the_layers_and_copy_of_the_positions(model):
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    student = model.data2vec_audio.state_dict()
    model.update_target_encoder(0.9)
    for name, value in model.teacher.state_dict().items():
        copied = ".pos_conv_embed." in name
        expected = student[name] if copied else 0.9 * before[name] + 0.1 * student[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0.0 if copied else 2e-6)
    assert any(".pos_conv_embed." in name for name in before)


def test_the_encoder_is_the_native_one(model, batch, tmp_path):
    from transformers import AutoModel

    model.save_pretrained(tmp_path)
    native = AutoModel.from_pretrained(tmp_path).eval()
    assert type(native).__module__.startswith("transformers.")
    ours = Data2VecAudioModel.from_pretrained(tmp_path).eval()
    arguments = {"attention_mask": batch["attention_mask"], "mask_time_indices": batch["mask_time_indices"]}
    for options in ({}, arguments, {"output_hidden_states": True}):
        expected = native(batch["input_values"].clone(), **options)
        found = ours(batch["input_values"].clone(), **options)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
        torch.testing.assert_close(found.extract_features, expected.extract_features)
    assert len(found.hidden_states) == len(expected.hidden_states) == 4


def test_initialisation_is_that_of_wav2vec2():
    torch.manual_seed(0)
    encoder = Data2VecAudioModel(Data2VecAudioConfig(**(TINY | {"hidden_size": 240, "conv_dim": [64, 400]})))
    projection = encoder.feature_projection.projection
    bound = 400**-0.5
    assert bound * 0.99 < projection.weight.abs().max() <= bound and projection.bias.abs().max() > 0
    assert all(layer.conv.bias.eq(0).all() for layer in encoder.encoder.pos_conv_embed.layers)
    convolution = encoder.feature_extractor.conv_layers[1].conv.weight  # Kaiming: variance 2 / fan-in
    assert convolution.std().item() == pytest.approx((2 / (64 * 4)) ** 0.5, rel=0.02)
    assert encoder.encoder.layers[0].attention.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert 0.4 < encoder.masked_spec_embed.mean() < 0.6


@pytest.mark.parametrize(("size", "millions"), [("base", 93.2), ("large", 313.3)])
def test_named_sizes_have_the_official_numbers_of_parameters(size, millions):
    """Those of the native encoders of data2vec-audio-base and -large."""
    with torch.device("meta"):
        encoder = Data2VecAudioModel(Data2VecAudioConfig.from_size(size))
    assert encoder.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"add_adapter": True}, "add_adapter"),
        ({"mask_time_prob": 0.0}, "mask_time_prob"),
        ({"mask_feature_prob": 0.1}, "mask_feature_prob"),
        ({"num_conv_pos_embedding_groups": 5}, "num_conv_pos_embedding_groups 5"),
        ({"top_k_layers": 4}, "top_k_layers 4"),
        ({"layer_target_normalization": "weight_norm"}, "weight_norm"),
        ({"loss_type": "l1"}, "l1"),
        ({"loss_beta": -1.0}, "-1.0"),
        ({"loss_scale": 0.0}, "loss_scale"),
        ({"pred_num_layers": -1}, "pred_num_layers"),
        ({"target_source": "shared"}, "shared"),
        ({"hidden_size": 25}, "hidden_size 25"),
    ],
)
def test_config_refuses_by_name(fields, message):
    with pytest.raises(Exception, match=message):
        Data2VecAudioConfig(**(TINY | fields))


def test_wrong_arguments_are_refused(model, batch):
    with pytest.raises(ValueError, match="mask_time_indices"):
        model(**(batch | {"mask_time_indices": batch["mask_time_indices"].long()}))
    with pytest.raises(TypeError, match="context_mask"):
        model(**batch, context_mask=batch["mask_time_indices"])


@pytest.mark.parametrize(("size", "parameters"), [("base", 93_164_288), ("large", 313_276_416)])
def test_named_sizes_have_the_parameters_of_the_readme(size, parameters):
    with torch.device("meta"):
        encoder = Data2VecAudioModel(Data2VecAudioConfig.from_size(size))
    assert encoder.num_parameters() == parameters
