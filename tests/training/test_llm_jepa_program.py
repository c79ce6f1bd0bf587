"""The program behind the LLM-JEPA script: recipe and text pairs in, an ordinary language model out."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from tiny_pairs import LLAMA
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_jepa.cli.main import main
from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM
from hf_jepa.training.finetune_llm_jepa import (
    LanguageModelArguments,
    ObjectiveArguments,
    TextPairArguments,
    finetune,
    load_tokenizer,
)
from hf_jepa.training.llm_jepa import LlmJepaTrainer, LlmJepaTrainingArguments
from hf_jepa.training.recipe import parse_recipe


ROOT = Path(__file__).resolve().parents[2]
TYPES = (LanguageModelArguments, ObjectiveArguments, TextPairArguments, LlmJepaTrainingArguments)
SHAPE = json.dumps({name: value for name, value in LLAMA.items() if name != "vocab_size"})


def messages(number: int) -> dict:
    turns = [("system", "Repeat."), ("user", f"write x {number} times"), ("assistant", "x" * number)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Two splits of conversations, two columns of text, and a language model of bytes."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "data").mkdir()
    for split, numbers in (("train", range(1, 13)), ("test", range(13, 18))):
        (folder / f"data/{split}.jsonl").write_text("".join(json.dumps(messages(n)) + "\n" for n in numbers))
    rows = [json.dumps({"question": f"{n} times x", "query": "x" * n}) + "\n" for n in range(1, 9)]
    (folder / "columns.jsonl").write_text("".join(rows))
    make_base(folder / "base")
    return folder


@pytest.fixture(autouse=True)
def places(prepared, tmp_path, monkeypatch):
    """The working folder holds copies of them."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def make_base(folder: Path, rows: int | None = None) -> None:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(LLAMA | {"vocab_size": rows or len(tokenizer)}))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(*options, **named) -> LlmJepaTrainer:
    """The program on the conversations, for two steps."""
    common = {"dataset": "data", "output_dir": "run", "max_steps": 2, "per_device_train_batch_size": 4}
    common |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    start = {} if "model_config" in named or named.pop("recipe", None) else {"model_name_or_path": "base"}
    return finetune([*options, *(f"--{name}={value}" for name, value in (start | common | named).items())])


def settings(folder: str = "run") -> dict:
    return json.loads(Path(folder, "config.json").read_text())["llm_jepa"]


def predictor_id(folder: str = "run") -> int:
    return AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|predictor_1|>")


# --- where a model comes from -------------------------------------------------------------------------------------


def test_a_checkpoint_gets_predictor_tokens_and_stays_an_ordinary_one():
    before = AutoModelForCausalLM.from_pretrained("base")
    trainer = run(num_predictor_tokens=2, layout="three_pass", distance="l2", jepa_weight=0.5)
    tokenizer = AutoTokenizer.from_pretrained("run")
    stock, info = AutoModelForCausalLM.from_pretrained("run", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert len(tokenizer) == stock.config.vocab_size == before.config.vocab_size + 2
    chat = [{"role": "user", "content": "write x 2 times"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert stock.generate(**prompt, max_new_tokens=2, do_sample=False).shape[1] > prompt["input_ids"].shape[1]
    expected = {"num_predictor_tokens": 2, "layout": "three_pass", "distance": "l2", "jepa_weight": 0.5}
    assert settings().items() >= expected.items()
    saved, trained = LlmJepaForCausalLM.from_pretrained("run"), trainer.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in saved.state_dict().items())


def test_a_checkpoint_of_ours_goes_on_with_its_objective():
    run(num_predictor_tokens=2, distance="mse", jepa_weight=0.5, stop_gradient="code", predictor_position="prepend")
    first = settings()
    trainer = run(model_name_or_path="run", output_dir="again", jepa_weight=0.25)
    assert settings("again") == first | {"jepa_weight": 0.25}
    first_size, size = (len(AutoTokenizer.from_pretrained(name)) for name in ("run", "again"))
    assert trainer.config.text_config.vocab_size == first_size == size == 264
    assert trainer.train_dataset[0].text_ids[2:4] == list(trainer.train_dataset[0].predictor_ids) == [262, 263]


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="llama has no field hidden_sise"):
        run(model_config=SHAPE.replace("hidden_size", "hidden_sise"), tokenizer_name_or_path="base")
    with pytest.raises(ValueError, match="loss is 0 in batches of one"):
        run(distance="infonce", per_device_train_batch_size=1)
    Path("empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty.jsonl is empty"):
        run(dataset="empty.jsonl")
    Path("adapters").mkdir()
    Path("adapters/config.json").write_text("{}")
    with pytest.raises(ValueError, match="merge them into their language model"):
        LlmJepaConfig.from_pretrained("adapters")


def test_spare_rows_of_embeddings_stay():
    make_base(Path("padded"), rows=320)
    trainer = run(model_name_or_path="padded")
    assert trainer.model.get_input_embeddings().weight.shape[0] == 320
    assert AutoModelForCausalLM.from_pretrained("run").config.vocab_size == 320 and predictor_id() == 262


def test_a_fresh_model_of_a_tokenizer():
    run(model_config=SHAPE, tokenizer_name_or_path="base", dtype="bfloat16")
    stock, tokenizer = AutoModelForCausalLM.from_pretrained("run"), AutoTokenizer.from_pretrained("run")
    assert (stock.dtype, stock.config.vocab_size) == (torch.bfloat16, len(tokenizer))
    assert stock.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("columns", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_fresh_model_with_a_tokenizer_of_its_own(columns):
    two = {"dataset": "columns.jsonl", "text_column": "question", "code_column": "query"} if columns else {}
    trainer = run(model_config=SHAPE, tokenizer_size=300, **two)
    tokenizer = AutoTokenizer.from_pretrained("run")
    assert len(tokenizer) <= 301 and tokenizer.decode(trainer.train_dataset[0].labels[-2:]).startswith("x")


def test_generated_data_needs_no_file():
    trainer = run(model_config=SHAPE, dataset="regex", generated_length=40, eval_split="test")
    assert len(trainer.train_dataset) == 40 and len(trainer.eval_dataset) == 4
    paraphrases = {"dataset": "regex_paraphrases", "plain": True, "train_all": True, "generated_length": 10}
    pair = run(model_config=SHAPE, output_dir="plain", **paraphrases).train_dataset[0]
    assert all(label != -100 for label in pair.labels)


# --- what is trained ----------------------------------------------------------------------------------------------


def test_official_data_and_the_baseline_without_views(monkeypatch):
    seen, forward = [], LlmJepaForCausalLM.forward

    def record(self, *args, **kwargs):
        seen.append(kwargs.get("text_index") if self.training else None)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlmJepaForCausalLM, "forward", record)
    trainer = run(official=True, last_token=-2, layout="additive_mask", jepa_weight=0)
    pair = trainer.train_dataset[0]
    assert pair.labels == pair.input_ids and pair.text_index == len(pair.text_ids) - 2
    assert seen and all(text_index is None for text_index in seen)
    assert trainer.data_collator.last_token == -2


def test_plain_rows_of_two_columns():
    columns = {"dataset": "columns.jsonl", "text_column": "question", "code_column": "query"}
    trainer = run(plain=True, **columns)
    row = trainer.processing_class.decode(trainer.train_dataset[2].input_ids)
    assert row == "3 times x<|perception|>xxx</s>"
    card = Path("run/README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)  # no chat template, which the model has not seen
    assert "Hello<|perception|>" in snippet and 1 <= len(names["answer"]) <= 16
    with pytest.raises(ValueError, match="no column 'messages'"):
        run(dataset="columns.jsonl")


def test_the_evaluation_split_is_measured_at_the_end():
    trainer = run(eval_split="test", per_device_eval_batch_size=2)
    measured = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    model = LlmJepaForCausalLM.from_pretrained("run")
    pairs = [trainer.eval_dataset[number] for number in range(5)]
    expected = model(**trainer.data_collator(pairs)).loss.item()
    assert measured["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert f"loss {expected:.4g}, lm_loss" in Path("run/README.md").read_text()


def test_adapters_are_merged():
    run(lora_rank=4, learning_rate=0.01, plain=True)
    base, stock = (AutoModelForCausalLM.from_pretrained(name) for name in ("base", "run"))
    kept, found = base.get_input_embeddings().weight, stock.get_input_embeddings().weight
    assert torch.equal(found[:262], kept) and len(found) == 264
    assert not torch.equal(stock.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight)
    assert inspect_checkpoint("run")[1]


@pytest.mark.parametrize("rows", [None, pytest.param(320, marks=pytest.mark.slow)])
def test_adapters_that_are_not_merged_are_stock_ones(rows):
    make_base(Path("base"), rows)
    trainer = run(lora_rank=4, merge_adapters=False, learning_rate=0.01)
    tokenizer = AutoTokenizer.from_pretrained("run")
    tokens = tokenizer("write x<|predictor_1|>", return_tensors="pt")["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained("base")
    if rows is None:
        stock.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        expected = trainer.model.eval().language_model(input_ids=tokens).logits
        models = [PeftModel.from_pretrained(stock, "run")]
        if rows is not None:
            models.append(AutoModelForCausalLM.from_pretrained("run"))
        for model in models:
            torch.testing.assert_close(model.eval()(input_ids=tokens).logits, expected, rtol=0, atol=1e-5)
    assert json.loads(Path("run/run.json").read_text())["objective"] == trainer.config.objective()
    card = Path("run/README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    assert 1 <= len(names["answer"]) <= 16 and "pipeline_tag: text-generation\n" in card


def test_the_embeddings_of_all_new_tokens_are_trained_with_adapters():
    trainer = run(lora_rank=4, merge_adapters=False, plain=True, max_steps=1, learning_rate=0.0)
    start = LlmJepaForCausalLM.from_pretrained("base").get_input_embeddings().weight
    config = trainer.model.language_model.peft_config["default"]
    added = trainer.processing_class.convert_tokens_to_ids(["<|predictor_1|>", "<|perception|>"])
    assert config.trainable_token_indices == {"embed_tokens": added} and min(added) == len(start)


# --- what a run leaves --------------------------------------------------------------------------------------------


def test_card_settings_and_fingerprint_of_a_run():
    Path("base/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    run(gradient_accumulation_steps=2, per_device_train_batch_size=2)
    text = Path("run/README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "text-generation")
    assert "2 of 4 pairs, 1 process(es)" in text and "distance cosine" in text and "Starts from**: `base`" in text
    size = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained("run").parameters())
    assert f"Trained values**: {size:,} of {size:,}" in text
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    assert 1 <= len(names["answer"]) <= 16
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    Path("again.yaml").write_text(recipe)
    first = Path("run/model.safetensors").read_bytes()
    finetune(["again.yaml", "--output_dir", "again", "--save_strategy", "no", "--report_to", "none"])
    assert Path("again/model.safetensors").read_bytes() == first
    report, agrees = inspect_checkpoint("run")
    assert agrees and "fingerprint agrees" in report
    saved = json.loads(Path("run/run.json").read_text())
    assert saved["batch_size"] == 4 and saved["objective"]["layout"] == "packed"


def test_the_program_resumes():
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "lora_rank": 4}
    run(output_dir="whole", **options)
    run(output_dir="part", **(options | {"resume_from_checkpoint": "whole/checkpoint-2"}))
    assert Path("whole/model.safetensors").read_bytes() == Path("part/model.safetensors").read_bytes()


# --- recipes ------------------------------------------------------------------------------------------------------

OBJECTIVE = {
    "layout": "additive_mask",
    "distance": "infonce",
    "jepa_weight": 0.5,
    "lm_weight": 2.0,
    "num_predictor_tokens": 3,
    "predictor_position": "prepend",
    "reverse": True,
    "stop_gradient": "text",
    "jepa_dropout": 0.25,
    "infonce_temperature": 0.1,
    "infonce_symmetric": True,
    "infonce_gather": True,
}
DATA = {
    "text_column": "question",
    "code_column": "query",
    "system_prompt": "Answer.",
    "label_mode": "assistant",
    "last_token": -1,
    "max_length": 100,
    "on_truncation": "skip",
    "packing": "pairs",
    "pad_to_multiple_of": 8,
}


@pytest.mark.parametrize("from_file", [True, False])
def test_every_field_arrives(from_file):
    assert (
        OBJECTIVE.keys() == {field.name for field in fields(ObjectiveArguments)} == LlmJepaConfig().objective().keys()
    )
    values = OBJECTIVE | DATA | {"dataset": "columns.jsonl", "model_name_or_path": "base"}
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    if from_file:
        # `run` says the data itself, and the command line wins
        trainer = run("recipe.yaml", recipe=True, dataset="columns.jsonl", max_steps=1)
    else:
        trainer = run(max_steps=1, **values)
    assert trainer.config.objective() == OBJECTIVE == settings()
    collator, preprocess = trainer.data_collator, trainer.train_dataset.preprocess
    assert (collator.layout, collator.packing, collator.pad_to_multiple_of) == ("additive_mask", "pairs", 8)
    assert collator.with_lm_only and collator.last_token == -1
    for name in ("system_prompt", "label_mode", "max_length", "on_truncation", "predictor_position", "reverse"):
        assert getattr(preprocess, name) == (OBJECTIVE | DATA)[name]
    assert trainer.args.learning_rate == 2e-5


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training_scripts/configs/llm_jepa").glob("*.yaml")), ids=lambda p: p.stem
)
def test_recipes_parse(path):
    language_model, objective, data, training = parse_recipe(TYPES, [str(path), "--dataset", "x", "--use_cpu", "true"])
    LlmJepaConfig(**objective.given())
    assert training.learning_rate > 0 and (language_model.model_name_or_path or language_model.model_config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name_or_path": "base", "model_config": SHAPE}, "say either model_name_or_path"),
        ({}, "say either model_name_or_path"),
        ({"model_config": '{"hidden_size": 32}'}, "model_config needs a model_type"),
        ({"model_config": SHAPE, "lora_rank": 4}, "lora_rank adapts a checkpoint"),
        (
            {"model_config": SHAPE[:-1] + ', "vocab_size": 9}', "tokenizer_name_or_path": "base"},
            "9 rows of embeddings",
        ),
        ({"model_name_or_path": "base", "layout": "packd"}, "layout='packd' is not one of"),
        ({"model_name_or_path": "base", "eval_split": "dev"}, "has no split 'dev'"),
        ({"model_name_or_path": "base", "dataset": "nowhere.jsonl"}, "no such file or folder"),
        (
            {"model_name_or_path": "base", "lora_rank": 4, "push_to_hub": True, "hub_strategy": "every_save"},
            "would upload",
        ),
        ({"model_name_or_path": "base", "max_length": 10}, "row 0: .*max_length"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    common = {"dataset": "data", "output_dir": "run", "use_cpu": "true"}
    with pytest.raises((ValueError, FileNotFoundError, StrictDataclassError), match=message):
        finetune([f"--{name}={value}" for name, value in (common | options).items()])


def test_a_missing_data_set_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        finetune(["--model_name_or_path", "base", "--output_dir", "run"])
    text = capsys.readouterr().err
    assert "required: --dataset" in text and text.count("\n") == 1


def test_a_tokenizer_that_cannot_pad_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained("endless")
    with pytest.raises(ValueError, match="neither a padding token nor one for the end"):
        load_tokenizer(LanguageModelArguments(model_name_or_path="endless"), [])


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        finetune(["--help"], "what it does")
    shown = capsys.readouterr().out
    assert all(f"--{field.name}" in shown for kind in TYPES[:3] for field in fields(kind))


def test_a_gradient_can_be_given_back():
    assert ObjectiveArguments(stop_gradient="none").given() == {"stop_gradient": None}
    assert ObjectiveArguments(stop_gradient="text").given() == {"stop_gradient": "text"}
    assert ObjectiveArguments().given() == {}


def test_the_command_finds_the_program(capsys):
    assert main(["train", "llm_jepa", "--help"]) == 0
    assert "usage: hf-jepa train llm_jepa" in capsys.readouterr().out


def test_rows_beyond_the_table_of_positions_are_refused(tmp_path):
    tokenizer = byte_tokenizer()
    shape = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    tokenizer.save_pretrained("tokenizer")
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel has positions for 24: set max_length=24"):
        run(model_config=json.dumps(shape | {"n_positions": 24}), tokenizer_name_or_path="tokenizer")


def test_evaluation_pairs_may_lie_elsewhere():
    arguments = TextPairArguments(dataset="columns.jsonl", eval_dataset="columns.jsonl")
    assert arguments.eval_split == "train"
    trainer = run(eval_dataset="data/test.jsonl", per_device_eval_batch_size=4)
    assert len(trainer.eval_dataset) == 5 and any("eval_loss" in entry for entry in trainer.state.log_history)
