"""Tasks of a vision-language JEPA without heads: what is nearest in the space of predicted text embeddings."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import normalize

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.evaluation.results import rank_classes
from hf_jepa.evaluation.vision_language_embeddings import VisionLanguageEmbeddings, check_texts, check_videos


if TYPE_CHECKING:
    from hf_jepa.evaluation.segments import Stream

Ranking = list[dict[str, Any]]  # [{"label": ..., "score": ...}, ...], the highest score first


class Retrieval(NamedTuple):
    """What `VisionLanguageTasks.retrieve` found.

    Args:
        similarities: float32 (V, T), cosine of every video and every text, see `retrieval_recalls`.
        video_to_text: of every video the best texts, [{"label": text, "index": its number, "score": cosine}, ...].
        text_to_video: of every text the best videos, [{"index": number of the video, "score": cosine}, ...].
    """

    similarities: torch.Tensor
    video_to_text: list[Ranking]
    text_to_video: list[Ranking]


class VisionLanguageTasks(VisionLanguageEmbeddings):
    """Open-vocabulary classification, retrieval, visual questions and captions by one vision-language JEPA.

    All but captions compare what the predictor says of a video with what the text encoder says of texts, by the cosine
    (VL-JEPA, 2512.10942); captions are decoded from the prediction. All scores are cosines, ordered from the highest;
    of equal ones the first given comes first. What may stand for a video, and how the model runs, see
    `VisionLanguageEmbeddings`.

    Args:
        model: has `get_vision_tokens`, `predict` and `encode_text` as `VLJepaModel`, or a `base_model` that has them;
            for captions also `generate`, as `VLJepaForConditionalGeneration`.
        others: see `VisionLanguageEmbeddings`.

    Raises:
        TypeError: a model without these methods, or a number that is not whole.
        ValueError: a number below 1.

    Example:
        >>> class Colours(torch.nn.Module):  # knows red from green
        ...     def get_vision_tokens(self, pixel_values_videos):
        ...         return pixel_values_videos.mean(dim=(3, 4))
        ...     def predict(self, vision_tokens=None, query_ids=None, query_mask=None):
        ...         return vision_tokens.mean(dim=1)
        ...     def encode_text(self, target_ids, target_mask):
        ...         return torch.eye(3)[target_ids[:, 0]]
        >>> def processor(videos=None, targets=None, return_tensors="pt"):
        ...     if videos is not None:
        ...         return {"pixel_values_videos": torch.stack(videos)}
        ...     ids = torch.tensor([[("red", "green", "blue").index(text)] for text in targets])
        ...     return {"target_ids": ids, "target_mask": torch.ones_like(ids)}
        >>> tasks = VisionLanguageTasks(Colours(), processor)
        >>> clip = torch.zeros(2, 3, 4, 4)
        >>> clip[:, 1] = 1.0
        >>> tasks.classify([clip], ["red", "green"])
        [[{'label': 'green', 'score': 1.0}, {'label': 'red', 'score': 0.0}]]
    """

    def __call__(
        self,
        videos: Any,
        candidate_labels: Sequence[str],
        hypothesis_template: str = "{}",
        top_k: int | None = None,
    ) -> Ranking | list[Ranking]:
        """Zero-shot classification, called as the pipelines of transformers are: with probabilities of the labels.

        Args:
            videos: a list of (V) videos, pictures or vision tokens, or one of them that is no list.
            candidate_labels: (L) different texts.
            hypothesis_template: a text with {} in place of the label.
            top_k: how many labels to tell, all unless given.

        Returns:
            of every video [{"label": ..., "score": probability}, ...], sorted: the softmax over all labels of cosines
            times the scale that the model has learnt. For one video its list.

        Raises:
            TypeError: a model that has learnt no scale (`logit_scale`).
            ValueError: as `classify`.
        """
        if not hasattr(self._joint, "logit_scale"):
            raise TypeError(f"{type(self._joint).__name__} has no logit_scale for probabilities: use `classify`")
        _check_top_k(top_k)
        several, scale = isinstance(videos, list | tuple), self._joint.logit_scale.detach().exp().item()
        rankings = self.classify(videos if several else [videos], candidate_labels, templates=[hypothesis_template])
        for ranking in rankings:
            shares = torch.tensor([scale * each["score"] for each in ranking], dtype=torch.float64).softmax(dim=0)
            for each, share in zip(ranking, shares.tolist(), strict=True):
                each["score"] = share
        rankings = [ranking[:top_k] for ranking in rankings]
        return rankings if several else rankings[0]

    def classify(
        self,
        videos: Sequence[Any],
        labels: Sequence[str],
        query: str | Sequence[str] | None = None,
        templates: Sequence[str] = ("{}",),
        top_k: int | None = None,
    ) -> list[Ranking]:
        """Which of the labels each video is, in words that need not have been seen in training.

        Args:
            videos: (V) videos, pictures or vision tokens.
            labels: (L) different texts.
            query: what the predictor is asked, for all videos or for each; nothing unless given.
            templates: texts with {} in place of the label. A label's embedding is the normalised mean of the
                normalised embeddings of all templates (CLIP, 2103.00020, section 3.1.4).
            top_k: how many labels to tell, all unless given.

        Returns:
            of every video [{"label": ..., "score": cosine}, ...], sorted.

        Raises:
            TypeError: one video or text in place of a list.
            ValueError: no video, no label, a label twice, a template without {}.
        """
        _check_top_k(top_k)
        labels, templates = check_texts(labels, "labels"), check_texts(templates, "templates")
        _check_different(labels, "labels")
        if bare := [template for template in templates if "{}" not in template]:
            raise ValueError(f"template {bare[0]!r} has no {{}} for the label")
        predictions = self.embed_videos(videos, query)
        texts = [template.replace("{}", label) for label in labels for template in templates]
        rows = self.embed_texts(texts).view(len(labels), len(templates), -1)
        scores = predictions @ normalize(rows.mean(dim=1), dim=-1).T  # (V, L)
        return [_ranking(row, labels, top_k) for row in scores]

    def retrieve(
        self,
        videos: Sequence[Any],
        texts: Sequence[str],
        query: str | Sequence[str] | None = None,
        top_k: int | None = 10,
    ) -> Retrieval:
        """The texts that say what is in each video, and the videos that show what each text says.

        Args:
            videos: (V) videos, pictures or vision tokens.
            texts: (T) texts; a text may occur twice.
            query: see `classify`, for example a request for a caption.
            top_k: how many to tell of each, all if None.

        Returns:
            `Retrieval`

        Raises:
            TypeError: one video or text in place of a list.
            ValueError: no video or no text.
        """
        _check_top_k(top_k)
        texts = check_texts(texts, "texts")
        similarities = self.embed_videos(videos, query) @ self.embed_texts(texts).T
        return Retrieval(
            similarities,
            [_ranking(row, texts, top_k, indices=True) for row in similarities],
            [_ranking(row, None, top_k, indices=True) for row in similarities.T],
        )

    def answer(
        self,
        videos: Sequence[Any],
        questions: str | Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        top_k: int | None = None,
    ) -> list[Ranking]:
        """Which of the candidates answers the question about each video.

        Args:
            videos: (V) videos, pictures or vision tokens; for several questions give the video several times.
            questions: one for all videos, or one for each.
            candidates: different texts, the same for all questions, or a list of them for each.
            top_k: how many candidates to tell, all unless given.

        Returns:
            of every question [{"label": candidate, "score": cosine}, ...], sorted.

        Raises:
            TypeError: one video or candidate in place of a list.
            ValueError: no video, no question or not one for each video, no candidate or the same twice.
        """
        _check_top_k(top_k)
        if questions is None:
            raise ValueError("there is no question: `classify` compares videos with texts without one")
        videos = check_videos(videos)
        choices = _choices(candidates, len(videos))
        predictions = self.embed_videos(videos, questions)
        distinct = list(dict.fromkeys(text for texts in choices for text in texts))
        number, rows = {text: i for i, text in enumerate(distinct)}, self.embed_texts(distinct)
        return [
            _ranking(rows[[number[text] for text in texts]] @ prediction, texts, top_k)
            for prediction, texts in zip(predictions, choices, strict=True)
        ]

    def describe(self, videos: Sequence[Any], queries: str | Sequence[str] | None = None, **options: Any) -> list[str]:
        """A text for each video, from the decoder: a caption, or with queries an answer in free words.

        Args:
            videos: (V) videos, pictures or vision tokens.
            queries: one for all videos, or one for each; nothing is asked unless given.
            options: of `generate`, such as `max_new_tokens`.

        Returns:
            (V) texts.

        Raises:
            TypeError: a model without decoder, or one video in place of a list.
            ValueError: no video, or not one query for each.
        """
        self._check_decoder()
        return self.decode(self.embed_videos(videos, queries), **options)

    def decode(self, embeddings: "Stream", **options: Any) -> list[str]:
        """Texts for embeddings of videos, such as those that a `StreamMonitor` hands to its decode function.

        Args:
            embeddings: (N, D), of `embed_videos` or means of such.
            options: of `generate`.

        Returns:
            (N) texts, without special tokens and outer blanks.

        Raises:
            TypeError: a model without decoder.
            ValueError: not (N, D), or no row.
        """
        self._check_decoder()
        embeddings = torch.as_tensor(embeddings)
        if embeddings.ndim != 2 or not len(embeddings):
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}: expected (N, D) with at least one row")
        texts: list[str] = []
        decoder = getattr(self.model, "decoder", self.model)
        with self._running():
            for part in self._batches(embeddings, "texts", "text"):
                ids = self.model.generate(embeddings=self._placed(part, decoder), **options)
                texts += [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        return texts

    def _check_decoder(self) -> None:
        if not hasattr(self.model, "generate"):
            raise TypeError(
                f"{type(self.model).__name__} has no decoder: pass a VLJepaForConditionalGeneration, or compare with "
                "texts by `classify`"
            )


def _choices(candidates: Sequence[str] | Sequence[Sequence[str]], questions: int) -> list[list[str]]:
    """The candidates of each question."""
    if isinstance(candidates, str) or not len(candidates) or isinstance(candidates[0], str):
        choices = [check_texts(candidates, "candidates")] * questions
    elif len(candidates) == questions:
        choices = [check_texts(texts, f"candidates[{row}]") for row, texts in enumerate(candidates)]
    else:
        raise ValueError(f"{len(candidates)} lists of candidates for {questions} videos: give one for each")
    for row, texts in enumerate(choices):
        _check_different(texts, f"candidates of question {row}")
    return choices


def _check_different(texts: list[str], name: str) -> None:
    if twice := [text for text, count in Counter(texts).items() if count > 1]:
        raise ValueError(f"{name} hold {twice[0]!r} more than once: give each once")


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None:
        check_count(top_k, "top_k")


def _ranking(scores: torch.Tensor, labels: list[str] | None, top_k: int | None, indices: bool = False) -> Ranking:
    """The best of (C,) scores, in order, each with its label and its number as wanted."""
    best = rank_classes(scores[None], len(scores) if top_k is None else top_k)[0].tolist()
    return [
        ({} if labels is None else {"label": labels[i]})
        | ({"index": i} if indices else {})
        | {"score": scores[i].item()}
        for i in best
    ]


__all__ = ["Ranking", "Retrieval", "VisionLanguageTasks"]
