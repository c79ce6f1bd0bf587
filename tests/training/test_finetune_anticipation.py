"""Action anticipation: what goes in, what is trained, what is measured."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hf_jepa.data.actions import Action, ActionClasses, ActionCollator, ActionDataset, DigitActions, read_actions
from hf_jepa.data.moving_digits import REACH, MovingDigits
from hf_jepa.models.vjepa2.anticipation_vjepa2 import VJepa2ForActionAnticipation
from hf_jepa.registry import VARIANTS
from hf_jepa.training.finetune_anticipation import AnticipationArguments, finetune


ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "training_scripts/configs/vjepa2/anticipate_tiny.yaml")
HEADER = "video,start_frame,stop_frame,verb_class,noun_class\n"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    variant = VARIANTS["vjepa2"]
    torch.manual_seed(0)
    config = variant.config_class()(**(variant.tiny | {"crop_size": 64, "patch_size": 16}))
    variant.model_class()(config).save_pretrained(tmp_path / "pretrained")
    variant.processor(config).save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def run(checkpoint: Path, output: Path, *options: str):
    quiet = ["--use_cpu", "true", "--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"]
    short = ["--max_steps", "3", "--generated_length", "48", "--per_device_train_batch_size", "4"]
    start = ["--model_name_or_path", str(checkpoint), "--output_dir", str(output), "--frames_per_clip", "4"]
    return finetune([RECIPE, *start, *quiet, *short, *options])


@pytest.mark.parametrize("mode", ["probe", "lora", "full"])
def test_each_mode_trains_its_part(checkpoint, tmp_path, mode, capsys):
    trainer = run(checkpoint, tmp_path / "out", "--mode", mode, "--learning_rate", "0.01")
    found, info = VJepa2ForActionAnticipation.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    variant = VARIANTS["vjepa2"]
    before = variant.model_class(variant.base_model).from_pretrained(checkpoint).state_dict()
    changed = {key for key, value in found.vjepa2.state_dict().items() if not torch.equal(value, before[key])}
    assert bool(changed) == (mode != "probe")
    assert any("predictor" in key for key in changed) == (mode == "full")  # what is predicted is read
    if mode == "lora":
        assert all(key.endswith(("query.weight", "value.weight")) for key in changed)
    logged = trainer.state.log_history[-1]
    for name in ("verb", "noun", "action"):
        assert 0 <= logged[f"eval_{name}_recall5"] <= 1
    assert "action_recall5" in capsys.readouterr().out


def test_recall_of_the_trainer_is_that_of_its_predictions(checkpoint, tmp_path):
    trainer = run(checkpoint, tmp_path / "out")
    data = trainer.eval_dataset
    batch = ActionCollator()([data[i] for i in range(len(data))])
    with torch.no_grad():
        out = trainer.model.eval()(
            batch["pixel_values_videos"], batch["anticipation_times"], frames_per_second=8.0, mask_index=0
        )
    labels = batch["noun_labels"]
    scores = out.noun_logits.clone()
    scores[:, [c for c in range(10) if c not in labels]] = -torch.inf
    hit = (scores.topk(5).indices == labels[:, None]).any(1)
    recall = torch.stack([hit[labels == c].float().mean() for c in labels.unique()]).mean()
    assert trainer.state.log_history[-1]["eval_noun_recall5"] == pytest.approx(recall.item(), abs=1e-6)


def write_video(path: Path, frames: int = 120, rate: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(frames):
            picture = np.full((64, 64, 3), 2 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def kitchen(tmp_path) -> Path:
    write_video(tmp_path / "kitchen/P01/videos/P01_01.MP4")
    header = "participant_id,video_id,start_frame,stop_frame,verb_class,noun_class\n"
    rows = [f"P01,P01_01,{40 + 10 * i},{60 + 10 * i},{i % 3},{5 + i % 2}\n" for i in range(6)]
    (tmp_path / "kitchen/train.csv").write_text(header + "".join(rows))
    (tmp_path / "kitchen/val.csv").write_text(header + "".join(rows[:4]) + "P01,lost,10,20,0,5\n")
    return tmp_path / "kitchen"


def test_tables_of_epic_kitchens(kitchen, checkpoint, tmp_path):
    tables = ["--train_table", str(kitchen / "train.csv"), "--eval_table", str(kitchen / "val.csv")]
    trainer = run(checkpoint, tmp_path / "out", "--dataset", str(kitchen), *tables)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["num_verbs"], config["num_nouns"], config["num_actions"]) == (3, 2, 6)
    classes = json.loads((tmp_path / "out/action_classes.json").read_text())
    assert classes["nouns"] == [5, 6] and classes["actions"][0] == [0, 5]
    assert [file for file in trainer.skipped if "lost.MP4" in file]


def test_training_clips_of_which_none_can_be_read_are_refused(kitchen, checkpoint, tmp_path):
    lost = (kitchen / "train.csv").read_text().replace("P01_01", "P01_02")
    (kitchen / "lost.csv").write_text(lost)
    tables = ["--train_table", str(kitchen / "lost.csv"), "--eval_table", str(kitchen / "val.csv")]
    with pytest.raises(ValueError, match="none of the first 10 clips can be read"):
        run(checkpoint, tmp_path / "out", "--dataset", str(kitchen), *tables)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_clips_end_before_the_action_or_where_the_official_code_ends(kitchen):
    actions = read_actions(kitchen / "train.csv", kitchen)
    classes = ActionClasses(actions)

    def brightness(frames, rng):
        return torch.from_numpy(frames.mean(axis=(1, 2, 3)))  # about twice the number of the frame

    last = {}
    for anchor in ("start", "official"):
        clips = ActionDataset(actions, classes, brightness, frames_per_clip=4, fps=8, anchor=anchor)
        sample = clips[2]  # frames 60 to 80, at 16 frames per second
        assert sample["anticipation_times"] == 1.0 and sample["verb_labels"] == 2
        last[anchor] = sample["pixel_values_videos"][-1].item() / 2
    assert last["start"] == pytest.approx(60 - 16 - 2, abs=1.5)
    assert last["official"] == pytest.approx(80 - 16 - 2, abs=1.5)


def test_training_draws_times_anew_in_every_epoch(kitchen):
    actions = read_actions(kitchen / "train.csv", kitchen)
    clips = ActionDataset(actions, ActionClasses(actions), lambda f, r: torch.zeros(len(f), 3, 4, 4), 4, train=True)
    first = [clips[i]["anticipation_times"] for i in range(6)]
    assert first == [clips[i]["anticipation_times"] for i in range(6)] and len(set(first)) == 6
    assert all(0.25 <= time <= 1.75 for time in first)
    clips.set_epoch(1)
    assert first != [clips[i]["anticipation_times"] for i in range(6)]


def test_digit_actions_are_where_the_digit_will_be():
    data = DigitActions(length=20, num_frames=4)
    clips = MovingDigits(20, num_frames=4 + 15).batch(range(20))
    for i in range(20):
        sample = data[i]
        row, column = (clips.position[i, 4 + 8 - 1, 0] / REACH * 4).int().clamp(max=3).tolist()
        assert sample["verb_labels"] == 4 * row + column and sample["noun_labels"] == clips.digits[i, 0]
        assert sample["action_labels"] == 10 * sample["verb_labels"] + sample["noun_labels"]
    assert torch.equal(data[3]["pixel_values_videos"], clips.pixel_values_videos[3, :4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "has no actions"),
        ("video,start_frame\na.mp4,3\n", "lacks the columns stop_frame, verb_class, noun_class"),
        (HEADER + "a.mp4,3,9,1,1\na.mp4,x,9,1,1\n", "line 3: invalid literal"),
        (HEADER + "a.mp4,3,9\n", "line 2"),
        (HEADER + "a.mp4,9,3,1,1\n", "line 2: the action stops at frame 3, before its start"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_actions(tmp_path / "table.csv", tmp_path)


def test_wrong_arguments_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="anchor='end' is not one of"):
        AnticipationArguments(model_name_or_path="x", dataset="moving_digits", anchor="end")
    with pytest.raises(ValueError, match="give both"):
        AnticipationArguments(model_name_or_path="x", dataset="/data", train_table="a.csv")
    variant = VARIANTS["vjepa"]
    variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained(tmp_path / "vjepa")
    with pytest.raises(ValueError, match="V-JEPA has no class for action anticipation"):
        run(tmp_path / "vjepa", tmp_path / "out")


def test_classes_are_those_of_all_tables():
    rows = [Action("a", 0, 1, verb=4, noun=2), Action("a", 0, 1, verb=1, noun=2)]
    classes = ActionClasses(rows)
    assert classes.to_dict() == {"verbs": [1, 4], "nouns": [2], "actions": [[1, 2], [4, 2]]}
    with pytest.raises(KeyError):
        classes.labels(Action("a", 0, 1, verb=9, noun=2))
