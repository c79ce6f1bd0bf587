"""LLM-JEPA over several processes: DDP and DeepSpeed give the losses and weights of a single process."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import forks
import pytest
import torch
from safetensors.torch import load_file
from text_processes import RUNS, make, train_texts
from tiny_pairs import LLAMA, draw_pairs
from trained_weights import largest_difference, weights
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.training.finetune_llm_jepa import finetune


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts/finetune_llm_jepa.py"
CONFIGS = ROOT / "src/hf_jepa/training/accelerate_configs"
with_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason='pip install "hf_jepa[deepspeed]"')


def launch(*command: str | Path, cwd: Path) -> str:
    """Run a module of Python in processes that meet over gloo; what they printed."""
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | settings,
        cwd=cwd,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def torchrun(*command: str | Path, cwd: Path) -> str:
    return launch("torch.distributed.run", "--standalone", "--nproc_per_node=2", *command, cwd=cwd)


def losses(log: list[dict]) -> torch.Tensor:
    names = ("loss", "lm_loss", "jepa_loss", "true_cosine")
    return torch.tensor([[entry.get(name, 0.0) for name in names] for entry in log if "loss" in entry])


# --- the trainer --------------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_are_one(tmp_path):
    forks.run(train_texts, tmp_path, logs=tmp_path)
    found = {name: [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in RUNS}
    two = {name: [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)] for name in RUNS}
    for name, (first, second) in two.items():
        assert largest_difference(first, second) == 0.0, name
    for name in ("windows", "negatives", "adapters"):
        trainer = make(name, tmp_path / "single", single=True)
        trainer.train()
        measured = trainer.evaluate()
        assert largest_difference(two[name][0], weights(trainer.model)) < 2e-6, name
        torch.testing.assert_close(
            losses(found[name][0]["log"]), losses(trainer.state.log_history), rtol=0, atol=5e-6, msg=name
        )
        if name != "negatives":  # which are those of a batch
            for loss in ("eval_loss", "eval_lm_loss", "eval_jepa_loss"):
                assert found[name][0]["measured"][loss] == pytest.approx(measured[loss], abs=5e-6)
    first, second = (entry["dropped"] for entry in found["dropout"])
    assert first == second and {*first} == {True, False}
    check_own_means(two["own_means"][0], found["own_means"][0]["log"][0], tmp_path)


def check_own_means(found: dict[str, torch.Tensor], logged: dict[str, float], folder: Path) -> None:
    """Without `average_tokens_across_devices` each process has a mean of its own, and the step the mean of these."""
    trainer, pairs = make("own_means", folder / "single"), draw_pairs(20)
    outputs = [trainer.model(**LlmJepaDataCollator(pad_token_id=0)(part)) for part in (pairs[:2], pairs[2:4])]
    loss = sum(out.loss for out in outputs) / 2
    loss.backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in trainer.model.named_parameters()}
    assert largest_difference({name: found[name] for name in expected}, expected) < 2e-6
    lm_loss, jepa_loss = (sum(out[name].item() for out in outputs) / 2 for name in ("lm_loss", "jepa_loss"))
    assert [logged[n] for n in ("loss", "lm_loss", "jepa_loss")] == pytest.approx(
        [loss.item(), lm_loss, jepa_loss], abs=5e-6
    )


# --- the program --------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """16 conversations and a language model of bytes, in the working folder."""
    monkeypatch.chdir(tmp_path)
    turns = [(("user", f"write x {n} times"), ("assistant", "x" * n)) for n in range(1, 17)]
    records = [{"messages": [{"role": role, "content": content} for role, content in pair]} for pair in turns]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(LLAMA | {"vocab_size": len(tokenizer)}))).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path


COMMON = {"dataset": "train.jsonl", "max_steps": 3, "logging_steps": 1, "learning_rate": 1e-3}
COMMON |= {"report_to": "none", "disable_tqdm": True, "eval_split": "train"}
BASE = {"model_name_or_path": "base"}
SHAPE = json.dumps({name: value for name, value in LLAMA.items() if name != "vocab_size"})
FRESH = {"model_config": SHAPE, "tokenizer_name_or_path": "base"}


def options(output: str, **named) -> list[str]:
    return [f"--{name}={value}" for name, value in (COMMON | named | {"output_dir": output}).items()]


def zero(stage: int, *arguments: str, cwd: Path) -> str:
    start = ["accelerate.commands.launch", "--config_file", CONFIGS / f"zero{stage}.yaml", "--num_processes", "2"]
    start += [ROOT / "tests/cpu_processes.py", SCRIPT]
    return launch(*start, *arguments, cwd=cwd)


def compare(output: str, single: str) -> None:
    """The folders of two runs: the same losses (of all steps, also those before a resume), weights and facts."""
    found, expected = (
        json.loads(Path(name, "trainer_state.json").read_text())["log_history"] for name in (output, single)
    )
    torch.testing.assert_close(losses(found), losses(expected), rtol=0, atol=1e-5)
    evaluated = [[entry["eval_loss"] for entry in log if "eval_loss" in entry] for log in (found, expected)]
    assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-5) and evaluated[0]
    two, one = (load_file(Path(name, "model.safetensors")) for name in (output, single))
    assert largest_difference(two, one) < 1e-5
    told = [re.findall(r"Trained values\*\*: (.*)", Path(name, "README.md").read_text()) for name in (output, single)]
    assert told[0] == told[1] and told[0]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert model.generate(**tokenizer("<s>write", return_tensors="pt"), max_new_tokens=2).shape[1] > 6


@with_deepspeed
@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize("start", [BASE, FRESH], ids=["checkpoint", "fresh"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_gives_the_losses_of_one_process(stage, start, places):
    each = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    zero(stage, *options("zero", **start, **each), cwd=places)
    finetune(
        [*options("single", **start, per_device_train_batch_size=2, gradient_accumulation_steps=4), "--use_cpu=1"]
    )
    compare("zero", "single")


@pytest.mark.slow
def test_ddp_of_the_program_gives_the_losses_of_one_process(places):
    torchrun(SCRIPT, *options("ddp", **BASE, per_device_train_batch_size=4), "--use_cpu=1", cwd=places)
    finetune([*options("single", **BASE, per_device_train_batch_size=8), "--use_cpu=1"])
    compare("ddp", "single")


@with_deepspeed
@pytest.mark.slow
def test_zero_3_resumes_with_checkpointing_and_dropped_losses(places):
    each = {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    each |= {"gradient_checkpointing": True, "jepa_dropout": 0.5, "seed": 1}
    zero(3, *options("whole", **BASE, **each), cwd=places)
    zero(3, *options("part", **BASE, **each, resume_from_checkpoint="whole/checkpoint-2"), cwd=places)
    compare("part", "whole")


def test_adapters_that_zero_3_cannot_merge_are_refused_before_anything_is_loaded(places, monkeypatch):
    monkeypatch.setattr("hf_jepa.training.llm_jepa.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="cannot be merged into weights that ZeRO-3 has partitioned"):
        finetune([*options("run", model_name_or_path="nowhere", lora_rank=4), "--use_cpu=1"])
