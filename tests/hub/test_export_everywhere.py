"""What is exported loads where importing hf_jepa raises, and computes the same to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import clean_interpreter
import pytest
import torch
from batches import BATCHES
from clean_interpreter import record
from code_cache import code_cache  # noqa: F401
from transformers import AutoModel

from hf_jepa.hub.export import auto_map, export_remote_code
from hf_jepa.hub.fingerprint import fixed_input
from hf_jepa.registry import VARIANTS


QUICK = ("ijepa", "salt")  # a native type; one that needs others, of which one is that of its teacher


def load_all(items: list[dict], folder: Path) -> list[str]:
    """What a process without the package says of each item."""
    (folder / "items.json").write_text(json.dumps(items, default=str))
    environment = os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    script = Path(clean_interpreter.__file__)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder / "items.json"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]


def generic(model):
    """No parameter is 0 or 1, so that a mix-up shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def token_rows(config) -> dict:
    """Two rows of a text, what is learnt of them, and where the two views are read."""
    tokens = torch.randint(3, config.text_config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(0))
    packed = torch.arange(4).repeat(2, 2)  # Text and Code of a row begin at 0
    places = {"text_index": torch.tensor([3, 11]), "code_index": torch.tensor([7, 15])}
    return {"input_ids": tokens, "labels": tokens, "position_ids": packed, **places}


def items_of(variant, folder: Path) -> list[dict]:
    """Export a pretraining model, and a model of every head; what to load of them by which Auto class."""
    config = variant.config_class()(**variant.tiny)
    batch = BATCHES[variant.modality, variant.inputs](config) if variant.base_model else token_rows(config)
    items = []
    for auto, place in auto_map(variant).items():
        if auto == "AutoConfig":
            continue
        name = place.rpartition(".")[2]
        pretrains = name == variant.pretraining_model
        saved = variant.pretraining_model if auto == "AutoModel" else name
        if not (folder / saved).is_dir():
            model = generic(variant.model_class(saved)(variant.config_class()(**variant.tiny)))
            model.save_pretrained(folder / saved / "package")
            if variant.processor_class is not None:
                variant.processor(config).save_pretrained(folder / saved / "package")
            export_remote_code(folder / saved / "package", folder / saved / "exported")
        model = variant.model_class(name).from_pretrained(folder / saved / "package")
        inputs = batch if pretrains else {model.main_input_name: fixed_input(config)[0]}
        record(model, inputs, folder / f"{auto}.pt")
        item = {"folder": folder / saved / "exported", "auto": auto, "case": folder / f"{auto}.pt", "code": True}
        items.append(item | ({"again": folder / f"{auto}-again"} if variant.base_model else {}))
    return items


def stock_items(variant, folder: Path) -> list[dict]:
    """Stock classes load the same folders without being trusted, where the type is theirs."""
    if not variant.stock:
        return []
    exported = folder / variant.pretraining_model / "exported"
    model = AutoModel.from_pretrained(exported).eval()
    config = variant.config_class()(**variant.tiny)
    inputs = {model.main_input_name: fixed_input(config if variant.base_model else config.text_config)[0]}
    record(model, inputs, folder / "stock.pt")
    return [{"folder": exported, "auto": "AutoModel", "case": folder / "stock.pt", "code": False}]


def check(names, folder: Path) -> None:
    items, expected = [], []
    for name in names:
        own = items_of(VARIANTS[name], folder / name)
        places = auto_map(VARIANTS[name])
        expected += [f"loaded {places[item['auto']].rpartition('.')[2]}" for item in own]
        stock = stock_items(VARIANTS[name], folder / name)
        expected += [f"loaded {type(AutoModel.from_pretrained(item['folder'])).__name__}" for item in stock]
        items += [*own, *stock]
    assert load_all(items, folder) == expected


def test_code_beside_weights_computes_the_same_without_the_package(tmp_path):
    check(QUICK, tmp_path)


@pytest.mark.slow
def test_code_beside_weights_computes_the_same_without_the_package_for_all_others(tmp_path):
    check([name for name in VARIANTS if name not in QUICK], tmp_path)
