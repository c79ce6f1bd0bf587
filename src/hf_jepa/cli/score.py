"""`hf-jepa score`: how many questions a language model answers right."""

from pathlib import Path

from hf_jepa.cli.main import Parser, command_parser
from hf_jepa.cli.texts import add_text_options


# Those of `hf_jepa.evaluation.text_scoring`, which imports what --help should not wait for.
TASKS = ("exact", "prefix", "synth", "turk", "spider", "gsm8k", "gsm8k_number", "nq_open", "nq_open_paper")
TASKS += ("hellaswag", "rotten_tomatoes", "yelp")


def parser() -> Parser:
    parser = command_parser(
        "score",
        "The answers are generated greedily, and scored by the rule of the task, which is never guessed from the name "
        "of the data. The last turn of each record is the right answer.",
        "hf-jepa score runs/synth datasets/synth_test.jsonl --task synth --output scores.json; with a database: "
        "hf-jepa score runs/spider spider_test.jsonl --task spider --database spider_data/database",
    )
    add_text_options(parser)
    parser.add_argument("--task", choices=TASKS, required=True, help="what makes an answer right")
    parser.add_argument(
        "--scoring",
        choices=("strict", "official"),
        default="strict",
        help="strict accepts nothing for a wrong reason; official is the official code, for published numbers",
    )
    parser.add_argument("--database", type=Path, help="of spider: folder with NAME/NAME.sqlite; only ever read")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer")
    parser.add_argument(
        "--too-long",
        choices=("error", "skip"),
        default="error",
        help="what happens to prompts without room for an answer; those passed over count as wrong",
    )
    parser.add_argument("--output", type=Path, help="write figures, questions and answers into this JSON file")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from hf_jepa.cli.tables import table
    from hf_jepa.cli.texts import load_language_model, open_records
    from hf_jepa.evaluation.text_generation import choose_letters, generate_answers
    from hf_jepa.evaluation.text_scoring import check_references, find_task, score_texts

    task = find_task(args.task, args.scoring, args.database)
    records = open_records(args)
    users, references = _questions(records)
    check_references(args.task, references, users, args.scoring, args.database)
    model, tokenizer = load_language_model(args.checkpoint)
    options = {"batch_size": args.batch_size, "too_long": args.too_long, "plain": args.plain}
    if task.choices:
        answers = choose_letters(model, tokenizer, records, task.choices, **options)
    else:
        answers = generate_answers(model, tokenizer, records, max_new_tokens=args.max_new_tokens, **options)
    scores = score_texts(args.task, answers, references, users, args.scoring, args.database)
    low, high = scores.interval
    header = ["task", "scoring", "right", "of", "accuracy", "95 % interval"]
    interval = f"{100 * low:.2f} to {100 * high:.2f}"
    row = [args.task, args.scoring, str(scores.correct), str(len(records)), f"{100 * scores.accuracy:.2f} %", interval]
    print(f"right is {task.title}\n\n{table(header, [row])}")
    if args.output is not None:
        print(f"\nanswers in {scores.save(args.output)}")
    return 0


def _questions(records: list[dict]) -> tuple[list[str], list[str]]:
    """The last question and the right answer of every record."""
    from hf_jepa.evaluation.text_generation import split_messages

    users, references = [], []
    for row, record in enumerate(records):
        try:
            turns, answer = split_messages(record)
            if answer is None:
                raise ValueError("the last turn is not the assistant's, so there is no answer to compare with")
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
        users.append(turns[-1]["content"])
        references.append(answer)
    return users, references


__all__ = ["main", "parser"]
