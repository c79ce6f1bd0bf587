"""I-JEPA's encoder, training step and average beside native transformers and the restated official step.

    python benchmarks/bench_model.py [--quick]

Process CPU time, one thread, alternating in one process; the ratio of medians is the result.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import transformers
from official_step import OfficialStep

from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.optimizer import build_optimizer


def compare(ours: Callable, reference: Callable, repeats: int) -> tuple[float, float]:
    """Median milliseconds of process CPU time of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, found in zip((ours, reference), times, strict=True):
            start = time.process_time()
            function()
            if repeat:  # the first round warms up
                found.append(1000 * (time.process_time() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def row(name: str, ours: float, reference: float, target: float) -> dict:
    ratio = ours / reference
    return {"name": name, "ours_ms": ours, "reference_ms": reference, "ratio": ratio, "target": target}


def bench_encoder(size: str, batch: int, repeats: int) -> dict:
    config = IJepaConfig.from_size(size, pred_num_hidden_layers=1)
    ours = IJepaForPreTraining(config).eval().target_encoder
    native = transformers.IJepaModel(config).eval()
    native.load_state_dict(ours.state_dict())
    images = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images)[0], native(images)[0], rtol=1e-4, atol=1e-5)
        found = compare(lambda: ours(images), lambda: native(images), repeats)
    return row(f"encoder forward {size} batch {batch}, native transformers", *found, 1.05)


def bench_step(size: str, pred_dim: int, batch: int, repeats: int) -> list[dict]:
    config = IJepaConfig.from_size(size, pred_hidden_size=pred_dim, pred_num_hidden_layers=6)
    model = IJepaForPreTraining(config).train()
    optimizer = build_optimizer(model, 1e-3, 0.04, (0.9, 0.999), 1e-8)
    official = OfficialStep(
        config.hidden_size, config.num_hidden_layers, config.num_attention_heads, pred_dim, pred_depth=6
    )
    official.load(model)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 224, 224)
    masks = OfficialMultiBlockMaskSampler(config.grid_size)(torch.arange(batch), step=0)
    with torch.no_grad():
        torch.testing.assert_close(model(images, *masks).loss, official.loss(images, *masks), rtol=1e-5, atol=1e-5)

    def step():
        model(images, *masks).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.996)

    full = compare(step, lambda: official(images, *masks), repeats)
    average = compare(lambda: model.update_target_encoder(0.996), lambda: official.average(0.996), 5 * repeats)
    return [
        row(f"training step {size} batch {batch}, official restated", *full, 0.90),
        row(f"average {size}, loop over parameters", *average, 0.5),
    ]


def bench_import(repeats: int) -> dict:
    def seconds(code: str) -> float:
        program = f"import time; start = time.process_time(); {code}; print(time.process_time() - start)"
        run = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)]
        return float(run[0].stdout)

    plain, both = [], []
    for _ in range(repeats):
        plain.append(seconds("import transformers"))
        both.append(seconds("import transformers, hf_jepa"))
    added = 1000 * (statistics.median(both) - statistics.median(plain))
    return {"name": "import hf_jepa adds (limit 300 ms)", "ours_ms": added, "reference_ms": 300.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = [bench_encoder("vit_tiny" if quick else "vit_base", 2 if quick else 4, 2 if quick else 5)]
    for size, pred_dim in [("vit_tiny", 96)] if quick else [("vit_small", 192), ("vit_base", 384)]:
        rows += bench_step(size, pred_dim, 2 if quick else 8, 1 if quick else 3)
    rows.append(bench_import(1 if quick else 5))
    rows[-1] |= {"ratio": rows[-1]["ours_ms"] / 300.0, "target": 1.0}
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, 1 thread, process CPU time\n")
    print(f"{'what, beside what':<62}{'ours ms':>10}{'other ms':>10}{'ratio':>8}{'target':>8}")
    for r in rows:
        verdict = "" if r["ratio"] <= r["target"] else "  missed"
        print(
            f"{r['name']:<62}{r['ours_ms']:>10.1f}{r['reference_ms']:>10.1f}{r['ratio']:>8.2f}{r['target']:>8.2f}{verdict}"
        )
    return int(any(r["ratio"] > r["target"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
