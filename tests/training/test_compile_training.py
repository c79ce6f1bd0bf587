"""Training with `torch_compile`: one graph for every length of masks, numbers and checkpoints as without."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch._dynamo.utils import counters
from transformers import TrainerCallback

from hf_jepa.core.ema import Average
from hf_jepa.data.views import EmbeddedViews, ViewCollator
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.training.view_arguments import ViewArguments


# Graphs are traced and run as they are, without a compiler: their number is the same, and this takes least time.
TRACED = {"torch_compile": True, "torch_compile_backend": "eager"}
SMALL = {"num_hidden_layers": 1, "pred_num_hidden_layers": 1}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Graphs(TrainerCallback):
    """How many graphs there are after every step."""

    def __init__(self):
        self.found, self.before = [], counters["stats"]["unique_graphs"]

    def on_step_end(self, args, state, control, **kwargs):
        self.found.append(counters["stats"]["unique_graphs"] - self.before)


def trained(trainer, **options):
    graphs = Graphs()
    trainer.add_callback(graphs)
    trainer.train(**options)
    return graphs.found


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def difference(trainer, other) -> float:
    pairs = zip(trainer.model.parameters(), other.model.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def bucketed(make_trainer, name: str, bucket: int = 4, **options) -> JepaTrainer:
    """To be made only when the one before has trained: accelerate has one compiler for a process."""
    trainer = make_trainer(name, model_fields=SMALL, logging_steps=1, **options)
    length = trainer.mask_sampler.context_length // bucket * bucket
    trainer.mask_sampler = replace(trainer.mask_sampler, length_bucket=bucket, context_length=length)
    return trainer


def drawn_lengths(trainer, steps: int) -> list[int]:
    return [trainer.mask_sampler(torch.arange(2), step=step).target_mask[0].shape[1] for step in range(steps)]


def test_every_length_of_masks_is_compiled_once(make_trainer):
    plain = bucketed(make_trainer, "plain", max_steps=6)
    plain.train()
    compiled = bucketed(make_trainer, "compiled", max_steps=6, **TRACED)
    graphs = trained(compiled)
    lengths = drawn_lengths(compiled, 6)
    assert graphs == [len(set(lengths[: step + 1])) for step in range(6)] and len(set(lengths)) == 2
    assert set(lengths) <= set(compiled.mask_sampler.target_lengths)
    # The linear layers are PyTorch's where they are compiled, else oneDNN's.
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-6) and difference(compiled, plain) < 1e-5
    assert compiled._intervals[0].flops == plain._intervals[0].flops


@pytest.mark.slow
def test_a_compiled_run_resumes_exactly(make_trainer, tmp_path):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5, **TRACED}
    whole = bucketed(make_trainer, "whole", **options)
    trained(whole)
    checkpoint = tmp_path / "whole/checkpoint-5"
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(whole.model.state_dict())
    torch._dynamo.reset()  # as in another process
    resumed = bucketed(make_trainer, "resumed", **options)
    graphs = trained(resumed, resume_from_checkpoint=str(checkpoint))
    assert losses(resumed) == losses(whole) and difference(resumed, whole) == 0.0
    assert graphs[-1] == len(set(drawn_lengths(resumed, 8)[5:]))


@pytest.mark.slow
def test_the_target_encoder_follows_the_compiled_model(make_trainer, monkeypatch):
    trainer = make_trainer(model_fields=SMALL, max_steps=2, **TRACED)
    monkeypatch.setattr(type(trainer.mask_sampler), "block_sizes", lambda self, step: ((3, 3), (6, 6)))
    moved = []
    original = Average.__call__

    def record(average, momentum, skip):
        model = trainer.model
        pairs = zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True)
        expected = [target.lerp(source, 1.0 - momentum) for target, source in pairs]
        original(average, momentum, skip)
        moved.append(all(map(torch.equal, expected, model.target_encoder.parameters())))

    monkeypatch.setattr(Average, "__call__", record)
    assert trained(trainer) == [1, 1] and moved == [True, True]
    trainer.save_model()
    with safe_open(f"{trainer.args.output_dir}/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(trainer.model.state_dict())


@pytest.mark.slow
def test_clips_are_compiled_once(make_video_trainer):
    plain = make_video_trainer(name="plain", max_steps=4)
    plain.train()
    compiled = make_video_trainer(name="compiled", max_steps=4, **TRACED)
    assert trained(compiled) == [1] * 4  # lengths of clips' masks are fixed
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-6) and difference(compiled, plain) < 1e-5


def view_trainer(folder, **options):
    torch.manual_seed(0)
    variant = VARIANTS["lejepa"]
    model = variant.model_class()(variant.config_class()(**variant.tiny))
    views = ViewArguments(num_local_views=0)
    fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "warmup_steps": 1}
    steps = {"per_device_train_batch_size": 4, "max_steps": 6, "logging_steps": 1, "collapse_monitor": False}
    arguments = JepaTrainingArguments(str(folder), **steps, **fixed, **options)
    size = model.config.image_size
    return JepaTrainer(
        model,
        arguments,
        view_augmentation=views.augmentation(None, None, 0),
        train_dataset=EmbeddedViews(16, views.transform(size), 2 * size, 0),
        data_collator=ViewCollator(),
    )


@pytest.mark.slow
def test_the_number_of_the_step_is_not_compiled(tmp_path):
    plain = view_trainer(tmp_path / "plain")
    plain.train()
    compiled = view_trainer(tmp_path / "compiled", **TRACED)
    graphs = trained(compiled)
    assert graphs[2] == graphs[-1], graphs  # its second value tells the compiler that it changes
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.slow
def test_inductor_trains(make_trainer):
    plain = bucketed(make_trainer, "plain", max_steps=3)
    plain.train()
    compiled = bucketed(make_trainer, "compiled", max_steps=3, torch_compile=True)
    trained(compiled)
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-5) and difference(compiled, plain) < 1e-4


def test_too_many_lengths_are_refused(make_trainer):
    with pytest.raises(ValueError, match=r"targets have \d+ lengths.*raise length_bucket=1"):
        make_trainer(model_fields={"image_size": 224}, **TRACED)
