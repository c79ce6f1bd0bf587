"""Folders of runs: whether the weights beside the config are those that the run has reached."""

from pathlib import Path

from hf_jepa.hub.files import read_json


def require_finished(folder: str | Path) -> None:
    """Refuse the folder of a run that was stopped, whose weights are missing or of an earlier end.

    Args:
        folder: of a checkpoint, of a run, or of anything else; a name that is no folder passes.

    Raises:
        ValueError: it is empty, or the newest `checkpoint-*` in it is of a later step than its weights.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "checkpoint-20").mkdir()
        >>> require_finished(folder)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ... was stopped before its end: its weights are in checkpoint-20. Name that folder, or ...
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    if not any(folder.iterdir()):
        raise ValueError(f"{folder} is empty: name the folder of a checkpoint")
    numbers = [path.name.partition("-")[2] for path in folder.glob("checkpoint-*") if path.is_dir()]
    newest = max((int(number) for number in numbers if number.isdigit()), default=None)
    if newest is None:
        return
    state = folder / "trainer_state.json"
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is of a run that was stopped before its end: its weights are in checkpoint-{newest}. Name that "
            "folder, or finish the run with --resume_from_checkpoint auto"
        )
    if state.is_file() and (step := read_json(state, "the state of a run").get("global_step", newest)) < newest:
        raise ValueError(
            f"{folder} has the weights of step {step}, and later ones in checkpoint-{newest}: name that folder, "
            "finish the run with --resume_from_checkpoint auto, or remove what is of an earlier run"
        )


__all__ = ["require_finished"]
