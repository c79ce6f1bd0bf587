"""Labelled training data for comparisons: crops that know their picture, and folders divided for training and test."""

from pathlib import Path

from hf_jepa.data.embedded import PICTURES, EmbeddedCrops
from hf_jepa.data.transforms import sample_rng


class NamedCrops(EmbeddedCrops):
    """The very crops of `EmbeddedCrops`, with the number of the picture that each is from."""

    def __getitems__(self, indices: list[int]) -> list[dict]:
        epoch = self._epoch.get()
        first = [sample_rng(self.seed, epoch, int(index)).random() for index in indices]  # it chooses the picture
        pairs = zip(super().__getitems__(indices), first, strict=True)
        return [sample | {"labels": int(number * len(PICTURES))} for sample, number in pairs]


def divide(folder: Path, into: Path, every: int = 5) -> Path:
    """Divide a folder of class folders into "train" and "test" by links, every fifth file of a class for testing.

    Args:
        folder: with a folder of images for each class; one that is divided already is returned as it is.
        into: where the links go.
        every: of how many files one is for testing.

    Raises:
        FileNotFoundError: no such folder, or no class folders in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     for i in range(6):
        ...         (folder / name / f"{i}.png").touch()
        >>> divided = divide(folder, folder / "divided")
        >>> sorted(path.name for path in (divided / "test" / "cat").iterdir())
        ['4.png']
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry != into)
    if {"train", "test"} <= {entry.name for entry in classes}:
        return folder
    if len(classes) < 2:
        raise FileNotFoundError(
            f"{folder} has {len(classes)} folders: put the images of each class into one of its own"
        )
    for entry in classes:
        for number, file in enumerate(sorted(path for path in entry.rglob("*") if path.is_file())):
            split = "test" if number % every == every - 1 else "train"
            link = into / split / entry.name / "-".join(file.relative_to(entry).parts)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.resolve())
    return into


__all__ = ["NamedCrops", "divide"]
