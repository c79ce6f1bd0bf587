"""Fine-tuning of the tiny I-JEPA of the training tests."""

from tiny_training import QUIET

from hf_jepa.data.embedded import LabelledCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.registry import VARIANTS
from hf_jepa.training.classification import build_datasets
from hf_jepa.training.finetune_image import ClassificationArguments, open_split
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments, load_classifier


NAMES = [f"class {i}" for i in range(18)]
PROCESSOR = IJepaImageProcessor.from_config(IJepaConfig(image_size=48))


def arguments(dataset, **options) -> ClassificationArguments:
    return ClassificationArguments(model_name_or_path="unused", dataset=str(dataset), **options)


def splits_of(arguments, processor, size, seed):
    """Training and evaluation data, and the names of the classes."""
    return build_datasets(
        arguments, lambda split, train: open_split(arguments, split, processor, size, seed, train), seed
    )


def classifier(checkpoint, mode="full", names=NAMES):
    return load_classifier(VARIANTS["ijepa"], str(checkpoint), names, mode)


def make_trainer(model, output, train=None, **options):
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 16,
        "max_steps": 6,
        "logging_steps": 1,
        "eval_strategy": "no",
        **QUIET,
    }
    return ClassificationTrainer(
        model,
        FineTuningArguments(**(defaults | options)),
        train_dataset=train or LabelledCrops("train", per_picture=4),
        eval_dataset=LabelledCrops("test", per_picture=2),
        data_collator=ImageCollator(keep_unreadable=True),
    )
