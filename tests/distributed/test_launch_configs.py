"""Every training script starts by `accelerate launch` with every configuration file, trains, and saves."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import forks
import pytest
import torch
from engine_processes import fresh_model
from launch_processes import launched_environment, run_program
from PIL import Image
from safetensors.torch import load_file
from tiny_pairs import LLAMA
from transformers import LlamaConfig, LlamaForCausalLM

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.registry import VARIANTS
from hf_jepa.training.pretrain_vl_jepa import pretrain as pretrain_vl_jepa


pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]  # a minute on an idle machine
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS, RECIPES = ROOT / "training_scripts", ROOT / "training_scripts/configs"
LAUNCH_FILES = ROOT / "src/hf_jepa/training/accelerate_configs"
CONFIGS = sorted(path.stem for path in LAUNCH_FILES.glob("*.yaml"))
COMMON = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "no"}
TINY_IMAGES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY_IMAGES |= {"image_size": 48, "patch_size": 8, "pred_hidden_size": 16, "pred_num_hidden_layers": 1}


SHORT_STORIES = {"generated_length": 64, "eval_length": 8}


def fields(**given) -> str:
    return json.dumps(given)


# name -> script, what stands before the fields of its recipe, the fields
PROGRAMS: dict[str, tuple[str, list[str], dict]] = {
    "pretrain_image": (
        "pretrain_image.py",
        ["ijepa", str(RECIPES / "ijepa/tiny.yaml")],
        {"model_config": fields(**TINY_IMAGES), "generated_length": 64, "knn_dataset": "photos", "knn_every": 1},
    ),
    "pretrain_views": (
        "pretrain_image.py",
        ["lejepa", str(RECIPES / "lejepa/tiny.yaml")],
        {"model_config": fields(**VARIANTS["lejepa"].tiny), "generated_length": 64},
    ),
    "pretrain_vjepa": (
        "pretrain_vjepa.py",
        ["vjepa2", str(RECIPES / "vjepa2/tiny.yaml")],
        {"generated_length": 64, "bf16": True},
    ),
    "finetune_image_classification": (
        "finetune_image_classification.py",
        [str(RECIPES / "ijepa/finetune_tiny.yaml")],
        {"model_name_or_path": "image", "mode": "full", "embedded_per_picture": 2},
    ),
    "finetune_video_classification": (
        "finetune_video_classification.py",
        [str(RECIPES / "vjepa2/finetune_tiny.yaml")],
        {"model_name_or_path": "video", "mode": "probe", "generated_length": 64},
    ),
    "finetune_action_anticipation": (
        "finetune_action_anticipation.py",
        [str(RECIPES / "vjepa2/anticipate_tiny.yaml")],
        {"model_name_or_path": "video", "generated_length": 16},
    ),
    "finetune_llm_jepa": (
        "finetune_llm_jepa.py",
        [],
        {"model_name_or_path": "text", "dataset": "pairs.jsonl", "eval_split": "train", "learning_rate": 1e-3},
    ),
    "pretrain_world_model": (
        "pretrain_world_model.py",
        ["vjepa2_ac", str(RECIPES / "vjepa2_ac/tiny.yaml")],
        {"generated_length": 16, "eval_length": 4, "warmup_steps": 0, "learning_rate_decay_steps": 1},
    ),
    "pretrain_vl_jepa": ("pretrain_vl_jepa.py", [str(RECIPES / "vl_jepa/tiny.yaml")], SHORT_STORIES),
    "finetune_vl_jepa": (
        "finetune_vl_jepa.py",
        [str(RECIPES / "vl_jepa/finetune_tiny.yaml")],
        SHORT_STORIES | {"model_name_or_path": "stories", "cached_infonce": False, "gradient_accumulation_steps": 1},
    ),
    "train_vl_jepa_decoder": (
        "train_vl_jepa_decoder.py",
        [str(RECIPES / "vl_jepa/decoder_tiny.yaml")],
        {"model_name_or_path": "stories", "generated_length": 64, "eval_length": 8},
    ),
}
# Each script once and each configuration but the simplest; the others are tried by `make test-slow`.
COVER = {
    ("pretrain_image", "zero3"),
    ("pretrain_views", "multinode"),
    ("pretrain_vjepa", "zero3_offload"),
    ("finetune_image_classification", "ddp"),
    ("finetune_video_classification", "zero2"),
    ("finetune_action_anticipation", "fsdp2"),
    ("finetune_llm_jepa", "zero1"),
    ("pretrain_world_model", "zero2"),
    ("pretrain_vl_jepa", "fsdp2"),
    ("finetune_vl_jepa", "zero2"),
    ("train_vl_jepa_decoder", "ddp"),
}
# Of these the launcher itself starts the processes: by DeepSpeed, by FSDP, and on two machines. It takes longer
# than what they do, so the others are forked with the environment that the launcher gives, but in `make test-slow`.
LAUNCHED = {
    ("pretrain_image", "zero3"),
    ("pretrain_views", "multinode"),
    ("finetune_action_anticipation", "fsdp2"),
}


def test_the_chosen_pairs_cover_all():
    assert {program for program, _ in COVER} == set(PROGRAMS)
    assert {config for _, config in COVER} == set(CONFIGS) - {"single"}
    # One starts runs itself, the other does not train.
    scripts = {path.name for path in SCRIPTS.glob("*.py")} - {"sweep_image.py", "evaluate_vl_jepa.py"}
    assert LAUNCHED < COVER
    assert {script for script, *_ in PROGRAMS.values()} == scripts


def pairs():
    for program in PROGRAMS:
        for config in CONFIGS:
            marks = [] if (program, config) in COVER else [pytest.mark.slow]
            if "zero" in config and find_spec("deepspeed") is None:
                marks.append(pytest.mark.skip(reason='pip install "hf_jepa[deepspeed]"'))
            yield pytest.param(program, config, marks=marks, id=f"{program}-{config}")


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> Path:
    """A folder with tiny checkpoints to continue from, and conversations."""
    folder = tmp_path_factory.mktemp("starts")
    for name, variant in (("image", "ijepa"), ("video", "vjepa2")):
        model = fresh_model(variant)
        model.save_pretrained(folder / name)
        VARIANTS[variant].processor(model.config).save_pretrained(folder / name)
    for split in ("train", "test"):  # of the online k-NN probe
        for label, level in (("dark", 60), ("light", 180)):
            (folder / "photos" / split / label).mkdir(parents=True)
            Image.new("L", (56, 56), level).convert("RGB").save(folder / "photos" / split / label / "0.png")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(LLAMA | {"vocab_size": len(tokenizer)}))).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    turns = [[("user", f"write x {n} times"), ("assistant", "x" * n)] for n in range(1, 17)]
    records = [{"messages": [{"role": role, "content": content} for role, content in turn]} for turn in turns]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    stories = {"max_steps": 1, "per_device_train_batch_size": 2, "output_dir": folder / "stories", "use_cpu": True}
    recipe = str(RECIPES / "vl_jepa/tiny.yaml")
    pretrain_vl_jepa([recipe, *(f"--{name}={value}" for name, value in (stories | SHORT_STORIES).items())])
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def command_of(program: str, output: Path) -> list[str]:
    """Script and arguments."""
    script, recipe, given = PROGRAMS[program]
    given = COMMON | given | {"output_dir": str(output)}
    return [str(SCRIPTS / script), *recipe, *(f"--{name}={value}" for name, value in given.items())]


def commands(config: str, program: str, output: Path) -> list[list[str]]:
    """One command for every machine."""
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH_FILES / f"{config}.yaml")]
    options = [["--num_processes", "1" if config == "single" else "2", "--main_process_port", str(free_port())]]
    if config == "multinode":
        options = [[*options[0], "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1"] for rank in (0, 1)]
    what = [str(ROOT / "tests/cpu_processes.py"), *command_of(program, output)]
    return [[*start, *each, *what] for each in options]


def launch(config: str, program: str, starts: Path, folder: Path) -> None:
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    machines = commands(config, program, folder / "run")
    logs = [folder / f"log-{rank}.txt" for rank in range(len(machines))]
    started = []
    for command, log in zip(machines, logs, strict=True):
        with log.open("w") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=starts, env=os.environ | environment))
    try:
        codes = [each.wait(timeout=800) for each in started]
    finally:
        for each in started:
            each.kill()
    assert codes == [0] * len(codes), "\n".join(log.read_text()[-4000:] for log in logs)


@pytest.mark.parametrize(("program", "config"), pairs())
def test_a_script_starts_with_a_configuration(program, config, starts, tmp_path):
    if (program, config) in COVER - LAUNCHED:
        command = command_of(program, tmp_path / "run")
        environment = launched_environment(LAUNCH_FILES / f"{config}.yaml", Path(command[0]), free_port())
        forks.run(run_program, environment, starts, command, logs=tmp_path)
    else:
        launch(config, program, starts, tmp_path)
    log = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    assert max(entry["step"] for entry in log) == 2
    saved = load_file(tmp_path / "run/model.safetensors")
    assert saved and all(tensor.isfinite().all() and tensor.numel() for tensor in saved.values())
    assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {torch.float32}
    settings = json.loads((tmp_path / "run/run.json").read_text())
    assert settings["batch_size"] == 2 * (1 if config == "single" else 2)
    assert (tmp_path / "run/README.md").is_file()
