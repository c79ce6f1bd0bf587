"""`hf-jepa geometry`: how the Text embeddings of a language model lie to its Code embeddings."""

import argparse
from pathlib import Path

from hf_jepa.cli.main import command_parser
from hf_jepa.cli.texts import add_text_options


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "geometry",
        "Cosines of true and of shuffled pairs, spectra of both views and of their difference, and how nearly linear "
        "the map from Text to Code is. Any causal language model will do, also one trained without the JEPA term.",
        "hf-jepa geometry runs/synth datasets/synth_test.jsonl --output geometry.png",
    )
    add_text_options(parser)
    parser.add_argument(
        "--predictor-tokens",
        type=int,
        help="at the end of Text (default: as in training, or none where the tokenizer has none)",
    )
    parser.add_argument(
        "--last-token", type=int, help="embedding at this negative place of a view instead of the end of its content"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled pairs and the held-out ones")
    parser.add_argument("--output", type=Path, default=Path("geometry.png"), help="picture to write")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from torch.utils.data import DataLoader

    from hf_jepa.cli.tables import table
    from hf_jepa.cli.texts import load_language_model, open_records
    from hf_jepa.data.text_layouts import LlmJepaDataCollator
    from hf_jepa.data.text_pairs import LlmJepaPreprocessor
    from hf_jepa.data.text_sources import TextPairDataset
    from hf_jepa.evaluation.embedding_geometry import embedding_geometry, pair_embeddings
    from hf_jepa.visualization.embedding_geometry import draw_embedding_geometry

    records = open_records(args)
    model, tokenizer = load_language_model(args.checkpoint)
    config = model.config
    count = args.predictor_tokens
    if count is None:
        count = config.num_predictor_tokens if "<|predictor_1|>" in tokenizer.get_added_vocab() else 0
    preprocess = LlmJepaPreprocessor(
        tokenizer,
        num_predictor_tokens=count,
        predictor_position=config.predictor_position,
        reverse=config.reverse,
        label_mode="assistant",  # the loss does not matter here
        last_token=args.last_token,
        max_length=getattr(config.get_text_config(), "max_position_embeddings", None) or 2**20,
        on_truncation="skip",
        plain=args.plain,
    )
    pairs = TextPairDataset(records, preprocess)
    collator = LlmJepaDataCollator(pad_token_id=tokenizer.pad_token_id or 0, layout="three_pass")
    text, code = pair_embeddings(model, DataLoader(pairs, args.batch_size, collate_fn=collator))
    found = embedding_geometry(text, code, args.seed)
    print(f"{len(pairs)} pairs of {len(records)} records, {count} predictor tokens\n")
    print(table(["figure", "value"], [[name, f"{value:.5g}"] for name, value in found.as_dict().items()]))
    print(f"\npicture in {draw_embedding_geometry({Path(args.checkpoint).name: found}, args.output)}")
    return 0


__all__ = ["main", "parser"]
