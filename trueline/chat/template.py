"""From messages to spans of text: what a tokenizer's chat template writes around each message, and what it does to it.

A template is a program, so it is asked, never parsed: it renders unique markers in place of the contents, and the text
between the markers is what it writes itself. A second rendering with white space around the markers tells which ends it
strips. For the actual messages the joined spans are compared with the template's own text; where they differ (a
template that rewrites contents) the whole text is taken as it is, and the caller is told.

Nothing here knows of tokens; that is `chat`'s business.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trueline.errors import UserError
from trueline.records import Message

CONTROL = "control"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}"
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
BOS = "{{ bos_token }}"

# White space that tells apart: kept, stripped, and stripped of newlines only.
PAD = "\n \n"
LEFT: dict[str, tuple[str, str | None]] = {PAD: ("", ""), "": ("l", None), " \n": ("l", "\n")}
RIGHT: dict[str, tuple[str, str | None]] = {PAD: ("", ""), "": ("r", None), "\n ": ("r", "\n")}


@dataclass(frozen=True)
class Span:
    """A stretch of rendered text: `role` is the message's whose content it is, or "control" for the template's own."""

    text: str
    role: str


@dataclass(frozen=True)
class Trim:
    """What a template strips of one content: nothing, white space or newlines, at either end."""

    left: str | None = ""
    right: str | None = ""

    def __call__(self, content: str) -> str:
        if self.left != "":
            content = content.lstrip(self.left)
        return content if self.right == "" else content.rstrip(self.right)


@dataclass(frozen=True)
class Arrangement:
    """How a template lays out messages of given roles.

    order: indices of the messages in the order they stand in the text (a template may move the system message).
    controls: the template's own text before the first, between, and after the last. trims: by message.
    """

    order: tuple[int, ...]
    controls: tuple[str, ...]
    trims: tuple[Trim, ...]

    def spans(self, messages: Sequence[Message]) -> list[Span]:
        """The spans of `messages`, in turn the template's and a content's, empty ones too."""
        spans = [Span(self.controls[0], CONTROL)]
        for place, index in enumerate(self.order):
            spans.append(Span(self.trims[index](messages[index].content), messages[index].role))
            spans.append(Span(self.controls[place + 1], CONTROL))
        return spans


@dataclass
class Template:
    """A tokenizer's chat template, asked for its layout of each sequence of roles once."""

    tokenizer: Any
    _layouts: dict[tuple[tuple[str, ...], bool], Arrangement] = field(default_factory=dict, repr=False)

    def text(self, messages: Sequence[Message], generation: bool) -> str:
        """The template's own text. Raises `UserError` where the template refuses the messages."""
        from jinja2 import TemplateError

        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation))
        except TemplateError as error:
            raise UserError(
                "the model's chat template",
                f"it refuses the roles {', '.join(m.role for m in messages)}: {error}",
                "roles in an order the template takes",
                'Change the messages, or choose --chat chatml if the tokenizer has "<|im_start|>".',
            ) from None

    def spans(self, messages: Sequence[Message], generation: bool) -> list[Span] | None:
        """The spans of `messages`; None where the template rewrites a content in a way that no layout explains."""
        layout = self.layout(tuple(message.role for message in messages), generation)
        spans = layout.spans(messages)
        return spans if "".join(span.text for span in spans) == self.text(messages, generation) else None

    def layout(self, roles: tuple[str, ...], generation: bool) -> Arrangement:
        """The layout of messages with these roles, by what the template does with markers."""
        key = (roles, generation)
        if key not in self._layouts:
            bare = [Message(role, marker(i)) for i, role in enumerate(roles)]  # type: ignore[arg-type]
            text = self.text(bare, generation)
            order, controls = split(text, roles)
            padded = [Message(m.role, PAD + m.content + PAD) for m in bare]
            _, around = split(self.text(padded, generation), roles)
            self._layouts[key] = Arrangement(order, controls, trims(order, controls, around))
        return self._layouts[key]


def marker(index: int) -> str:
    """A content that no template treats specially and no template contains."""
    return f"Qz{index:04d}marker{index:04d}zQ"


def split(text: str, roles: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Markers in the order they stand in `text`, and the text around them.

    Raises `UserError` where the template leaves a message out or writes one twice.
    """
    for index, role in enumerate(roles):
        count = text.count(marker(index))
        if count != 1:
            raise UserError(
                "the model's chat template",
                f"it writes the {role} message (number {index + 1} of {len(roles)}) {count} times",
                "every message exactly once",
                "Leave that message out, or give the tokenizer another chat_template.",
            )
    order = tuple(sorted(range(len(roles)), key=lambda i: text.index(marker(i))))
    controls = []
    for index in order:
        before, _, text = text.partition(marker(index))
        controls.append(before)
    return order, (*controls, text)


def trims(order: Sequence[int], controls: Sequence[str], around: Sequence[str]) -> tuple[Trim, ...]:
    """What is stripped of each message, from the controls without and with `PAD` around the contents.

    Between two contents stands (what is left of the one's right pad) + control + (what is left of the next's left pad).
    """
    ends: list[str | None] = [""] * len(order)
    starts: list[str | None] = [""] * len(order)
    for place, (control, found) in enumerate(zip(controls, around, strict=True)):
        rights = RIGHT if place > 0 else {"": ("", "")}
        lefts = LEFT if place < len(order) else {"": ("", "")}
        for right, left in itertools.product(rights, lefts):
            if right + control + left == found:
                if place > 0:
                    ends[order[place - 1]] = rights[right][1]
                if place < len(order):
                    starts[order[place]] = lefts[left][1]
                break
    return tuple(Trim(start, end) for start, end in zip(starts, ends, strict=True))


Style = Literal["auto", "template", "chatml", "plain"]


def style_of(template: str | dict[str, str] | None) -> str:
    """Which style a tokenizer's template is: "chatml" and "plain" are those written here, "" is none."""
    if not template:
        return ""
    if isinstance(template, dict):  # Several by name; transformers takes the one named default.
        return "template"
    return {CHATML: "chatml", PLAIN: "plain"}.get(template.removeprefix(BOS), "template")
