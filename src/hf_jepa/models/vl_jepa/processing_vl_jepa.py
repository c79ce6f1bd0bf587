"""Processor of VL-JEPA: frames for the X-Encoder, queries for the predictor, targets for the Y-Encoder.

The three text parts of the model come from different families, so each has its own tokenizer.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor


TOKENIZERS = ("query_tokenizer", "target_tokenizer", "decoder_tokenizer")
FILE_NAME = "processor_config.json"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "trust_remote_code")
IGNORED = -100  # of labels


class VLJepaProcessor(ProcessorMixin):
    """Turn videos or images, queries and targets into what the VL-JEPA models are called with.

    Texts that are too long are truncated as their tokenizer does it: at its `truncation_side`, and with its special
    tokens kept. All rows are padded on the right, whatever the side of the tokenizer, because the predictor sees the
    query after the vision tokens. What counts is said by the masks alone: a tokenizer without a pad token, or whose
    pad token is its end of text, serves as well.

    Args:
        video_processor: of the frames.
        query_tokenizer: of the predictor's language model.
        target_tokenizer: of the Y-Encoder.
        decoder_tokenizer: of the Y-Decoder's language model, for models that have one.
        max_query_length, max_target_length: in tokens, special tokens included. VL-JEPA (2512.10942, section 3.1) has
            512 for both.

    Raises:
        TypeError: a part that is not of its kind.
        ValueError: a length below 1.

    Example:
        >>> import numpy as np
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> processor = VLJepaProcessor(VJepa2VideoProcessor(crop_size=32), byte_tokenizer(), byte_tokenizer())
        >>> frames = np.zeros((8, 40, 60, 3), np.uint8)
        >>> batch = processor(videos=[frames, frames], queries=["who?", ""], targets=["a seven", "a two"])
        >>> batch["pixel_values_videos"].shape, batch["query_mask"].sum(1), batch["target_mask"].sum(1)
        (torch.Size([2, 8, 3, 32, 32]), tensor([4, 0]), tensor([7, 5]))
    """

    def __init__(
        self,
        video_processor: VJepa2VideoProcessor,
        query_tokenizer: PreTrainedTokenizerBase,
        target_tokenizer: PreTrainedTokenizerBase,
        decoder_tokenizer: PreTrainedTokenizerBase | None = None,
        max_query_length: int = 512,
        max_target_length: int = 512,
    ):
        super().__init__(video_processor, query_tokenizer, target_tokenizer, decoder_tokenizer)
        lengths = {"max_query_length": max_query_length, "max_target_length": max_target_length}
        if short := [name for name, length in lengths.items() if length < 1]:
            raise ValueError(f"{short[0]} must be 1 or more, got {lengths[short[0]]}")
        self.max_query_length, self.max_target_length = max_query_length, max_target_length

    @classmethod
    def from_config(
        cls,
        config: Any,
        query_tokenizer: PreTrainedTokenizerBase,
        target_tokenizer: PreTrainedTokenizerBase,
        decoder_tokenizer: PreTrainedTokenizerBase | None = None,
        **video_fields: Any,
    ) -> "VLJepaProcessor":
        """The processor for a model: its frame size and its longest texts.

        Args:
            config: a `VLJepaConfig`. Its `vision_config` is that of a video encoder (`crop_size`, `in_chans`) or of an
                image encoder (`image_size`, `num_channels`).
            query_tokenizer, target_tokenizer, decoder_tokenizer: of its language models.
            video_fields: as of `VJepa2VideoProcessor.from_config`: `crop_pct`, `image_mean`, ...

        Raises:
            ValueError: see `VJepa2VideoProcessor.from_config`.
        """
        vision = config.vision_config
        if not hasattr(vision, "crop_size"):
            vision = SimpleNamespace(crop_size=vision.image_size, in_chans=vision.num_channels)
        return cls(
            VJepa2VideoProcessor.from_config(vision, **video_fields),
            query_tokenizer,
            target_tokenizer,
            decoder_tokenizer,
            config.max_query_length,
            config.max_target_length,
        )

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type | tuple[type, ...]:
        """The class that a part must have; that of transformers looks for the one of frames in torchvision."""
        known = PreTrainedTokenizerBase if argument_name in TOKENIZERS else VideoProcessorMixin
        may_be_missing = argument_name == "decoder_tokenizer" and argument is None
        if not (may_be_missing or isinstance(argument, known)):
            raise TypeError(f"{argument_name} must be a {known.__name__}, got {type(argument).__name__}")
        return known

    # --- inputs ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        videos: Any = None,
        images: Any = None,
        queries: str | Sequence[str | None] | None = None,
        targets: str | Sequence[str] | None = None,
        decoder_targets: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **video_options: Any,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            videos: one video or a list of videos of equally many frames, as `VJepa2VideoProcessor` takes them.
            images: instead of videos, one image or a list of images, which become clips of one frame: PIL images,
                arrays or tensors (H, W, C) or (C, H, W).
            queries: one text per video. "" and None are no query: a row whose mask is all 0.
            targets: one text per video, or whatever texts are to be encoded.
            decoder_targets: what the decoder shall say, one text per row.
            return_tensors: "pt" or "np".
            video_options: fields of the video processor for this call, for example `do_sample_frames=True` and
                `num_frames=16` for so many equally spaced frames of each video.

        Returns:
            Of what was given: `pixel_values_videos` float32 (B, T, C, H, W); `query_ids` and `query_mask` int64
            (B, Lq); `target_ids` and `target_mask` int64 (B, Lt); `labels` int64 (B, L), tokens without special ones
            but the end of text last, and -100 behind it.

        Raises:
            TypeError: a text that is none.
            ValueError: nothing given, videos and images at once, different numbers of rows, an empty target, labels
                without a decoder tokenizer.

        Example:
            >>> from PIL import Image
            >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
            >>> processor = VLJepaProcessor(VJepa2VideoProcessor(crop_size=32), byte_tokenizer(), byte_tokenizer())
            >>> processor(images=Image.new("RGB", (60, 40)))["pixel_values_videos"].shape
            torch.Size([1, 1, 3, 32, 32])
        """
        if videos is not None and images is not None:
            raise ValueError("videos and images have different numbers of frames: make a batch of each")
        data: dict[str, Any] = {}
        if images is not None:
            videos = [[image] for image in _as_list(images)]
        if videos is not None:
            data |= self.video_processor(videos, return_tensors=return_tensors, **video_options)
        if queries is not None:
            ids = self._token_ids(self.query_tokenizer, queries, self.max_query_length, "queries", may_be_empty=True)
            data["query_ids"], data["query_mask"] = _pad_right(ids, _filler(self.query_tokenizer))
        if targets is not None:
            ids = self._token_ids(self.target_tokenizer, targets, self.max_target_length, "targets")
            data["target_ids"], data["target_mask"] = _pad_right(ids, _filler(self.target_tokenizer))
        if decoder_targets is not None:
            data["labels"] = self._labels(decoder_targets)
        if not data:
            raise ValueError("nothing to prepare: give videos, images, queries, targets or decoder_targets")
        rows = {name: len(value) for name, value in data.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"a batch needs as many of each, got rows {rows}")
        return BatchFeature(data, tensor_type=return_tensors)

    def _token_ids(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: str | Sequence[str | None],
        max_length: int,
        name: str,
        may_be_empty: bool = False,
        **options: Any,
    ) -> list[list[int]]:
        """Token ids of each text, without padding."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError(f"{name} is an empty list")
        texts = ["" if may_be_empty and text is None else text for text in texts]
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{row}] must be text, got {text!r:.80}")
            if not may_be_empty and not text.strip():
                raise ValueError(f"{name}[{row}] is empty: {text!r}")
        ids = tokenizer(texts, truncation=True, max_length=max_length, **options)["input_ids"]
        # A tokenizer would make its special tokens of an empty text.
        return [list(row) if text.strip() else [] for row, text in zip(ids, texts, strict=True)]

    def _labels(self, texts: str | Sequence[str]) -> np.ndarray:
        tokenizer = self._decoder()
        if tokenizer.eos_token_id is None:
            raise ValueError("decoder_tokenizer has no eos_token, without which a text never ends: set one")
        longest = max(1, self.max_target_length - 1)  # and the end of text
        ids = self._token_ids(tokenizer, texts, longest, "decoder_targets", add_special_tokens=False)
        labels, _ = _pad_right([[*row, tokenizer.eos_token_id] for row in ids], IGNORED)
        return labels

    def _decoder(self) -> PreTrainedTokenizerBase:
        if self.decoder_tokenizer is None:
            raise ValueError("this processor has no decoder_tokenizer: make it with that of the decoder")
        return self.decoder_tokenizer

    def batch_decode(self, token_ids: Any, skip_special_tokens: bool = True, **options: Any) -> list[str]:
        """Texts of what `VLJepaForConditionalGeneration.generate` returned.

        Args:
            token_ids: (B, L), of the decoder.
            skip_special_tokens, options: as of a tokenizer's `batch_decode`.

        Raises:
            ValueError: there is no decoder tokenizer.
        """
        return self._decoder().batch_decode(token_ids, skip_special_tokens=skip_special_tokens, **options)

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **options: Any) -> str:
        """One row of `batch_decode`."""
        return self._decoder().decode(token_ids, skip_special_tokens=skip_special_tokens, **options)

    @property
    def model_input_names(self) -> list[str]:
        """What the models are called with."""
        return ["pixel_values_videos", "query_ids", "query_mask", "target_ids", "target_mask"]

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The saved form, without the tokenizers, which have folders of their own."""
        return super().to_dict() | {"has_decoder_tokenizer": self.decoder_tokenizer is not None}

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, repo_id: str | None = None, **kwargs: Any
    ) -> list[str]:
        """Write `processor_config.json`, and a folder for each tokenizer, beside the weights or alone.

        Args:
            save_directory: made where it does not exist.
            push_to_hub: publish the same under `repo_id`, by default the name of the folder.
            kwargs: passed to `push_to_hub`.

        Returns:
            the file that was written last.
        """
        os.makedirs(save_directory, exist_ok=True)
        for name in TOKENIZERS:
            if getattr(self, name) is not None:
                getattr(self, name).save_pretrained(os.path.join(save_directory, name))
        file = os.path.join(save_directory, FILE_NAME)
        self.to_json_file(file)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, **kwargs)
        return [file]

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """The parts. transformers would load a missing tokenizer from the root, and the frames with torchvision."""
        if "has_decoder_tokenizer" not in (processor_dict or {}):
            raise OSError(
                f"{pretrained_model_name_or_path} holds no processor of VL-JEPA: its {FILE_NAME} is missing or of "
                "another model"
            )
        options = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        root = kwargs.get("subfolder") or ""
        names = TOKENIZERS if processor_dict["has_decoder_tokenizer"] else TOKENIZERS[:-1]
        tokenizers = []
        for name in names:
            folder = os.path.join(root, name)
            try:
                tokenizers.append(
                    AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=folder, **options)
                )
            except (OSError, ValueError) as error:
                raise OSError(
                    f"{pretrained_model_name_or_path} has no {name} in its folder {folder}: save the whole processor "
                    f"there again ({error})"
                ) from error
        frames = VJepa2VideoProcessor.from_pretrained(pretrained_model_name_or_path, subfolder=root, **options)
        return [frames, *tokenizers, *[None] * (len(TOKENIZERS) - len(names))]


def _as_list(images: Any) -> list:
    """One image or many."""
    axes = getattr(images, "ndim", None)
    if axes == 3 or hasattr(images, "convert"):
        return [images]
    if axes not in (None, 4) or not (axes or isinstance(images, (list, tuple))) or not len(images):
        raise TypeError(f"expected an image or a list of images, got {type(images).__name__} {images!r:.40}")
    return list(images)


def _filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id behind a text, which the mask hides: a tokenizer of a language model may have no pad token."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in known if token is not None), 0)


def _pad_right(rows: list[list[int]], filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int64 (B, L); a batch of empty rows has one column."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(max(1, lengths.max())) < lengths[:, None]
    ids = np.full(mask.shape, filler, np.int64)
    ids[mask] = np.concatenate([np.array(row, np.int64) for row in rows])
    return ids, mask.astype(np.int64)


__all__ = ["VLJepaProcessor"]
