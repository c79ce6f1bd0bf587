"""What `score` and `geometry` share: records of text, and a language model with its tokenizer."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """What both commands can say about records and model."""
    parser.add_argument("checkpoint", help="folder or Hub id of a causal language model, of LLM-JEPA or any other")
    parser.add_argument("data", help="records with `messages`: JSONL or parquet file, folder of these, or Hub id")
    parser.add_argument("--split", help="of a folder or Hub id (default: test); a file is one split")
    parser.add_argument("--limit", type=int, help="only the first so many records")
    parser.add_argument("--batch-size", type=int, default=16, help="records per batch")
    parser.add_argument(
        "--plain", action="store_true", help="no chat template, for models trained without one: user, <|perception|>"
    )
    columns = parser.add_argument_group("records without messages")
    columns.add_argument("--text-column", help="column that is the user turn")
    columns.add_argument("--code-column", help="column that is the assistant turn")
    columns.add_argument("--system-prompt", help="of all records")


def open_records(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The records that the options name, each with `messages`.

    Raises:
        FileNotFoundError, ValueError: as `open_text_pairs`, or a limit below 1; a record that is none, by its row.
    """
    from hf_jepa.data.text_records import read_columns
    from hf_jepa.data.text_sources import open_text_pairs
    from hf_jepa.evaluation.inputs import check_count

    split = args.split
    if split is None:
        split = "train" if Path(args.data).is_file() else "test"
    data = open_text_pairs(args.data, split, args.text_column, args.code_column)
    if args.limit is not None:
        data = data.select(range(min(len(data), check_count(args.limit, "--limit"))))
    if args.text_column is None:
        if args.system_prompt is not None:
            raise ValueError("--system-prompt goes with --text-column and --code-column; messages bring their own")
        return data.to_list()
    records = []
    for row, columns in enumerate(data):
        try:
            record = read_columns(columns, args.text_column, args.code_column, args.system_prompt)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
        turns = [("system", record.system), ("user", record.user), ("assistant", record.answer)]
        records.append({"messages": [{"role": role, "content": text} for role, text in turns if text is not None]})
    return records


def load_language_model(checkpoint: str) -> "tuple[LlmJepaForCausalLM, PreTrainedTokenizerBase]":
    """A language model, on the GPU if there is one, and its tokenizer.

    Raises:
        OSError: no such checkpoint.
        ValueError: it lacks weights, or the tokenizer has more tokens than the model.
    """
    import torch
    from transformers import AutoTokenizer

    from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    # Each sequence in a row of its own: right for any model, whatever it was trained with.
    model = LlmJepaForCausalLM.from_pretrained(checkpoint, layout="three_pass")
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(f"the tokenizer of {checkpoint} has {len(tokenizer)} tokens, the model embeds {rows} of them")
    size = f"{model.num_parameters():,} parameters"
    print(f"{checkpoint}: {type(model.causal_lm).__name__}, {size}, {model.dtype}".replace("torch.", ""))
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


__all__ = ["add_text_options", "load_language_model", "open_records"]
