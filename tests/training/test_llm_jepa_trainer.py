"""`LlmJepaTrainer`: what a step is the mean of, dropped JEPA losses, exact resumes, ordinary checkpoints, adapters."""

import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_pairs import LLAMA, PREDICTOR, draw_pairs, make_text_trainer
from torch.utils.data import SequentialSampler
from trained_weights import largest_difference, weights
from transformers import AutoModelForCausalLM, GPT2Config, TrainerCallback

from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.llm_jepa import COLLAPSED, LlmJepaTrainer, add_adapters, drops_jepa


GOLDEN = Path(__file__).resolve().parents[1] / "fixtures/golden/llm_jepa"


def history(trainer: LlmJepaTrainer, *names: str) -> list[list[float]]:
    """What was logged under these names, step by step."""
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [[entry[name] for name in names] for entry in entries]


def trained(*args, **kwargs) -> LlmJepaTrainer:
    trainer = make_text_trainer(*args, **kwargs)
    trainer.train()
    return trainer


# --- what a step is the mean of -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["packed", pytest.param("three_pass", marks=pytest.mark.slow)])
def test_eight_pairs_at_once_are_four_times_two(layout, tmp_path):
    # 20 pairs: the last step of an epoch has but four, in two batches.
    options = {"objective": {"layout": layout, "distance": "l2", "jepa_weight": 0.5, "lm_weight": 2.0}, "max_steps": 5}
    pairs = draw_pairs(20)
    at_once = trained(tmp_path, pairs, per_device_train_batch_size=8, **options)
    often = trained(tmp_path, pairs, gradient_accumulation_steps=4, **options)
    assert largest_difference(weights(often.model), weights(at_once.model)) < 1e-6
    names = ("loss", "lm_loss", "jepa_loss", "true_cosine")
    torch.testing.assert_close(
        torch.tensor(history(often, *names)), torch.tensor(history(at_once, *names)), rtol=0, atol=2e-6
    )
    for loss, lm_loss, jepa_loss in history(often, *names[:3]):
        assert loss == pytest.approx(2.0 * lm_loss + 0.5 * jepa_loss, abs=1e-5)


def in_order(trainer: LlmJepaTrainer) -> LlmJepaTrainer:
    trainer._get_train_sampler = lambda *args: SequentialSampler(trainer.train_dataset)
    return trainer


def test_a_step_follows_the_gradient_of_the_mean_over_its_tokens_and_pairs(tmp_path):
    pairs = draw_pairs(6)
    trainer = in_order(make_text_trainer(tmp_path, pairs, gradient_accumulation_steps=3, max_steps=1))
    start = {name: value.clone() for name, value in trainer.model.named_parameters()}
    out = trainer.model(**LlmJepaDataCollator(pad_token_id=0)(pairs))
    out.loss.backward()
    expected = {name: start[name] - 0.5 * p.grad for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    trainer.train()
    found = dict(trainer.model.named_parameters())
    assert max((found[name] - value).abs().max().item() for name, value in expected.items()) < 1e-6
    assert max((value - start[name]).abs().max().item() for name, value in expected.items()) > 1e-2
    (logged,) = history(trainer, "loss", "lm_loss", "jepa_loss", "true_cosine")
    cosine = torch.nn.functional.cosine_similarity(out.text_embedding, out.code_embedding).mean()
    assert logged == pytest.approx([v.item() for v in (out.loss, out.lm_loss, out.jepa_loss, cosine)], abs=1e-5)


def test_logs_are_means_over_the_steps_between_them(tmp_path):
    pairs, options = draw_pairs(24), {"max_steps": 6, "objective": {"jepa_dropout": 0.5}, "seed": 1}
    each = trained(tmp_path, pairs, logging_steps=1, gradient_accumulation_steps=2, **options)
    rare = trained(tmp_path, pairs, logging_steps=3, gradient_accumulation_steps=2, **options)
    for name in ("loss", "lm_loss", "jepa_loss"):
        steps = [entry.get(name, 0.0) for entry in each.state.log_history if "loss" in entry]
        windows = [sum(steps[:3]) / 3, sum(steps[3:]) / 3]
        assert [value for (value,) in history(rare, name)] == pytest.approx(windows, abs=1e-5)


@pytest.mark.parametrize("layout", ["packed", "additive_mask", "fused"])
def test_evaluation_measures_all_tokens_and_pairs(layout, tmp_path):
    pairs = draw_pairs(7, seed=1)
    objective = {"layout": layout, "jepa_weight": 0.5, "lm_weight": 2.0}
    trainer = make_text_trainer(
        tmp_path, draw_pairs(8), objective=objective, eval_pairs=pairs, per_device_eval_batch_size=3
    )
    measured = trainer.evaluate()
    out = trainer.model(**LlmJepaDataCollator(pad_token_id=0, layout=layout)(pairs))
    assert measured["eval_lm_loss"] == pytest.approx(out.lm_loss.item(), abs=1e-5)
    assert measured["eval_jepa_loss"] == pytest.approx(out.jepa_loss.item(), abs=1e-5)
    assert measured["eval_loss"] == pytest.approx(out.loss.item(), abs=1e-5)
    cosine = torch.nn.functional.cosine_similarity(out.text_embedding, out.code_embedding).mean().item()
    assert measured["eval_true_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert trainer.predict(pairs).metrics["test_loss"] == pytest.approx(out.loss.item(), abs=1e-5)


def test_evaluation_within_the_training_leaves_its_logs_alone(tmp_path):
    options = {"max_steps": 4, "logging_steps": 2, "eval_pairs": draw_pairs(5, seed=1)}
    plain = trained(tmp_path, draw_pairs(8), **options)
    watched = trained(tmp_path, draw_pairs(8), eval_strategy="steps", eval_steps=1, **options)
    assert history(plain, "loss", "lm_loss", "jepa_loss") == history(watched, "loss", "lm_loss", "jepa_loss")


def test_without_jepa_weight_no_view_is_computed(tmp_path, slots):
    trainer = trained(tmp_path, draw_pairs(8), objective={"jepa_weight": 0.0})
    assert slots and all(text_index is None for _, text_index in slots)
    assert "jepa_loss" not in trainer.state.log_history[0]
    for loss, lm_loss in history(trainer, "loss", "lm_loss"):
        assert loss == pytest.approx(lm_loss, abs=1e-6)


# --- dropped JEPA losses ------------------------------------------------------------------------------------------


@pytest.fixture
def slots(monkeypatch) -> list[tuple[int, torch.Tensor | None]]:
    """Token slots and `text_index` of every call of the model in training."""
    calls, forward = [], LlmJepaForCausalLM.forward

    def record(self, *args, **kwargs):
        if self.training:
            calls.append((kwargs["input_ids"].numel(), kwargs.get("text_index")))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlmJepaForCausalLM, "forward", record)
    return calls


@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_the_rule_of_dropping_is_the_official_one(ratio):
    io = load_file(GOLDEN / "additive_mask/io.safetensors")
    found = [drops_jepa(draw, 1 - ratio) for draw in io["jepa_dropout.draws"].tolist()]
    assert found == io[f"jepa_dropout.skip_r{ratio}"].bool().tolist() and len(set(found)) == 2


def test_dropped_batches_are_lm_rows_alone(tmp_path, slots):
    pairs = draw_pairs(64)
    trainer = trained(
        tmp_path,
        pairs,
        objective={"jepa_dropout": 0.75},
        max_steps=20,
        gradient_accumulation_steps=2,
        logging_steps=20,
    )
    dropped = [text_index is None for _, text_index in slots]
    assert len(dropped) == 40 and 24 <= sum(dropped) <= 36
    assert dropped[::2] != dropped[1::2]  # decided batch by batch, not step by step
    lm_rows = [count for count, text_index in slots if text_index is None]
    packed = [count for count, text_index in slots if text_index is not None]
    assert sum(lm_rows) / len(lm_rows) < 0.65 * sum(packed) / len(packed)
    ((cosine,),) = history(trainer, "true_cosine")
    assert -1 <= cosine <= 1  # a mean over the pairs that were computed


def test_what_remains_is_not_scaled_up(tmp_path, monkeypatch):
    pairs = draw_pairs(6)
    monkeypatch.setattr("hf_jepa.training.llm_jepa.uniform", lambda tag, seed, step, number: 0.9 if number else 0.1)
    trainer = in_order(
        make_text_trainer(tmp_path, pairs, objective={"jepa_dropout": 0.5}, gradient_accumulation_steps=3, max_steps=1)
    )
    collate = LlmJepaDataCollator(pad_token_id=0)
    with torch.no_grad():
        everything, first = trainer.model(**collate(pairs)), trainer.model(**collate(pairs[:2]))
    trainer.train()
    ((lm_loss, jepa_loss),) = history(trainer, "lm_loss", "jepa_loss")
    assert lm_loss == pytest.approx(everything.lm_loss.item(), abs=1e-5)
    assert jepa_loss == pytest.approx(first.jepa_loss.item() * 2 / 6, abs=1e-5)


@pytest.mark.slow
def test_decisions_depend_on_seed_and_step_alone(tmp_path, slots):
    def decisions(**options) -> list[bool]:
        slots.clear()
        trained(tmp_path, draw_pairs(16), objective={"jepa_dropout": 0.5}, max_steps=8, **options)
        return [text_index is None for _, text_index in slots]

    first = decisions()
    assert decisions(dataloader_num_workers=1, learning_rate=0.01) == first
    assert decisions(seed=7) != first


def test_dropout_needs_a_collator_that_makes_the_rows(tmp_path):
    trainer = make_text_trainer(tmp_path, draw_pairs(8), objective={"jepa_dropout": 0.9})
    trainer.data_collator.with_lm_only = False
    with pytest.raises(ValueError, match=r"jepa_dropout=0.9 needs LlmJepaDataCollator\(with_lm_only=True\)"):
        trainer.train()


# --- checkpoints --------------------------------------------------------------------------------------------------

RESUMED = {"objective": {"distance": "infonce", "jepa_dropout": 0.5}, "gradient_accumulation_steps": 2}


def with_adapters(k: int = 1, **fields) -> LlmJepaForCausalLM:
    torch.manual_seed(0)
    model = LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA | fields))
    add_adapters(model, [PREDICTOR] * k, rank=4)
    return model


@pytest.mark.parametrize("case", ["whole", "adapters", "tied"])
def test_a_resumed_run_is_the_uninterrupted_one(case, tmp_path):
    options = (RESUMED if case == "whole" else {}) | {"max_steps": 6, "optim": "adamw_torch", "learning_rate": 1e-2}
    options |= {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear", "logging_steps": 2}
    pairs, made = draw_pairs(10), {"adapters": with_adapters, "tied": gpt2}

    def make():
        return make_text_trainer(tmp_path / case, pairs, model=made[case]() if case in made else None, **options)

    whole = make()
    whole.train()
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / case / "checkpoint-3"))
    assert largest_difference(weights(resumed.model), weights(whole.model)) == 0.0
    assert history(resumed, "loss", "lm_loss")[-1] == history(whole, "loss", "lm_loss")[-1]


def test_checkpoints_in_between_are_ordinary_ones(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
    trainer = make_text_trainer(
        tmp_path, draw_pairs(8), eval_pairs=draw_pairs(4, 1), load_best_model_at_end=True, **options
    )
    kept = []

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            kept.append(weights(trainer.model))

    trainer.add_callback(Keep())
    trainer.train()
    stock, info = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = {name.removeprefix("language_model."): value for name, value in kept[0].items()}
    assert largest_difference(stock.state_dict(), expected) == 0.0
    assert stock.generate(torch.tensor([[1, 5, 6]]), max_new_tokens=3, do_sample=False).shape[1] > 3
    best = int(trainer.state.best_model_checkpoint.rsplit("-", 1)[1])
    assert largest_difference(weights(trainer.model), kept[best // 2 - 1]) == 0.0


@pytest.mark.parametrize("adapters", [False, True])
def test_the_best_of_several_checkpoints_is_the_one_at_the_end(adapters, tmp_path):
    each = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    # The "best" is the largest loss, so not the last.
    best = {"eval_pairs": draw_pairs(4, 1), "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    model = with_adapters() if adapters else None
    trainer = make_text_trainer(tmp_path, draw_pairs(8), model=model, greater_is_better=True, **each, **best)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), abs=1e-6)
    assert max(losses) > losses[-1]


@pytest.mark.parametrize("fields", [{"num_hidden_layers": 1}, {"hidden_size": 16}])
def test_a_checkpoint_of_another_model_is_refused(fields, tmp_path):
    trained(tmp_path, draw_pairs(4), text_config=fields, save_strategy="steps", save_steps=3)
    trainer = make_text_trainer(tmp_path, draw_pairs(4), max_steps=4)
    with pytest.raises((ValueError, RuntimeError), match="another model|size mismatch"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_checkpoint_of_all_weights_is_none_of_adapters(tmp_path):
    trained(tmp_path, draw_pairs(4), save_strategy="steps", save_steps=3)
    trainer = make_text_trainer(tmp_path, draw_pairs(4), model=with_adapters(), max_steps=4)
    with pytest.raises(ValueError, match="another model"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# --- adapters -----------------------------------------------------------------------------------------------------


def gpt2() -> LlmJepaForCausalLM:
    torch.manual_seed(0)
    text_config = GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return LlmJepaForCausalLM(LlmJepaConfig(text_config=text_config))


@pytest.mark.parametrize("tied", [False, True], ids=["llama", "gpt2"])
def test_adapters_learn_predictor_tokens_and_become_an_ordinary_checkpoint(tied, tmp_path):
    torch.manual_seed(0)
    model = gpt2() if tied else LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA))
    before = {name: value.clone() for name, value in model.language_model.state_dict().items()}
    add_adapters(model, [PREDICTOR], rank=4)
    trainer = trained(tmp_path, draw_pairs(8), model=model, optim="adamw_torch", learning_rate=1e-2, max_steps=4)
    batch = {"input_ids": torch.tensor([[1, 5, 6, PREDICTOR]])}
    with torch.no_grad():
        expected = trainer.model.eval().language_model(**batch).logits
    trainer.merge_adapters()
    trainer.save_model()
    stock, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(stock(**batch).logits, expected, rtol=0, atol=1e-5)
    after = stock.state_dict()
    embedding = "transformer.wte.weight" if tied else "model.embed_tokens.weight"
    changed = (after[embedding] != before[embedding]).any(1)
    assert changed.nonzero().flatten().tolist() == [PREDICTOR]
    norms = [name for name in before if ".ln_" in name or "norm" in name]
    assert norms and all(torch.equal(after[name], before[name]) for name in norms)
    layers = [name for name in before if name.endswith(("c_attn.weight", "q_proj.weight", "down_proj.weight"))]
    assert layers and not any(torch.equal(after[name], before[name]) for name in layers)


def test_adapters_leave_the_weights_they_adapt(tmp_path):
    model = with_adapters()
    base = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trainer = trained(tmp_path, draw_pairs(8), model=model, max_steps=4)
    found = dict(trainer.model.named_parameters())
    assert base and all(torch.equal(found[name], value) for name, value in base.items())


def test_saved_adapters_are_stock_ones(tmp_path):
    torch.manual_seed(0)
    model = LlmJepaForCausalLM(LlmJepaConfig(text_config=LLAMA))
    model.language_model.save_pretrained(tmp_path / "base")
    add_adapters(model, [PREDICTOR], rank=4)
    trainer = trained(tmp_path / "run", draw_pairs(8), model=model, optim="adamw_torch", learning_rate=1e-2)
    trainer.save_model()
    batch = {"input_ids": torch.tensor([[1, 5, 6, PREDICTOR]])}
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "run")
    with torch.no_grad():
        expected = trainer.model.eval().language_model(**batch).logits
        torch.testing.assert_close(stock.eval()(**batch).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reentrant", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradient_checkpointing_changes_nothing(k, reentrant, tmp_path):
    found = []
    for on in (False, True):
        model = with_adapters(k)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"gradient_checkpointing": on, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        found.append(weights(trained(tmp_path, draw_pairs(8), model=model, **(options if on else {})).model))
    assert largest_difference(*found) < 1e-6
    assert any(value.abs().max() > 0 for name, value in found[0].items() if "lora_B" in name)


# --- other ways to compute ----------------------------------------------------------------------------------------


def test_gradient_checkpointing_of_packed_rows(tmp_path):
    pairs = draw_pairs(8)
    plain, saving = (weights(trained(tmp_path, pairs, gradient_checkpointing=on).model) for on in (False, True))
    assert largest_difference(saving, plain) < 1e-6


def test_bfloat16_autocast_follows_float32(tmp_path):
    pairs = draw_pairs(8)
    full, half = (trained(tmp_path, pairs, bf16=on, learning_rate=0.1) for on in (False, True))
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    difference = torch.tensor(history(full, "loss", "lm_loss", "jepa_loss")) - torch.tensor(
        history(half, "loss", "lm_loss", "jepa_loss")
    )
    assert 0 < difference.abs().max() < 0.05


# What reads a tensor on the host, or needs to know how many of its values are true.
READING = ("item", "tolist", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__")
# The collator and the sampler work on the host; transformers looks itself whether rows are packed.
# On a CPU, where nothing waits, whether a step is left out is read at once (`finite_steps`).
PASSED_ON = (__name__, "hf_jepa.training.costs")  # calls that they count
ON_THE_HOST = ("hf_jepa.data", "torch.utils.data", "transformers.masking_utils", "hf_jepa.training.finite_steps")


@pytest.mark.parametrize("label_index", [True, False])
def test_steps_between_logs_do_not_wait_for_the_device(label_index, tmp_path, monkeypatch):
    calls: list[str] = []

    class Count(TrainerCallback):
        counting = False

        def on_step_begin(self, args, state, control, **kwargs):
            self.counting = True

        def on_epoch_end(self, args, state, control, **kwargs):
            self.counting = False

    count = Count()
    for name in READING:
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):
            frame = sys._getframe(1)
            while frame.f_globals["__name__"] in PASSED_ON:
                frame = frame.f_back
            if count.counting and not frame.f_globals["__name__"].startswith(ON_THE_HOST):
                calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    options = {"gradient_accumulation_steps": 2, "logging_steps": 100, "objective": {"jepa_dropout": 0.3}}
    trainer = make_text_trainer(tmp_path, draw_pairs(16), callbacks=[count], **options)
    collate = trainer.data_collator

    def without_index(pairs):
        batch = collate(pairs)
        return {name: value for name, value in batch.items() if name not in ("label_index", "lm_only")}

    if not label_index:
        trainer.model.config.jepa_dropout, trainer.data_collator = 0.0, without_index
    trainer.train()
    assert set(calls) == (set() if label_index else {"nonzero"})


@pytest.mark.parametrize("argument", ["label_smoothing_factor", "_n_gpu"])
def test_what_the_losses_do_not_know_is_refused(argument, tmp_path):
    trainer = make_text_trainer(tmp_path, draw_pairs(4))
    setattr(trainer.args, argument, 2)
    with pytest.raises(ValueError, match="label_smoothing_factor=2 would|cannot train on 2 GPUs"):
        LlmJepaTrainer(trainer.model, trainer.args, train_dataset=draw_pairs(4))


def test_the_summary_says_when_all_embeddings_are_alike(tmp_path):
    trainer = make_text_trainer(tmp_path, draw_pairs(4))
    for true, shuffled, alike in ((0.998, 0.997, True), (0.99, 0.9, False), (0.5, 0.5, False), (0.999, 0.96, False)):
        trainer.state.log_history = [{"loss": 1.0, "true_cosine": true, "shuffled_cosine": shuffled}]
        assert (trainer.summary().get("embeddings") == COLLAPSED) == alike
    trainer.state.log_history = [{"loss": 1.0, "lm_loss": 1.0}]
    assert "embeddings" not in trainer.summary()
