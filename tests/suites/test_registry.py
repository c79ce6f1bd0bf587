"""A variant is one folder and one registry entry; configs are strict; importing is cheap."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from outputs import keeps_the_contract, predicts_by_masks
from transformers import AutoConfig, AutoModelForPreTraining

import hf_jepa
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.finetune_anticipation import AnticipationArguments
from hf_jepa.training.finetune_image import ClassificationArguments
from hf_jepa.training.finetune_llm_jepa import LanguageModelArguments, ObjectiveArguments, TextPairArguments
from hf_jepa.training.finetune_video import VideoClassificationArguments
from hf_jepa.training.finetuning import FineTuningArguments
from hf_jepa.training.llm_jepa import LlmJepaTrainingArguments
from hf_jepa.training.pretrain_image import recipe_sections
from hf_jepa.training.pretrain_trajectory import WorldModelArguments
from hf_jepa.training.pretrain_video import VideoMaskArguments, VideoPretrainingArguments
from hf_jepa.training.pretrain_vl_jepa import VLJepaModelArguments
from hf_jepa.training.recipe import parse_recipe
from hf_jepa.training.train_vl_jepa_decoder import DecoderArguments, VLJepaDecoderTrainingArguments
from hf_jepa.training.trajectory_arguments import TrajectoryTrainingArguments
from hf_jepa.training.trajectory_data import TrajectoryDataArguments
from hf_jepa.training.vision_language_arguments import VLJepaTrainingArguments
from hf_jepa.training.vision_text_data import VisionTextArguments


ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/hf_jepa"
# The sections of a recipe, by modality and by whether it is for fine-tuning; a modality, not a variant, adds a line.
SECTIONS = {
    ("image", False): recipe_sections,
    ("image", True): lambda variant: (ClassificationArguments, FineTuningArguments),
    ("video", False): lambda variant: (VideoPretrainingArguments, VideoMaskArguments, JepaTrainingArguments),
    ("video", True): lambda variant: (VideoClassificationArguments, FineTuningArguments),
    ("text", False): lambda variant: (
        LanguageModelArguments,
        ObjectiveArguments,
        TextPairArguments,
        LlmJepaTrainingArguments,
    ),
    ("vision_text", False): lambda variant: VISION_TEXT,
    ("vision_text", True): lambda variant: VISION_TEXT,
    ("trajectory", False): lambda variant: (WorldModelArguments, TrajectoryDataArguments, TrajectoryTrainingArguments),
}
SUB_CONFIGS = {"backbone_config", "text_config", "world_model_config"}
VISION_TEXT = (VLJepaModelArguments, VisionTextArguments, VLJepaTrainingArguments)


def test_every_public_name_resolves():
    assert all(getattr(hf_jepa, name) is not None for name in hf_jepa.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hf_jepa.no_such_name


def test_variant_is_complete(variant):
    folder = PACKAGE / "models" / variant.name
    wanted = ["__init__.py", f"configuration_{variant.name}.py", f"modeling_{variant.name}.py", "README.md"]
    # Without __init__.py a wheel would lack the folder.
    assert not [name for name in wanted if not (folder / name).is_file()]
    assert (ROOT / f"conversion/convert_{variant.name}.py").is_file() == variant.convertible
    assert f"models/{variant.name}/README.md" in (ROOT / "MODELS.md").read_text(encoding="utf-8")
    models = [variant.pretraining_model, *variant.heads.values()]
    models += [variant.base_model] if variant.base_model else []
    assert {variant.config, *models} <= set(hf_jepa.__all__)
    for name in models:
        # transformers takes it from the annotation `config: ...` of the class, else from the class it inherits.
        assert variant.model_class(name).config_class is variant.config_class(), f"{name} must annotate its `config`"
    if find_spec(f"hf_jepa.training.pretrain_{variant.modality}") is None:
        return  # a modality without a program: its models are trained by JepaTrainer on the user's own data
    assert (ROOT / f"training_scripts/configs/{variant.name}/tiny.yaml").is_file()
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "training_scripts").glob("pretrain_*.py")]
    wanted = f'take_variant(sys.argv[1:], "{variant.modality}"'
    assert any("pretrain(" in script and wanted in script for script in scripts), "no script pretrains it"


def test_recipes_parse(variant, tmp_path):
    folder = ROOT / "training_scripts/configs" / variant.name
    # What a recipe leaves to the command line, and what this machine may not have.
    given = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    for recipe in sorted(folder.glob("*.yaml")):
        tuned, decoder = recipe.stem.startswith(("finetune_", "anticipate_")), recipe.stem.startswith("decoder")
        start = ["--model_name_or_path", "someone/model"] if tuned or decoder else []
        if "\ndataset: " not in recipe.read_text(encoding="utf-8"):
            start += ["--dataset", "embedded"]
        sections = SECTIONS[variant.modality, tuned](variant)
        if recipe.stem.startswith("anticipate_"):
            sections = (AnticipationArguments, FineTuningArguments)
        if decoder:
            sections = (DecoderArguments, VisionTextArguments, VLJepaDecoderTrainingArguments)
        parse_recipe(sections, [str(recipe), *given, *start])  # exits where one is wrong


def test_a_config_shows_its_fields_and_names_a_model(variant, config):
    assert '"hidden_size": ' in repr(config)
    assert not keeps_the_contract(variant) or '"loss_type": ' in repr(config)
    assert type(AutoModelForPreTraining.from_config(config)).__name__ == variant.pretraining_model


def test_config_round_trip(variant, config, tmp_path):
    config.save_pretrained(tmp_path)
    again = type(config).from_pretrained(tmp_path)
    ignored = {"transformers_version": 0, "_name_or_path": 0}
    assert again.to_dict() | ignored == config.to_dict() | ignored
    stock = config.model_type if variant.base_model else config.text_config.model_type
    assert AutoConfig.from_pretrained(tmp_path).model_type == stock


@pytest.mark.variants(condition=lambda variant: "hidden_size" in variant.tiny)
def test_config_refuses_a_width_that_is_no_number(variant):  # trap T6
    with pytest.raises(Exception, match="hidden_size"):
        variant.config_class()(**(variant.tiny | {"hidden_size": "big"}))


@pytest.mark.variants(condition=keeps_the_contract)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": "l3"}, "l3"),
        ({"target_normalization": "batch"}, "batch"),
        ({"target_source": "nowhere"}, "nowhere"),
    ],
)
def test_config_refuses_wrong_values_by_name(variant, fields, message):  # traps T4, T6
    with pytest.raises(Exception, match=message):
        variant.config_class()(**(variant.tiny | fields))


@pytest.mark.variants(condition=predicts_by_masks)
@pytest.mark.parametrize("field", ["hidden_size", "pred_hidden_size", "image_size"])
def test_config_refuses_sizes_that_do_not_divide_by_value(variant, field):  # into heads, into patches; trap T4
    field = variant.config_class().attribute_map.get(field, field)  # video models call it crop_size
    wrong = variant.tiny[field] + 1
    with pytest.raises(Exception, match=rf"{field} {wrong}\b"):
        variant.config_class()(**(variant.tiny | {field: wrong}))


@pytest.mark.variants(condition=predicts_by_masks)
def test_config_takes_ints_for_floats_and_pairs_for_sizes(variant, config):  # trap T6
    height, width = pair(config.patch_size)
    fields = {"pred_mlp_ratio": 4, "image_size": [8 * height, 4 * width]}
    assert variant.config_class()(**(variant.tiny | fields)).grid_size[-2:] == (8, 4)


@pytest.mark.variants(condition=lambda variant: not SUB_CONFIGS & variant.tiny.keys())
def test_aliases_of_fields_reach_what_is_derived_from_them(variant):  # trap T4
    config_class = variant.config_class()
    aliases = {f"other_{name}": name for name in variant.tiny}
    aliased = type("Aliased", (config_class,), {"attribute_map": aliases})
    found = aliased(**{f"other_{name}": value for name, value in variant.tiny.items()})
    expected = config_class(**variant.tiny)
    for name in [*variant.tiny, *config_class.__annotations__]:  # not what the native class derives
        assert getattr(found, name) == getattr(expected, name), name


def test_imports_are_absolute_and_name_things():  # trap T7: a bundler must be able to follow them
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                assert all(alias.name != "*" for alias in node.names), f"{path}: star import"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_cheap_and_brings_no_torch():
    code = (
        "import time, sys, transformers\nstart = time.process_time()\nimport hf_jepa\n"
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    seconds, torch_loaded = run(code).split()
    assert float(seconds) < 0.3 and torch_loaded == "False"


# One process each, which takes seconds, so all variants are looked for at once. What comes first matters only by
# whether its model type is native.
IMPORT_ORDERS = [
    "import hf_jepa; from transformers import AutoModelForPreTraining as A",
    "from transformers import AutoModelForPreTraining as A; A._model_mapping; import hf_jepa",
]
MORE_ORDERS = [
    "import hf_jepa; from transformers import LlamaForCausalLM, AutoModelForPreTraining as A",
    *(
        f"from hf_jepa import {name}; from transformers import AutoModelForPreTraining as A"
        for name in ("IJepaForPreTraining", "IJepaConfig", "VJepaConfig", "VJepaForPreTraining")
    ),
]
ALL_REGISTERED = """
from hf_jepa import VARIANTS
print([name for name, variant in VARIANTS.items() if variant.model_class() not in A._model_mapping.values()])
"""


@pytest.mark.hub  # processes of their own
@pytest.mark.parametrize(
    "imports", [*IMPORT_ORDERS, *(pytest.param(order, marks=pytest.mark.slow) for order in MORE_ORDERS)]
)
def test_auto_registration_works_in_any_import_order(imports):
    assert run(imports + ALL_REGISTERED).strip() == "[]"


@pytest.mark.hub  # a process of its own
def test_what_users_register_stays():
    code = """
import hf_jepa
from transformers import AutoModelForPreTraining, IJepaConfig, IJepaModel
AutoModelForPreTraining.register(IJepaConfig, IJepaModel, exist_ok=True)
print(AutoModelForPreTraining._model_mapping[IJepaConfig].__module__)
"""
    assert run(code).strip() == "transformers.models.ijepa.modeling_ijepa"
