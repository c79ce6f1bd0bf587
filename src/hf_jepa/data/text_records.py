"""What a record of LLM-JEPA says: system prompt, user and assistant turn, and the contents of its two views."""

from collections.abc import Mapping
from typing import Any, NamedTuple


Turn = tuple[str, str]  # role, content


class Record(NamedTuple):
    """The contents of a record.

    Args:
        system: the system prompt, None where there is none.
        user: content of the user turn.
        answer: content of the assistant turn.
        text: the turn that is the Text view.
        code: the turn that is the Code view.
    """

    system: str | None
    user: str
    answer: str
    text: Turn
    code: Turn


def read_columns(
    record: Mapping[str, Any], text_column: str, code_column: str, system_prompt: str | None = None
) -> Record:
    """A record of two columns of text.

    Args:
        record: maps columns to contents.
        text_column: becomes the user turn.
        code_column: becomes the assistant turn.
        system_prompt: of all records.

    Returns:
        its contents.

    Raises:
        ValueError: a column that is missing, empty or no text.

    Example:
        >>> read_columns({"q": "all names", "a": "SELECT name"}, "q", "a").code
        ('assistant', 'SELECT name')
    """
    contents = []
    for column in (text_column, code_column):
        if column not in record:
            raise ValueError(f"there is no column {column!r} among {sorted(record)}")
        contents.append(_filled(record[column], f"column {column!r}"))
    user, answer = contents
    return Record(system_prompt, user, answer, ("user", user), ("assistant", answer))


def read_messages(record: Mapping[str, Any]) -> Record:
    """A record with a conversation, `messages`, and perhaps message lists `text` and `code` with views of its own.

    Args:
        record: its `messages` are a list of {"role", "content"}: at most one system, then one user, one assistant
            turn. `text` and `code`, if both are lists, hold one such message each.

    Returns:
        its contents.

    Raises:
        ValueError: no messages, other turns than these, a content that is empty or no text, a view without the other.

    Example:
        >>> turns = [{"role": "user", "content": "all names"}, {"role": "assistant", "content": "SELECT name"}]
        >>> read_messages({"messages": turns}).text
        ('user', 'all names')
    """
    if record.get("messages") is None:
        raise ValueError(
            f"there is no column 'messages' among {sorted(record)}; for two columns of text pass text_column and "
            "code_column"
        )
    turns = _turns(record["messages"], "messages")
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"]:
        raise ValueError(
            "a pair is one user turn and one assistant turn after a system turn or none, here are the turns "
            f"{', '.join(['system'] * (system is not None) + roles) or '(none)'}; make a record of every exchange"
        )
    (_, user), (_, answer) = turns
    text, code = turns
    views = [name for name in ("text", "code") if isinstance(record.get(name), list)]
    if len(views) == 1:
        raise ValueError(f"the messages in {views[0]!r} are one view, the other is missing: both 'text' and 'code'")
    if views:
        text, code = _single_turn(record["text"], "text"), _single_turn(record["code"], "code")
    return Record(system, user, answer, text, code)


def _turns(messages: Any, column: str) -> list[Turn]:
    if not isinstance(messages, list):
        raise ValueError(f"column {column!r} must be a list of messages with role and content, got {messages!r}")
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"message {number} of {column!r} needs role and content, got {message!r}")
        role, content = message["role"], message["content"]
        if role == "system" and content == "":
            continue
        turns.append((role, _filled(content, f"the {role} turn of {column!r}")))
    return turns


def _single_turn(messages: Any, column: str) -> Turn:
    turns = _turns(messages, column)
    if len(turns) != 1 or turns[0][0] not in ("user", "assistant"):
        raise ValueError(f"{column!r} must hold one user or assistant message, got {messages!r}")
    return turns[0]


def _filled(content: Any, where: str) -> str:
    if not isinstance(content, str):
        raise ValueError(f"{where} must be text, got {content!r}")
    if not content.strip():
        raise ValueError(f"{where} is empty: {content!r}")
    return content


__all__ = ["Record", "read_columns", "read_messages"]
