"""How the folders are called that divide a data set."""

from pathlib import Path


# Names of the sub-folders that hold the splits.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
SPLIT_OF = {folder: split for split, folders in SPLIT_FOLDERS.items() for folder in folders}


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split; the root itself where it is not divided.

    Args:
        root: is divided if it has a folder for training, or none but folders of splits.
        split: "train", "validation" or "test".

    Raises:
        ValueError: there is no such split.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> split_folder(root, "train") == root
        True
        >>> (root / "val").mkdir()
        >>> split_folder(root, "validation").name
        'val'
    """
    folders = {entry.name for entry in root.iterdir() if entry.is_dir()}
    found = {SPLIT_OF[name]: name for name in sorted(folders & set(SPLIT_OF))}
    if not ("train" in found or (folders and folders <= set(SPLIT_OF))):
        if split != "train":
            raise ValueError(
                f"{root} has no split {split!r}: it is not divided into train, validation and test folders. "
                "Divide it, or give each split a folder of its own (hf-jepa probe TRAIN --test-data TEST)"
            )
        return root
    if split not in found:
        raise ValueError(f"{root} has no split {split!r}, only {sorted(found)}")
    return root / found[split]


__all__ = ["SPLIT_FOLDERS", "SPLIT_OF", "split_folder"]
