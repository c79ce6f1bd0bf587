"""What every pretraining model promises, whatever it is called with and wherever its targets come from."""

import re

import pytest
import torch
from outputs import keeps_the_contract, parts, predicts_by_masks, same_parts
from safetensors.torch import load_file, save_file
from torch.utils.data import default_collate
from transformers import AutoModelForPreTraining

from hf_jepa.core.configuration import OWN_TARGETS
from hf_jepa.core.regularization import takes_step
from hf_jepa.masking.masks import Masks
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


# Those that predict by masks have suites of their own, which ask for more; what is asked of all of them stands here.
pytestmark = pytest.mark.variants(
    condition=lambda variant: keeps_the_contract(variant) and not predicts_by_masks(variant)
)
of_all = pytest.mark.variants(condition=keeps_the_contract)


def test_the_loss_is_the_sum_of_its_terms_and_reaches_all_that_is_trained(model, batch):
    out = model(**batch)
    assert out.loss.ndim == 0 and torch.isfinite(out.loss)
    terms = [out.prediction_loss, out.regularization_loss]
    torch.testing.assert_close(out.loss, sum(term for term in terms if term is not None))
    for prediction, target in zip(parts(out.predictions), parts(out.targets), strict=True):
        assert prediction.shape == target.shape and prediction.requires_grad and not target.requires_grad
    out.loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key bias shifts all scores of a query alike, and a bias before batch normalisation shifts all rows alike.
    assert [name for name in without if not name.endswith(("key.bias", "k_proj.bias"))] == []


def test_what_makes_the_targets(variant, config, model, batch):
    if config.target_source in OWN_TARGETS:
        assert model.target_encoder is model.context_encoder is model.feature_encoder
        assert all(p.requires_grad for p in model.context_encoder.parameters()) and model.context_encoder.training
        with pytest.raises(ValueError, match=config.target_source):
            model.update_target_encoder(0.9)
        return
    model(**batch).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.target_encoder.parameters())
    assert not any(part.training for part in model.target_encoder.modules())


def test_round_trip_is_exact(variant, model, batch, tmp_path):
    model.eval().save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    expected = model(**batch)
    for again in (variant.model_class().from_pretrained(tmp_path), AutoModelForPreTraining.from_pretrained(tmp_path)):
        assert type(again) is type(model)
        state = again.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert same_parts(again.eval()(**batch).predictions, expected.predictions)
        assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


def test_the_encoder_that_users_want_is_in_the_checkpoint(variant, model, tmp_path):
    model.save_pretrained(tmp_path)
    encoder, info = variant.model_class(variant.base_model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    state = variant.encoder_of(encoder).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.feature_encoder.state_dict().items())


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_key(variant, model, tmp_path):
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in state if name.startswith(model.base_model_prefix) and name.endswith("weight"))
    del state[lost]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=lost.removeprefix(f"{model.base_model_prefix}.")):
        variant.model_class().from_pretrained(tmp_path)


@of_all
def test_made_on_the_meta_device_and_initialised_later(variant, config):
    with torch.device("meta"):
        model = variant.model_class()(config)
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    torch.manual_seed(0)
    expected = variant.model_class()(config)
    for (name, value), wanted in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(value, wanted), name
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and parameter.abs().max() < 10, name
    if config.target_source == "ema":
        student = model.context_encoder.state_dict()
        assert all(torch.equal(value, student[name]) for name, value in model.target_encoder.state_dict().items())
        assert not any(parameter.requires_grad for parameter in model.target_encoder.parameters())


@of_all
def test_same_seed_same_loss(variant, config, batch):
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(variant.model_class()(config)(**batch).loss.item())
    assert losses[0] == losses[1]


@of_all
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(model, batch, reentrant):
    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)  # dropout, where a variant has some
        model(**batch).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    found = gradients()
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


@of_all
def test_autocast_loss_is_finite_and_close(model, batch):
    expected = model.eval()(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch).loss
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


def test_a_misspelt_argument_is_refused(model, batch):
    with pytest.raises(TypeError, match="has no argument 'foo'"):
        model(**batch, foo=1)


@of_all
def test_tuples_by_config(variant, batch):
    torch.manual_seed(0)
    model = variant.model_class()(variant.config_class()(**variant.tiny, return_dict=False)).eval()
    loss, *rest = model(**batch)
    assert torch.equal(loss, model(**batch, return_dict=True).loss) and len(rest) >= 3


def test_it_trains_and_its_card_is_true(variant, model, batch, tmp_path, monkeypatch):
    """The trainer draws masks, tells the step, moves a teacher; the snippet of the card gives features."""
    batch.pop("step", None)
    masks = {name: batch.pop(name) for name in Masks._fields if name in batch}
    rows = [
        {name: x[i] for name, x in batch.items()} | {"sample_index": i}
        for i in range(len(batch[model.main_input_name]))
    ]
    before = {name: p.clone() for name, p in model.named_parameters()}
    options = {"max_steps": 3, "per_device_train_batch_size": len(rows), "logging_steps": 1, "save_strategy": "no"}
    trainer = JepaTrainer(
        model,
        JepaTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none", disable_tqdm=True, **options),
        mask_sampler=(lambda index, step, epoch: Masks(**masks)) if masks else None,
        train_dataset=rows,
        data_collator=default_collate,
    )
    steps = []
    if takes_step(model):
        model.register_forward_pre_hook(lambda module, args, kwargs: steps.append(kwargs["step"]), with_kwargs=True)
    trainer.train()
    assert steps == ([0, 1, 2] if takes_step(model) else [])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    teacher = {name for name in before if name.startswith("teacher.")}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not (moved - teacher - trained) and len(trained - moved) <= 1
    assert bool(moved & teacher) == (model.config.target_source == "ema")
    logs = trainer.state.log_history
    assert all({"rankme", "prediction_target_cosine", "verdict"} <= entry.keys() for entry in logs if "loss" in entry)
    assert ("momentum" in logs[0]) == (model.config.target_source == "ema")
    trainer.save_model()
    trainer.create_model_card()
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "run/README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(snippet, names)
    assert names["feature"].ndim == 2 and names["feature"].isfinite().all()
