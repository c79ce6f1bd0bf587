"""CONTRIBUTING's promise, tried: a new variant is one folder and one registry entry."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_registry import ALL_REGISTERED

import hf_jepa


ENTRY = """
        Variant(
            name="toyjepa",
            title="Toy-JEPA",
            paper="2301.08243",
            modality="image",
            **class_names("ToyJepa", "ImageClassification"),
            parts={"image_processing": ("ToyJepaImageProcessor",)},
            tiny=%s,
        ),
    )
}
"""
# What makes a copy of I-JEPA a variant of its own: names, its own model type, no key names of old hub files.
EDITS = {
    "configuration": [
        (r"import IJepaConfig as", "import NATIVE as"),
        (r"IJepa", "ToyJepa"),
        (r"NATIVE", "IJepaConfig"),
        (r"(    layer_norm_eps: float)", r'    model_type = "toyjepa"\n\1'),
    ],
    "image_processing": [(r"IJepa", "ToyJepa")],
    "modeling": [
        (r"IJepa", "ToyJepa"),
        (r"models\.ijepa\.configuration_ijepa", "models.toyjepa.configuration_toyjepa"),
        (r'"ijepa"', '"toyjepa"'),
        (r"self\.ijepa", "self.toyjepa"),
        (r"from transformers\.conversion_mapping import \(.*?\)\n", ""),
        (r"register_checkpoint_conversion_mapping\(.*?\)\n", ""),
        (r", get_checkpoint_conversion_mapping.*?\n", "\n"),
    ],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the package with one more variant, made from the folder of I-JEPA."""
    root = tmp_path_factory.mktemp("source")
    shutil.copytree(Path(hf_jepa.__file__).parent, root / "hf_jepa", ignore=shutil.ignore_patterns("__pycache__"))
    models = root / "hf_jepa/models"
    (models / "toyjepa").mkdir()
    (models / "toyjepa/__init__.py").touch()
    for kind, edits in EDITS.items():
        text = (models / f"ijepa/{kind}_ijepa.py").read_text(encoding="utf-8")
        for pattern, replacement in edits:
            text = re.sub(pattern, replacement, text, flags=re.DOTALL)
        (models / f"toyjepa/{kind}_toyjepa.py").write_text(text, encoding="utf-8")
    registry = root / "hf_jepa/registry.py"
    text = registry.read_text(encoding="utf-8")
    end = "\n    )\n}\n"
    assert text.count(end) == 1
    entry = ENTRY % hf_jepa.VARIANTS["ijepa"].tiny
    registry.write_text(text.replace(end, entry), encoding="utf-8")
    return root


def run(source: Path, code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=source)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["ToyJepaConfig", "ToyJepaForPreTraining"])
def test_it_is_registered_whatever_is_imported_first(source, first):
    imports = f"from hf_jepa import {first}; from transformers import AutoModelForPreTraining as A"
    assert run(source, imports + ALL_REGISTERED + "print('toyjepa' in VARIANTS)").split("\n") == ["[]", "True"]


@pytest.mark.slow
def test_a_look_from_a_half_imported_module_registers_nothing_yet(source):
    """Importing a variant there could end in a circle; the next look registers it."""
    (source / "hf_jepa/half.py").write_text(
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING\nSEEN = 'toyjepa' in CONFIG_MAPPING\n"
    )
    code = "from hf_jepa.half import CONFIG_MAPPING, SEEN; print(SEEN, 'toyjepa' in CONFIG_MAPPING)"
    assert run(source, code) == "False True"


def test_checkpoints_load_through_the_auto_classes(source, tmp_path):
    code = f"""
import hf_jepa
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
variant = hf_jepa.VARIANTS["toyjepa"]
variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained({str(tmp_path)!r})
for auto in (AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining):
    print(type(auto.from_pretrained({str(tmp_path)!r})).__name__)
"""
    expected = ["ToyJepaConfig", "ToyJepaModel", "ToyJepaForImageClassification", "ToyJepaForPreTraining"]
    assert run(source, code).splitlines() == expected


@pytest.mark.slow
def test_it_trains_and_its_card_is_true(source, tmp_path):
    training = f"""
import json
from hf_jepa.cli.main import main
from hf_jepa.registry import VARIANTS
options = ["--dataset", "embedded", "--generated_length", "16", "--min_keep", "3", "--max_steps", "2"]
options += ["--per_device_train_batch_size", "8", "--use_cpu", "true", "--report_to", "none"]
options += ["--output_dir", {str(tmp_path / "run")!r}]
assert main(["train", "toyjepa", "--model_config", json.dumps(VARIANTS["toyjepa"].tiny), *options]) == 0
"""
    run(source, training)
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "run/README.md").read_text(), flags=re.DOTALL)
    run(source, snippet.replace('"run"', repr(str(tmp_path / "run"))))


@pytest.mark.slow
def test_the_behaviour_suites_take_it_up(source):
    suites = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "toyjepa and not complete and not compile"]
    command += ["-p", "no:cacheprovider", *(str(suites / f"test_{name}.py") for name in ("checkpoints", "contract"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=source)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 20, done.stdout[-500:]
