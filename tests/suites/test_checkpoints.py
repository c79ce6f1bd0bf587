"""Saving and loading every variant, traps included."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from outputs import predicts_by_masks, same_parts
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForPreTraining
from transformers.utils import logging


pytestmark = pytest.mark.variants(condition=predicts_by_masks)


def same(first, second) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rewrite(folder, change) -> None:
    """Change the tensors of a saved model."""
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_round_trip_is_exact_and_target_stays_frozen(variant, model, batch, tmp_path, shard):  # trap T2
    model.eval().save_pretrained(tmp_path, max_shard_size=shard)
    for again in (variant.model_class().from_pretrained(tmp_path), AutoModelForPreTraining.from_pretrained(tmp_path)):
        assert type(again) is type(model) and same(model, again)
        assert same_parts(again(**batch).predictions, model(**batch).predictions)
        assert not any(p.requires_grad for p in again.target_encoder.parameters())
        assert all(p.requires_grad for p in again.context_encoder.parameters())
        assert not again.train().target_encoder.training


def test_file_keys_are_module_names(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


def test_meta_device_then_load_gives_right_tables(variant, config, model, tmp_path):  # trap T3
    with torch.device("meta"):
        assert variant.model_class()(config).device.type == "meta"
    model.save_pretrained(tmp_path)
    loaded = variant.model_class().from_pretrained(tmp_path)
    fresh = variant.model_class()(config)
    for (name, buffer), (_, expected) in zip(loaded.named_buffers(), fresh.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name


def test_encoder_class_takes_the_target_encoder(variant, model, batch, tmp_path):
    model.eval().save_pretrained(tmp_path)
    encoder, info = variant.model_class(variant.base_model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pixels = batch[model.main_input_name]
    assert torch.equal(encoder(pixels).last_hidden_state, model.target_encoder(pixels).last_hidden_state)


def test_encoder_only_checkpoint_starts_both_encoders(variant, model, tmp_path, caplog):  # trap T10
    model.base_model.save_pretrained(tmp_path)
    again = variant.model_class().from_pretrained(tmp_path)
    assert same(again.target_encoder, model.target_encoder) and same(again.context_encoder, model.target_encoder)
    assert all(p.isfinite().all() and p.abs().max() < 10 for p in again.predictor.parameters())
    (message,) = [record.message for record in caplog.records if record.name.startswith("hf_jepa")]
    assert "the context encoder starts as a copy of the target encoder" in message
    # The base model of some variants holds the predictor too, as the native one does.
    assert ("the predictor starts from a fresh" in message) != same(again.predictor, model.predictor)


def test_keys_of_old_hub_files_find_their_places(variant, model, tmp_path):  # trap T5
    model.base_model.save_pretrained(tmp_path, save_original_format=True)
    old_keys = set(load_file(tmp_path / "model.safetensors"))
    assert (old_keys != set(model.base_model.state_dict())) == (variant.name == "ijepa")  # the one with old files
    again = variant.model_class().from_pretrained(tmp_path)
    assert same(again.target_encoder, model.target_encoder) and same(again.context_encoder, model.target_encoder)


@pytest.mark.parametrize("part", ["context_encoder", "predictor"])
def test_half_a_checkpoint_is_refused_by_key(variant, model, tmp_path, part):
    prefix = model.predictor_name if part == "predictor" else part
    lost = next(key for key in model.state_dict() if key.startswith(f"{prefix}."))
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: {key: value for key, value in state.items() if key != lost})
    with pytest.raises(ValueError, match=lost):
        variant.model_class().from_pretrained(tmp_path)


def test_a_missing_target_encoder_starts_as_a_copy_of_the_context_encoder(variant, model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    prefix = f"{model.target_encoder_name or model.base_model_prefix}."
    rewrite(tmp_path, lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)})
    again = variant.model_class().from_pretrained(tmp_path)
    assert same(again.context_encoder, model.context_encoder) and same(again.target_encoder, model.context_encoder)
    assert same(again.predictor, model.predictor)
    assert not any(p.requires_grad for p in again.target_encoder.parameters())
    assert "the target encoder starts as a copy of the context encoder" in caplog.text


@pytest.mark.parametrize("predictor_kept", [True, False])
def test_a_checkpoint_without_an_encoder_is_refused(variant, model, tmp_path, predictor_kept):
    kept = f"{model.predictor_name}." if predictor_kept else "nothing"
    model.save_pretrained(tmp_path)
    rewrite(
        tmp_path,
        lambda state: {key if key.startswith(kept) else f"other.{key}": value for key, value in state.items()},
    )
    with pytest.raises(ValueError, match="does not hold a complete"):
        variant.model_class().from_pretrained(tmp_path)


def test_keys_without_a_place_are_named(variant, model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: state | {"stray.weight": torch.ones(2)})
    assert same(variant.model_class().from_pretrained(tmp_path), model)
    assert "1 keys have no place in" in caplog.text and "left out: stray.weight" in caplog.text


@pytest.fixture
def chosen_verbosity():
    before = logging.get_verbosity()
    logging.set_verbosity(logging.DEBUG)
    yield logging.DEBUG
    logging.set_verbosity(before)


def test_loading_leaves_the_verbosity_of_transformers_alone(variant, model, tmp_path, chosen_verbosity):
    model.save_pretrained(tmp_path)
    variant.model_class().from_pretrained(tmp_path)
    assert logging.get_verbosity() == chosen_verbosity
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named"):
        variant.model_class().from_pretrained(tmp_path)
    assert logging.get_verbosity() == chosen_verbosity


def other_shapes(variant, model) -> dict:
    """Config fields that change the shapes of a few tensors of both encoders."""
    return {"num_channels": model.config.num_channels + 1}


def test_other_shapes_are_refused_by_key(variant, model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"tensors have other shapes: .*context_encoder\.\S+ is \(.*\), not \(.*\)"):
        variant.model_class().from_pretrained(tmp_path, **other_shapes(variant, model))


def test_other_shapes_start_alike_in_both_encoders(variant, model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    options = other_shapes(variant, model) | {"ignore_mismatched_sizes": True}
    again = variant.model_class().from_pretrained(tmp_path, **options)
    found = [key for key, value in again.state_dict().items() if value.shape != model.state_dict()[key].shape]
    prefix = f"{again.target_encoder_name or again.base_model_prefix}."
    assert len(found) >= 2 and any(key.startswith(prefix) for key in found)
    for key in found:
        if key.startswith(prefix):
            twin = again.state_dict()[f"context_encoder.{key.removeprefix(prefix)}"]
            assert torch.equal(again.state_dict()[key], twin)


def test_what_a_subclass_adds_starts_fresh(variant, model, tmp_path):
    class WithHead(variant.model_class()):
        def __init__(self, config):
            super().__init__(config)
            self.head = nn.Linear(config.hidden_size, 5)
            self.post_init()

    model.save_pretrained(tmp_path)
    again = WithHead.from_pretrained(tmp_path)
    assert again.head.weight.isfinite().all() and not again.head.bias.any()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_fields_given_to_from_pretrained_are_validated(variant, model, tmp_path):
    model.save_pretrained(tmp_path)
    for name in (variant.pretraining_model, variant.base_model):
        with pytest.raises(StrictDataclassClassValidationError, match="loss_type='mee' is not one of"):
            variant.model_class(name).from_pretrained(tmp_path, loss_type="mee")


def test_bf16_load_keeps_the_target_in_float32(variant, model, batch, tmp_path):  # trap T9
    model.save_pretrained(tmp_path)
    half = variant.model_class().from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.target_encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in half.context_encoder.parameters()} == {torch.bfloat16}
    half(**batch).loss.backward()
    half.update_target_encoder(0.999)


def test_weights_of_another_variant_are_refused(variant, model, tmp_path):
    """Not random weights and a report that nobody reads."""
    model.base_model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: {f"other.{key}": value for key, value in state.items()})
    for name in (variant.base_model, *variant.heads.values()):
        with pytest.raises(ValueError, match=r"lacks \d+ weights of the encoder, among them"):
            variant.model_class(name).from_pretrained(tmp_path)
