"""Every Python block, every command and every local link of the documents is tried."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import write_video
from documents import DOCUMENTS, ROOT, blocks, named, prose
from PIL import Image

import hf_jepa
from hf_jepa.masking import statistics
from hf_jepa.registry import VARIANTS


SECTIONS = ["What it is", "Classes", "Training", "Checkpoints", "Differences", "Parity", "Not done"]
SECTIONS += ["Licence of weights"]
# Commands that are the test-suite itself, or that need something a test machine lacks; each with its reason.
NOT_RUN = {
    "make ": "make targets are what runs this test, or are run by CI beside it",
    "git clone": "needs the network",
    "pip install": "needs the network",
    "cd ": "goes with git clone",
}


def commands(documents: list[Path]) -> list[str]:
    """The lines of the bash blocks, in order and once each, without comments and without what cannot run here."""
    lines = [line for document in documents for block in blocks(document, "bash", "sh") for line in block.splitlines()]
    lines = [line.split(" #")[0].strip() for line in lines]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith(("#", *NOT_RUN))))


@pytest.mark.parametrize("name", [name for name in hf_jepa.__all__ if not name.startswith("__")])
def test_public_names_have_an_example(name):  # which the doctests of the suite run
    thing = getattr(hf_jepa, name)
    assert not callable(thing) or re.search(r"Example:\n +>>> ", thing.__doc__), name


def with_python() -> list:
    """The documents that have Python blocks; what is exported there takes as long as the tests of exports."""
    found = [document for document in DOCUMENTS if blocks(document, "python")]
    marks = {"ecosystem.md": pytest.mark.hub}
    return [pytest.param(document, marks=marks.get(document.name, ()), id=named(document)) for document in found]


@pytest.mark.parametrize("document", with_python())
def test_python_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks(document, "python"):
        exec(compile(block, named(document), "exec"), namespace)  # later blocks build on earlier ones


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_local_links_exist(document):
    for link, section in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", prose(document)):
        if "://" in link:
            continue
        found = document.parent / link if link else document
        assert found.exists(), f"{named(document)} links to {link}, which does not exist"
        assert not section or section in sections(found), f"{named(document)}: {link} has no section #{section}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_readmes_of_variants_have_the_same_sections(variant):
    text = (ROOT / f"src/hf_jepa/models/{variant}/README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    found = [section for heading in headings for section in SECTIONS if heading.startswith(section)]
    assert found == SECTIONS, headings


def test_every_document_is_found_from_the_readme():
    found, ahead = {ROOT / "CHANGELOG.md"}, [ROOT / "README.md"]  # a changelog is found by its name
    while ahead:
        document = ahead.pop()
        found.add(document)
        links = re.findall(r"\]\(([^)#:\s]+\.md)", prose(document))
        ahead += {(document.parent / link).resolve() for link in links} - found
    missing = {named(document) for document in DOCUMENTS} - {named(document) for document in found}
    assert not missing, f"no document links to {sorted(missing)}"


def sections(document: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_distribution_of_masks_is_what_the_command_prints(capsys):
    statistics.main(["--grid-size", "14"])
    official, corrected = capsys.readouterr().out.split("\ncorrected\n")
    printed = {"official": official, "corrected": corrected}
    text = (ROOT / "docs/masking.md").read_text(encoding="utf-8").split("## The distribution")[1]
    for kind, cells in (("context", "context"), ("one target", "target")):
        for mode in printed:
            (row,) = re.findall(rf"\| {kind}, {mode} \| (.*) \|", text)
            assert f"{cells} by row: 0{row.replace(' | ', ' 0')}\n" in printed[mode], (kind, mode)
    for label in ("target tokens", "share of the grid in any", "tokens that are never context nor target"):
        (row,) = re.findall(rf"\| {label}[^|]* \| (.*) \|", text)
        for mode, cell in zip(printed, row.split(" | "), strict=True):
            assert re.search(rf"{label}.*?: {cell}\b", printed[mode]), (label, mode)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder laid out as the documents assume: scripts beside a photograph, a clip, labelled pictures and videos."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("training_scripts", "conversion"):
        shutil.copytree(ROOT / name, folder / name)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(folder / "photo.jpg")
    for split, count in (("train", 8), ("test", 4)):
        for label, colour in (("cats", 60), ("dogs", 180)):
            (folder / "photos" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(colour, 30, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / label / f"{i}.png")
        for label, level in (("run", 60), ("walk", 180)):
            (folder / "videos" / split / label).mkdir(parents=True)
            for i in range(count // 2):
                frames = rng.normal(level, 30, (20, 72, 80, 3)).clip(0, 255).astype(np.uint8)
                write_video(folder / "videos" / split / label / f"{i}.mp4", list(frames))
    write_video(folder / "clip.mp4", list(rng.integers(0, 255, (20, 240, 320, 3), dtype=np.uint8)))
    shutil.copy(ROOT / "tests/fixtures/golden/ijepa/encoder_forward/checkpoint.pt", folder / "checkpoint.pth.tar")
    return folder


def test_a_command_of_two_documents_runs_once(tmp_path):
    for name, block in (("a.md", "x 1\ny 2  # why\nmake z"), ("b.md", "# text\ny 2\nx 3")):
        (tmp_path / name).write_text(f"```bash\n{block}\n```\n```\nnot tried\n```\n")
    assert commands([tmp_path / "a.md", tmp_path / "b.md"]) == ["x 1", "y 2", "x 3"]


@pytest.mark.commands
@pytest.mark.timeout(1500)  # minutes, most of them imports
def test_commands_run_in_the_order_of_the_readme(workspace):
    """Commands build on one another, so all run in one folder: the README's in their order, then what others add."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for line in commands([ROOT / "README.md", *DOCUMENTS]):
        done = subprocess.run(shlex.split(line), cwd=workspace, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
