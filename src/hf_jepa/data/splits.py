"""How the folders are called that divide a data set."""

# Names of the sub-folders that hold the splits.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}

__all__ = ["SPLIT_FOLDERS"]
