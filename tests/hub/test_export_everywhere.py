"""What is exported loads where importing hf_jepa raises, and computes the same to the bit."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import clean_interpreter
import pytest
import torch
from clean_interpreter import record
from code_cache import code_cache  # noqa: F401
from perturbed import perturbed
from tiny_batches import BATCHES
from transformers import AutoImageProcessor, AutoModel

from hf_jepa.hub.export import auto_map, export_remote_code
from hf_jepa.hub.export_encoder import export_encoder
from hf_jepa.hub.fingerprint import fixed_input
from hf_jepa.hub.processors import VIDEOS
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


def token_rows(config) -> dict:
    """Two rows of a text, what is learnt of them, and where the two views are read."""
    tokens = torch.randint(3, config.text_config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(0))
    packed = torch.arange(4).repeat(2, 2)  # Text and Code of a row begin at 0
    places = {"text_index": torch.tensor([3, 11]), "code_index": torch.tensor([7, 15])}
    return {"input_ids": tokens, "labels": tokens, "position_ids": packed, **places}


def exported(variant, name: str, config, folder: Path) -> Path:
    """A model of a class of the variant, beside `package`, the folder that it is exported from."""
    module = import_module(variant.public_names()[name])
    if not folder.is_dir():
        torch.manual_seed(0)
        perturbed(getattr(module, name)(config)).eval().save_pretrained(folder / "package")
        if variant.processor_class is not None:
            variant.processor(config).save_pretrained(folder / "package")
        export_remote_code(folder / "package", folder / "exported")
    return folder / "exported"


def items_of(variant, folder: Path) -> list[dict]:
    """Export a pretraining model, and a model of every head; what to load of them by which Auto class."""
    config = variant.config_class()(**variant.tiny)
    batch = BATCHES[variant.modality, variant.inputs](config) if variant.base_model else token_rows(config)
    items = []
    for auto, place in auto_map(variant).items():
        if auto == "AutoConfig":
            continue
        name = place.rpartition(".")[2]
        saved = variant.pretraining_model if auto == "AutoModel" else name
        written = exported(variant, saved, config, folder / saved)
        model = variant.model_class(name).from_pretrained(written.parent / "package")
        inputs = batch if name == variant.pretraining_model else {model.main_input_name: fixed_input(config)[0]}
        record(model, inputs, folder / f"{auto}.pt")
        item = {"folder": written, "auto": auto, "case": folder / f"{auto}.pt", "code": True, "loaded": name}
        items.append(item | ({"again": folder / f"{auto}-again"} if variant.base_model else {}))
    return items


def stock_items(variant, folder: Path) -> list[dict]:
    """Stock classes load the same folders without being trusted, and exported encoders, where the type is theirs."""
    folders = [folder / variant.pretraining_model / "exported"] if variant.stock else []
    if variant.native:
        folders.append(folder / "encoder")
        export_encoder(folders[0].parent / "package", folders[1])
    items = []
    for number, written in enumerate(folders):
        model = AutoModel.from_pretrained(written).eval()
        config = variant.config_class().from_pretrained(folders[0])
        inputs = {model.main_input_name: fixed_input(config if variant.base_model else config.text_config)[0]}
        case = folder / f"stock-{number}.pt"
        record(model, inputs, case)
        name = type(model).__name__
        items.append({"folder": written, "auto": "AutoModel", "case": case, "code": False, "loaded": name})
    return items


def processor_items(variant, folder: Path) -> list[dict]:
    """The processor beside the weights: of images a stock class, of videos ours, without torchvision."""
    if variant.processor_class is None:
        return []
    written = folder / variant.pretraining_model / "exported"
    pixels = torch.randint(256, (4, 40, 50, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    processor = variant.processor_class.from_pretrained(written)
    if variant.modality in VIDEOS:
        fields = json.loads((written / "video_preprocessor_config.json").read_text())
        item = {"auto": fields["auto_map"]["AutoVideoProcessor"], "code": True, "loaded": type(processor).__name__}
        inputs = {"videos": torch.from_numpy(pixels)}
    else:
        stock = type(AutoImageProcessor.from_pretrained(written)).__name__
        item = {"auto": "AutoImageProcessor", "code": False, "loaded": stock}
        inputs = {"images": torch.from_numpy(pixels[0]), "return_tensors": "pt"}
    record(processor, inputs, folder / "processor.pt")
    return [item | {"folder": written, "case": folder / "processor.pt"}]


def foreign_teacher(folder: Path) -> list[dict]:
    """A SALT whose teacher is a V-JEPA: a type that its own code does not name."""
    salt, teacher = VARIANTS["salt"], VARIANTS["vjepa"].config_class()(**VARIANTS["vjepa"].tiny)
    config = salt.config_class()(**(salt.tiny | {"teacher_config": teacher}))
    written = exported(salt, salt.pretraining_model, config, folder)
    model = salt.model_class().from_pretrained(folder / "package")
    assert "VJepaModel" in {type(part).__name__ for part in model.target_encoder.modules()}
    record(model, BATCHES["video", "masks"](config), folder / "case.pt")
    item = {"folder": written, "auto": "AutoModelForPreTraining", "code": True, "loaded": salt.pretraining_model}
    return [item | {"case": folder / "case.pt", "again": folder / "again"}]


def anticipation(folder: Path) -> list[dict]:
    """A class without an Auto class, in a module of its own."""
    variant = VARIANTS["vjepa2"]
    (name,) = variant.parts["anticipation"]
    config = variant.config_class()(**variant.tiny, num_verbs=3, num_nouns=4, num_actions=5)
    written = exported(variant, name, config, folder)
    model = getattr(variant.module("anticipation"), name).from_pretrained(folder / "package")
    inputs = {"pixel_values_videos": fixed_input(config)[0], "anticipation_times": torch.tensor([1.0])}
    record(model, inputs, folder / "case.pt")
    place = f"anticipation_vjepa2.{name}"
    return [{"folder": written, "auto": place, "code": True, "loaded": name, "case": folder / "case.pt"}]


def check(items: list[dict], folder: Path) -> None:
    assert load_all(items, folder) == [f"loaded {item['loaded']}" for item in items]


def all_items(name: str, folder: Path) -> list[dict]:
    variant = VARIANTS[name]
    return [*items_of(variant, folder), *stock_items(variant, folder), *processor_items(variant, folder)]


@pytest.mark.hub
def test_what_is_exported_computes_the_same_without_the_package(tmp_path):
    items = [item for name in QUICK for item in all_items(name, tmp_path / name)]
    check([*items, *foreign_teacher(tmp_path / "foreign")], tmp_path)


@pytest.mark.slow
def test_what_is_exported_computes_the_same_without_the_package_for_all_others(tmp_path):
    names = [name for name in VARIANTS if name not in QUICK]
    items = [item for name in names for item in all_items(name, tmp_path / name)]
    check([*items, *anticipation(tmp_path / "anticipation")], tmp_path)
