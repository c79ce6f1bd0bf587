"""V-JEPA 2 beside transformers' `VJEPA2Model` and the restated official step: time, operations, memory."""

from collections.abc import Iterator

import torch
import transformers
from counting import operations, peak_memory
from official_video_step import OfficialVideoStep
from timing import Row, medians
from torch import nn

from hf_jepa.layers.onednn import onednn_pays_off, use_onednn
from hf_jepa.layers.tokens import take_tokens
from hf_jepa.masking.multiblock3d_official import OfficialMultiBlock3dMaskSampler
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2Model
from hf_jepa.training.optimizer import build_optimizer


ENCODER_LIMIT, OPERATIONS_LIMIT, MASKED_LIMIT = 0.95, 25, 0.60
CONTEXT_SHARE = 576 / 1568  # of the tokens, about that of the official short-range mask; the others are predicted
NATIVE = "transformers VJEPA2Model"
SMALL = VJepa2Config(
    crop_size=224,
    frames_per_clip=16,
    hidden_size=192,
    num_hidden_layers=6,
    num_attention_heads=3,
    pred_hidden_size=96,
    pred_num_hidden_layers=4,
    pred_num_attention_heads=3,
)
BASE = VJepa2Config.from_size("vit_base", crop_size=224, frames_per_clip=16)
TINY = VJepa2Config(**(SMALL.to_diff_dict() | {"crop_size": 112, "frames_per_clip": 8, "num_hidden_layers": 2}))


def run(quick: bool) -> Iterator[Row]:
    """Everything; `quick` takes a small model, short clips and one reading, to see that it runs."""
    sizes = [("tiny", TINY, 1)] if quick else [("width 192", SMALL, 25), ("vit_base", BASE, 5)]
    for size, config, repeats in sizes:
        what = f"{size}, {config.frames_per_clip} x {config.crop_size} px"
        yield from bench_forwards(what, config, repeats)
        yield bench_memory(what, config)
        yield from bench_step(what, config, repeats=-(-repeats // 3))
    yield from bench_operations(sizes[0][1])


def both(config: VJepa2Config) -> tuple[VJepa2Model, transformers.VJEPA2Model]:
    """Our model and the native one, of the same weights."""
    ours = VJepa2Model(config)
    native = transformers.VJEPA2Model(transformers.VJEPA2Config(**_native_fields(config)))
    native.load_state_dict(ours.state_dict())
    return ours, native


def masks(config: VJepa2Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Context and targets of one clip, which are all of its tokens together."""
    frames, rows, columns = config.grid_size
    tokens = frames * rows * columns
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(0)).unsqueeze(0)
    context, target = order.tensor_split([round(CONTEXT_SHARE * tokens)], dim=1)
    return context.sort().values, target.sort().values


def bench_forwards(size: str, config: VJepa2Config, repeats: int) -> Iterator[Row]:
    """The encoder alone, then a prediction: first by PyTorch's usual kernels, then by oneDNN's."""
    ours, native = (model.eval() for model in both(config))
    clip, (context, target) = _clips(config, 1), masks(config)

    def ours_masked():
        return ours(clip, context_mask=context, target_mask=target)

    def native_masked():
        return native(clip, context_mask=[context], target_mask=[target])

    for kernels in ("", ", onednn"):
        if kernels:
            use_onednn(ours)
        with torch.inference_mode():
            _require_same(ours, native, clip, context, target)
            encoder = medians(
                lambda: ours(clip, skip_predictor=True), lambda: native(clip, skip_predictor=True), repeats=repeats
            )
            masked = medians(ours_masked, native_masked, repeats=repeats)
        yield Row(f"V-JEPA 2 encoder forward, {size}{kernels}", NATIVE, *encoder, ENCODER_LIMIT)
        yield Row(f"V-JEPA 2 masked encoder and predictor, {size}{kernels}", NATIVE, *masked, MASKED_LIMIT)


def _require_same(ours, native, clip, context, target) -> None:
    """Equal encodings; equal predictions from them (the native encoder always sees the whole clip, ours need not)."""
    wanted = native(clip, context_mask=[context], target_mask=[target])
    encoded = ours(clip).last_hidden_state
    torch.testing.assert_close(encoded, wanted.last_hidden_state, rtol=1e-4, atol=1e-4)
    (predicted,) = ours.predictor([take_tokens(encoded, context)], [context], [target], [ours.token_grid(clip)], [1])
    torch.testing.assert_close(predicted, wanted.predictor_output.last_hidden_state, rtol=1e-4, atol=1e-4)


def bench_memory(size: str, config: VJepa2Config) -> Row:
    """Forward and backward for one pair of masks, gradients included, by our modules and by native ones."""
    model, (_, native) = VJepa2ForPreTraining(config).train(), both(config)
    target_encoder = both(config)[1].encoder
    clip, (context, target) = _clips(config, 1), masks(config)

    def ours():
        model(clip, [context], [target]).loss.backward()
        model.zero_grad()

    def restated():
        with torch.no_grad():
            hidden = target_encoder(clip).last_hidden_state
            wanted = take_tokens(nn.functional.layer_norm(hidden, hidden.shape[-1:]), target)
        predictions = native(clip, context_mask=[context], target_mask=[target]).predictor_output.last_hidden_state
        (predictions - wanted).abs().mean().backward()
        native.zero_grad()

    found = []
    for step in (ours, restated):
        step()  # buffers that stay are made by the first step
        found.append(peak_memory(step))
    return Row(f"V-JEPA 2 memory of a masked step, {size}", f"{NATIVE} modules", *found, None, "MiB")


def bench_step(size: str, config: VJepa2Config, repeats: int) -> Iterator[Row]:
    """Forward, backward, AdamW and average with the official pairs of masks, two clips."""
    model = VJepa2ForPreTraining(config).train()
    optimizer = build_optimizer(model, 1e-3, 0.04, (0.9, 0.999), 1e-8)
    official = OfficialVideoStep(model)
    torch.manual_seed(0)
    contexts, targets = OfficialMultiBlock3dMaskSampler(config.grid_size)(torch.arange(2), step=0)
    clips = _clips(config, 2)
    channels_first = clips.transpose(1, 2).contiguous()
    with torch.no_grad():
        out = model(clips, contexts, targets)
        for mine, theirs in zip(out.predictions, official.predict(channels_first, contexts, targets), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.loss, official.loss(channels_first, contexts, targets), rtol=1e-5, atol=1e-5)

    def step():
        model(clips, contexts, targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.99925)

    def restated():
        official(channels_first, contexts, targets)

    eager = medians(step, restated, repeats=repeats)
    if onednn_pays_off():  # as in a run, see `KernelMixin`
        use_onednn(model)
    as_trained = medians(step, restated, repeats=repeats)
    what, beside = f"V-JEPA 2 training step, {size}, batch 2", "restated official step"
    yield Row(what, beside, *as_trained, None)
    yield Row(f"{what}, onednn: false", beside, *eager, None)


def bench_operations(config: VJepa2Config) -> Iterator[Row]:
    """What a layer of the encoder adds to the operations of a forward, ours and native."""
    clip, counts = _clips(config, 1), []
    for depth in (1, 2):
        models = both(VJepa2Config(**(config.to_diff_dict() | {"num_hidden_layers": depth})))
        counts.append([operations(lambda model=model: model(clip, skip_predictor=True)) for model in models])
    ours, native = (second - first for first, second in zip(*counts, strict=True))
    yield Row("V-JEPA 2 non-view operations per layer", "limit", ours, None, OPERATIONS_LIMIT, "operations")
    yield Row("V-JEPA 2 non-view operations per layer", NATIVE, ours, native, None, "operations")


def _clips(config: VJepa2Config, batch: int) -> torch.Tensor:
    shape = (batch, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _native_fields(config: VJepa2Config) -> dict:
    """What the native config knows of ours."""
    known = transformers.VJEPA2Config().to_dict()
    return {name: value for name, value in config.to_diff_dict().items() if name in known}
