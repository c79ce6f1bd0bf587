"""The trainer on clips: several lengths in a batch, pairs of masks, exact resume, official clipping."""

import re

import pytest
import torch
from tiny_training import CLIPS, VIDEO
from transformers import TrainerCallback

from hf_jepa.data.moving_digits import MovingDigits
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.video_transforms import clip_pretraining_transform
from hf_jepa.data.videos import VideoCollator, VideoDataset
from hf_jepa.data.weighted_sources import WeightedSources
from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining
from hf_jepa.training.schedules import context_loss_weight_at, learning_rate_at
from hf_jepa.training.trainer import JepaTrainer


def mixture(length: int = 32) -> WeightedSources:
    """Clips of four and of eight frames."""
    # Much longer than what is drawn, so that no clip is there twice: from equal ones the monitor sees a collapse.
    sources = [MovingDigits(10_000, num_frames=4), MovingDigits(10_000, num_frames=8, seed=1)]
    return WeightedSources(sources, [0.5, 0.5], length)


def logged(trainer: JepaTrainer, name: str = "loss") -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


# Seconds each: by default all cases of the variant that has the most parts, and the plain one of the others.
PLAIN = ("corrected", (4,))
CASES = [(mode, lengths) for mode in ("corrected", "official") for lengths in ((4,), (4, 8))]
RESUMED = [
    pytest.param(name, *case, marks=[] if name == "vjepa2_1" or case == PLAIN else pytest.mark.slow)
    for name in VIDEO
    for case in CASES
]


@pytest.mark.parametrize(("variant", "mode", "lengths"), RESUMED)
def test_resume_in_the_middle_of_an_epoch_is_exact(make_video_trainer, tmp_path, variant, mode, lengths):
    dataset = mixture() if len(lengths) > 1 else None
    options = {"save_strategy": "steps", "save_steps": 5, "logging_steps": 1, "max_steps": 9}
    whole = make_video_trainer(variant, "whole", mode, dataset, lengths, **options)
    whole.train()
    resumed = make_video_trainer(variant, "resumed", mode, dataset, lengths, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-5"))
    assert logged(resumed) == logged(whole) and len(logged(whole)) == 9
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("variant", VIDEO)
def test_accumulation_equals_a_larger_batch(make_video_trainer, variant):
    once = make_video_trainer(variant, "once", max_steps=2, per_device_train_batch_size=4)
    once.train()
    twice = make_video_trainer(
        variant, "twice", max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    twice.train()
    expected = once.model.state_dict()
    for name, value in twice.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VIDEO)
def test_the_evaluation_loss_of_a_clip_does_not_depend_on_its_batch(make_video_trainer, variant):
    found = []
    for batch in (1, 4, 16):
        trainer = make_video_trainer(variant, frame_counts=(4, 8), per_device_eval_batch_size=batch)
        if hasattr(trainer.model.config, "predict_context"):  # what that adds to the loss is a number of the batch
            trainer.model.config.predict_context = False
        found.append(trainer.evaluate(mixture(9))["eval_loss"])
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-5)


@pytest.mark.parametrize("variant", VIDEO)
def test_the_evaluation_loss_is_that_of_the_model(make_video_trainer, variant):
    trainer = make_video_trainer(variant, per_device_eval_batch_size=4)
    clips = MovingDigits(4, num_frames=4)
    batch = trainer._complete(trainer.data_collator([clips[i] for i in range(4)]), step=0, epoch=0)
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).loss.item()
    assert trainer.evaluate(clips)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_groups_get_masks_of_their_own_grid_and_mask_token(make_video_trainer):
    trainer = make_video_trainer(frame_counts=(8, 4))
    dataset = mixture()
    inputs = trainer._complete(trainer.data_collator([dataset[i] for i in range(8)]))
    assert inputs.pop("step") == 0
    assert [clips.shape[1] for clips in inputs["pixel_values_videos"]] == [8, 4]
    names = ("pixel_values_videos", "context_mask", "target_mask")
    for clips, contexts, targets in zip(*(inputs[name] for name in names), strict=True):
        tokens = clips.shape[1] // 2 * 64
        for context, target in zip(contexts, targets, strict=True):
            both = torch.cat([context, target], dim=1)
            assert len(context) == len(clips) and both.max() < tokens
            assert all(len(row.unique()) == len(row) for row in both)
        assert max(mask.max() for mask in targets) >= tokens - 64  # the last frame, too


def test_batches_that_lack_a_length_train(make_video_trainer):
    """Of two clips, both may have one length."""
    options = {"per_device_train_batch_size": 2, "max_steps": 16, "logging_steps": 1}
    trainer = make_video_trainer(dataset=mixture(), frame_counts=(4, 8), **options)
    seen, original = set(), trainer.take_skipped

    def spy(inputs, *args):
        clips = inputs["pixel_values_videos"]
        seen.add(clips.shape[1] if isinstance(clips, torch.Tensor) else len(clips))
        return original(inputs, *args)

    trainer.take_skipped = spy
    trainer.train()
    assert seen == {2, 4, 8} and trainer.collapse_monitor.verdict == "healthy"
    assert trainer.state.total_flos > 0


@pytest.mark.parametrize("variant", VIDEO)
def test_a_run_on_clips_says_what_one_on_images_does(make_video_trainer, capsys, variant):
    trainer = make_video_trainer(variant, max_steps=2, logging_steps=1)
    trainer.train()
    entry = trainer.state.log_history[0]
    lengths = trainer.mask_sampler.lengths
    assert entry["context_tokens"] == sum(context for context, _ in lengths) / 2
    assert entry["target_tokens"] == sum(target for _, target in lengths) / 2
    assert entry["image_share"] > 0 and entry["verdict"] == "healthy"
    assert re.search(r"skipped clips +0\n", capsys.readouterr().out)
    assert trainer._run_facts()["Optimizer steps"] == "2 of 4 clips, 1 process(es)"


def test_masks_of_another_grid_are_refused(make_video_trainer):
    trainer = make_video_trainer(frame_counts=(8,), dataset=MovingDigits(8, num_frames=8))
    trainer.mask_sampler = build_video_mask_sampler(grid_size=(2, 8, 8))
    message = "masks are drawn on a grid of (2, 8, 8) tokens, but the clips are (4, 8, 8) tokens"
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.train()


def test_several_lengths_need_a_sampler_for_each(make_video_trainer):
    trainer = make_video_trainer(frame_counts=(4, 8), dataset=mixture())
    trainer.mask_sampler = build_video_mask_sampler(grid_size=(2, 8, 8))
    with pytest.raises(ValueError, match=r"a grid of \(2, 8, 8\) tokens, but the clips are \(4, 8, 8\) tokens"):
        trainer.train()


@pytest.mark.parametrize("batch", [4, 1])  # of one clip, the broken one has a batch to itself
def test_unreadable_and_short_videos_are_named_counted_and_skipped(make_video_trainer, clip_folder, caplog, batch):
    sampling = ClipSampling(4, frame_step=2)
    dataset = VideoDataset(load_videos(clip_folder), clip_pretraining_transform(64), sampling)
    trainer = make_video_trainer(dataset=dataset, max_steps=-1, num_train_epochs=2, per_device_train_batch_size=batch)
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    broken, short = sorted(trainer.skipped)
    assert "broken.mp4" in broken
    assert "short" in short and "the video has 3 frames, a clip of 4 x 2 needs 7" in short
    assert caplog.text.count("skipped one of the clips") == 2  # in two epochs


def test_data_of_which_nothing_can_be_read_is_refused(make_video_trainer, tmp_path):
    rows = [{"video": b"no video"}] * 40
    dataset = VideoDataset(rows, clip_pretraining_transform(64), ClipSampling(4, frame_step=1))
    with pytest.raises(ValueError, match="none of the first 20 clips can be read"):
        make_video_trainer(dataset=dataset).train()
    with pytest.raises(ValueError, match="none of the evaluation clips can be read"):
        make_video_trainer(max_steps=1).evaluate(VideoDataset(rows[:4], *(dataset.transform, dataset.sampling)))


@pytest.mark.parametrize("options", [{"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 8}])
def test_a_few_videos_of_which_none_can_be_read_are_refused(make_video_trainer, options):
    rows = [{"video": b"no video"}] * 4
    dataset = VideoDataset(rows, clip_pretraining_transform(64), ClipSampling(4, frame_step=1))
    with pytest.raises(ValueError, match=r"none of the first (8|20) clips can be read:\nrow \d"):
        make_video_trainer(dataset=dataset, **options).train()


def test_a_blank_batch_of_several_lengths_moves_nothing(make_video_trainer):
    trainer = make_video_trainer(frame_counts=(4, 8))
    rows = [{"video": b"no video"}]
    dataset = VideoDataset(rows, clip_pretraining_transform(64), ClipSampling(8, frame_step=1))
    model = trainer.model.train()
    loss = trainer.compute_loss(model, trainer._complete(VideoCollator()([dataset[0]])))
    loss.backward()
    assert not any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


class _Norms(TrainerCallback):
    """Norms of the gradients of encoder and predictor as the optimizer sees them."""

    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        norms = {}
        for part, modules in (("encoder", model.context_encoder), ("predictor", model.predictor)):
            gradients = [p.grad for p in modules.parameters() if p.grad is not None]
            norms[part] = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        self.found.append(norms)


def test_clipping_after_the_warmup_holds_encoder_and_predictor_apart(make_video_trainer):
    norms = _Norms()
    options = {"max_grad_norm": 1e-3, "clip_after_warmup": True, "max_steps": 4, "warmup_steps": 2, "logging_steps": 1}
    trainer = make_video_trainer(callbacks=[norms], **options)
    trainer.train()
    for before in norms.found[:2]:
        assert min(before.values()) > 2e-3
    for after in norms.found[2:]:
        assert after == pytest.approx({"encoder": 1e-3, "predictor": 1e-3}, rel=1e-3)
    for step, norm in logged(trainer, "grad_norm").items():
        assert norm > 2e-3, step  # as it was before clipping


def test_clipping_as_usual_is_of_the_whole_model(make_video_trainer):
    norms = _Norms()
    make_video_trainer(callbacks=[norms], max_grad_norm=1e-3, max_steps=1).train()
    (found,) = norms.found
    assert (found["encoder"] ** 2 + found["predictor"] ** 2) ** 0.5 == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"learning_rate": 1e-3, "final_learning_rate": 1e-3, "warmup_steps": 2}, ("cosine", None)),  # then constant
        ({"learning_rate_schedule": "linear", "warmup_steps": 0}, ("linear", None)),  # cooldown
        (
            {"learning_rate_schedule": "linear", "learning_rate_decay_steps": 3},
            ("linear", 3),
        ),  # warm-up, stable, decay
    ],
)
def test_learning_rates_of_the_video_recipes(make_video_trainer, options, form):
    trainer = make_video_trainer(max_steps=8, logging_steps=1, **options)
    trainer.train()
    args = trainer.args
    rates = args.start_learning_rate, args.learning_rate, args.final_learning_rate
    expected = [learning_rate_at(step, 8, args.warmup_steps, *rates, *form) for step in range(8)]
    assert list(logged(trainer, "learning_rate").values()) == pytest.approx(expected)


def test_the_context_loss_grows_with_the_step(make_video_trainer):
    scales = []

    class WithContextLoss(VJepa2ForPreTraining):
        def forward(self, *args, context_loss_scale=1.0, **kwargs):
            scales.append(float(context_loss_scale))
            return super().forward(*args, **kwargs)

    trainer = make_video_trainer(max_steps=8, context_loss_start_step=2, context_loss_end_step=6)
    trainer.model.__class__ = WithContextLoss
    trainer.train()
    assert scales == pytest.approx([context_loss_weight_at(step, 1.0, 2, 6) for step in range(8)])
    scales.clear()
    trainer.evaluate(MovingDigits(4, num_frames=4))
    assert set(scales) == {1.0}  # so that evaluations compare


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_loss_start_step": 5}, "cannot grow from step context_loss_start_step=5 to"),
        ({"clip_after_warmup": True}, "max_grad_norm=0.0 clips nothing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(make_video_trainer, options, message):
    with pytest.raises(ValueError, match=message):
        make_video_trainer(**options)


def test_clips_of_the_fixture_fit_the_model():
    assert CLIPS["crop_size"] == MovingDigits(1, num_frames=4)[0]["pixel_values_videos"].shape[-1]
