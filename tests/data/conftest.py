import pytest
from pictures import picture


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    """Every test prepares its data sets in a folder of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    """Two classes of four good pictures, and in class `cat` one truncated, one empty and one that is text."""
    root = tmp_path / "photos"
    for kind, offset in (("cat", 0), ("dog", 4)):
        (root / kind).mkdir(parents=True)
        for i in range(4):
            picture(offset + i).save(root / kind / f"{i}.jpg")
    whole = (root / "cat" / "0.jpg").read_bytes()
    (root / "cat" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "cat" / "text.jpg").write_text("this is no picture")
    return root
