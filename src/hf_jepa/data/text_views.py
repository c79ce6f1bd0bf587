"""The texts LLM-JEPA tokenizes, rendered by a chat template or plain, and where in them the contents lie.

What a template does is found by trying it on marked contents, never by the name of a model.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_jepa.data.text_tokens import PERCEPTION_TOKEN, Span


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Conversation:
    """The text of an LM row.

    Args:
        text: what is tokenized.
        user: characters of the user's content.
        answer: characters of the content that is learnt.
        generated: characters of what a model has to write to give this answer: `answer`, what the template puts
            between its generation prompt and the answer, and the end of the turn. `answer` where there is no such end.
    """

    text: str
    user: Span
    answer: Span
    generated: Span


@dataclass(frozen=True)
class _Frame:
    """What a template writes around the contents of messages with given roles."""

    pieces: tuple[str, ...]  # before the first content, between contents, behind the last
    opening: int  # characters before the last content that follow the generation prompt
    closing: int  # characters behind the last content up to the end of the turn, 0 where no token ends it

    def spans(self, text: str, contents: list[str]) -> list[Span] | None:
        """Where the contents lie in a rendered text; None if it is not these pieces around these contents."""
        spans, position = [], len(self.pieces[0])
        matches = text.startswith(self.pieces[0])
        for content, following in zip(contents, self.pieces[1:], strict=True):
            kept = (content, content.strip(), content.lstrip(), content.rstrip())  # what templates do to contents
            found = next((part for part in kept if text.startswith(part + following, position)), None)
            if found is None or not matches:
                return None
            spans.append((position, position + len(found)))
            position += len(found) + len(following)
        return spans if position == len(text) else None


class ChatFormat:
    """LM rows and views through the chat template of a tokenizer, each rendered on its own.

    Args:
        tokenizer: fast, with a chat template.
        date_string: the date for templates that write one, so that runs of different days see the same tokens.
            None leaves it to the template, which is often the date of today.
        fold_system: put the system prompt before the user's content, a blank line between them, and give a view that
            is an assistant turn alone the role user: what the official code does for Gemma. False does neither, None
            each where the template refuses the other way.

    Raises:
        ValueError: no chat template, one that writes the date of today whatever `date_string` says, or one that fits
            no conversation of a user and an assistant turn.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> chat = ChatFormat(byte_tokenizer())
        >>> chat.view("user", "hi")
        ('<s><|user|>hi</s>', (11, 13))
        >>> row = chat.conversation(None, "hi", "hello")
        >>> row.text[slice(*row.answer)], row.text[slice(*row.generated)]
        ('hello', 'hello</s>')
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        date_string: str | None = "26 Jul 2024",
        fold_system: bool | None = None,
    ):
        if not tokenizer.chat_template:
            raise ValueError(
                "this tokenizer has no chat template: set tokenizer.chat_template, or use plain=True for rows without"
            )
        template = tokenizer.get_chat_template()
        if date_string is not None and "strftime_now" in template and "date_string" not in template:
            raise ValueError(
                "the chat template writes the date of today and cannot be given another one by date_string: replace "
                "strftime_now(...) in tokenizer.chat_template by a date, or pass date_string=None to accept it"
            )
        self.tokenizer = tokenizer
        self.date = {} if date_string is None else {"date_string": date_string}
        self._frames: dict[tuple[str, ...], _Frame] = {}
        if problem := self._problem("user", "assistant"):
            raise ValueError(f"the chat template cannot render a user and an assistant turn: {problem}")
        self.folds_system = bool(self._problem("system", "user", "assistant")) if fold_system is None else fold_system
        self.lone_role = "user" if fold_system or (fold_system is None and self._problem("assistant")) else "assistant"
        if not self.folds_system and (problem := self._problem("system", "user", "assistant")):
            raise ValueError(f"the chat template takes no system turn, so fold_system cannot be False: {problem}")
        if problem := self._problem("user") or self._problem(self.lone_role):
            raise ValueError(f"the chat template cannot render a turn alone: {problem}")

    @property
    def ends_turns(self) -> bool:
        """Whether the template puts a token of the vocabulary behind the answer."""
        return self._frame("user", "assistant").closing > 0

    @property
    def markup(self) -> str:
        """Everything the template writes around contents."""
        return "".join(piece for frame in self._frames.values() for piece in frame.pieces)

    def conversation(self, system: str | None, user: str, assistant: str) -> Conversation:
        """The LM row of a record.

        Raises:
            ValueError: the template changes a content by more than trimming it.
        """
        turns = [("user", user), ("assistant", assistant)]
        if system and self.folds_system:
            turns[0] = ("user", f"{system}\n\n{user}")
        elif system:
            turns.insert(0, ("system", system))
        text, spans, frame = self._render_and_find(turns)
        (start, end), answer = spans[-2:]
        if system and self.folds_system:
            start = end - len(user if text.endswith(user, start, end) else user.rstrip())
        generated = (answer[0] - frame.opening, answer[1] + frame.closing)
        return Conversation(text, (start, end), answer, generated)

    def view(self, role: str, content: str) -> tuple[str, Span]:
        """The text of a view and the characters of its content.

        Raises:
            ValueError: the template changes the content by more than trimming it.
        """
        text, spans, _ = self._render_and_find([(self.lone_role if role == "assistant" else role, content)])
        return text, spans[0]

    def _render(self, turns: list[tuple[str, str]], **options: Any) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **self.date, **options)

    def _render_and_find(self, turns: list[tuple[str, str]]) -> tuple[str, list[Span], _Frame]:
        frame = self._frame(*(role for role, _ in turns))
        text = self._render(turns)
        spans = frame.spans(text, [content for _, content in turns])
        if spans is None:
            raise ValueError(
                "the chat template does not leave the contents as they are (some remove or move reasoning between "
                "<think> tags), so their tokens cannot be told apart; change the contents or tokenizer.chat_template"
            )
        return text, spans, frame

    def _frame(self, *roles: str) -> _Frame:
        if roles not in self._frames:
            self._frames[roles] = self._find_frame(roles)
        return self._frames[roles]

    def _find_frame(self, roles: tuple[str, ...]) -> _Frame:
        marks = [f"\ue000{number}\ue001" for number in range(len(roles))]  # private use characters: no text has them
        turns = list(zip(roles, marks, strict=True))
        text = self._render(turns)
        found = re.findall("\ue000.\ue001", text)
        if found != marks:
            raise ValueError(f"of the turns {', '.join(roles)} it writes {len(found)}, or in another order")
        pieces = tuple(re.split("\ue000.\ue001", text))
        opening = 0
        if roles[-2:] == ("user", "assistant"):
            prompt = self._render(turns[:-1], add_generation_prompt=True)
            if prompt != self._render(turns[:-1]) and text.startswith(prompt):
                opening = text.index(marks[-1]) - len(prompt)
        ends = [token for token in self.tokenizer.get_added_vocab() if token.strip() and token in pieces[-1]]
        closing = min((pieces[-1].index(token) + len(token) for token in ends), default=0)
        return _Frame(pieces, opening, closing)

    def _problem(self, *roles: str) -> str | None:
        """Why the template cannot render turns of these roles; None if it can."""
        from jinja2.exceptions import TemplateError

        try:
            self._frame(*roles)
        except (TemplateError, ValueError) as error:
            return str(error)
        return None


class PlainFormat:
    """Rows without a chat template, for pretraining from scratch: the system prompt is left out.

    Args:
        end_token: behind every row.
        train_all: the row is the user's content alone, and all of it is learnt, as in pretraining on paraphrases.

    Example:
        >>> PlainFormat("</s>").conversation(None, "hi", "hello").text
        'hi<|perception|>hello</s>'
        >>> PlainFormat("</s>", train_all=True).conversation(None, "hi", "hello").text
        'hi</s>'
    """

    ends_turns = True
    markup = PERCEPTION_TOKEN

    def __init__(self, end_token: str, train_all: bool = False):
        self.end_token, self.train_all = end_token, train_all

    def conversation(self, system: str | None, user: str, assistant: str) -> Conversation:
        """The LM row of a record."""
        before = "" if self.train_all else user + PERCEPTION_TOKEN
        answer = user if self.train_all else assistant
        start, end = len(before), len(before) + len(answer)
        text = before + answer + self.end_token
        return Conversation(text, (0, len(user)), (start, end), (start, len(text)))

    def view(self, role: str, content: str) -> tuple[str, Span]:
        """The text of a view, which is its content."""
        return content, (0, len(content))


__all__ = ["ChatFormat", "Conversation", "PlainFormat"]
