"""Model cards, written from facts at hand; what was not measured is not claimed."""

from huggingface_hub import ModelCard, ModelCardData

from hf_jepa.registry import Variant


SNIPPET = """import torch
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{repo}")
tokens = encoder(torch.randn(1, {channels}, {height}, {width})).last_hidden_state  # (1, N, {hidden})
feature = tokens.mean(dim=1)                                # there is no CLS token"""

TEXT = """---
{metadata}
---

# {name}

{title} (arXiv [{paper}](https://arxiv.org/abs/{paper})), as a checkpoint of transformers and `hf_jepa`.

## Use

Stock transformers loads the target encoder:

```python
{snippet}
```

With `hf_jepa`, `{pretraining_model}.from_pretrained("{repo}")` also gives the context encoder and the predictor.

## Facts

{facts}

## Limits

Self-supervised features reflect the data they were trained on. {unverified}

## Licence

{license_text}
"""


def build_card(
    variant: Variant, config, name: str, facts: dict[str, str], license: str | None, unverified: str, repo: str
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

    Returns:
        the card; `str(card)` is the README.
    """
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    metadata = ModelCardData(
        license=license,
        library_name="transformers" if variant.native else "hf_jepa",
        pipeline_tag="image-feature-extraction",
        tags=["hf_jepa", "jepa", variant.name],
    )
    snippet = SNIPPET.format(
        repo=repo, channels=config.num_channels, height=height, width=width, hidden=config.hidden_size
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
            snippet=snippet,
            pretraining_model=variant.pretraining_model,
            repo=repo,
            facts="\n".join(f"- **{label}**: {text}" for label, text in facts.items()),
            unverified=unverified,
            license_text=license_text,
        )
    )


__all__ = ["build_card"]
