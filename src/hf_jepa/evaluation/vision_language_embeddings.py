"""Embeddings of videos and texts by a vision-language JEPA: in batches, each encoded once, on the model's device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from hf_jepa.core.data2vec import without_dropout
from hf_jepa.evaluation.inputs import check_count


_LONG = 10  # batches from which on a bar is shown


class VisionLanguageEmbeddings:
    """Videos and texts as rows of length one in the space that a vision-language JEPA predicts in.

    A video is what the processor takes: frames as an array (T, H, W, C), a tensor (T, C, H, W) or a list of pictures.
    A picture of PIL is a clip of one frame. In place of a video stand its vision tokens, a float tensor (N, Dv) of
    `encode_videos`: then the vision encoder does not run again. It runs once for a video that is given several times
    in a call (the same object, as for several questions). All videos of a call are held: give what is too large in
    parts.

    The model runs where it is, without gradients and in evaluation mode; afterwards its parts are in their former
    modes. Embeddings of texts are kept for later calls, until the weights change.

    Args:
        model: has `get_vision_tokens`, `predict` and `encode_text` as `VLJepaModel`, or a `base_model` that has them.
        processor: called as `VLJepaProcessor`.
        batch_size: videos, questions or texts at a time.
        progress: show a bar; only where there are ten batches or more unless given.
        cached_texts: number of texts whose embeddings are kept.

    Raises:
        TypeError: a model without these methods, or a number that is not whole.
        ValueError: a number below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Callable,
        batch_size: int = 16,
        progress: bool | None = None,
        cached_texts: int = 10_000,
    ):
        needed = ("get_vision_tokens", "predict", "encode_text")
        parts = (model, getattr(model, "base_model", None))
        self._joint = next((part for part in parts if all(hasattr(part, name) for name in needed)), None)
        if self._joint is None:
            raise TypeError(f"{type(model).__name__} has no {', '.join(needed)}: pass a VLJepaModel, or one around it")
        self.model, self.processor, self.progress = model, processor, progress
        self.batch_size = check_count(batch_size, "batch_size")
        self.cached_texts = check_count(cached_texts, "cached_texts")
        self._texts: dict[str, torch.Tensor] = {}
        self._weights: tuple = ()

    def embed_videos(self, videos: Sequence[Any], query: str | Sequence[str] | None = None) -> torch.Tensor:
        """What the predictor says of each video.

        Args:
            videos: (V) videos, pictures or vision tokens.
            query: one for all videos, or one for each (empty or None where nothing is asked); none unless given.

        Returns:
            float32 (V, D) on the CPU, rows of length one.

        Raises:
            TypeError: one video in place of a list.
            ValueError: no video, or not one query for each.
        """
        videos = check_videos(videos)
        queries = _queries(query, len(videos))
        rows_of: dict[Any, list[int]] = {}
        for row, video in enumerate(videos):
            rows_of.setdefault(video if isinstance(video, str) else id(video), []).append(row)
        found: dict[int, torch.Tensor] = {}
        with self._running():
            for rows in self._batches(list(rows_of.values()), "videos", "video"):
                tokens = self._tokens([videos[first] for first, *_ in rows])
                pairs = [(place, row) for place, same in enumerate(rows) for row in same]
                for start in range(0, len(pairs), self.batch_size):
                    places, part = zip(*pairs[start : start + self.batch_size], strict=True)
                    asked = {} if queries is None else self._inputs(queries=[queries[row] for row in part])
                    predicted = self._joint.predict(vision_tokens=tokens[list(places)], **asked)
                    found |= zip(part, _unit(predicted), strict=True)
        return torch.stack([found[row] for row in range(len(videos))])

    def embed_stream(
        self, frames: Sequence[Any], clip_frames: int, stride: int = 1, query: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the predictor says at every moment of a long video, of the clip that ends there.

        Args:
            frames: (F) frames, as an array, a tensor or a list of pictures.
            clip_frames: frames that a clip has, as in training.
            stride: frames between two moments.
            query: asked at every moment; nothing unless given.

        Returns:
            float32 (M, D) on the CPU, rows of length one: a stream for `ward_segments` and `StreamMonitor`; and int64
            (M,), the last frame of each clip.

        Raises:
            TypeError: a number that is not whole.
            ValueError: numbers below 1, or fewer frames than a clip has.
        """
        clip_frames, stride = check_count(clip_frames, "clip_frames"), check_count(stride, "stride")
        if len(frames) < clip_frames:
            raise ValueError(f"the video has {len(frames)} frames, but a clip {clip_frames}")
        starts = range(0, len(frames) - clip_frames + 1, stride)
        embeddings = self.embed_videos([frames[start : start + clip_frames] for start in starts], query)
        return embeddings, torch.tensor(starts) + clip_frames - 1

    def encode_videos(self, videos: Sequence[Any]) -> list[torch.Tensor]:
        """The vision tokens of each video, which all tasks take in its place.

        Args:
            videos: (V) videos or pictures.

        Returns:
            (V) tensors (N, Dv) on the CPU.

        Raises:
            TypeError: one video in place of a list.
            ValueError: no video.
        """
        tokens: list[torch.Tensor] = []
        with self._running():
            for part in self._batches(check_videos(videos), "videos", "video"):
                tokens += self._tokens(part).cpu().unbind()
        return tokens

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """What the text encoder says of each text.

        Args:
            texts: (T) texts.

        Returns:
            float32 (T, D) on the CPU, rows of length one.

        Raises:
            TypeError: one text in place of a list.
            ValueError: no text.
        """
        texts = check_texts(texts, "texts")
        # An optimizer step counts up the versions of what it changes, and a new tensor lies elsewhere.
        weights = tuple((p.data_ptr(), p._version) for p in self._joint.parameters())
        if weights != self._weights:
            self._texts, self._weights = {}, weights
        found = {text: self._texts[text] for text in texts if text in self._texts}
        new = list(dict.fromkeys(text for text in texts if text not in found))
        with self._running():
            for part in self._batches(new, "texts", "text"):
                found |= zip(part, _unit(self._joint.encode_text(**self._inputs(targets=part))), strict=True)
        self._texts |= {text: found[text] for text in new}
        for text in list(self._texts)[: -self.cached_texts]:  # the oldest
            del self._texts[text]
        return torch.stack([found[text] for text in texts])

    @property
    def _vision(self) -> nn.Module:
        return getattr(self._joint, "vision_model", self._joint)

    @contextmanager
    def _running(self) -> Iterator[None]:
        with without_dropout(self.model), torch.no_grad():
            yield

    def _placed(self, values: torch.Tensor, part: nn.Module) -> torch.Tensor:
        """On the device of a part of the model, and floating-point values in its precision."""
        weight = next((p for p in part.parameters() if p.is_floating_point()), torch.empty(0))
        return values.to(weight.device, weight.dtype if values.is_floating_point() else None)

    def _inputs(self, **given: list) -> dict[str, torch.Tensor]:
        inputs = self.processor(**given, return_tensors="pt")
        return {name: self._placed(value, self._vision) for name, value in inputs.items()}

    def _tokens(self, videos: list[Any]) -> torch.Tensor:
        """(B, N, Dv) on the device of the model."""
        kind = _kind(videos[0])
        if kind != "vision tokens":
            return self._joint.get_vision_tokens(self._inputs(**{kind: videos})["pixel_values_videos"])
        if len(shapes := {tuple(tokens.shape) for tokens in videos}) > 1:
            raise ValueError(f"vision tokens of shapes {sorted(shapes)}: give those of one shape in a call")
        return self._placed(torch.stack(videos), self._vision)

    def _batches(self, items: Sequence, what: str, unit: str) -> Iterator[Sequence]:
        shown = len(items) >= _LONG * self.batch_size if self.progress is None else self.progress
        with tqdm(total=len(items), desc=what, unit=unit, disable=not shown) as bar:
            for start in range(0, len(items), self.batch_size):
                part = items[start : start + self.batch_size]
                yield part
                bar.update(len(part))


def check_videos(videos: Sequence[Any]) -> list[Any]:
    """A list of videos, pictures or vision tokens, after making sure that it is one.

    Raises:
        TypeError: one video in place of a list.
        ValueError: none, or different kinds.
    """
    if isinstance(videos, (str, bytes, Image.Image)) or getattr(videos, "ndim", None) in (2, 4):
        raise TypeError(f"expected a list of videos, got one ({type(videos).__name__}): put it into a list")
    videos = list(videos)
    if not videos:
        raise ValueError("there is no video: give at least one")
    if len(kinds := {_kind(video) for video in videos}) > 1:
        raise ValueError(f"{' and '.join(sorted(kinds))} in one call: give each kind in a call of its own")
    return videos


def check_texts(texts: Sequence[str], name: str) -> list[str]:
    """A list of texts, after making sure that it is one.

    Raises:
        TypeError: one text in place of a list, or something else in it.
        ValueError: no text.
    """
    if isinstance(texts, str):
        raise TypeError(f"{name} is one text, {texts!r}: put it into a list")
    texts = list(texts)
    if not texts:
        raise ValueError(f"{name} is empty: give at least one text")
    if other := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"{name} must hold texts, got {other[0]!r}")
    return texts


def _queries(query: str | Sequence[str | None] | None, videos: int) -> list[str] | None:
    if query is None:
        return None
    queries = [query] * videos if isinstance(query, str) else ["" if text is None else text for text in query]
    queries = check_texts(queries, "queries")
    if len(queries) != videos:
        raise ValueError(f"{len(queries)} queries for {videos} videos: give one for all, or one for each")
    return queries


def _kind(video: Any) -> str:
    """What it is, by the name of the processor's argument where there is one."""
    if isinstance(video, torch.Tensor) and video.ndim == 2:
        return "vision tokens"
    return "images" if isinstance(video, Image.Image) else "videos"


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    return normalize(embeddings.float(), dim=-1).cpu()


__all__ = ["VisionLanguageEmbeddings", "check_texts", "check_videos"]
