"""The experiment of `hf-jepa quickstart`: model, masks, schedule, read-out, and the reload by stock code."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PrinterCallback, set_seed

from hf_jepa.data.embedded import EmbeddedCrops, labelled_crops
from hf_jepa.data.images import ImageCollator
from hf_jepa.evaluation.knn import knn_classify
from hf_jepa.evaluation.linear import linear_probe
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.progress import ProgressBar
from hf_jepa.training.trainer import JepaTrainer


BATCH_SIZE = 64
GALLERY_PER_PICTURE, TEST_PER_PICTURE = 60, 30
NEIGHBOURS = 20
PATCH = 8
# Few rows for many dimensions: all three rows of the table choose among strong penalties.
WEIGHT_DECAYS = (1e-1, 1.0, 10.0)


class Crops(NamedTuple):
    """The labelled crops that the probes of one seed see: left halves of the pictures, and right halves.

    Args:
        gallery, test: (N, 3, 48, 48), three equal channels
        gallery_labels, test_labels: (N,) number of the picture.
    """

    gallery: torch.Tensor
    gallery_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor


def model_config() -> IJepaConfig:
    """A narrow I-JEPA on 6 x 6 tokens."""
    return IJepaConfig(
        image_size=48,
        patch_size=PATCH,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        pred_hidden_size=48,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=4,
        initializer_range=0.08,  # at 0.02 position codes drown the pixels of so narrow a model: it collapses
    )


def mask_sampler(seed: int) -> MultiBlockMaskSampler:
    return MultiBlockMaskSampler(6, target_scale=(0.12, 0.22), min_keep=2, seed=seed)


def labelled(seed: int) -> Crops:
    return Crops(
        *labelled_crops("train", GALLERY_PER_PICTURE, seed=seed), *labelled_crops("test", TEST_PER_PICTURE, seed=seed)
    )


def new_model(seed: int) -> IJepaForPreTraining:
    set_seed(seed)
    return IJepaForPreTraining(model_config())


def pretrain(
    model: IJepaForPreTraining, seed: int, steps: int, folder: Path, title: str, line: int = 0
) -> JepaTrainer:
    """Pretrain in place on endless crops of the left halves.

    Args:
        model: from `new_model`.
        seed: of crops and masks.
        steps: optimizer steps.
        folder: the trainer's output folder, which stays empty.
        title: of the progress bar.
        line: of the terminal that the bar is on.

    Returns:
        The trainer, with its log and its collapse monitor.
    """
    args = JepaTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=3e-3,
        start_learning_rate=0.0,
        final_learning_rate=3e-5,
        warmup_steps=max(1, steps // 10),
        weight_decay=0.05,
        final_weight_decay=0.05,
        start_momentum=0.99,
        final_momentum=1.0,
        logging_steps=max(1, steps // 40),
        logging_first_step=True,
        save_strategy="no",
        report_to=[],
        use_cpu=True,  # the figures should not depend on who has an accelerator
        seed=seed,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = JepaTrainer(
        model,
        args,
        mask_sampler(seed),
        train_dataset=EmbeddedCrops(steps * BATCH_SIZE, seed=seed),
        data_collator=ImageCollator(),
        callbacks=[ProgressBar(title, line)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


@contextmanager
def one_thread() -> Iterator[None]:
    """For matrices this small a second thread gains little, costs much on a busy machine, and changes last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def encode(encoder: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) of crops (B, 3, H, W)."""
    return torch.cat([encoder(batch).last_hidden_state for batch in pixels.split(256)])


def tokens(encoder: nn.Module | None, pixels: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) of crops (B, 3, H, W); without an encoder the pixels of each patch."""
    if encoder is not None:
        return encode(encoder, pixels)
    grey = pixels[:, 0]  # the channels are equal
    return grey.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)


READOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda x: x.mean(dim=1),
    "mean_std": lambda x: torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)], dim=-1),
    "max": lambda x: x.amax(dim=1),
}


def features(encoder: nn.Module | None, crops: Crops, readout: str = "mean") -> tuple[torch.Tensor, torch.Tensor]:
    """Gallery and test features, each dimension standardised by the gallery.

    The mean over the patches of raw pixels says next to nothing, so there "mean" stands for all pixels.
    """
    read = READOUTS[readout] if encoder is not None or readout != "mean" else lambda x: x.flatten(1)
    gallery, test = (read(tokens(encoder, pixels)) for pixels in (crops.gallery, crops.test))
    std, mean = torch.std_mean(gallery, dim=0)
    return (gallery - mean) / std.clamp(min=1e-6), (test - mean) / std.clamp(min=1e-6)


def scores(encoder: nn.Module | None, crops: Crops) -> dict[str, float]:
    """Accuracy in naming the picture of a crop: k-NN on every read-out, and a linear probe on the mean."""
    found = {}
    for readout in READOUTS:
        gallery, test = features(encoder, crops, readout)
        data = (gallery, crops.gallery_labels, test, crops.test_labels)
        found[f"knn_{readout}"] = knn_classify(*data, k=NEIGHBOURS).accuracy
        if readout == "mean":
            found["linear"] = linear_probe(*data, weight_decays=WEIGHT_DECAYS).accuracy
    return found


def seed_scores(
    seed: int, steps: int, work: Path, crops: Crops, model: IJepaForPreTraining
) -> tuple[dict[str, dict[str, float]], JepaTrainer]:
    """Pretrain in place, and the `scores` of raw pixels and of the encoder before and after."""
    found = {"raw": scores(None, crops), "untrained": scores(model.target_encoder, crops)}
    folder = work / f"trainer-{seed}"
    trainer = pretrain(model, seed, steps, folder, f"seed {seed}", line=seed)
    shutil.rmtree(folder, ignore_errors=True)
    return found | {"pretrained": scores(model.target_encoder, crops)}, trainer


@contextmanager
def other_seeds(seeds: int, steps: int, work: Path) -> Iterator[Callable[[], list[dict[str, dict[str, float]]]]]:
    """Seeds 1 to `seeds` - 1 in processes of their own, one for every further CPU, beside the body of the block.

    Yields:
        a function that waits for them and gives the scores of each, see `seed_scores`.
    """
    workers = min(seeds - 1, max(1, (os.cpu_count() or 1) - 1))
    if not workers:
        yield list
        return
    context = torch.multiprocessing.spawn(_score_others, (workers, seeds, steps, work), workers, join=False)

    def wait() -> list[dict[str, dict[str, float]]]:
        while not context.join():
            pass
        files = [work / f"scores-{seed}.json" for seed in range(1, seeds)]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        for file in files:
            file.unlink()
        return found

    try:
        yield wait
    finally:
        for process in context.processes:
            process.terminate()


def _score_others(worker: int, workers: int, seeds: int, steps: int, work: Path) -> None:
    with one_thread(), redirect_stdout(io.StringIO()):  # the first seed's report is shown, the other bars are
        for seed in range(1 + worker, seeds, workers):
            found, _ = seed_scores(seed, steps, work, labelled(seed), new_model(seed))
            (work / f"scores-{seed}.json").write_text(json.dumps(found), encoding="utf-8")


# Runs in a process of its own. An entry of None makes every import of that name fail.
_RELOAD = """
import sys
sys.modules["hf_jepa"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
folder, pixels, output = sys.argv[1:]
model = AutoModel.from_pretrained(folder).eval()
if any(name.startswith("hf_jepa.") for name in sys.modules):
    sys.exit("hf_jepa was imported")
with torch.inference_mode():
    tokens = model(load_file(pixels)["pixel_values"]).last_hidden_state
weights = {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
save_file({"features": tokens.mean(dim=1), **weights}, output)
print(f"{type(model).__module__}.{type(model).__name__}")
"""


def reload_in_new_process(
    model: IJepaForPreTraining, folder: Path, pixels: torch.Tensor, scratch: Path
) -> dict[str, Any]:
    """Load a saved model by stock `AutoModel` where this package cannot be imported, and compare it.

    Args:
        model: what was saved.
        folder: where.
        pixels: (B, 3, H, W) to compare features on.
        scratch: folder for the exchange of tensors.

    Returns:
        "class" (of the stock model), "weights_equal" (bit for bit), "largest_difference" of the features relative to
        their largest value.

    Raises:
        RuntimeError: the other process failed; the message holds its last words.
    """
    save_file({"pixel_values": pixels.contiguous()}, scratch / "pixels.safetensors")
    command = [
        sys.executable,
        "-c",
        _RELOAD,
        str(folder),
        *(str(scratch / f"{n}.safetensors") for n in ("pixels", "stock")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"stock transformers could not load {folder}:\n{done.stderr[-2000:]}")
    stock = load_file(scratch / "stock.safetensors")
    stock_features = stock.pop("features")
    own_features = encode(model.target_encoder, pixels).mean(dim=1)
    own = model.target_encoder.state_dict()
    return {
        "class": done.stdout.strip().splitlines()[-1],
        "weights_equal": own.keys() == {name.removeprefix("weights.") for name in stock}
        and all(torch.equal(tensor, stock[f"weights.{name}"]) for name, tensor in own.items()),
        "largest_difference": ((own_features - stock_features).abs().max() / own_features.abs().max()).item(),
    }


__all__ = [
    "Crops",
    "encode",
    "features",
    "labelled",
    "mask_sampler",
    "model_config",
    "new_model",
    "one_thread",
    "pretrain",
    "reload_in_new_process",
    "scores",
]
