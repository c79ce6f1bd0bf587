"""The diagnosis names what is wrong with runs broken on purpose, and does not accuse the run they come from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from broken_runs import BROKEN, HEALTHY, MASKS, TRAINER, train
from perturbed import perturbed

from hf_jepa.masking.masks import Masks
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training import pretrain_image
from hf_jepa.training.diagnosis.findings import ADVICE
from hf_jepa.training.diagnosis.rules import diagnose
from hf_jepa.training.diagnosis.runs import Run, read_run, run_of
from hf_jepa.training.diagnosis.signals import SIGNALS, EncoderChange, GradientAgreement, task_signals


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("healthy")
    train(folder, HEALTHY)
    return read_run(folder)


def causes(run: Run) -> list[str]:
    return [finding.cause for finding in diagnose(run).findings]


def test_a_healthy_run_is_not_accused(healthy):
    diagnosis = diagnose(healthy)
    assert (diagnosis.verdict, diagnosis.findings, diagnosis.notes) == ("healthy", [], [])
    assert any(line.startswith("prediction_image_cosine") for line in diagnosis.evidence)


@pytest.mark.parametrize("cause", BROKEN)
def test_the_cause_of_a_broken_run_is_named(cause, tmp_path):
    train(tmp_path, BROKEN[cause])
    diagnosis = diagnose(read_run(tmp_path))
    assert diagnosis.verdict == "sick"
    (finding,) = diagnosis.findings
    assert finding.cause == cause and finding.advice == ADVICE[cause] and len(finding.evidence) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("steps", [48, 60])
def test_causes_are_named_whatever_the_seed(steps, tmp_path):
    named = {}
    for cause, changes in ({"healthy": HEALTHY} | BROKEN).items():
        for seed in range(3):
            train(tmp_path / f"{cause}-{seed}", changes, seed, max_steps=steps)
            named[cause, seed] = causes(read_run(tmp_path / f"{cause}-{seed}"))
    wrong = {key: found for key, found in named.items() if set(found) - {key[0]}}
    assert not wrong  # no other cause, and none of a healthy run
    right = {cause: sum(bool(named[cause, seed]) for seed in range(3)) for cause in BROKEN}
    assert min(right.values()) >= 2, right


# --- settings alone accuse nobody ------------------------------------------------------------------------------------


def changed(run: Run, settings: dict | None = None, config: dict | None = None, **signals) -> Run:
    """A run whose log says other things from the second entry on; a signal that is None was not logged."""
    log = [entry | (signals if i else {}) for i, entry in enumerate(run.log)]
    log = [{name: value for name, value in entry.items() if value is not None} for entry in log]
    return replace(run, log=log, settings=run.settings | (settings or {}), config=run.config | (config or {}))


def test_odd_settings_of_a_run_without_damage_are_notes(healthy):
    learnt = {"prediction_image_cosine": 0.4}
    for odd, word in (
        (changed(healthy, momentum=0.5, **learnt), "momentum too low?"),
        (changed(healthy, {"batch_size": 2}, **learnt), "batch too small?"),
        (
            changed(healthy, {"model": {"parameters": {"context_encoder": 10, "predictor": 99}}}, **learnt),
            "predictor too strong?",
        ),
    ):
        diagnosis = diagnose(odd)
        assert diagnosis.verdict == "healthy" and any(note.startswith(word) for note in diagnosis.notes), word


def test_a_teacher_is_no_frozen_target(healthy):
    frozen = changed(healthy, config={"target_source": "frozen"}, target_change=0.0)
    assert causes(frozen) == ["frozen target"]
    taught = changed(frozen, {"model": {"starts_from": "teacher", "parameters": {}}})
    assert causes(taught) == [] and "the frozen target is a teacher: teacher" in diagnose(taught).notes
    pixels = changed(frozen, config={"target_source": "frozen", "teacher_config": None})
    assert causes(pixels) == []
    assert causes(changed(frozen, config={"target_source": "frozen", "teacher_config": {}})) == ["frozen target"]


def test_momentum_of_one_throughout_freezes_the_target(healthy):
    stands = changed(healthy, momentum=1.0, target_change=0.0)
    stands.log[0]["momentum"] = 1.0
    assert causes(stands) == ["frozen target"]


def test_a_leak_is_told_by_arithmetic_where_it_was_not_measured(healthy):
    old = changed(healthy, **dict.fromkeys(SIGNALS))
    old = replace(old, log=[{k: v for k, v in entry.items() if k not in SIGNALS} for entry in old.log])
    assert diagnose(old).verdict == "healthy" and any("not logged" in note for note in diagnose(old).notes)
    assert causes(changed(old, context_tokens=33.0)) == ["leak"]


def test_what_shows_at_once_is_told_of_a_short_run_and_nothing_else(healthy):
    short = replace(healthy, log=healthy.log[:3], steps=6)
    diagnosis = diagnose(short)
    assert diagnosis.verdict == "too short" and diagnosis.findings == []
    assert "the log ends at step 6 of 48" in diagnosis.notes
    assert causes(replace(short, log=[entry | {"visible_targets": 0.9} for entry in short.log])) == ["leak"]


def test_a_target_that_follows_slowly_is_not_frozen_while_its_run_is_young(healthy):
    slow = changed(healthy, momentum=0.9995, target_change=1e-6, context_change=0.1)
    slow.log[0]["momentum"] = 0.9995
    assert causes(slow) == ["frozen target"]  # of all its 48 steps
    assert causes(replace(slow, max_steps=1000)) == [] and causes(replace(slow, steps=12, max_steps=12)) == []


def without_masks(run: Run, losses: list[float], **config) -> Run:
    """A run of an objective without target blocks, which logs what such runs do."""
    logged = ("step", "learning_rate", "image_share", "rankme", "verdict")
    log = [{name: entry[name] for name in logged} for entry in run.log]
    log = [entry | {"loss": losses[min(i, len(losses) - 1)]} for i, entry in enumerate(log)]
    return replace(run, log=log, config=config)


def test_a_negative_loss_that_falls_is_learning(healthy):
    assert causes(without_masks(healthy, [-0.1, -0.5], loss_type="cosine")) == []
    assert causes(without_masks(healthy, [0.1, -0.5], loss_type="cosine")) == []
    assert causes(without_masks(healthy, [-0.5, -0.5], loss_type="cosine")) == ["learning rate too low"]


def test_a_loss_that_rises_is_no_low_learning_rate(healthy):
    assert causes(without_masks(healthy, [1.0, 1.2])) == []
    assert causes(without_masks(healthy, [1.0, 1.0])) == ["learning rate too low"]


def test_features_of_views_may_lose_rank(healthy):
    run = without_masks(healthy, [20.0, 15.0])
    fallen = replace(run, log=[entry | {"rankme": 9.0 if i == 0 else 5.0} for i, entry in enumerate(run.log)])
    diagnosis = diagnose(fallen)
    assert (diagnosis.verdict, diagnosis.notes) == ("healthy", [])
    assert causes(changed(fallen, verdict="collapsed")) == ["learning rate too high"]


def test_trouble_without_a_known_cause_is_unclear(healthy):
    assert diagnose(changed(healthy, verdict="shrinking")).verdict == "unclear"
    assert diagnose(changed(healthy, verdict="unknown")).verdict == "healthy"


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_settings_lie_beside_the_weights_of_an_interrupted_run(tmp_path):
    trainer = train(tmp_path / "run", HEALTHY, max_steps=4, save_strategy="steps", save_steps=2, logging_steps=1)
    (tmp_path / "run/trainer_state.json").unlink()
    run = read_run(tmp_path / "run")
    assert [entry["step"] for entry in run.log] == [1, 2, 3, 4] and run.settings["batch_size"] == 32
    assert run.settings["masks"]["target_scale"] == list(MASKS["target_scale"])
    assert run.settings["model"]["starts_from"] is None and run.parameters("predictor") < run.parameters(
        "context_encoder"
    )
    assert "hub_token" not in run.settings["arguments"] and run.argument("learning_rate") == 5e-3
    assert str(tmp_path) not in json.dumps(run.settings)
    assert read_run(tmp_path / "run/checkpoint-2").steps == 2
    assert run_of(trainer).log == run.log


def test_folders_without_a_log_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has no trainer_state.json"):
        read_run(tmp_path)


def test_a_run_that_logged_nothing_is_too_short(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"log_history": [], "global_step": 7, "max_steps": 7}')
    diagnosis = diagnose(read_run(tmp_path))
    assert (diagnosis.verdict, diagnosis.evidence) == (
        "too short",
        ["no loss was logged in 7 steps: lower logging_steps"],
    )


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(config_fields):
    return IJepaForPreTraining(IJepaConfig(**config_fields))  # 6 x 6 tokens


def signals(model, masks: Masks, images: int = 4):
    batch = {"pixel_values": torch.randn(images, 3, 48, 48)} | masks._asdict()
    return task_signals(model, batch, model(**batch))


def places(*tokens: int, images: int = 4) -> torch.Tensor:
    return torch.tensor(tokens).expand(images, -1)


def test_visible_targets_and_their_distance(model):
    top = places(0, 1, 2, 3)
    assert signals(model, Masks([top], [places(6, 7)])).target_distance == 1.0  # the row below
    far = signals(model, Masks([top], [places(18, 30)]))  # three and five rows below
    assert (far.visible_targets, far.target_distance) == (0.0, 4.0)
    half = signals(model, Masks([top], [places(0, 7)]))
    assert (half.visible_targets, half.target_distance) == (0.5, 1.0)
    both = signals(model, Masks([places(0, 1), places(18, 19)], [places(0, 30), places(19, 35)]))
    assert both.visible_targets == 0.5  # in any context


def test_cosine_of_what_is_particular_to_an_image(model):
    batch = {"pixel_values": torch.randn(4, 3, 48, 48), "context_mask": [places(0, 1)], "target_mask": [places(7, 8)]}
    output = model(**batch)
    targets = output.targets
    for predictions, expected in (
        (targets + 100 * torch.randn(1, 2, 32), 1.0),  # wrong for all images alike
        (-targets, -1.0),
        (targets.mean(dim=0, keepdim=True).expand_as(targets), 0.0),  # the position only
    ):
        output.predictions = predictions
        assert task_signals(model, batch, output).prediction_image_cosine == pytest.approx(expected, abs=1e-3)


def test_a_batch_of_one_has_no_signals(model):
    assert signals(model, Masks([places(0, 1, images=1)], [places(7, 8, images=1)]), images=1) is None


def test_change_of_the_encoders_is_that_of_their_function(model):
    change = EncoderChange(torch.randn(4, 3, 48, 48), model)
    before = change.measure(model)
    assert max(map(abs, before.values())) < 1e-5 and model.training
    with torch.no_grad():
        model.context_encoder.layernorm.weight.mul_(3.0)  # another scale says nothing new
    assert abs(change.measure(model)["context_change"]) < 1e-5
    perturbed(model.context_encoder.layers, 1.0)
    after = change.measure(model)
    assert after["context_change"] > 0.1 and abs(after["target_change"]) < 1e-5


def test_agreement_of_gradients_that_point_back_and_forth():
    agreement = GradientAgreement()
    for sign in (1, -1, 1, -1):
        agreement.add(sign * torch.ones(3))
    assert agreement.take() == pytest.approx(-1.0) and agreement.take() is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tiny_recipe_is_not_accused(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_image, "JepaTrainer", TRAINER)
    recipe = Path(__file__).resolve().parents[2] / "training_scripts/configs/ijepa/tiny.yaml"
    options = ["--use_cpu", "true", "--save_strategy", "no", "--logging_steps", "10"]
    pretrain_image.pretrain("ijepa", [str(recipe), *options, "--output_dir", str(tmp_path)])
    assert diagnose(read_run(tmp_path)).verdict == "healthy"
