"""Model cards, written from facts at hand; what was not measured is not claimed."""

from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_jepa.layers.patch_embedding import pair
from hf_jepa.registry import Variant


FEATURES_USE = """{loader} loads the encoder:

```python
{imports}import torch
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{repo}")
output = encoder(torch.randn(1, {channels}, {height}, {width}))
feature = {feature}
```

With `hf_jepa`, `{pretraining_model}.from_pretrained("{repo}")` gives all parts of pretraining."""

CLASSIFICATION_USE = """{loader} loads the classifier:

```python
{imports}from PIL import Image
from transformers import pipeline

classify = pipeline("image-classification", model="{repo}")
print(classify(Image.new("RGB", ({width}, {height})), top_k=2))  # put your image here
```"""

VIDEO_FEATURES_USE = """{loader} loads {loaded}:

```python
{imports}import torch
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo}")
clip = torch.randn(1, {frames}, {channels}, {height}, {width})  # (1, T, C, H, W), from the processor
tokens = model({call}).last_hidden_state  # (1, N, {hidden})
feature = tokens.mean(dim=1)  # there is no CLS token
```

With `hf_jepa`, `{pretraining_model}.from_pretrained("{repo}")` gives all parts of pretraining, and `{base_model}`
encodes parts of a clip and clips of any size."""

AUDIO_FEATURES_USE = """{loader} loads the encoder:

```python
{imports}import torch
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{repo}")
waves = torch.randn(1, 16000)  # a second at 16 kHz, of mean 0 and variance 1
feature = encoder(waves).last_hidden_state.mean(dim=1)  # (1, {hidden})
```

With `hf_jepa`, `{pretraining_model}.from_pretrained("{repo}")` gives all parts of pretraining."""

TEXT_FEATURES_USE = """{loader} loads the encoder:

```python
{imports}import torch
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{repo}")
tokens = torch.tensor([[0, 5, 6, 7, 2]])  # from the tokenizer that it was trained with
feature = encoder(tokens).last_hidden_state.mean(dim=1)  # (1, {hidden})
```

With `hf_jepa`, `{pretraining_model}.from_pretrained("{repo}")` gives all parts of pretraining."""

VIDEO_CLASSIFICATION_USE = """With `hf_jepa`:

```python
import torch
from hf_jepa import {classifier}

model = {classifier}.from_pretrained("{repo}").eval()
clip = torch.randn(1, {frames}, {channels}, {height}, {width})  # (1, T, C, H, W), from the processor
print(model(clip).logits.softmax(-1).topk(2))
```"""

ACTION_ANTICIPATION_USE = """With `hf_jepa`:

```python
import torch
from hf_jepa import {anticipation}

model = {anticipation}.from_pretrained("{repo}").eval()
clip = torch.randn(1, {frames}, {channels}, {height}, {width})  # (1, T, C, H, W), 8 frames a second
answers = model(clip, anticipation_times=torch.tensor([1.0]))  # a second after the clip
print({{name: logits.softmax(-1).topk(2) for name, logits in answers.items()}})
```"""

TEXT_GENERATION_USE = """Stock transformers loads the language model:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}")
chat = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer))
```

With `hf_jepa`, `{pretraining_model}.from_pretrained("{repo}")` continues training with the same objective."""

# Rows without a chat template, as they were trained on.
PLAIN_GENERATION_USE = TEXT_GENERATION_USE.replace(
    """chat = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
""",
    """inputs = tokenizer("Hello<|perception|>", return_tensors="pt", return_token_type_ids=False)
""",
)

# The rows of new tokens come with the adapters, but the language model has to have places for them.
ADAPTED_GENERATION_USE = """These are adapters of `{starts_from}`, which peft puts into stock transformers' model:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
base = AutoModelForCausalLM.from_pretrained("{starts_from}")
if len(tokenizer) > base.config.vocab_size:
    base.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(base, "{repo}")
chat = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer))
```"""

# Encoders, by modality, and models with heads, by what they are for.
ENCODER_USES = {
    "image": FEATURES_USE,
    "video": VIDEO_FEATURES_USE,
    "audio": AUDIO_FEATURES_USE,
    "text": TEXT_FEATURES_USE,
}
USES = {
    "image-classification": CLASSIFICATION_USE,
    "video-classification": VIDEO_CLASSIFICATION_USE,
    "action-anticipation": ACTION_ANTICIPATION_USE,
    "text-generation": TEXT_GENERATION_USE,
    "text-generation-adapters": ADAPTED_GENERATION_USE,
    "text-generation-plain": PLAIN_GENERATION_USE,
}
# Where the Hub has no tag of that name.
PIPELINE_TAGS = {
    "action-anticipation": "video-classification",
    "text-generation-adapters": "text-generation",
    "text-generation-plain": "text-generation",
}

TEXT = """---
{metadata}
---

# {name}

{title} (arXiv [{paper}](https://arxiv.org/abs/{paper})), as a checkpoint of transformers and `hf_jepa`.

## Use

{use}

## Facts

{facts}
{recipe}
## Limits

Self-supervised features reflect the data they were trained on. {unverified}

## Licence

{license_text}
"""

RECIPE = """
## Recipe

```yaml
{fields}```
"""


def _feature(variant: Variant) -> str:
    """How a snippet makes one vector of an image from `output`, the way the encoder was trained."""
    encoder = variant.model_class(variant.base_model)
    if getattr(encoder, "default_readout", "mean") == "pooled":
        return "output.pooler_output"
    if prefix := getattr(encoder, "num_prefix_tokens", 0):
        return f"output.last_hidden_state[:, {prefix}:].mean(dim=1)  # without the CLS token"
    return "output.last_hidden_state.mean(dim=1)  # there is no CLS token"


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
        results: measured scores, for the Hub's model index.
        base_model: Hub id of the checkpoint that was fine-tuned.
        starts_from: that checkpoint, for the snippet of adapters, also where it is a folder.
        datasets: Hub ids of the training data.
        tags, language: further metadata.

    Returns:
        the card; `str(card)` is the README.
    """
    height, width = pair(getattr(config, "image_size", 0))
    use = USES[task] if task else ENCODER_USES[variant.modality]
    task = task or ("image-feature-extraction" if variant.modality == "image" else "feature-extraction")
    with_predictor = variant.encoder_place() != ""  # the base model holds it too
    metadata = ModelCardData(
        license=license,
        language=language,
        library_name="transformers" if variant.stock else "hf_jepa",
        pipeline_tag=PIPELINE_TAGS.get(task, task),
        tags=list(dict.fromkeys(["hf_jepa", "jepa", variant.name, *tags])),
        base_model=base_model,
        datasets=list(datasets) or None,
        model_name=name if results else None,  # the model index needs it
        eval_results=list(results) or None,
    )
    use = use.format(
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
        classifier=variant.heads.get("AutoModelForVideoClassification"),
        anticipation=next(iter(variant.parts.get("anticipation", ())), None),
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
            use=use,
            facts="\n".join(f"- **{label}**: {text}" for label, text in facts.items()),
            recipe=RECIPE.format(fields=yaml.safe_dump(recipe, sort_keys=False)) if recipe else "",
            unverified=unverified,
            license_text=license_text,
        )
    )


__all__ = ["USES", "build_card"]
