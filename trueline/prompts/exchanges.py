"""What a row asks and what answers it, whatever its layout: one exchange, several of a conversation, several answers.

| fields | layout |
| --- | --- |
| prompt, completion | TRL's prompt-completion rows, text or messages |
| messages | a conversation, as TRL and UltraChat have it |
| conversations | ShareGPT: [{"from": "human" or "gpt", "value"}] |
| instruction, input, output | Alpaca |
| instruction, instances | Self-Instruct: [{"input", "output"}] |
| instruction, completions | a completion file: one object {instruction: [completion]}, an entry per row |
| turns | MT-Bench's questions: the first is asked, the others need an answer before them |

The instruction of a completion file may be wrapped as "Human: ...\\n\\nAssistant: " (several turns, too): the
wrapping is taken off. Two turns of one role in a row become one turn, as in `transcripts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from trueline import transcripts
from trueline.errors import UserError
from trueline.files import Row, Unusable, kind
from trueline.prompts import trl
from trueline.records import Message

Turns = Literal["last", "first", "each"]
ENTRY = ("instruction", "completions")
FROM = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "system": "system",
}  # fmt: skip


class Exchange(NamedTuple):
    """A conversation that ends before the assistant's turn, and what is answered: nothing, one answer, or several."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[Message, ...]:
        """The conversation. Raises `Unusable` where it asks nothing."""
        if not self.messages[-1].content.strip():
            raise Unusable("empty", "the prompt is empty", "a question")
        return self.messages

    def answered(self, row: Row) -> tuple[str, ...]:
        """The answers. Raises `UserError` naming the row where there is none, `Unusable` where one is empty."""
        if not self.answers and row.has("messages"):
            got = f'the last of "messages" is the {self.messages[-1].role}\'s'
            raise UserError(row.where, got, "the assistant's answer")
        if not self.answers:
            got = f"it has the fields {', '.join(row.value) or 'none'}"
            raise UserError(row.where, got, 'an answer in "completion", "messages" or "output"', "See docs/data.md.")
        if not all(text.strip() for text in self.answers):
            raise Unusable("empty", "the answer is empty", "an answer to imitate")
        return self.answers


def exchanges(row: Row, turns: Turns = "last") -> list[Exchange]:
    """What a row asks and answers.

    turns: of a conversation, the "last" exchange with all before it as its prompt, the "first" alone, or "each".
    Raises `UserError` for a row of no layout, `Unusable` for one without an exchange.
    """
    if row.has("conversations"):
        return of_conversation(sharegpt(row), turns)
    if row.has("messages") and not row.has("completion"):
        return of_messages(row, turns)
    if row.has("instruction", "instances"):
        return instances(row)
    if row.has(*ENTRY):
        return [Exchange(unwrapped(row.text("instruction")), texts(row, "completions"))]
    prompt = question(row)
    trl.check_prompt(row, prompt)
    return [Exchange(prompt, answer(row))]


def question(row: Row) -> tuple[Message, ...]:
    """The messages that a row of one question asks."""
    if row.has("prompt"):
        return row.messages("prompt") if isinstance(row.value["prompt"], list) else trl.user(row.text("prompt"))
    if row.has("instruction"):
        return instruction(row)
    if row.has("turns"):
        return trl.user(texts(row, "turns")[0])
    got = f"it has the fields {', '.join(row.value) or 'none'}"
    wanted = 'a row with "prompt", "messages", "conversations" or "instruction"'
    raise UserError(row.where, got, wanted, "See docs/data.md.")


def instruction(row: Row, inputs: Row | None = None) -> tuple[Message, ...]:
    """Alpaca's question: the instruction and, after a blank line, its input if there is one."""
    inputs = inputs or row
    given = inputs.text("input") if inputs.has("input") and inputs.value["input"] is not None else ""
    return trl.user("\n\n".join(part for part in (row.text("instruction"), given) if part))


def answer(row: Row) -> tuple[str, ...]:
    """What such a row answers: {"completion": text or messages} or {"output"}; () where it has neither."""
    if row.has("completion") and isinstance(row.value["completion"], list):
        turns = row.messages("completion")
        if len(turns) > 1 or turns[0].role != "assistant":
            roles = ", ".join(turn.role for turn in turns)
            raise UserError(row.where, f'"completion" has the roles {roles}', "one message of the assistant's")
        return (turns[0].content,)
    if row.has("completion"):
        return (row.text("completion"),)
    return (row.text("output"),) if row.has("output") else ()


def instances(row: Row) -> list[Exchange]:
    """Self-Instruct's tasks: one instruction, and an input and output per instance."""
    given = row.get("instances")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise UserError(row.where, f'field "instances" is {kind(given)}', 'a list of {"input", "output"}')
    parts = [Row(f"{row.where} instances[{i}]", one) for i, one in enumerate(given)]
    return [Exchange(instruction(row, part), (part.text("output"),)) for part in parts]


def texts(row: Row, field: str) -> tuple[str, ...]:
    """A field that must be a list of texts, at least one."""
    value = row.get(field, "a list of texts")
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise UserError(row.where, f'field "{field}" is {kind(value)}', "a list of texts, at least one")
    return tuple(value)


def unwrapped(text: str) -> tuple[Message, ...]:
    """An instruction, or the turns of a wrapped one.

    >>> [m.content for m in unwrapped("Human: Hi\\n\\nAssistant: Hello.\\n\\nHuman: Who bakes?\\n\\nAssistant: ")]
    ['Hi', 'Hello.', 'Who bakes?']
    >>> [m.content for m in unwrapped("Human rights: a list, please.")]
    ['Human rights: a list, please.']
    """
    if text.startswith("Human:") and text.rstrip().endswith("\n\nAssistant:"):
        return transcripts.messages(text.rstrip().removesuffix(transcripts.ASSISTANT))
    return trl.user(text)


# --- conversations ---------------------------------------------------------------------------------------------------


def sharegpt(row: Row) -> tuple[Message, ...]:
    """The messages of a ShareGPT conversation. Raises `Unusable` for one that the user did not begin, and for turns of
    others than the two and a system's."""
    given = row.get("conversations", 'a list of {"from", "value"}')
    if not isinstance(given, list):
        raise UserError(row.where, f'field "conversations" is {kind(given)}', 'a list of {"from", "value"}')
    out: list[Message] = []
    for i, turn in enumerate(given):
        at = f'"conversations[{i}]"'
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise UserError(row.where, f"{at} is {kind(turn)} without from and value", '{"from", "value"}')
        who, said = turn["from"], turn["value"]
        if not isinstance(said, str):
            raise UserError(row.where, f"the value of {at} is {kind(said)}", "text", "Drop the row.")
        role = FROM.get(who) if isinstance(who, str) else None
        if role is None:
            raise Unusable("", f"a turn is from {who!r}", f"turns from {', '.join(FROM)}")
        out.append(Message(role, said.strip()))  # type: ignore[arg-type]  # FROM holds roles alone
    return transcripts.joined(out)


def of_conversation(messages: Sequence[Message], turns: Turns) -> list[Exchange]:
    """The exchanges of a conversation. Raises `Unusable` where there is none, or the assistant begins.

    Of "Hi", "Hello.", "Who?", "Ada.", "Thanks": the last is (Hi, Hello., Who? -> Ada.), the first (Hi -> Hello.).
    """
    first = next((m.role for m in messages if m.role != "system"), None)
    if first == "assistant":
        raise Unusable("", "the conversation begins with the assistant's turn", "one that the user begins")
    found = [Exchange(tuple(messages[:at]), (m.content,)) for at, m in enumerate(messages) if m.role == "assistant"]
    if not found:
        raise Unusable("", "the conversation has no answer", "a turn of the assistant's")
    return {"last": found[-1:], "first": found[:1], "each": found}[turns]


def of_messages(row: Row, turns: Turns) -> list[Exchange]:
    """The exchanges of a "messages" row, whose last message is the answer; a question where it is the user's."""
    messages = row.messages("messages")
    if messages[-1].role != "assistant":
        return [Exchange(messages)]
    trl.check_prompt(row, messages[:-1])
    return of_conversation(messages, turns)
