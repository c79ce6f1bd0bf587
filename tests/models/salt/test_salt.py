"""SALT: pixels, then a frozen teacher of any width, and what may not happen to it."""

import copy
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, VideoMAEConfig, VideoMAEModel
from transformers import VJEPA2Config as NativeVJepa2Config
from transformers import VJEPA2Model as NativeVJepa2Model

from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.models.salt.configuration_salt import SaltConfig
from hf_jepa.models.salt.modeling_salt import SaltForPreTraining, SaltModel, load_teacher, tubelet_pixels
from hf_jepa.models.vjepa.configuration_vjepa import VJepaConfig
from hf_jepa.models.vjepa.modeling_vjepa import VJepaForPreTraining, VJepaModel
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2Encoder
from hf_jepa.registry import VARIANTS
from hf_jepa.training.optimizer import build_optimizer
from hf_jepa.training.pretrain_video import pretrain


STUDENT = {name: value for name, value in VARIANTS["salt"].tiny.items() if name != "teacher_config"}
VJEPA = VARIANTS["vjepa"].tiny


def first_stage(**fields) -> SaltForPreTraining:
    return SaltForPreTraining(SaltConfig(**(STUDENT | {"initializer_range": 0.2} | fields)))


def second_stage(teacher=None, **fields) -> SaltForPreTraining:
    """A student of width 32 and a teacher of width 48."""
    teacher = first_stage(hidden_size=48).salt if teacher is None else teacher
    return SaltForPreTraining.from_teacher(teacher, SaltConfig(**(STUDENT | {"initializer_range": 0.2} | fields)))


@pytest.fixture
def batch() -> dict:
    """Two clips, 2 x 4 x 4 tokens, two pairs of masks."""
    order = torch.stack([torch.randperm(32) for _ in range(2)])
    return {
        "pixel_values_videos": torch.randn(2, 4, 3, 32, 32),
        "context_mask": [order[:, :9], order[:, 11:17]],
        "target_mask": [order[:, 9:13], order[:, :7]],
    }


def weights(module) -> dict:
    return copy.deepcopy(module.state_dict())


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def change_targets(clips: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The clips with other pixels in the tubelets of the mask."""
    chosen = torch.zeros(2, 32).scatter_(1, mask, 1.0).view(2, 2, 1, 4, 4)
    for axis, size in ((1, 2), (3, 8), (4, 8)):
        chosen = chosen.repeat_interleave(size, axis)
    return clips + 3 * chosen * torch.randn_like(clips)


def waves(number: int, generator: torch.Generator) -> torch.Tensor:
    """Clips of brightness waves that move: what is hidden follows from what is seen, unlike strokes of digits."""
    phase, across, down = torch.randn(3, number, 1, 1, 1, 1, generator=generator) * 2
    time, place = torch.arange(4.0).view(1, 4, 1, 1, 1), torch.linspace(0, 1, 32)
    return torch.sin(phase + across * place + down * place.unsqueeze(-1) + 0.5 * time).expand(number, 4, 3, 32, 32)


def train(model: SaltForPreTraining, steps: int) -> float:
    """The loss of the last steps over that of the best constant; every step sees new clips and masks."""
    generator, sampler = torch.Generator().manual_seed(1), build_video_mask_sampler(grid_size=(2, 4, 4))
    optimizer = build_optimizer(model.train(), 1e-2, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    ratios = []
    for step in range(steps):
        masks = sampler(torch.arange(16) + 16 * step, step=step, epoch=0)
        out = model(waves(16, generator), **masks._asdict())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        targets = torch.cat([x.flatten(0, 1) for x in out.targets])
        ratios.append(out.loss.item() / (targets - targets.median(0).values).abs().mean().item())
    return sum(ratios[-4:]) / 4


def test_pixels_are_in_the_order_of_the_patch_embedding():
    clips = torch.randn(2, 4, 3, 32, 16)
    embedding = first_stage().salt.embeddings.patch_embeddings
    expected = embedding(clips)[0]
    found = torch.nn.functional.linear(
        tubelet_pixels(clips, (2, 8, 8)), embedding.proj.weight.flatten(1), embedding.proj.bias
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalization", ["layer_norm", "none"])
def test_targets_of_the_first_stage_are_pixels_of_the_hidden_tubelets(batch, normalization):
    model = first_stage(target_normalization=normalization)
    out = model(**batch)
    pixels = tubelet_pixels(batch["pixel_values_videos"], (2, 8, 8))
    for targets, predictions, mask in zip(out.targets, out.predictions, batch["target_mask"], strict=True):
        expected = pixels.gather(1, mask.unsqueeze(-1).expand(-1, -1, pixels.shape[-1]))
        if normalization == "layer_norm":
            mean, variance = expected.mean(-1, keepdim=True), expected.var(-1, keepdim=True, correction=0)
            expected = (expected - mean) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(targets, expected)
        assert predictions.shape == targets.shape == (2, mask.shape[1], 3 * 2 * 8 * 8) and not targets.requires_grad
    distances = [(p - t).abs().mean() for p, t in zip(out.predictions, out.targets, strict=True)]
    torch.testing.assert_close(out.loss, torch.stack(distances).mean())  # L1


def test_targets_of_the_second_stage_are_what_the_teacher_says_of_whole_clips(batch):
    teacher = first_stage(hidden_size=48).salt.eval()
    out = second_stage(teacher)(**batch)
    tokens = teacher(batch["pixel_values_videos"]).last_hidden_state
    tokens = torch.nn.functional.layer_norm(tokens, (48,))
    for targets, mask in zip(out.targets, batch["target_mask"], strict=True):
        torch.testing.assert_close(targets, tokens.gather(1, mask.unsqueeze(-1).expand(-1, -1, 48)))
    assert [x.shape[-1] for x in (*out.context, *out.predictions)] == [32, 32, 48, 48]


@pytest.mark.parametrize("stage", [first_stage, second_stage])
def test_nothing_of_the_targets_reaches_the_predictions(batch, stage):
    model = stage().eval()
    before = model(**batch)
    batch["pixel_values_videos"] = change_targets(batch["pixel_values_videos"], batch["target_mask"][0])
    after = model(**batch)
    assert torch.equal(before.predictions[0], after.predictions[0])
    assert not torch.allclose(before.targets[0], after.targets[0])


def test_the_teacher_gets_no_gradient_and_never_changes(batch):
    model = second_stage().train()
    before, student = weights(model.teacher), weights(model.salt)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert not any(module.training for module in model.teacher.modules())
    train(model, 2)
    assert same(weights(model.teacher), before) and not same(weights(model.salt), student)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert all(p.grad is not None for p in (*model.salt.parameters(), *model.predictor.proj.parameters()))
    with pytest.raises(ValueError, match="target_source='frozen'"):
        model.update_target_encoder(0.9)


def test_both_stages_learn(tmp_path):
    """The first trains a teacher, which the second reads from its checkpoint."""
    torch.manual_seed(0)
    first = first_stage(hidden_size=48, target_normalization="none")
    assert train(first, 40) < 0.85
    first.save_pretrained(tmp_path / "teacher")
    second = second_stage(tmp_path / "teacher")
    assert type(second.teacher.model) is SaltModel and same(weights(second.teacher.model), weights(first.salt))
    assert train(second, 40) < 0.85
    assert same(weights(second.teacher.model), weights(first.salt))


def test_both_stages_train_from_moving_digits(tmp_path):
    """As a user runs them: recipe, trainer, checkpoint, and the teacher of the second from the first."""
    digits = {"dataset": "moving_digits", "generated_length": 16, "per_device_train_batch_size": 4, "max_steps": 2}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "collapse_monitor": False}
    clips = {"crop_size": 64, "patch_size": 8, "frames_per_clip": 4}
    argv = [f"--{name}={value}" for name, value in (digits | quiet).items()]
    start = {"first": {}, "second": {"model_name_or_path": tmp_path / "start"}}
    for stage, fields in start.items():
        if stage == "second":
            second_stage(tmp_path / "first", **clips).save_pretrained(tmp_path / "start")
        else:
            fields = {"model_config": json.dumps(STUDENT | clips | {"hidden_size": 48})}
        trainer = pretrain(
            "salt", [*argv, f"--output_dir={tmp_path / stage}", *(f"--{k}={v}" for k, v in fields.items())]
        )
        assert trainer.state.global_step == 2
    taught = SaltForPreTraining.from_pretrained(tmp_path / "second")
    assert same(weights(taught.teacher.model), weights(SaltModel.from_pretrained(tmp_path / "first")))
    assert not same(weights(taught.salt), weights(SaltModel.from_pretrained(tmp_path / "start")))


def test_a_checkpoint_holds_the_teacher(batch, tmp_path):
    model = second_stage().eval()
    model.save_pretrained(tmp_path)
    again = SaltForPreTraining.from_pretrained(tmp_path)
    assert same(weights(again), weights(model)) and torch.equal(again(**batch).loss, model(**batch).loss)
    assert not any(parameter.requires_grad for parameter in again.teacher.parameters())
    assert all(parameter.requires_grad for parameter in again.salt.parameters())
    assert not again.train().teacher.model.training and again.salt.training
    student = AutoModel.from_pretrained(tmp_path)
    assert type(student) is SaltModel and same(weights(student), weights(model.salt))
    third = second_stage(tmp_path)  # a student can teach
    assert (
        same(weights(third.teacher.model), weights(model.salt)) and third.config.teacher_config.teacher_config is None
    )


def test_a_teacher_at_random_weights_is_announced(caplog):
    teacher = first_stage(hidden_size=48).salt
    with caplog.at_level(logging.WARNING, logger="hf_jepa"):
        model = second_stage(teacher)
        assert not caplog.records
        SaltForPreTraining(model.config)
    assert "a SaltModel, has random weights: take from_teacher(...)" in caplog.text
    assert same(weights(model.teacher.model), weights(teacher))  # making the model has not drawn them anew


@pytest.mark.parametrize("lost", ["teacher.", "salt.", "teacher.model.layernorm.weight"])
def test_a_checkpoint_without_teacher_or_student_is_refused(tmp_path, lost):
    second_stage().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith(lost)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"does not hold a complete SaltForPreTraining.*{lost}.*from_teacher"):
        SaltForPreTraining.from_pretrained(tmp_path)


def test_a_student_alone_does_not_start_the_second_stage(tmp_path):
    second_stage().salt.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights of student and teacher are missing, among them teacher.model"):
        SaltForPreTraining.from_pretrained(tmp_path)


def video_mae() -> VideoMAEModel:
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    clips = {"image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
    return VideoMAEModel(VideoMAEConfig(**sizes, **clips))


def native_vjepa2() -> NativeVJepa2Model:
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return NativeVJepa2Model(NativeVJepa2Config(**sizes, crop_size=32, patch_size=8, frames_per_clip=4))


@pytest.mark.parametrize(
    ("make", "kind", "place"),
    [
        (video_mae, VideoMAEModel, ""),
        (native_vjepa2, VJepa2Encoder, "encoder."),
        (lambda: VJepaForPreTraining(VJepaConfig(**VJEPA)), VJepaModel, "vjepa."),  # its target encoder
    ],
)
def test_encoders_of_other_kinds_teach_from_their_checkpoints(batch, tmp_path, make, kind, place):
    given = make()
    given.save_pretrained(tmp_path / "teacher")
    model = second_stage(tmp_path / "teacher")
    assert type(model.teacher.model) is kind
    expected = {key.removeprefix(place): x for key, x in given.state_dict().items() if key.startswith(place)}
    assert same(weights(model.teacher.model), expected)
    model(**batch).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    model.save_pretrained(tmp_path / "model")
    again = SaltForPreTraining.from_pretrained(tmp_path / "model").eval()
    assert same(weights(again), weights(model)) and torch.equal(again(**batch).loss, model.eval()(**batch).loss)


def test_a_teacher_that_lacks_weights_is_refused(tmp_path):
    """transformers would draw them at random and say so in a table."""
    video_mae().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in state if "attention" in key)
    kept = {key: value for key, value in state.items() if key != lost}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights of VideoMAEModel, among them .*{lost}: a teacher must be"):
        load_teacher(tmp_path)


def test_a_teacher_with_other_tubelets_is_refused(batch):
    with pytest.raises(Exception, match="patch_size 8 is not that of the teacher, 16"):
        second_stage(first_stage(hidden_size=48, patch_size=16).salt)
    model = second_stage()
    tokens = model.teacher.model
    tokens.forward = lambda pixel_values_videos, **kwargs: type(
        "Out", (), {"last_hidden_state": torch.zeros(2, 33, 48)}
    )
    with pytest.raises(ValueError, match="gives 33 tokens for clips of shape .*, but the student has 32"):
        model(**batch)


def test_groups_of_clips_of_several_lengths(batch):
    model = second_stage().eval()
    other = {
        "pixel_values_videos": torch.randn(1, 2, 3, 32, 32),
        "context_mask": [torch.tensor([[0, 3, 5]])],
        "target_mask": [torch.tensor([[1, 2]])],
    }
    together = model(**{name: [batch[name], other[name]] for name in batch})
    apart = [*model(**batch).targets, *model(**other).targets]
    for found, expected in zip(together.targets, apart, strict=True):
        torch.testing.assert_close(found, expected)
    assert len(together.predictions) == 3


def test_only_a_frozen_teacher_is_offered():
    with pytest.raises(Exception, match="target_source='ema' is not one of frozen"):
        SaltConfig(**STUDENT, target_source="ema")
