"""`LlmJepaTrainer`: transformers' `Trainer` for the two losses of an LLM-JEPA."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from hf_jepa.masking.counter_rng import uniform
from hf_jepa.models.llm_jepa.modeling_llm_jepa import IGNORED, LlmJepaForCausalLM
from hf_jepa.training.checkpoints import require_same_model
from hf_jepa.training.llm_jepa_terms import LossTerms
from hf_jepa.training.reports import ReportCallback, first_and_last, last_logged
from hf_jepa.training.run import RunArguments, RunTrainer
from hf_jepa.training.run_cards import trained_of_all


_DROPOUT = 0x11A  # tells these random numbers from others with the same seed
# Cosines from where on, and how near to each other, all embeddings count as one: between them lies no pair.
_ALIKE, _APART = 0.95, 0.02
COLLAPSED = (
    "all alike: other pairs have the same cosine as true ones, so the JEPA term has no more to teach. Train the "
    "baseline beside it (jepa_weight=0); distance=infonce forbids this, but asks for more"
)
_LOGGED = ("loss", "lm_loss", "jepa_loss", "true_cosine", "shuffled_cosine")


@dataclass
class LlmJepaTrainingArguments(RunArguments):
    """`TrainingArguments` with the defaults of the paper: AdamW without decay, the learning rate falls linearly to 0.

    Example:
        >>> LlmJepaTrainingArguments(output_dir="runs/example", use_cpu=True).learning_rate
        2e-05
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "Learning rate at the first step."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs, or their share if below 1."})
    hub_strategy: str = field(default="end", metadata={"help": "When to upload, with push_to_hub."})


class LlmJepaTrainer(RunTrainer):
    """Trains an LLM-JEPA on batches of an `LlmJepaDataCollator`.

    Both losses are means over all that an optimizer step is made of: learnt tokens and pairs are counted over
    accumulated batches and processes first. So eight pairs at a time give the gradient of four times two, whatever the
    lengths of the answers. (The official trainer multiplies gradients by the number of accumulated batches.)

    With `config.jepa_dropout` some batches consist of their LM rows alone. Which ones depends on the seed, the step
    and the place of the batch in it, so it is the same in all processes and after a resume; the collator must make
    those rows (`with_lm_only=True`).

    Checkpoints are those of the language model, also in between; with adapters, theirs, until `merge_adapters`.

    Evaluation reports both losses over all tokens and pairs; with several processes the samples that fill up the last
    batch count twice.

    Args:
        model: with adapters, from `add_adapters`.
        args: `LlmJepaTrainingArguments`.
        kwargs: as for `Trainer`; `processing_class` is the tokenizer, which is saved beside the weights.

    Raises:
        ValueError: jepa_dropout with a collator that makes no such rows; infonce in batches of one; label smoothing;
            several GPUs in one process; a checkpoint of another model to resume from.
        FloatingPointError, ValueError: see also `GuardMixin`.

    Example:
        >>> import tempfile
        >>> from hf_jepa import LlmJepaConfig, LlmJepaDataCollator, TextPair
        >>> llama = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
        ...     "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> pair = TextPair([1, 5, 6, 7, 2], [-100, -100, -100, 7, 2], [1, 5, 6, 9], 3, [1, 7], 1, 2, (9,))
        >>> options = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no"}
        >>> trainer = LlmJepaTrainer(
        ...     LlmJepaForCausalLM(LlmJepaConfig(text_config=llama)),
        ...     LlmJepaTrainingArguments(tempfile.mkdtemp(), report_to="none", disable_tqdm=True, **options),
        ...     train_dataset=[pair] * 8,
        ...     data_collator=LlmJepaDataCollator(pad_token_id=0),
        ... )
        >>> trainer.train().global_step  # doctest: +ELLIPSIS
        {'train_runtime...
        2
    """

    samples, left_out = "pairs", "were too long"

    def __init__(self, model: LlmJepaForCausalLM, args: LlmJepaTrainingArguments, **kwargs: Any):
        if args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor} would change nothing: leave it out"
            )
        if args.n_gpu > 1:  # nn.DataParallel would cut up rows, but not what points into all of them
            raise ValueError(f"one process cannot train on {args.n_gpu} GPUs: start one for each by accelerate launch")
        alone = args.per_device_train_batch_size * (args.world_size if model.config.infonce_gather else 1) == 1
        if alone and model.config.distance == "infonce" and model.config.jepa_weight > 0:
            raise ValueError(
                "distance='infonce' tells a pair from the others of its batch, so its loss is 0 in batches of one: "
                "raise per_device_train_batch_size"
            )
        super().__init__(model=model, args=args, **kwargs)
        self._sizes = trained_of_all(model)
        self.skipped = dict.fromkeys(getattr(self.train_dataset, "skipped", ()))
        self._terms = LossTerms(self)
        self._place = (-1, 0)  # of a batch: step, number in it
        self.add_callback(_Report(self))

    # --- a step -------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """The batches of an optimizer step, and how many tokens are learnt in them, in all processes together."""
        batches = list(islice(self.awaited(epoch_iterator), num_batches))
        self.has_batches(batches)
        if not batches:
            return batches, None
        tokens = sum(_learnt_tokens(batch) for batch in batches)
        pairs = sum(len(batch.get("text_index", ())) for batch in batches)
        counts = torch.stack([torch.zeros((), device=device) + count for count in (tokens, pairs)])
        if self._counts_everywhere:
            counts = self.accelerator.reduce(counts)
        for batch in batches:
            if "text_index" in batch:
                batch["num_pairs_in_batch"] = counts[1]
        return batches, counts[0]

    @property
    def _counts_everywhere(self) -> bool:
        return self.args.average_tokens_across_devices and self.args.world_size > 1

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        step, number = self._place
        self._place = step, number = self.state.global_step, number + 1 if step == self.state.global_step else 0
        lm_only = inputs.pop("lm_only", None)
        dropout = self.config.jepa_dropout
        if dropout > 0 and drops_jepa(float(uniform(_DROPOUT, self.args.seed, step, number)), dropout):
            if lm_only is None:
                raise ValueError(f"jepa_dropout={dropout} needs LlmJepaDataCollator(with_lm_only=True)")
            inputs = lm_only
        return super().training_step(model, inputs, num_items_in_batch)

    @property
    def config(self):
        """Of the model."""
        return self.accelerator.unwrap_model(self.model).config

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.model.training:
            self._terms.add(outputs)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        inputs.pop("lm_only", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        self._measured.add(outputs, _learnt_tokens(inputs), len(inputs.get("text_index", ())))
        return outputs.loss.detach(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any):
        self._measured = LossTerms(self)
        found = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        found.metrics.update({f"{prefix}_{name}": value for name, value in self._measured.means().items()})
        config = self.config
        found.metrics[f"{prefix}_loss"] = sum(
            weight * found.metrics.get(f"{prefix}_{name}", 0.0)
            for name, weight in (("lm_loss", config.lm_weight), ("jepa_loss", config.jepa_weight))
        )
        return found

    # --- checkpoints --------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._language_model_alone():
            super()._load_from_checkpoint(resume_from_checkpoint, model if self.is_fsdp_enabled else None)

    def _load_best_model(self) -> None:
        with self._language_model_alone():
            super()._load_best_model()

    @contextmanager
    def _language_model_alone(self) -> Iterator[None]:
        """While weights of a checkpoint are read, which are those of the language model."""
        whole = self.model
        if not self.is_fsdp_enabled:  # whose checkpoints are its own, of the whole
            self.model = whole.language_model
        try:
            yield
        finally:
            self.model = whole

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Nothing to warn of, but weights that a checkpoint leaves as they are belong to another model."""
        require_same_model(self.model, load_result)

    def merge_adapters(self) -> None:
        """Fold adapters into the weights they adapt, so that an ordinary checkpoint is saved; without any, nothing."""
        if hasattr(self.model.language_model, "merge_and_unload"):
            self.model.language_model = self.model.language_model.merge_and_unload()

    # --- what people read ---------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._terms.of_steps()
        super().log(logs, start_time)

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, first and last losses, what is wrong with embeddings, pairs left out."""
        rows: dict[str, Any] = {"steps": self.state.global_step}
        rows |= first_and_last(self.state.log_history, _LOGGED)
        shuffled = rows.get("last shuffled_cosine", 0.0)
        if shuffled > _ALIKE and rows["last true_cosine"] - shuffled < _APART:
            rows["embeddings"] = COLLAPSED
        rows |= self.throughput() | {"skipped pairs": len(self.skipped)}
        return rows | self.nonfinite_summary()

    def run_settings(self) -> dict[str, Any]:
        """Also the objective, which the config of the checkpoint says, but nothing beside adapters."""
        return super().run_settings() | {"objective": self.config.objective()}

    def card_details(self) -> dict[str, Any]:
        objective = ", ".join(f"{name} {value}" for name, value in self.config.objective().items())
        facts = {"Objective": objective, "Trained values": "{:,} of {:,}".format(*self._sizes)}
        last = last_logged(self.state.log_history)
        for label, prefix in (("At the end", ""), ("On evaluation pairs", "eval_")):
            if found := [f"{name} {last[prefix + name]:.4g}" for name in _LOGGED if prefix + name in last]:
                facts[label] = ", ".join(found)
        unverified = "No answer of this model was scored in this run."
        task = "text-generation"
        if hasattr(self.model.language_model, "peft_config"):
            task += "-adapters"
        elif getattr(getattr(self.train_dataset, "preprocess", None), "plain", False):
            task += "-plain"
        return {"task": task, "facts": facts, "unverified": unverified}


def drops_jepa(drawn: float, jepa_dropout: float) -> bool:
    """Whether a batch goes without JEPA loss (2509.14252, section 4.4): the share of such batches is `jepa_dropout`.

    Args:
        drawn: uniform in [0, 1).
        jepa_dropout: in [0, 1).

    Example:
        >>> drops_jepa(0.6, 0.5), drops_jepa(0.4, 0.5)
        (True, False)
    """
    return drawn > 1 - jepa_dropout


def add_adapters(
    model: LlmJepaForCausalLM, token_ids: list[int], rank: int = 16, alpha: float | None = None, dropout: float = 0.1
) -> None:
    """Give the language model LoRA adapters on all linear layers but its head, and make some embeddings trainable.

    The official code leaves the embeddings of its predictor tokens at their random start.

    Args:
        model: changed in place.
        token_ids: tokens that are new to the language model: the predictor tokens.
        rank, alpha, dropout: of the adapters; `alpha` is twice the rank unless given, as in the paper.

    Example:
        >>> from hf_jepa import LlmJepaConfig
        >>> llama = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
        ...     "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> model = LlmJepaForCausalLM(LlmJepaConfig(text_config=llama))
        >>> add_adapters(model, token_ids=[31], rank=4)
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        1104
    """
    causal_lm, embedding = model.causal_lm, model.get_input_embeddings()
    place = next(name for name, module in causal_lm.named_modules() if module is embedding).rpartition(".")[2]
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        trainable_token_indices={place: list(token_ids)} if token_ids else None,
    )
    model.language_model = get_peft_model(causal_lm, lora)


def require_mergeable(merge: bool, training: LlmJepaTrainingArguments) -> None:
    """Refuse adapters that cannot be merged, or would be uploaded before.

    Raises:
        ValueError: under ZeRO-3, where no process holds the weights as a whole; uploads during the training.
    """
    if merge and training.push_to_hub and training.hub_strategy != "end":
        raise ValueError(
            f"hub_strategy={training.hub_strategy.value} would upload adapters beside the merged weights, which then "
            "nobody could load: use hub_strategy=end, or merge_adapters=false"
        )
    if merge and is_deepspeed_zero3_enabled():
        raise ValueError(
            "adapters cannot be merged into weights that ZeRO-3 has partitioned: set merge_adapters=false, which "
            "saves the adapters, or take ZeRO-2"
        )


def _learnt_tokens(batch: dict[str, Any]) -> Any:
    """How many; on the device where the batch does not say where they are."""
    return len(batch["label_index"]) if "label_index" in batch else (batch["labels"][:, 1:] != IGNORED).sum()


class _Report(ReportCallback):
    """Tries the layout before the training, and prints the summary after it."""

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer.accelerator.unwrap_model(trainer.model_wrapped).check_layout(trainer.model_wrapped)
        trainer._terms, trainer._place = LossTerms(trainer), (-1, 0)


__all__ = [
    "LlmJepaTrainer",
    "LlmJepaTrainingArguments",
    "add_adapters",
    "drops_jepa",
    "require_mergeable",
]
