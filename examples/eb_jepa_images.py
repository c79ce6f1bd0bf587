"""What do the two image objectives of EB-JEPA, VICReg and BCS, teach a small ResNet without labels?

    python examples/eb_jepa_images.py --output-dir runs/eb_jepa_images

Needs no download: handwritten digits of scikit-learn, two random crops of each. The digits of training and test are
different ones. `--dataset` takes any labelled images with splits "train" and "test" instead, such as a folder with a
folder for each class, parquet files, or CIFAR-10 of the Hub (`--dataset uoft-cs/cifar10 --image-size 32`, and an
accelerator). Both objectives are variants that the package has: VICReg with the scaling of eb_jepa, and LeJEPA, of
which BCS is a form (see `bcs_config`). Beside them stand raw pixels and the untrained encoder.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from short_runs import run_trainer, short_run
from torch import nn
from transformers import set_seed
from transformers.modeling_outputs import BaseModelOutput

from hf_jepa import LeJepaConfig, LeJepaForPreTraining, VicRegConfig, VicRegForPreTraining
from hf_jepa.cli.tables import table
from hf_jepa.data.images import ImageDataset
from hf_jepa.data.moving_digits import digit_images, glyph_numbers
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import evaluation_transform
from hf_jepa.data.view_augmentation import ViewAugmentation
from hf_jepa.data.views import MultiCrop, ViewCollator
from hf_jepa.evaluation.features import extract_features
from hf_jepa.evaluation.linear import linear_probe
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.kept import write_text
from hf_jepa.training.knn_probe import OnlineKnnProbe
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.visualization.curves import draw_training_curves


PROJECTOR, EMBEDDING = 256, 128
# What is done to a view after it was cropped: to the pictures of CIFAR, officially, and to digits, which have no
# colours and would be others if they were mirrored.
AUGMENTATION = {
    False: {"blur_probability": 0.0, "solarize_probability": 0.1},
    True: {
        "flip_probability": 0.0,
        "color_jitter": (0.4, 0.4, 0.0, 0.0),
        "grayscale_probability": 0.0,
        "blur_probability": 0.0,
        "solarize_probability": 0.0,
    },
}
CURVES = {"loss": ["loss"], "online k-NN": ["knn_accuracy"], "RankMe": ["rankme"]}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/eb_jepa_images"), help="where all is written")
    parser.add_argument("--dataset", default="digits", help="'digits', or what `load_images` opens")
    parser.add_argument("--image-size", type=int, default=32, help="pixels of a view")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each objective")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a step")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage of the ResNet")
    parser.add_argument("--accelerator", action="store_true", help="train on an accelerator where there is one")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    return parser.parse_args(argv)


def rows(dataset: str, split: str) -> Any:
    """Labelled images, as `ImageDataset` reads them."""
    if dataset != "digits":
        return load_images(dataset, split)
    glyphs, classes = digit_images()
    chosen = glyph_numbers(split)
    pixels = np.repeat((255 * glyphs[chosen]).astype(np.uint8)[..., None], 3, axis=-1)
    return [{"image": image, "label": int(label)} for image, label in zip(pixels, classes[chosen], strict=True)]


def backbone(width: int) -> dict[str, Any]:
    """A ResNet of two stages; like all of transformers' it begins at a quarter of the resolution."""
    return {
        "model_type": "resnet",
        "layer_type": "basic",
        "embedding_size": width,
        "hidden_sizes": [width, 2 * width],
        "depths": [1, 1],
    }


def bcs_config(**fields: Any) -> LeJepaConfig:
    """LeJEPA as BCS: SIGReg of each view with ten knots on [-3, 3] and without the factor N.

    The distance of two views to their mean is a quarter of that between them, so a weight of 10 is one of 2.5 here,
    and the loss a quarter of `hf_jepa.losses.bcs.bcs_loss`.
    """
    return LeJepaConfig(
        combination="additive",
        invariance_centre="all",
        batch_norm_scope="view",
        sigreg_weight=10 / 4,
        sigreg_num_slices=256,
        sigreg_num_points=10,
        sigreg_interval="full",
        sigreg_scale_by_n=False,
        **fields,
    )


def new_model(name: str, width: int, seed: int) -> nn.Module:
    set_seed(seed)
    fields = {"backbone_config": backbone(width), "proj_hidden_size": PROJECTOR, "proj_size": EMBEDDING}
    if name == "BCS":
        return LeJepaForPreTraining(bcs_config(**fields))
    return VicRegForPreTraining(VicRegConfig(scaling="eb_jepa", **fields))


def train(model: nn.Module, data: dict[str, ImageDataset], args: argparse.Namespace, folder: Path) -> list[dict]:
    """Train in place; returns the log, with the k-NN accuracy of the encoder on the way."""
    training = JepaTrainingArguments(
        **short_run(folder, args.steps, args.batch_size, args.seed) | {"use_cpu": not args.accelerator},
        learning_rate=2e-3,
        start_learning_rate=0.0,
        final_learning_rate=2e-5,
        warmup_steps=max(1, args.steps // 10),
        weight_decay=1e-4,
        final_weight_decay=1e-4,
    )
    trainer = JepaTrainer(
        model,
        training,
        view_augmentation=ViewAugmentation(**AUGMENTATION[args.dataset == "digits"]),
        train_dataset=data["views"],
        data_collator=ViewCollator(),
    )
    trainer.add_callback(OnlineKnnProbe(trainer, data["train"], data["test"], every=max(1, args.steps // 5)))
    return run_trainer(trainer, "training")


class Pixels(nn.Module):
    """The encoder that does nothing."""

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=pixel_values.flatten(1).unsqueeze(1))


def accuracy(encoder: nn.Module, data: dict[str, ImageDataset]) -> float:
    """Of a linear probe on frozen features."""
    train, test = (extract_features(encoder, data[split], progress=False) for split in ("train", "test"))
    return linear_probe(*train, *test).accuracy


def run(args: argparse.Namespace) -> dict:
    """The experiment; writes models, curves and results.json to the folder, and returns the results."""
    start, folder = time.perf_counter(), args.output_dir
    splits = {split: rows(args.dataset, split) for split in ("train", "test")}
    judged = evaluation_transform(args.image_size, crop_pct=1.0)
    data = {split: ImageDataset(images, judged) for split, images in splits.items()}
    crops = MultiCrop(args.image_size, global_scale=(0.4 if args.dataset == "digits" else 0.2, 1.0))
    data["views"] = ImageDataset(splits["train"], crops, seed=args.seed)
    untrained = new_model("VICReg", args.width, args.seed).eval()
    found = {"raw pixels": accuracy(Pixels(), data), "untrained": accuracy(untrained.feature_encoder, data)}
    curves = {}
    for name in ("VICReg", "BCS"):
        model = new_model(name, args.width, args.seed)
        log = train(model, data, args, folder / name.lower())
        found[name] = accuracy(model.feature_encoder, data)
        curves[name] = [entry["knn_accuracy"] for entry in log if "knn_accuracy" in entry]
        model.save_pretrained(folder / name.lower())
        draw_training_curves(log, CURVES, folder / f"{name.lower()}.png", title=name)
    results = {"steps": args.steps, "linear_probe": found, "online_knn": curves}
    results["seconds"] = round(time.perf_counter() - start, 1)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    results = run(args)
    lines = [[name, f"{share:.1%}"] for name, share in results["linear_probe"].items()]
    print(f"\n{table(['features', 'linear probe'], lines)}\n\n{results['seconds']} seconds, see {args.output_dir}")


if __name__ == "__main__":
    main()
