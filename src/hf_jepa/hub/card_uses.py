"""What a card says of the use of a checkpoint: the snippet that loads it, what it is meant for, and its limits."""

ALL_PARTS = "gives all parts of pretraining"
SAME_OBJECTIVE = "continues training with the same objective"


def _auto_model(what: str, code: str, with_package: str = ALL_PARTS) -> str:
    """The snippet of a model that `AutoModel` finds, and what its own class is for."""
    return f"""{{loader}} loads {what}:

```python
{{imports}}import torch
from transformers import AutoModel

{code}
```

With `hf_jepa`, `{{pretraining_model}}.from_pretrained("{{repo}}")` {with_package}."""


FEATURES_USE = _auto_model(
    "the encoder",
    """encoder = AutoModel.from_pretrained("{repo}")
output = encoder(torch.randn(1, {channels}, {height}, {width}))
feature = {feature}""",
)

VIDEO_FEATURES_USE = _auto_model(
    "{loaded}",
    """model = AutoModel.from_pretrained("{repo}")
clip = torch.randn(1, {frames}, {channels}, {height}, {width})  # (1, T, C, H, W), from the processor
tokens = model({call}).last_hidden_state  # (1, N, {hidden})
feature = tokens.mean(dim=1)  # there is no CLS token""",
    """gives all parts of pretraining, and `{base_model}`
encodes parts of a clip and clips of any size""",
)

AUDIO_FEATURES_USE = _auto_model(
    "the encoder",
    """encoder = AutoModel.from_pretrained("{repo}")
waves = torch.randn(1, 16000)  # a second at 16 kHz, of mean 0 and variance 1
feature = encoder(waves).last_hidden_state.mean(dim=1)  # (1, {hidden})""",
)

TEXT_FEATURES_USE = _auto_model(
    "the encoder",
    """encoder = AutoModel.from_pretrained("{repo}")
tokens = torch.tensor([[0, 5, 6, 7, 2]])  # from the tokenizer that it was trained with
feature = encoder(tokens).last_hidden_state.mean(dim=1)  # (1, {hidden})""",
)

VISION_TEXT_USE = _auto_model(
    "all parts",
    """model = AutoModel.from_pretrained("{repo}").eval()
clip = torch.randn(1, {frames}, {channels}, {height}, {width})  # (1, T, C, H, W), from the processor
query, text = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9]])  # from the tokenizers of predictor and Y-Encoder
feature = model.predict(clip, query)  # the embedding of the text that answers
print(torch.cosine_similarity(feature, model.encode_text(text)))  # the highest of several texts is the answer""",
    SAME_OBJECTIVE,
)

TRAJECTORY_USE = _auto_model(
    "the world model",
    """model = AutoModel.from_pretrained("{repo}").eval()
frames, goal = torch.randn(2, 1, {seen}, {channels}, {height}, {width})  # (B, T, C, H, W) each, from the processor
state = model.encode(frames{told})
actions = 0.1 * torch.randn(1, 16, 2, {action_dim})  # 16 sequences of two actions
imagined = model.unroll(state, actions)[:, :, -1]  # what the last of them leads to
distance = (imagined - model.encode(goal).last.unsqueeze(1)).abs().flatten(2).mean(dim=2)
print(actions[0, distance.argmin()])  # hf_jepa.planning has planners that search on""",
    SAME_OBJECTIVE,
)

CLASSIFICATION_USE = """{loader} loads the classifier:

```python
{imports}from PIL import Image
from transformers import pipeline

classify = pipeline("image-classification", model="{repo}")
print(classify(Image.new("RGB", ({width}, {height})), top_k=2))  # put your image here
```"""

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
    "vision_text": VISION_TEXT_USE,
    "trajectory": TRAJECTORY_USE,
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

# What a checkpoint is meant for, and what it is not, by the same keys.
ENCODER_PURPOSE = (
    "Features of {samples}: for retrieval, clustering and k-NN or linear classification as they are, or as the start "
    "of fine-tuning."
)
PURPOSES = {
    "image-classification": "Telling the classes apart that it was trained on, in images like those of its training.",
    "video-classification": "Telling the classes apart that it was trained on, in clips like those of its training.",
    "action-anticipation": "Foreseeing the next action, of those that it was trained on, in video as of its training.",
    "text-generation": "Answers to prompts of the form that it was trained on.",
}
ENCODER_LIMITS = "Self-supervised features reflect the data they were trained on."
WORLD_MODEL_PURPOSE = (
    "Foreseeing what actions lead to, and planning by it, in scenes like those of its training. Its features serve "
    "retrieval and probes, too."
)
WORLD_MODEL_LIMITS = (
    "What it foresees reflects the data it was trained on, and is wrong without notice elsewhere: whoever lets a "
    "machine act on its plans has to guard the machine by other means."
)
CLASSIFIER_LIMITS = (
    "It gives one of its classes for any input, and what it has learnt reflects the data it was trained on."
)
TEXT_LIMITS = "Answers may be wrong or harmful, and reflect the data it was trained on."
NOT_MEANT = "Not meant for decisions about people, nor for telling who somebody is."
SAMPLES = {
    "image": "images",
    "video": "clips",
    "audio": "recordings",
    "text": "texts",
    "vision_text": "clips and texts",
    "trajectory": "frames and of what actions lead to",
}


def purpose_and_limits(task: str | None, modality: str) -> tuple[str, str]:
    """What a checkpoint is meant for, and what limits it has whatever it was trained on.

    Args:
        task: a key of `USES`; None for an encoder.
        modality: of its variant.

    Example:
        >>> purpose_and_limits(None, "image")[1]
        'Self-supervised features reflect the data they were trained on.'
    """
    if task is None and modality == "trajectory":
        return f"{WORLD_MODEL_PURPOSE} {NOT_MEANT}", WORLD_MODEL_LIMITS
    if task is None:
        return f"{ENCODER_PURPOSE.format(samples=SAMPLES[modality])} {NOT_MEANT}", ENCODER_LIMITS
    kind = "text-generation" if task.startswith("text-generation") else task
    return f"{PURPOSES[kind]} {NOT_MEANT}", TEXT_LIMITS if kind == "text-generation" else CLASSIFIER_LIMITS


__all__ = ["ENCODER_USES", "PIPELINE_TAGS", "USES", "purpose_and_limits"]
