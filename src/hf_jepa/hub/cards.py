"""Model cards, written from facts at hand; what was not measured is not claimed."""

from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_jepa.hub.card_uses import ENCODER_USES, PIPELINE_TAGS, USES, purpose_and_limits
from hf_jepa.hub.citations import citation
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import Variant


TEXT = """---
{metadata}
---

# {name}

{title} (arXiv [{paper}](https://arxiv.org/abs/{paper})), as a checkpoint of transformers and `hf_jepa`.

## Use

{use}

## Facts

{facts}
{results}{recipe}
## Intended use

{purpose}

## Limits

{limits} {unverified}

## Licence

{license_text}

## Citation

```bibtex
{citation}
```
"""

RESULTS = """
## Results

| data | split | metric | value | source |
|---|---|---|---|---|
{rows}
"""

RECIPE = """
## Recipe

```yaml
{fields}```
"""

# How the Hub calls what encoders are for, by modality.
TAGS = {"image": "image-feature-extraction", "trajectory": "robotics"}


def _feature(variant: Variant) -> str:
    """How a snippet makes one vector of an image from `output`, the way the encoder was trained."""
    encoder = variant.model_class(variant.base_model)
    if getattr(encoder, "default_readout", "mean") == "pooled":
        return "output.pooler_output"
    if prefix := getattr(encoder, "num_prefix_tokens", 0):
        return f"output.last_hidden_state[:, {prefix}:].mean(dim=1)  # without the CLS token"
    return "output.last_hidden_state.mean(dim=1)  # there is no CLS token"


def _world_model(config) -> dict[str, str | int]:
    """How a snippet calls a world model."""
    seen = getattr(config, "context_frames", None) or 1
    told = [f"actions=torch.zeros(1, {seen - 1}, {config.action_dim})"] if seen > 1 and config.action_dim else []
    told += [f"states=torch.zeros(1, {seen}, {config.state_dim})"] if config.state_dim else []
    return {"seen": seen, "action_dim": config.action_dim, "told": "".join(f", {each}" for each in told)}


def _use(variant: Variant, config, repo: str, task: str | None, starts_from: str | None) -> str:
    """The snippet that loads a checkpoint, with a sentence on what it needs."""
    height, width = pair(getattr(config, "image_size", 0))
    with_predictor = variant.encoder_place() != ""  # the base model holds it too
    return (USES[task] if task else ENCODER_USES[variant.modality]).format(
        loader="Stock transformers" if variant.stock else "transformers, with `hf_jepa` installed,",
        imports="" if variant.stock else "import hf_jepa  # registers the classes\n",
        repo=repo,
        channels=getattr(config, "num_channels", None),
        height=height,
        width=width,
        hidden=getattr(config, "hidden_size", None),
        frames=getattr(config, "frames_per_clip", None),
        loaded="the target encoder and the predictor" if with_predictor else "the target encoder",
        call="clip, skip_predictor=True" if with_predictor else "clip",
        feature=_feature(variant),
        pretraining_model=variant.pretraining_model,
        base_model=variant.base_model,
        starts_from=starts_from,
        **(_world_model(config) if variant.modality == "trajectory" else {}),
        classifier=variant.heads.get("AutoModelForVideoClassification"),
        anticipation=next(iter(variant.parts.get("anticipation", ())), None),
    )


def _row(result: EvalResult, measured: str) -> str:
    """A score in the table of results, with where it comes from."""
    source = f"[{result.source_name or result.source_url}]({result.source_url})" if result.source_url else measured
    name = result.metric_name or result.metric_type
    cells = (result.dataset_name, result.dataset_split or "-", name, result.metric_value, source)
    return f"| {' | '.join(map(str, cells))} |"


def build_card(
    variant: Variant,
    config,
    name: str,
    facts: dict[str, str],
    license: str | None,
    unverified: str,
    repo: str,
    *,
    task: str | None = None,
    recipe: dict | None = None,
    results: Sequence[EvalResult] = (),
    measured: str = "this run",
    base_model: str | None = None,
    starts_from: str | None = None,
    datasets: Sequence[str] = (),
    tags: Sequence[str] = (),
    language: str | None = None,
) -> ModelCard:
    """Write the card of a checkpoint.

    Args:
        variant: of the model.
        config: of the model.
        name: heading.
        facts: what is known, label -> text, in order.
        license: identifier of the licence of the *weights*; None where the author of the weights has yet to choose.
        unverified: a sentence on what was not checked.
        repo: Hub id or folder that the snippet loads.
        task: a key of `USES`, in most cases the pipeline tag; that of an encoder when unset.
        recipe: fields of the run that made the weights.
        results: scores, for the Hub's model index and a table.
        measured: where those without a source of their own come from.
        base_model: Hub id of the checkpoint that was fine-tuned.
        starts_from: that checkpoint, for the snippet of adapters, also where it is a folder.
        datasets: Hub ids of the training data.
        tags, language: further metadata.

    Returns:
        the card; `str(card)` is the README.
    """
    purpose, limits = purpose_and_limits(task, variant.modality)
    tag = task or TAGS.get(variant.modality, "feature-extraction")
    metadata = ModelCardData(
        license=license,
        language=language,
        library_name="transformers" if variant.stock else "hf_jepa",
        pipeline_tag=PIPELINE_TAGS.get(tag, tag),
        tags=list(dict.fromkeys(["hf_jepa", "jepa", variant.name, *tags])),
        base_model=base_model,
        datasets=list(datasets) or None,
        model_name=name if results else None,  # the model index needs it
        eval_results=list(results) or None,
    )
    license_text = (
        f"The weights are under `{license}`." if license else "The author of these weights has not chosen a licence."
    )
    return ModelCard(
        TEXT.format(
            metadata=metadata.to_yaml(),
            name=name,
            title=variant.title,
            paper=variant.paper,
            use=_use(variant, config, repo, task, starts_from),
            facts="\n".join(f"- **{label}**: {text}" for label, text in facts.items()),
            results=RESULTS.format(rows="\n".join(_row(each, measured) for each in results)) if results else "",
            recipe=RECIPE.format(fields=yaml.safe_dump(recipe, sort_keys=False)) if recipe else "",
            purpose=purpose,
            limits=limits,
            unverified=unverified,
            license_text=license_text,
            citation=citation(variant),
        )
    )


__all__ = ["USES", "build_card"]
