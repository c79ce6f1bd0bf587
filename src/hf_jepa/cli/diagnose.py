"""`hf-jepa diagnose`: what is the matter with a run."""

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from hf_jepa.cli.main import command_parser


if TYPE_CHECKING:
    from hf_jepa.training.diagnosis.findings import Diagnosis

_WIDTH = 100
_SAYS = {
    "healthy": "healthy: no cause of trouble shows",
    "sick": "sick",
    "unclear": "unclear: targets tell samples apart less and less, and no known cause shows (docs/collapse.md)",
    "too short": "too short to judge",
}


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "diagnose",
        "Reads the log and the settings that a run saved, finished or not, and says what speaks for each cause. "
        "docs/collapse.md explains the signals.",
        "hf-jepa diagnose runs/tiny --output diagnosis.png",
    )
    parser.add_argument("run", type=Path, help="output folder of a pretraining run, or one of its checkpoints")
    parser.add_argument("--json", action="store_true", help="print the diagnosis as JSON")
    parser.add_argument("--output", type=Path, help="draw the signals into this PNG")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    import json

    from hf_jepa.training.diagnosis.rules import diagnose
    from hf_jepa.training.diagnosis.runs import read_run

    run = read_run(args.run)
    diagnosis = diagnose(run)
    if args.output is not None:
        from hf_jepa.visualization.diagnosis import draw_diagnosis

        title = ", ".join(finding.cause for finding in diagnosis.findings) or diagnosis.verdict
        draw_diagnosis({args.run.name: run.log}, args.output, title=title)
    print(json.dumps(diagnosis.as_dict(), indent=2) if args.json else _report(args.run, run.steps, diagnosis))
    return 0


def _report(folder: Path, steps: int, diagnosis: "Diagnosis") -> str:
    """What people read: a block for each cause."""
    lines = [f"{folder}, {steps} steps: {_SAYS[diagnosis.verdict]}", ""]
    for finding in diagnosis.findings:
        lines += _row("cause", finding.cause) + _row("confidence", finding.confidence)
        lines += [line for evidence in finding.evidence for line in _row("evidence", evidence)]
        lines += [*_row("advice", finding.advice), ""]
    lines += [line for evidence in diagnosis.evidence for line in _row("signals", evidence)]
    lines += [line for note in diagnosis.notes for line in _row("note", note)]
    return "\n".join(lines).rstrip()


def _row(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)


__all__ = ["main", "parser"]
