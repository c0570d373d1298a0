"""HH-RLHF transcripts: "\\n\\nHuman: ...\\n\\nAssistant: ..." texts become messages.

The prompt of a pair is the chosen transcript up to and including its last "Assistant:"; the rejected one must begin
with the same. Contents lose the white space around them. Two turns of one role in a row (a few rows of the published
files have them) become one turn, separated by a blank line, as many chat templates want roles to alternate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trueline.files import Row, Unusable
from trueline.records import Message

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def is_transcript(text: object) -> bool:
    """Whether a text is an HH transcript: it opens with a human turn and holds an assistant's."""
    return isinstance(text, str) and text.lstrip().startswith("Human:") and ASSISTANT in text


def pair(row: Row) -> tuple[tuple[Message, ...], str, str]:
    """Context, chosen answer and rejected answer of a row whose transcripts share their context.

    A row may carry the shared part in a field "prompt" of its own. Raises `Unusable` where the contexts differ or a
    transcript does not end with the assistant.
    """
    chosen, rejected = row.text("chosen", "a transcript"), row.text("rejected", "a transcript")
    if row.has("prompt") and not chosen.startswith(row.text("prompt")):
        chosen, rejected = row.text("prompt") + chosen, row.text("prompt") + rejected
    cut = chosen.rfind(ASSISTANT) + len(ASSISTANT)
    if cut < len(ASSISTANT):
        raise Unusable("", "the chosen transcript has no assistant turn", "Human: and Assistant: turns")
    prompt, chosen = chosen[:cut], chosen[cut:]
    if not rejected.startswith(prompt):
        raise Unusable("", "chosen and rejected have different contexts", "one prompt, two answers")
    rejected = rejected[cut:]
    if any(mark in answer for answer in (chosen, rejected) for mark in (HUMAN, ASSISTANT)):
        raise Unusable("", "a transcript goes on after the answer", "transcripts that end with the assistant's answer")
    return messages(prompt.removesuffix(ASSISTANT)), chosen.strip(), rejected.strip()


def messages(transcript: str) -> tuple[Message, ...]:
    """The turns of a transcript; turns of one role in a row become one.

    >>> [m.content for m in messages("\\n\\nHuman: Hi\\n\\nAssistant: Hello.\\n\\nHuman: One\\n\\nHuman: Two")]
    ['Hi', 'Hello.', 'One\\n\\nTwo']
    """
    parts = TURN.split(transcript)
    said = zip(parts[1::2], parts[2::2], strict=True)
    out = joined(Message("user" if who == "Human" else "assistant", text.strip()) for who, text in said)
    if not out or out[-1].role != "user":
        raise Unusable("", "the context does not end with the human's turn", "Human: before the last Assistant:")
    return out


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages, two of one role in a row as one, a blank line between them."""
    out: list[Message] = []
    for message in messages:
        if out and out[-1].role == message.role:
            message = Message(message.role, f"{out.pop().content}\n\n{message.content}".strip())
        out.append(message)
    return tuple(out)
