"""I-JEPA's encoder, training step and average beside transformers, timm and the restated official step."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch
import transformers
from official_step import OfficialStep
from timing import Row, medians
from timm_encoder import timm_encoder

from hf_jepa.layers.onednn import onednn_pays_off, use_onednn
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining, IJepaModel
from hf_jepa.training.optimizer import build_optimizer


ENCODER_LIMIT, STEP_LIMIT, AVERAGE_LIMIT, IMPORT_LIMIT_MS = 1.05, 0.90, 0.5, 300.0


def run(quick: bool) -> Iterator[Row]:
    """Everything; `quick` takes a small model and one reading, to see that it runs."""
    if quick:
        tiny = IJepaConfig.from_size("vit_tiny", num_hidden_layers=2, pred_hidden_size=96, pred_num_hidden_layers=2)
        yield from bench_encoder("tiny", tiny, batch=2, repeats=1)
        yield from bench_step("tiny", tiny, batch=2, repeats=1)
        yield from bench_average("tiny", tiny, repeats=1)
        yield bench_import(repeats=1)
        return
    widths = {"vit_tiny": 96, "vit_small": 192, "vit_base": 384, "vit_large": 384}
    configs = {
        size: IJepaConfig.from_size(size, pred_hidden_size=width, pred_num_hidden_layers=6)
        for size, width in widths.items()
    }
    yield from bench_encoder("vit_base", configs["vit_base"], batch=4, repeats=9)
    for size in ("vit_small", "vit_base"):
        yield from bench_step(size, configs[size], batch=8, repeats=9)
    for size, config in configs.items():
        yield from bench_average(size, config, repeats=45)
    yield bench_import(repeats=9)


def bench_encoder(size: str, config: IJepaConfig, batch: int, repeats: int) -> list[Row]:
    ours, native = IJepaModel(config).eval(), transformers.IJepaModel(config).eval()
    native.load_state_dict(ours.state_dict())
    others = {"transformers IJepaModel": lambda x: native(x).last_hidden_state}
    timm = timm_encoder(ours)
    if timm is not None:
        others["timm VisionTransformer"] = timm.forward_features
    images = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        for other in others.values():
            torch.testing.assert_close(ours(images).last_hidden_state, other(images), rtol=1e-4, atol=1e-4)
        found = medians(
            lambda: ours(images), *(lambda other=other: other(images) for other in others.values()), repeats=repeats
        )
    what = f"encoder forward, {size}, batch {batch}"
    rows = [Row(what, name, found[0], time, ENCODER_LIMIT) for name, time in zip(others, found[1:], strict=True)]
    name, other = next(iter(others.items()))
    use_onednn(ours)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images).last_hidden_state, other(images), rtol=1e-4, atol=1e-4)
        found = medians(lambda: ours(images), lambda: other(images), repeats=repeats)
    return [*rows, Row(f"{what}, onednn", name, *found, ENCODER_LIMIT)]


def bench_step(size: str, config: IJepaConfig, batch: int, repeats: int) -> list[Row]:
    model = IJepaForPreTraining(config).train()
    optimizer = build_optimizer(model, 1e-3, 0.04, (0.9, 0.999), 1e-8)
    official = _official_step(config)
    official.load(model)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 224, 224)
    masks = OfficialMultiBlockMaskSampler(config.grid_size)(torch.arange(batch), step=0)
    with torch.no_grad():
        torch.testing.assert_close(model(images, *masks).loss, official.loss(images, *masks), rtol=1e-5, atol=1e-5)
    compiled = torch.compile(model)

    def step(forward):
        forward(images, *masks).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.996)

    def restated():
        official(images, *masks)

    # Two at a time: what three of them leave in the allocator changes the times of each.
    eager = medians(lambda: step(model), restated, repeats=repeats)
    by_compiler = medians(lambda: step(compiled), restated, repeats=repeats)
    what, beside = f"training step, {size}, batch {batch}", "official step"
    rows = [("", eager), (", torch.compile", by_compiler)]
    if onednn_pays_off():  # then a run has it, see `KernelMixin`
        use_onednn(model)
        with_onednn = medians(lambda: step(model), restated, repeats=repeats)
        rows = [("", with_onednn), *((f", onednn: false{how}", times) for how, times in rows)]
    return [Row(f"{what}{how}", beside, *times, STEP_LIMIT) for how, times in rows]


def bench_average(size: str, config: IJepaConfig, repeats: int) -> list[Row]:
    """Beside the official loop, and beside one bare pass over the same tensors, to show what is left to save."""
    model, official = IJepaForPreTraining(config), _official_step(config)
    average = model.target_average()  # held by the trainer during a run

    @torch.no_grad()
    def bare():
        torch._foreach_lerp_(average.target, average.source, 0.004)

    # Never one after the other on the same tensors: the first would leave them in the cache for the second.
    ours, loop = medians(lambda: average(0.996), lambda: official.average(0.996), repeats=repeats)
    least, _ = medians(bare, lambda: official.average(0.996), repeats=repeats)
    what = f"average of the target encoder, {size}"
    return [
        Row(what, "loop over parameters", ours, loop, AVERAGE_LIMIT),
        Row(what, "one bare foreach_lerp", ours, least, None),
    ]


def _official_step(config: IJepaConfig) -> OfficialStep:
    return OfficialStep(
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.pred_hidden_size,
        config.pred_num_hidden_layers,
    )


def bench_import(repeats: int) -> Row:
    """Process CPU time of programs that import and leave."""

    def milliseconds(code: str) -> float:
        program = f"import time; start = time.process_time(); {code}; print(time.process_time() - start)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return 1000 * float(done.stdout)

    programs = ("import transformers", "import transformers, hf_jepa")
    readings = [[milliseconds(program) for program in programs] for _ in range(repeats)]
    plain, both = (statistics.median(times) for times in zip(*readings, strict=True))
    return Row("import hf_jepa after transformers", "limit", max(0.0, both - plain), None, IMPORT_LIMIT_MS)
