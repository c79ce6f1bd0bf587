"""data2vec of text against the same step written down plainly, since no official step is recorded."""

import math

import pytest
import torch
from data2vec_steps import check_step, layer_norm, linear
from perturbed import perturbed
from torch.nn import functional

from hf_jepa.masking.spans import SpanMaskSampler
from hf_jepa.models.data2vec_text.configuration_data2vec_text import Data2VecTextConfig
from hf_jepa.models.data2vec_text.modeling_data2vec_text import Data2VecTextForPreTraining, Data2VecTextModel


TINY = {
    "vocab_size": 50,
    "mask_token_id": 49,
    "max_position_embeddings": 34,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "top_k_layers": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LENGTHS = (14, 9)


@pytest.fixture
def model():
    return perturbed(Data2VecTextForPreTraining(Data2VecTextConfig(**TINY))).train()


@pytest.fixture
def batch():
    """Texts of 14 and 9 tokens, padded, between a token of the beginning and one of the end."""
    attention_mask = (torch.arange(14) < torch.tensor(LENGTHS)[:, None]).long()
    tokens = torch.randint(3, 49, (2, 14)) * attention_mask + (1 - attention_mask)
    tokens[:, 0] = 0
    for row, length in enumerate(LENGTHS):
        tokens[row, length - 1] = 2
    masked = SpanMaskSampler(0.35, 4)(torch.arange(2), tokens > 2, step=0)
    return {"input_ids": tokens, "attention_mask": attention_mask, "bool_masked_pos": masked}


def embed(tokens, state):
    """(L,) of an unpadded text -> (L, D); positions count from the padding token's number + 1."""
    name = "data2vec_text.embeddings"
    x = state[f"{name}.word_embeddings.weight"][tokens] + state[f"{name}.token_type_embeddings.weight"][0]
    x = x + state[f"{name}.position_embeddings.weight"][2 : 2 + len(tokens)]
    return layer_norm(x, state, f"{name}.LayerNorm")


def transformer(x, state, prefix):
    """(L, D) -> output (L, D), and what the feed-forward networks gave before the residual."""
    heads, networks = TINY["num_attention_heads"], []
    for i in range(TINY["num_hidden_layers"]):
        name = f"{prefix}.layer.{i}"
        q, k, v = (
            linear(x, state, f"{name}.attention.self.{part}").unflatten(1, (heads, -1)).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        attended = (weights @ v).transpose(0, 1).flatten(1)
        x = layer_norm(
            x + linear(attended, state, f"{name}.attention.output.dense"), state, f"{name}.attention.output.LayerNorm"
        )
        hidden = functional.gelu(linear(x, state, f"{name}.intermediate.dense"))
        networks.append(linear(hidden, state, f"{name}.output.dense"))
        x = layer_norm(x + networks[-1], state, f"{name}.output.LayerNorm")
    return x, networks


def plain_step(state, batch):
    """Loss, predictions and targets, text by text without padding."""
    predictions, targets = [], []
    for tokens, length, masked in zip(batch["input_ids"], LENGTHS, batch["bool_masked_pos"], strict=True):
        tokens, masked = tokens[:length], masked[:length]
        with torch.no_grad():
            _, networks = transformer(embed(tokens, state), state, "teacher.encoder")
            networks = networks[-TINY["top_k_layers"] :]
            targets.append((sum(layer_norm(y) for y in networks) / len(networks))[masked])
        seen = torch.where(masked, TINY["mask_token_id"], tokens)
        output, _ = transformer(embed(seen, state), state, "data2vec_text.encoder")
        hidden = functional.gelu(linear(output[masked], state, "predictor.0"))
        predictions.append(linear(hidden, state, "predictor.2"))
    predictions, targets = torch.cat(predictions), torch.cat(targets)
    difference, beta = (predictions - targets).abs(), 4.0
    distance = torch.where(difference < beta, 0.5 * difference.square() / beta, difference - 0.5 * beta)
    return distance.sum(dim=1).mean(), predictions, targets


def test_a_step(model, batch):
    check_step(model, batch, plain_step)


def test_masked_text_with_labels_is_the_same(model, batch):
    """As `DataCollatorForLanguageModeling` gives it."""
    masked = batch["bool_masked_pos"]
    expected = model(**batch)
    arguments = {
        "input_ids": batch["input_ids"].masked_fill(masked, 49),
        "labels": batch["input_ids"].masked_fill(~masked, -100),
        "attention_mask": batch["attention_mask"],
    }
    assert torch.equal(model(**arguments).loss, expected.loss)


def test_padding_is_no_target(model, batch):
    """Even where a mask covers it, as one that was drawn without looking at the lengths."""
    expected = model(**batch)
    everywhere = batch | {"bool_masked_pos": batch["bool_masked_pos"] | (batch["attention_mask"] == 0)}
    found = model(**everywhere)
    assert torch.equal(found.predictions, expected.predictions) and torch.equal(found.loss, expected.loss)
    assert torch.equal(model.encode_targets(**everywhere), expected.targets)


def test_the_teacher_never_sees_masks(model, batch):
    hidden = batch["input_ids"].masked_fill(batch["bool_masked_pos"], 49)
    with pytest.raises(ValueError, match="mask token 49"):
        model(**(batch | {"input_ids": hidden}))
    for arguments in ({"bool_masked_pos": None}, {"labels": batch["input_ids"]}):
        with pytest.raises(ValueError, match="bool_masked_pos, or"):
            model(**(batch | arguments))


def test_targets_have_no_dropout():
    fields = TINY | {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    model = Data2VecTextForPreTraining(Data2VecTextConfig(**fields)).train()
    tokens, masked = torch.randint(3, 49, (1, 12)), torch.arange(12)[None] < 4
    assert torch.equal(model(tokens, masked).targets, model(tokens, masked).targets)
    assert model.data2vec_text.embeddings.dropout.training


def test_average_of_the_layers(model):
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    student = model.data2vec_text.state_dict()
    model.update_target_encoder(0.9)
    for name, value in model.teacher.state_dict().items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * student[name], rtol=0, atol=2e-6)
    assert not any("embeddings" in name for name in before)  # shared with the student


def test_the_encoder_is_the_native_one(model, batch, tmp_path):
    from transformers import AutoModel

    model.save_pretrained(tmp_path)
    native, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(native).__module__.startswith("transformers.")
    assert info["missing_keys"] <= {"pooler.dense.weight", "pooler.dense.bias"}
    ours = Data2VecTextModel.from_pretrained(tmp_path).eval()
    arguments = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for options in ({}, {"output_hidden_states": True}):
        expected, found = native.eval()(**arguments, **options), ours(**arguments, **options)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    assert len(found.hidden_states) == 4


@pytest.mark.parametrize(("size", "parameters"), [("base", 124_055_040), ("large", 354_310_144)])
def test_named_sizes_have_the_official_numbers_of_parameters(size, parameters):
    """Those of RoBERTa base and large without their pooler."""
    with torch.device("meta"):
        encoder = Data2VecTextModel(Data2VecTextConfig.from_size(size))
    assert encoder.num_parameters() == parameters


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_token_id": 50}, "mask_token_id 50"),
        ({"is_decoder": True}, "is_decoder"),
        ({"max_position_embeddings": 2}, "max_position_embeddings 2"),
        ({"top_k_layers": 0}, "top_k_layers 0"),
        ({"num_attention_heads": 5}, "hidden_size 24"),
    ],
)
def test_config_refuses_by_name(fields, message):
    with pytest.raises(Exception, match=message):
        Data2VecTextConfig(**(TINY | fields))
