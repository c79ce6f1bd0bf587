"""`hf-jepa estimate`: parts, the largest batch, a comparison, growth on paper, and the table of docs/scaling.md."""

from pathlib import Path

import pytest

from hf_jepa.cli.main import main
from hf_jepa.training.estimate_tables import BEGIN, END, memory_table


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training_scripts/configs"
RECIPE = str(CONFIGS / "ijepa/tiny.yaml")


def test_parts_add_up_and_a_measurement_stands_beside(capsys):
    assert main(["estimate", RECIPE, "--batch-size", "8", "--gpu-memory", "1", "--measure"]) == 0
    shown = capsys.readouterr().out
    rows = [line.rsplit(maxsplit=1) for line in shown.split("---\n")[1].split("\n\n")[0].splitlines()]
    parts = {name: float(size) for name, size in rows}
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.01 * len(parts))
    assert "ijepa (tiny.yaml): 8 samples per GPU, float32" in shown
    assert "largest batch in 1 GiB: " in shown and "one process on cpu: estimate" in shown


def test_growth_is_said_to_be_on_paper(capsys):
    assert main(["estimate", RECIPE, "--strategy", "ddp", "--nodes", "1,2", "--tflops", "0.001"]) == 0
    shown = capsys.readouterr().out
    assert "on paper, not measured" in shown and "global batch fixed" in shown
    assert [line.split()[:3] for line in shown.splitlines() if line.endswith("%")][-1] == ["2", "16", "32"]


def test_errors_are_one_line(capsys):
    assert main(["estimate"]) == 2
    assert "name a recipe or a variant" in capsys.readouterr().err
    assert main(["estimate", str(CONFIGS / "llm_jepa/qwen3_1_7b_gsm8k.yaml")]) == 2
    assert "Qwen/Qwen3-1.7B is neither a folder here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_of_the_document_is_what_the_command_writes():
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    assert text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0] == memory_table(CONFIGS)
