"""The program behind the video pretraining script: sources, masks, recipes, other resolutions, several processes."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from scripts import launch, run_script
from tiny_training import CLIPS, VIDEO

from hf_jepa.cli.train import program
from hf_jepa.data.moving_digits import MEAN, MovingDigits
from hf_jepa.data.video_transforms import ClipRandomResizedCrop
from hf_jepa.masking.block_mask import VJEPA21_IMAGE_MASKS, VJEPA_MASKS, BlockMask
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.pretrain_video import (
    VideoMaskArguments,
    VideoPretrainingArguments,
    build_video_model,
    clip_processor,
    pretrain,
    token_grids,
)
from hf_jepa.training.recipe import parse_recipe
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.training.video_sources import build_dataset


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts/pretrain_vjepa.py"
CONFIGS = ROOT / "training_scripts/configs"
TYPES = (VideoPretrainingArguments, VideoMaskArguments, JepaTrainingArguments)
TUNED = ("finetune_", "anticipate_")
RECIPES = [
    path for name in VIDEO for path in sorted((CONFIGS / name).glob("*.yaml")) if not path.name.startswith(TUNED)
]


def tiny(variant: str, **fields) -> dict:
    return VARIANTS[variant].tiny | CLIPS | fields


@pytest.fixture
def run_program(tmp_path):
    """`pretrain` on moving digits, 4 clips an optimizer step."""

    def run(variant, name="run", **options):
        common = {
            "dataset": "moving_digits",
            "generated_length": 32,
            "model_config": tiny(variant),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "output_dir": tmp_path / name,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        spelled = {key: json.dumps(x) if isinstance(x, dict) else x for key, x in (common | options).items()}
        return pretrain(variant, [f"--{key}={value}" for key, value in spelled.items() if value is not None])

    return run


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_parse_and_build(path, tmp_path):
    values = yaml.safe_load(path.read_text())
    options = ["--use_cpu", "true", "--bf16", "false", "--output_dir", str(tmp_path)]
    arguments, masks, training = parse_recipe(TYPES, [str(path), *options])
    sizes = {source.frames_per_clip for source in arguments.sources().values()}
    variant = VARIANTS[path.parent.name]
    if arguments.model_name_or_path:  # which would have to be trained first: a cooldown of the largest model
        largest = "vit_gigantic" if path.parent.name == "vjepa2_1" else "vit_giant"
        arguments.model_name_or_path, arguments.model_size = None, largest
    with torch.device("meta"):
        model = build_video_model(variant, arguments)
    grids = token_grids(model, arguments.clip_sizes(model.config))
    assert len(grids) == len(sizes)
    sampler = masks.sampler(grids, seed=0)
    index = [torch.arange(2)] * len(grids)
    drawn = sampler(index, grid_size=list(grids.values()), step=0) if len(grids) > 1 else [sampler(index[0], step=0)]
    assert all(len(one.context_mask) == len(one.target_mask) >= 1 for one in drawn)
    assert training.max_steps == values["max_steps"]
    if path.stem != "tiny":
        weights = [source.weight for source in arguments.sources().values()]
        assert len(weights) == 1 or sum(weights) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("variant", ["vjepa", "vjepa2"])
def test_images_that_a_model_repeats_are_no_clips_of_one_frame(variant):
    variant = VARIANTS[variant]
    model = variant.model_class()(variant.config_class()(**(variant.tiny | CLIPS | {"frames_per_clip": 2})))
    with pytest.raises(ValueError, match="repeats an image to the length of its clips"):
        token_grids(model, [(2, 64, 64), (1, 64, 64)])


def test_masks_of_a_recipe():
    grids = {4: (2, 8, 8), 1: (1, 8, 8)}
    both = VideoMaskArguments().sampler(grids, seed=3)
    assert isinstance(both, MultiSequenceMaskSampler) and both.grid_sizes == list(grids.values())
    clips, images = both.samplers
    assert (clips.masks, images.masks, clips.seed) == (VJEPA_MASKS, VJEPA21_IMAGE_MASKS, 3)
    alone = VideoMaskArguments(masks={"one": {"num_blocks": 2, "spatial_scale": [0.2, 0.3]}}).sampler(
        {4: (2, 8, 8)}, 0
    )
    assert alone.masks == (BlockMask(2, (0.2, 0.3)),)
    spelled = VideoMaskArguments(masks='{"one": {"num_blocks": 2, "spatial_scale": [0.2, 0.3]}}')
    assert spelled.sampler({4: (2, 8, 8)}, 0) == alone
    tubes = VideoMaskArguments(mask_mode="official", mask_kind="random_tube", tube_ratio=[0.5]).sampler(grids, 0)
    assert [sampler.ratio for sampler in tubes.samplers] == [(0.5,), (0.5,)]
    with pytest.raises(ValueError, match="masks='vjepa3' is not one of vjepa, vjepa2_1_image"):
        VideoMaskArguments(masks="vjepa3").sampler(grids, 0)


def build(config: dict, **options):
    arguments = VideoPretrainingArguments(**options)
    config = VARIANTS["vjepa2"].config_class()(**tiny("vjepa2", **config))
    return build_dataset(arguments, config, clip_processor(arguments, config), seed=3)


def test_a_source_is_read_as_the_recipe_says(clip_folder):
    options = {"fps": 5, "folder_fps": 10, "short_videos": "pad", "crop_scale": [0.9, 1.0], "horizontal_flip": False}
    dataset = build({}, dataset=str(clip_folder), frame_sampling="official", **options)
    assert dataset.seed == 3 and len(dataset) == 10
    sampling = dataset.sampling
    assert (sampling.frames_per_clip, sampling.fps, sampling.frame_step) == (4, 5, None)
    assert (sampling.mode, sampling.short_videos, dataset.folder_fps) == ("official", "pad", 10)
    crop = next(step for step in dataset.transform.steps if isinstance(step, ClipRandomResizedCrop))
    assert crop.scale == (0.9, 1.0) and len(dataset.transform.steps) == 4  # and tensor, unit, normalise
    assert dataset[1]["pixel_values_videos"].shape == (4, 3, 64, 64)


def test_labels_of_pretraining_data_play_no_part(clip_folder, tmp_path):
    (tmp_path / "list.csv").write_text(f"{clip_folder}/clip0 3\n{clip_folder}/clip1 5\n")
    dataset = build({}, dataset=str(tmp_path / "list.csv"), frame_step=2)
    assert set(dataset[0]) == {"pixel_values_videos", "sample_index"} and len(dataset) == 2


def test_sources_have_weights_and_lengths_of_their_own(clip_folder, photos):
    sources = {
        "digits": {"path": "moving_digits", "weight": 3},
        "clips": {"path": str(clip_folder), "frames_per_clip": 8, "frame_step": 1, "crop_size": 32},
        "photos": {"path": str(photos), "images": True, "frames_per_clip": 1},
    }
    dataset = build({}, dataset=sources, fps=5, epoch_length=300, generated_length=7)
    assert len(dataset) == 300 and [len(source) for source in dataset.sources[:1]] == [7]
    assert isinstance(dataset.sources[0], MovingDigits) and dataset.sources[1].sampling.frame_step == 1
    found = [dataset[i] for i in range(60)]
    shapes = {tuple(sample["pixel_values_videos"].shape) for sample in found if isinstance(sample, dict)}
    assert shapes == {(4, 3, 64, 64), (8, 3, 32, 32), (1, 3, 64, 64)}
    share = sum(dataset.draw(i)[0] == 0 for i in range(300)) / 300
    assert 0.5 < share < 0.7
    assert all("labels" not in sample for sample in found if isinstance(sample, dict))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": None}, "dataset is missing"),
        ({"dataset": {"a": {"weight": 1}}}, "source 'a' is {'weight': 1}: expected path and any of weight, split"),
        ({"dataset": {"a": {"path": "x", "wait": 1}}}, "source 'a' is .*'wait': 1"),
        ({"dataset": {"a": {"path": "x"}, "b": {"path": "y", "crop_size": 32}}}, "equally many frames must have one"),
        ({"dataset": {"a": {"path": "moving_digits", "crop_size": 32}}}, "moving digits have 64 x 64 pixels"),
        (
            {"dataset": {"a": {"path": "moving_digits", "weight": 0}, "b": {"path": "moving_digits"}}},
            "weights must be positive",
        ),
        ({"model_config": {"hiden_size": 32}}, r"VJepa2Config has no field hiden_size \(did you mean hidden_size"),
        ({"mask_mode": "oficial"}, "oficial"),
        ({"clip_after_warmup": True}, "max_grad_norm=0.0 clips nothing"),
        ({"final_momentum": 1.5}, "final_momentum=1.5 is outside"),
        ({"context_loss_end_step": 5}, "VJepa2ForPreTraining has no loss on visible tokens"),
    ],
)
def test_wrong_values_are_refused_before_the_training(run_program, options, message):
    with pytest.raises(ValueError, match=message):
        run_program("vjepa2", **options)


def test_the_card_does_not_tell_where_local_sources_lie(run_program, clip_folder, tmp_path):
    sources = {"a": {"path": str(clip_folder), "frame_step": 2}, "b": {"path": "moving_digits", "weight": 2}}
    run_program("vjepa2", dataset=sources)  # spelled as JSON on the command line
    card = (tmp_path / "run/README.md").read_text()
    assert str(tmp_path) not in card
    recipe = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert recipe["dataset"]["a"] == {"path": clip_folder.name, "frame_step": 2}


def test_videos_without_a_distance_of_frames_are_refused(run_program, clip_folder):
    with pytest.raises(ValueError, match="exactly one of fps, frame_step and duration, got none"):
        run_program("vjepa2", dataset=clip_folder)


@pytest.mark.parametrize("variant", VIDEO)
def test_a_checkpoint_is_continued_on_longer_and_larger_clips(run_program, tmp_path, variant):
    start = run_program(variant, "start").model
    larger = {"path": "moving_digits", "frames_per_clip": 8}
    options = {"model_name_or_path": tmp_path / "start", "dataset": {"digits": larger}}
    model = run_program(variant, "longer", model_config={"frames_per_clip": 8}, max_steps=1, **options).model
    assert (model.config.frames_per_clip, model.config.grid_size) == (8, (4, 8, 8))
    arguments = VideoPretrainingArguments(
        model_name_or_path=str(tmp_path / "start"), model_config={"crop_size": 96, "frames_per_clip": 8}
    )
    continued = build_video_model(VARIANTS[variant], arguments)
    assert continued.config.grid_size == (4, 12, 12) and not any(
        p.requires_grad for p in continued.target_encoder.parameters()
    )
    parameters = dict(continued.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in start.named_parameters())
    fresh = VARIANTS[variant].model_class()(continued.config)  # fixed tables are those of the new size
    buffers = dict(continued.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in fresh.named_buffers())
    continued(torch.randn(1, 8, 3, 96, 96), [torch.arange(9)[None]], [torch.arange(500, 576)[None]]).loss.backward()


def test_a_checkpoint_goes_on_without_its_target_encoder_and_gets_one_again(tmp_path):
    def continued(name: str, **fields):
        arguments = VideoPretrainingArguments(model_name_or_path=str(tmp_path / name), model_config=fields)
        return build_video_model(VARIANTS["vjepa2"], arguments)

    start = VARIANTS["vjepa2"].model_class()(VARIANTS["vjepa2"].config_class()(**tiny("vjepa2")))
    start.context_encoder.layernorm.weight.data.fill_(2.0)
    start.save_pretrained(tmp_path / "start")
    alone = continued("start", target_source="shared", sigreg_weight=0.1)
    assert alone.config.sigreg_weight == 0.1 and alone.context_encoder is alone.target_encoder
    alone.save_pretrained(tmp_path / "alone")
    again = continued("alone", target_source="ema", sigreg_weight=0.0)
    kept = dict(start.target_encoder.named_parameters())
    for encoder in (alone.context_encoder, again.target_encoder, again.context_encoder):
        assert all(torch.equal(value, kept[name]) for name, value in encoder.named_parameters())


def test_what_the_weights_do_not_fit_is_refused(run_program, tmp_path):
    run_program("vjepa2", "start", max_steps=1)
    arguments = VideoPretrainingArguments(model_name_or_path=str(tmp_path / "start"))
    arguments.model_config = {"hidden_size": 64, "crop_size": 32}
    with pytest.raises(
        ValueError, match=r"hidden_size 64 instead of 32, crop_size 32 instead of 64 does not fit \d+ of"
    ):
        build_video_model(VARIANTS["vjepa2"], arguments)
    arguments.model_config = {"crop_sise": 32}
    with pytest.raises(ValueError, match="no field crop_sise"):
        build_video_model(VARIANTS["vjepa2"], arguments)


def test_a_checkpoint_without_changes_brings_its_own_config(run_program, tmp_path):
    start = run_program("vjepa2", "start", max_steps=1).model
    arguments = VideoPretrainingArguments(
        model_name_or_path=str(tmp_path / "start"), model_config={"crop_size": 64}, model_size="vit_huge"
    )
    model = build_video_model(VARIANTS["vjepa2"], arguments)
    expected = start.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_processors_say_how_pixels_were_normalised(tmp_path):
    config = VARIANTS["vjepa2"].config_class()(**tiny("vjepa2"))
    digits = clip_processor(VideoPretrainingArguments(dataset="moving_digits"), config)
    assert digits.image_mean == (MEAN,) * 3 and digits.size.shortest_edge == 64
    mixed = {"digits": {"path": "moving_digits"}, "clips": {"path": "clips"}}
    assert clip_processor(VideoPretrainingArguments(dataset=mixed), config).image_mean[0] == 0.485
    VJepa2VideoProcessor.from_config(config, image_mean=[0.1] * 3).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    arguments = VideoPretrainingArguments(dataset="x", model_name_or_path=str(tmp_path))
    assert clip_processor(arguments, config).image_mean == (0.1,) * 3
    config.crop_size = 96
    larger = clip_processor(arguments, config)
    assert (larger.image_mean, larger.crop_size["height"]) == ((0.1,) * 3, 96)


def test_the_program_resumes_where_it_is_asked_to(run_program, tmp_path):
    whole = run_program("vjepa2", "whole", max_steps=4, save_steps=2)
    options = {"max_steps": 4, "resume_from_checkpoint": tmp_path / "whole/checkpoint-2"}
    resumed = run_program("vjepa2", "resumed", **options)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        pretrain("vjepa2", ["--help"], "what it does")
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for kind in TYPES[:2] for name in kind.__dataclass_fields__)


@pytest.mark.slow  # by default the commands of the documents launch the program
@pytest.mark.parametrize("variant", VIDEO)
def test_tiny_recipe_runs_under_accelerate_launch(tmp_path, variant):
    options = ["--output_dir", tmp_path, "--max_steps", 20, "--use_cpu", "true"]
    done = launch(SCRIPT, variant, CONFIGS / variant / "tiny.yaml", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"verdict +healthy", done.stdout) and re.search(r"skipped clips +0\n", done.stdout)
    model_class = VARIANTS[variant].model_class()
    assert model_class.from_pretrained(tmp_path).config.hidden_size == 64
    assert VJepa2VideoProcessor.from_pretrained(tmp_path).image_mean == (MEAN,) * 3
    card = str(ModelCard.load(tmp_path / "README.md"))
    assert "verdict healthy" in card and "20 of 8 clips" in card and "MaskSampler(" in card
    assert str(tmp_path) not in card
    (fields,) = re.findall(r"```yaml\n(.*?)```", card, flags=re.DOTALL)
    (tmp_path / "again.yaml").write_text(fields)
    arguments, _, training = parse_recipe(TYPES, [str(tmp_path / "again.yaml"), "--output_dir", str(tmp_path)])
    assert (arguments.generated_length, training.max_steps) == (2048, 20)


def test_the_script_wants_a_variant_of_its_modality(monkeypatch, capsys):
    called = []
    monkeypatch.setattr("hf_jepa.training.pretrain_video.pretrain", lambda *args, **kwargs: called.append(args))
    assert run_script(SCRIPT, "vjepa2", "b.yaml", "--seed", "1").returncode == 0
    assert called == [("vjepa2", ["b.yaml", "--seed", "1"])]
    for given in ([], ["a.yaml"], ["ijepa", "a.yaml"]):
        done = run_script(SCRIPT, *given)
        assert done.returncode == 2 and "variant" in done.stderr and len(called) == 1, done
        assert not given or re.search(rf"{given[0]}.*choose from vjepa, vjepa2", done.stderr.replace("'", "")), done


def test_the_command_line_finds_the_program_of_the_modality():
    assert program(VARIANTS["vjepa2"]) == pretrain.__module__
    assert program(VARIANTS["llm_jepa"]) == "hf_jepa.training.finetune_llm_jepa"
    assert program(VARIANTS["data2vec_text"]) is None


@pytest.mark.slow  # `make test-distributed` compares the trainer, and starts the program
@pytest.mark.parametrize("variant", VIDEO)
def test_two_processes_equal_one(tmp_path, variant):
    recipe = CONFIGS / variant / "tiny.yaml"
    common = ["--dataset", "moving_digits", "--max_steps", 3, "--use_cpu", "true", "--logging_steps", 1]
    # Mask tokens start at zero, so that queries of the predictor have gradients of rounding errors at first, which
    # AdamW would make into steps of full length.
    common += ["--adam_epsilon", "1e-3"]
    options = ["--output_dir", tmp_path / "two", *common, "--per_device_train_batch_size", 4]
    two = launch(SCRIPT, variant, recipe, *options, processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("'loss'") == 3, two.stdout
    options = ["--output_dir", tmp_path / "one", *common, "--per_device_train_batch_size", 8]
    one = launch(SCRIPT, variant, recipe, *options)
    assert one.returncode == 0, one.stderr[-3000:]
    load = VARIANTS[variant].model_class().from_pretrained
    found, expected = (load(tmp_path / name).state_dict() for name in ("two", "one"))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_two_processes_go_past_a_corrupt_video(tmp_path, clip_folder):
    """With two lengths, of which batches of a process may lack one."""
    sources = {
        "a": {"path": str(clip_folder), "frame_step": 1},
        "b": {"path": str(clip_folder), "frame_step": 1, "frames_per_clip": 16},
    }
    options = ["--dataset", json.dumps(sources), "--max_steps", 8, "--per_device_train_batch_size", 2]
    options += ["--use_cpu", "true", "--epoch_length", 64, "--output_dir", tmp_path / "out"]
    done = launch(SCRIPT, "vjepa2", CONFIGS / "vjepa2/tiny.yaml", *options, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    # The broken one, and the short one once for every length that it is too short for.
    assert re.search(r"skipped clips +3\n", done.stdout), done.stdout[-2000:]


def test_a_run_says_where_its_teacher_comes_from(tmp_path):
    variant = VARIANTS["salt"]
    variant.model_class()(variant.config_class()(**tiny("salt", teacher_config=None))).save_pretrained(tmp_path / "t")
    arguments = VideoPretrainingArguments(teacher_name_or_path=str(tmp_path / "t"))
    arguments.model_config = tiny("salt", teacher_config=None)
    model = build_video_model(variant, arguments)
    trainer = JepaTrainer(model, JepaTrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none"))
    assert trainer.run_settings()["model"]["starts_from"] == "t"
    assert str(tmp_path) not in model.config.to_json_string()
