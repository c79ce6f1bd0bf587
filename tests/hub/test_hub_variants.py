"""Every variant: train, write the card, publish, load, verify, and train on from what was loaded."""

import pytest
import torch
from hub_server import WRITE
from tiny_batches import BATCHES
from tiny_pairs import draw_pairs, make_text_trainer
from torch.utils.data import default_collate
from transformers import AutoModelForPreTraining

from hf_jepa.cli.main import main
from hf_jepa.hub.publish import publish
from hf_jepa.masking.masks import Masks
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.trainer import JepaTrainer


pytestmark = pytest.mark.hub


def make_trainer(variant, folder, model=None, **arguments):
    """A trainer of the tiny model of a variant on one batch, for two steps."""
    if variant.inputs == "text_pairs":
        return make_text_trainer(folder, draw_pairs(4), model=model, max_steps=2, **arguments)
    if model is None:
        torch.manual_seed(0)
        model = variant.model_class()(variant.config_class()(**variant.tiny))
    batch = BATCHES[variant.modality, variant.inputs](model.config)
    batch.pop("step", None)
    masks = {name: batch.pop(name) for name in Masks._fields if name in batch}
    count = len(batch[model.main_input_name])
    rows = [{name: x[i] for name, x in batch.items()} | {"sample_index": i} for i in range(count)]
    options = {"max_steps": 2, "per_device_train_batch_size": count, "logging_steps": 1, "save_strategy": "no"}
    options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True} | arguments
    if variant.inputs == "vision_text":
        from hf_jepa.training.vision_language import VLJepaTrainer, VLJepaTrainingArguments

        arguments = VLJepaTrainingArguments(str(folder), **options)
        return VLJepaTrainer(model, arguments, train_dataset=rows, data_collator=default_collate)
    if variant.inputs == "trajectory":
        from hf_jepa.training.trajectory import TrajectoryTrainer, TrajectoryTrainingArguments

        arguments = TrajectoryTrainingArguments(str(folder), **options)
        processor = variant.processor(model.config) if variant.processor_class else None
        return TrajectoryTrainer(
            model, arguments, train_dataset=rows, data_collator=default_collate, processing_class=processor
        )
    return JepaTrainer(
        model,
        JepaTrainingArguments(str(folder), **options),
        mask_sampler=(lambda index, step, epoch: Masks(**masks)) if masks else None,
        train_dataset=rows,
        data_collator=default_collate,
        processing_class=variant.processor(model.config) if variant.processor_class else None,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_train_card_push_pull_verify_and_train_on(name, hub, client, tmp_path, capsys):
    variant, repo = VARIANTS[name], f"alice/{name}"
    trainer = make_trainer(variant, tmp_path / "run", hub_model_id=repo)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(license="apache-2.0")
    contents = publish(tmp_path / "run", repo).contents
    assert {"README.md", "config.json", "fingerprint.json", "model.safetensors", "run.json"} <= set(contents.files)
    assert contents.left_out == ["training_args.bin"]
    assert set(hub.files(repo)) == {*contents.files, ".gitattributes"} and len(hub.titles(repo)) == 2

    assert main(["verify", repo]) == 0
    assert "fingerprint agrees" in capsys.readouterr().out

    # The objective of LLM-JEPA is a section of an ordinary config, which an Auto class takes for the language model's.
    auto = variant.model_class() if variant.inputs == "text_pairs" else AutoModelForPreTraining
    again = auto.from_pretrained(repo)
    assert type(again) is variant.model_class()
    state = {key: value.clone() for key, value in again.state_dict().items()}
    assert all(torch.equal(value, state[key]) for key, value in trainer.model.state_dict().items())
    if variant.processor_class:
        saved = variant.processor_class.from_pretrained(repo)
        assert saved.to_dict() == trainer.processing_class.to_dict()

    # From equal weights, with a fresh optimizer each: what was loaded trains exactly as what was never saved.
    logs = []
    for i, model in enumerate((trainer.model, again)):
        run = make_trainer(variant, tmp_path / f"on{i}", model)  # which sets the seed of dropout
        run.train()
        logs.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert len(logs[0]) == 2 and logs[0] == logs[1]
    moved = again.state_dict()
    assert all(torch.equal(value, moved[key]) for key, value in trainer.model.state_dict().items())
    assert any(not torch.equal(value, moved[key]) for key, value in state.items())


def test_a_trainer_pushes_its_run_and_no_token(hub, client, tmp_path):
    """`training_args.bin`, which it uploads too, is a pickle of the arguments."""
    trainer = make_trainer(VARIANTS["ijepa"], tmp_path / "run", hub_model_id="alice/run", hub_token=WRITE)
    trainer.train()
    trainer.push_to_hub(license="mit")
    files = hub.files("alice/run")
    assert {"README.md", "config.json", "fingerprint.json", "model.safetensors", "training_args.bin"} <= set(files)
    assert b"license: mit" in files["README.md"] and b"No downstream score" in files["README.md"]
    kept = [*hub.blobs.values(), *(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())]
    assert not any(WRITE.encode() in content for content in kept)
    assert main(["verify", "alice/run"]) == 0
    assert trainer.args.hub_token == WRITE, "the run goes on with its token"
