"""The programs behind the scripts of VL-JEPA: recipes and pairs in, checkpoints and scores out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vl_pairs import CONFIG
from trained_weights import largest_difference, weights
from transformers import AutoConfig, AutoModel, BertModel, LlamaForCausalLM

from hf_jepa.cli.main import main
from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.models.vl_jepa.decoder_vl_jepa import VLJepaForConditionalGeneration
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining, VLJepaModel
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor
from hf_jepa.training.evaluate_vl_jepa import evaluate
from hf_jepa.training.pretrain_vl_jepa import pretrain
from hf_jepa.training.train_vl_jepa_decoder import train
from hf_jepa.training.vision_language import VLJepaTrainer
from hf_jepa.training.vision_text_data import VisionTextArguments


RECIPES = Path(__file__).resolve().parents[2] / "training_scripts/configs/vl_jepa"
SMALL = {"generated_length": 24, "frames_per_clip": 4, "max_steps": 2, "logging_steps": 1, "eval_length": 0}
SMALL |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}


def words(named: dict[str, Any]) -> list[str]:
    """A command line."""
    lists = {name: value for name, value in named.items() if isinstance(value, list)}
    plain = [
        f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in named.items()
        if name not in lists
    ]
    return plain + [word for name, value in lists.items() for word in (f"--{name}", *map(str, value))]


def run(output: str | Path, *recipe: str, **named: Any) -> VLJepaTrainer:
    """The program for two steps of eight pairs."""
    batch = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 0}
    found = [str(RECIPES / name) for name in recipe]
    return pretrain([*found, *words(SMALL | batch | named | {"output_dir": output})])


@pytest.fixture(scope="module")
def stage1(tmp_path_factory) -> Path:
    """The tiny recipe, two steps of it."""
    folder = tmp_path_factory.mktemp("stage1") / "run"
    run(folder, "tiny.yaml", eval_length=12)
    return folder


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tuned(output: str, start: Path, **named: Any) -> VLJepaTrainer:
    """Fine-tuning of what stage 1 gave."""
    return run(output, model_name_or_path=start, dataset="digit_stories", stories_task="both", **named)


# --- the stages ---------------------------------------------------------------------------------------------------


def test_the_tiny_recipe_leaves_a_checkpoint_with_its_processor(stage1):
    model, processor = VLJepaForPreTraining.from_pretrained(stage1), VLJepaProcessor.from_pretrained(stage1)
    assert type(AutoModel.from_pretrained(stage1)) is VLJepaModel
    assert not model.config.freeze_vision and model.config.mask_duplicates
    rows = model.base_model.get_input_embeddings().weight.shape[0]
    assert rows == len(processor.query_tokenizer) == model.config.text_config.vocab_size <= 320
    assert processor.max_target_length == 64
    state = json.loads((stage1 / "trainer_state.json").read_text())
    (measured,) = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert 0 < measured["eval_video_to_text_R@10"] <= 1
    card, settings = (stage1 / "README.md").read_text(), json.loads((stage1 / "run.json").read_text())
    assert "digit_stories" in card and "eval_text_to_video_R@1" in card
    assert settings["arguments"]["text_lr_multiplier"] == 1.0


def test_stages_differ_by_their_queries(stage1):
    processor, seen = VLJepaProcessor.from_pretrained(stage1), {}
    for use_queries in (False, True):
        data = VisionTextArguments(
            dataset="digit_stories", stories_task="both", frames_per_clip=4, use_queries=use_queries
        )
        samples = data.open()
        seen[use_queries] = data.collator(processor)([samples[index] for index in range(16)])
        assert {"target_ids", "target_mask", "target_group", "pixel_values_videos"} <= set(seen[use_queries])
    assert "query_ids" not in seen[False]
    decode = processor.query_tokenizer.decode
    masks = zip(seen[True]["query_ids"], seen[True]["query_mask"], strict=True)
    asked = {decode(ids[mask.bool()]) for ids, mask in masks}
    assert "what happens?" in asked and len(asked) > 3


def test_a_checkpoint_goes_on_with_other_settings(stage1):
    trainer = tuned("run", stage1, model_config={"freeze_vision": True, "freeze_text": True})
    before, after = VLJepaForPreTraining.from_pretrained(stage1).state_dict(), weights(trainer.model)
    changed = {name.split(".")[1] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"predictor", "text_projection", "logit_scale"}
    assert AutoConfig.from_pretrained("run").freeze_text
    card = Path("run/README.md").read_text()
    assert "Starts from" in card and str(stage1) not in card


def test_a_fresh_model_is_made_of_trained_parts(tmp_path):
    torch.manual_seed(0)
    parts = {"vision": CONFIG["vision_config"], "llama": CONFIG["predictor_config"], "bert": CONFIG["text_config"]}
    tokenizer = byte_tokenizer()
    rows = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    for name, fields in parts.items():
        config = AutoConfig.for_model(**fields | ({} if name == "vision" else rows))
        kind = {"vision": AutoModel.from_config, "llama": LlamaForCausalLM, "bert": BertModel}[name]
        kind(config).save_pretrained(name)
        if name != "vision":
            tokenizer.save_pretrained(name)
    fields = {"num_predictor_layers": 2, "projection_dim": 16, "max_target_length": 48}
    named = {"vision": "vision", "init_predictor_from": "llama", "text": "bert", "model_config": fields}
    trainer = run("run", dataset="digit_stories", use_queries=False, **named)
    found, source = trainer.model.base_model, LlamaForCausalLM.from_pretrained("llama")
    assert torch.equal(found.get_input_embeddings().weight, source.get_input_embeddings().weight)
    assert found.config.layer_slice == [1, 3] and found.config.freeze_vision
    assert found.predictor.projection.out_features == 16
    pixels = trainer.data_collator([trainer.train_dataset[0]])["pixel_values_videos"]
    assert pixels.shape == (1, 4, 3, 32, 32)
    assert len(VLJepaProcessor.from_pretrained("run").target_tokenizer) == len(tokenizer)


def test_wrong_settings_are_named(stage1):
    cases = [
        ({"vision": "a", "text": "b"}, "vision, text are given, but not init_predictor_from"),
        ({"model_name_or_path": stage1, "text": "b"}, "brings its own parts: leave out text"),
        (
            {"model_name_or_path": stage1, "model_config": {"projection_dim": 8}},
            "projection_dim is decided by the wei",
        ),
        ({"model_name_or_path": stage1, "model_config": {"freeze_visoin": 1}}, "freeze_visoin"),
        ({"model_config": {"num_predictor_layers": 2}}, "needs predictor_config with its model_type"),
    ]
    for named, message in cases:
        with pytest.raises(ValueError, match=message):
            run("run", dataset="digit_stories", **named)
    with pytest.raises(ValueError, match="dataset is missing"):
        run("run", model_name_or_path=stage1)
    with pytest.raises(ValueError, match="source 'a' is .*: expected path and any of weight"):
        run("run", model_name_or_path=stage1, dataset={"a": {"wieght": 1}})


def test_a_checkpoint_without_its_vision_encoder_is_continued_with_it(stage1):
    frozen = {"model_config": {"freeze_vision": True}}
    trainer = tuned("small", stage1, save_vision=False, **frozen)
    with pytest.raises(ValueError, match="lacks .* weights"):
        tuned("again", "small", **frozen)
    VLJepaForPreTraining.from_pretrained(stage1).base_model.vision_model.save_pretrained("encoder")
    again = tuned("again", "small", vision="encoder", max_steps=1, learning_rate=1e-12, **frozen)
    assert largest_difference(weights(again.model), weights(trainer.model)) < 1e-9
    with pytest.raises(ValueError, match="has a vision encoder of its own: leave out vision=encoder"):
        tuned("again", stage1, vision="encoder", **frozen)


# --- data ---------------------------------------------------------------------------------------------------------


def test_cached_vision_tokens_train_as_the_videos_do(stage1, monkeypatch):
    named = {"model_config": {"freeze_vision": True}, "max_steps": 3}
    videos = tuned("videos", stage1, **named)
    cached = tuned("cached", stage1, cache_vision_tokens="tokens", **named)
    assert largest_difference(weights(cached.model), weights(videos.model)) < 1e-6
    assert "pixel_values_videos" not in cached.data_collator([cached.train_dataset[0]])
    asked, original = [], VLJepaModel.get_vision_tokens

    def count(self, pixels):
        asked.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(VLJepaModel, "get_vision_tokens", count)
    processor, model = VLJepaProcessor.from_pretrained(stage1), videos.model

    def again(**changed: Any) -> Any:
        fields = {"dataset": "digit_stories", "generated_length": 24, "stories_task": "both", "frames_per_clip": 4}
        return VisionTextArguments(**fields | {"cache_vision_tokens": "tokens"} | changed).cached(
            model, processor, videos.args
        )

    expected = original(model.base_model, videos.data_collator([videos.train_dataset[5]])["pixel_values_videos"])[0]
    torch.testing.assert_close(again()[5]["vision_tokens"], expected, rtol=0, atol=1e-6)
    assert not asked  # read back
    with pytest.raises(ValueError, match=r"do not fit this run \(data .*: take another folder"):
        again(frames_per_clip=6)
    with torch.no_grad():
        model.base_model.vision_model.layernorm.weight[0] += 1
    with pytest.raises(ValueError, match=r"do not fit this run \(encoder .*: take another folder"):
        again()
    model.config.freeze_vision = False
    with pytest.raises(ValueError, match="the vision encoder is trained"):
        again()


def write_records(folder: Path) -> dict[str, Any]:
    """Images and folders of frames with captions, one video of which is no video."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    images, videos = [], []
    for number in range(12):
        pixels = rng.integers(0, 255, (6, 40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels[0]).save(folder / f"{number}.png")
        images.append({"image": f"{number}.png", "target": f"picture {number}"})
        (folder / f"clip{number}").mkdir()
        for frame, each in enumerate(pixels):
            Image.fromarray(each).save(folder / f"clip{number}/{frame}.png")
        videos.append({"video": f"clip{number}", "question": "who?", "answer": f"video {number}"})
    (folder / "broken.mp4").write_bytes(b"no video")
    videos.append({"video": "broken.mp4", "question": "who?", "answer": "nobody"})
    for name, records in (("images", images), ("videos", videos)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "images": {"path": str(folder / "images.jsonl"), "weight": 1, "media": "image"},
        "videos": {"path": str(folder / "videos.jsonl"), "weight": 3, "media": "video"},
    }


def test_images_and_videos_are_mixed_in_batches_of_one_kind(stage1, tmp_path):
    sources = write_records(tmp_path / "records")
    seen, original = [], VLJepaForPreTraining.forward
    with pytest.MonkeyPatch.context() as changes:

        def record(self, *args, **kwargs):
            seen.append(tuple(kwargs["pixel_values_videos"].shape[:2]))
            return original(self, *args, **kwargs)

        changes.setattr(VLJepaForPreTraining, "forward", record)
        options = {"epoch_length": 64, "max_steps": 12, "per_device_train_batch_size": 4, "folder_fps": 2}
        trainer = run("run", model_name_or_path=stage1, dataset=sources, **options)
    assert {frames for _, frames in seen} == {1, 4}
    assert {file.partition(": ")[0].rpartition("/")[2] for file in trainer.skipped} == {"broken.mp4"}
    assert "videos.jsonl (weight 3)" in Path("run/README.md").read_text()
    with pytest.raises(ValueError, match="2 sources cannot be mixed"):
        run("run", model_name_or_path=stage1, dataset=sources, streaming=True)


def test_texts_of_records_train_a_tokenizer(tmp_path):
    sources = write_records(tmp_path / "records")
    found = list(VisionTextArguments(dataset=sources["videos"]["path"]).texts())
    assert found[:2] == ["who?", "video 0"] and len(found) == 26
    stories = list(VisionTextArguments(dataset="digit_stories").texts())
    assert "is there a three?" in stories and "moves left" in stories and len(stories) == len(set(stories))


# --- the decoder and the scores -----------------------------------------------------------------------------------


def test_the_decoder_is_trained_alone(stage1):
    shape = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    own = SMALL | {"dataset": "digit_stories", "decoder_config": shape, "tokenizer_size": 320, "eval_length": 6}
    start = {
        "model_name_or_path": stage1,
        "output_dir": "run",
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
    }
    trainer = train(words(own | start))
    saved = VLJepaForConditionalGeneration.from_pretrained("run")
    before = VLJepaModel.from_pretrained(stage1).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in saved.vl_jepa.state_dict().items())
    assert not [name for name, p in trainer.model.named_parameters() if p.requires_grad != name.startswith("decoder.")]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert trainer.written["texts"] == 6 and "written again, of 6" in trainer.summary()
    processor = VLJepaProcessor.from_pretrained("run")
    ids = saved.generate(embeddings=torch.randn(2, saved.config.projection_dim), max_new_tokens=4)
    assert len(processor.batch_decode(ids)) == 2
    with pytest.raises(ValueError, match="say either decoder"):
        train(words(own | start | {"decoder": "somewhere"}))
    with pytest.raises(ValueError, match="llama has no field hidden_sise"):
        train(words(own | start | {"decoder_config": {"model_type": "llama", "hidden_sise": 3}}))


def test_scores_are_those_of_the_embeddings(stage1, capsys):
    data = {"dataset": "digit_stories", "eval_split": "test", "generated_length": 20, "frames_per_clip": 4}
    named = data | {"model_name_or_path": stage1, "stories_task": "question", "batch_size": 2, "output": "scores.json"}
    tasks = ["retrieval", "classification", "vqa"]
    scores = evaluate(words(named | {"tasks": tasks, "candidates": "query"}))
    printed = capsys.readouterr().out
    assert "classification: top 1" in printed and "vqa: accuracy" in printed and "video_to_text R@1" in printed
    assert json.loads(Path("scores.json").read_text())["scores"] == scores
    model, processor = VLJepaModel.from_pretrained(stage1).eval(), VLJepaProcessor.from_pretrained(stage1)
    samples = VisionTextArguments(**data, stories_task="question").open()
    samples = [samples[index] for index in range(20)]
    inputs = processor(videos=[each["video"] for each in samples], queries=[each["query"] for each in samples])
    labels = list(dict.fromkeys(each["target"] for each in samples))
    with torch.no_grad():
        asked = model.predict(**inputs)
        silent = model.predict(inputs["pixel_values_videos"])
        texts = model.encode_text(**processor(targets=labels))
    likeness = [torch.nn.functional.cosine_similarity(x[:, None], texts[None], dim=-1) for x in (silent, asked)]
    right = torch.tensor([labels.index(each["target"]) for each in samples])
    top = (likeness[0].argmax(1) == right).double().mean().item()
    assert scores["classification"] == pytest.approx(scores["classification"] | {"labels": len(labels), "top 1": top})
    hits = []
    for row, each in zip(likeness[1], samples, strict=True):
        answers = {other["target"] for other in samples if other["query"] == each["query"]}
        hits.append(max(answers, key=lambda text, row=row: row[labels.index(text)].item()) == each["target"])
    assert scores["vqa"]["accuracy"] == pytest.approx(sum(hits) / 20)


def test_measuring_says_what_is_missing(stage1, tmp_path):
    sources = write_records(tmp_path / "records")
    named = {"model_name_or_path": stage1, "frames_per_clip": 4, "folder_fps": 2}
    with pytest.raises(ValueError, match="'picture 0' asks nothing, it has no query"):
        evaluate(words(named | {"tasks": ["vqa"], "dataset": sources["images"]["path"]}))
    Path("labels.txt").write_text("picture 0\npicture 1\n")
    with pytest.raises(ValueError, match="10 targets are not in labels.txt, such as 'picture 10'"):
        evaluate(
            words(
                named | {"tasks": ["classification"], "labels": "labels.txt"} | {"dataset": sources["images"]["path"]}
            )
        )
    found = evaluate(words(named | {"tasks": ["retrieval"], "dataset": sources["videos"]["path"]}))
    assert found["samples"] == 12 and [file.rpartition("/")[2][:10] for file in found["skipped"]] == ["broken.mp4"]


def test_the_command_finds_the_program(capsys):
    assert main(["train", "vl_jepa", "--help"]) == 0
    assert "--cached_infonce" in capsys.readouterr().out
