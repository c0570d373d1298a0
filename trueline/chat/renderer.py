"""The only door between text and tokens: one renderer for training, sampling, scoring and serving.

A conversation is rendered in spans (`template`): the model's own chat template, ChatML where a tokenizer has none, or
plain text (prompt + completion + EOS, as TRL treats plain preference rows). The template's own text and each content
are tokenised separately and their ids concatenated, so that no token ever runs across a boundary, the prompt is always
a prefix, and special-token text inside a content is text, never a control token.

Rules, each with a test:

* A content is tokenised as it stands in the middle of the text: the dummy space that SentencePiece-type tokenizers put
  before a text is put where the template's own tokenisation puts one, nowhere else.
* A single space that the template writes before a content is tokenised with the content, as in running text.
* What the template strips of a content is stripped; ChatML and plain strip nothing.
* An answer is content + exactly one end-of-turn token, the first special token that the template writes after the
  assistant's content (EOS where it writes none). End-of-turn text at the end of an answer is that token, not a second.
* Prompts end with the template's generation prompt, and with what else the template writes before the answer (an empty
  thinking block); train and sample therefore see the same prompt.
* BOS is what the template writes; ChatML and plain start with BOS where the tokenizer puts one before plain text.
* Where the ids differ from `apply_chat_template(tokenize=True)`, ours stand; `difference` says where, and `trueline
  check` counts them.

Special tokens that end a turn: with pad == EOS or EOS == end-of-turn nothing here looks at padding or at mere presence;
positions come from the rendering.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueline.chat.template import BOS, CHATML, CONTROL, PLAIN, Span, Template, style_of
from trueline.chat.tokens import Tokens
from trueline.errors import UserError
from trueline.records import Message

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
STYLES = ("auto", "template", "chatml", "plain")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    trained: whether token t is a training target: every assistant's content and the end-of-turn that closes it; never
    the white space after it, never another role. roles: "system", "user" or "assistant" for contents, "control" for
    what the template writes. reward_position: index of the end-of-turn that closes the assistant's last turn, None
    where the conversation does not end with one.
    """

    ids: list[int]
    trained: list[bool]
    roles: list[str]
    reward_position: int | None


def prepare(tokenizer: Any) -> int:
    """Give a tokenizer without chat template ChatML, its two tokens where they are missing; how many were added.

    The template starts with BOS where the tokenizer puts BOS before plain text. The embeddings of a model must grow by
    the number returned (`models.load` does that).

    Raises `UserError` for a tokenizer that knows neither an end of sequence nor an end of turn.
    """
    if tokenizer.chat_template:
        return 0
    if tokenizer.eos_token_id is None and IM_END not in tokenizer.get_vocab():
        raise no_end(tokenizer)
    from tokenizers import AddedToken

    size = len(tokenizer)
    # A vocabulary entry alone is not parsed as one token: it has to be an added one.
    parsed = {token.content for token in tokenizer.added_tokens_decoder.values()}
    missing = [AddedToken(t, special=True, normalized=False) for t in (IM_START, IM_END) if t not in parsed]
    tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.chat_template = (BOS if adds_bos(tokenizer) else "") + CHATML
    return len(tokenizer) - size


def no_end(tokenizer: Any) -> UserError:
    """The error for a tokenizer that cannot say where an answer ends."""
    return UserError(
        f'tokenizer "{getattr(tokenizer, "name_or_path", "")}"',
        "it has no end-of-sequence token and no chat template that closes a turn",
        "a token that ends an answer",
        "Set eos_token in its tokenizer_config.json.",
    )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts BOS before plain text."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


class Renderer:
    """Conversations to tokens and answers back to text, for one tokenizer.

    style: "auto" (the tokenizer's own template; ChatML where `prepare` gave it that), "template", "chatml" or "plain".
    The style in force is `self.style`, and stands in the tokenizer's chat_template, so that a model saved with its
    tokenizer is opened in the style it was trained in. end_id: the end-of-turn token that is trained and stops
    generation; stop_ids: it and EOS; start_id: the special token that opens an assistant's turn, -1 where none does.

    Raises `UserError` for an unknown style, for a tokenizer without what the style needs, or without any end.
    """

    def __init__(self, tokenizer: Any, style: str = "auto") -> None:
        self.tokenizer = tokenizer
        self.style = self._choose(style)
        self.template = Template(tokenizer)
        self._tokens = Tokens(tokenizer)
        self._controls: dict[tuple[str, str], list[int]] = {}
        self._learn_answer()
        header = self._header()
        self.start_id = header[0] if header and header[0] in self._control_ids else -1
        eos = tokenizer.eos_token_id
        self.stop_ids = (self.end_id,) if eos in (None, self.end_id) else (self.end_id, int(eos))

    def _choose(self, style: str) -> str:
        """Put the template of `style` on the tokenizer; the style in force."""
        tokenizer, own = self.tokenizer, style_of(self.tokenizer.chat_template)
        if style not in STYLES:
            raise UserError("chat style", f'got "{style}"', f"one of {', '.join(STYLES)}")
        bos = BOS if adds_bos(tokenizer) else ""
        if style == "plain" and own != "plain":
            tokenizer.chat_template = bos + PLAIN
        elif style == "chatml" and own != "chatml":
            if not {IM_START, IM_END} <= tokenizer.get_vocab().keys():
                cure = "Choose --chat template, or a base model without a chat template: it gets the tokens."
                raise UserError("chat style chatml", f"the tokenizer has no {IM_START} and {IM_END}", "both", cure)
            tokenizer.chat_template = bos + CHATML
        elif not own:
            cure = "Call chat.prepare(tokenizer) first, or choose the style plain."
            raise UserError(f"chat style {style}", "the tokenizer has no chat template", "one", cure)
        if style == "plain" and tokenizer.eos_token_id is None:
            raise no_end(tokenizer)
        return style_of(tokenizer.chat_template)

    def _learn_answer(self) -> None:
        """What stands around an answer, from the template's layout of one question and one answer.

        opening: written before the answer beyond the generation prompt (an empty thinking block); goes to the prompt.
        lead: the space that the answer's first token carries. between: text before the end-of-turn token.
        tail: text after it.
        """
        generation = self.template.layout(("user",), True).controls[-1]
        layout = self.template.layout(("user", "assistant"), False)
        before, after = layout.controls[-2:]
        extra = before.removeprefix(generation) if before.startswith(generation) else ""
        self._opening = extra.rstrip(" ")
        self._lead = extra[len(self._opening) :]
        self._trim = layout.trims[-1]
        self._answer_at = self._tokens.after(generation + self._opening)
        # As it reads in the ids: some tokenizers put a dummy space of their own before it.
        self._shown_lead = self._tokens.decode(self._tokens.content(self._lead + "a", self._answer_at))[:-1]
        found = self._tokens.added.search(after)
        if found is None and self.tokenizer.eos_token_id is None:
            raise no_end(self.tokenizer)
        self._end = found[0] if found else str(self.tokenizer.eos_token)
        self.end_id = int(self.tokenizer.convert_tokens_to_ids(self._end))
        self._between, self._tail = (after[: found.start()], after[found.end() :]) if found else ("", after)
        self._writes_end = found is not None
        self._closing = re.compile(rf"(?:{re.escape(self._between)}{re.escape(self._end)}\s*)+\Z")
        self._control_ids = {i for i in self._tokens.special_ids if i != self.tokenizer.unk_token_id}
        self._control_ids |= {self.end_id, *(i for i in (self.tokenizer.eos_token_id,) if i is not None)}

    @property
    def tail(self) -> str:
        """What the template writes after the end-of-turn of the last answer: a line break, or nothing."""
        return self._tail

    @property
    def writes_end(self) -> bool:
        """Whether the template itself writes that end-of-turn; where it writes none, `answer_ids` adds EOS."""
        return self._writes_end

    @property
    def ends_there(self) -> bool:
        """Whether what the template writes of a conversation ends with the end-of-turn of its last answer."""
        return self._writes_end and not self._tail

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Everything before the answer's first token: BOS as the template says, the generation prompt included.

        Raises `UserError` where the messages end with the assistant's turn, or the template refuses them.
        """
        return self._prompt(messages).ids

    def answer_ids(self, text: str, ended: bool = True) -> list[int]:
        """An answer's tokens, by themselves; exactly one end-of-turn token at the end iff `ended`."""
        text = self._closing.sub("", text)
        # The end of a cut answer is not the end of the content: what stands there stays.
        text = self._trim(text) if ended else self._trim(text + "|")[:-1]
        ids = self._content(self._lead + text, self._answer_at)
        return [*ids, *self.ending()] if ended else ids

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation: ids, training mask, roles, and where a reward is read."""
        if not messages or messages[-1].role != "assistant":
            return self._rendered(messages, False)
        prompt, answer = self._prompt(messages[:-1]), self.answer_ids(messages[-1].content)
        tail = self._control(self._tail, self._tokens.after(self._end))
        ids = [*prompt.ids, *answer, *tail]
        ending = len(self.ending())
        roles = ["assistant"] * (len(answer) - ending) + [CONTROL] * (ending + len(tail))
        trained = [*prompt.trained, *[True] * len(answer), *[False] * len(tail)]
        return Rendered(ids, trained, prompt.roles + roles, len(prompt.ids) + len(answer) - 1)

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's text from its ids: up to the first end-of-turn (or EOS) token, without it."""
        ids = list(ids)
        stop = next((t for t, i in enumerate(ids) if i in self.stop_ids), None)
        text = self._tokens.decode(ids[:stop])
        if stop is not None and self._between:
            text = text.removesuffix(self._between)
        return text.removeprefix(self._shown_lead)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of any ids, as it stands in the middle of a text; special tokens are spelt out."""
        return self._tokens.decode(ids)

    def template_ids(self, messages: Sequence[Message]) -> list[int]:
        """The template's own tokenisation, in one piece, as other programs do it; a prompt gets its generation prompt.

        Special-token text inside a content becomes a control token here, and tokens may run across boundaries.
        """
        answered = messages[-1].role == "assistant"
        rows = [{"role": m.role, "content": m.content} for m in messages]
        ids = self.tokenizer.apply_chat_template(rows, add_generation_prompt=not answered, return_dict=False)
        return [int(i) for i in ids]

    def difference(self, messages: Sequence[Message]) -> str | None:
        """Where our ids differ from the template's own tokenisation; None where they agree token for token."""
        ours = self.conversation(messages).ids if messages[-1].role == "assistant" else self.prompt_ids(messages)
        theirs = self.template_ids(messages)
        if ours == theirs:
            return None
        shorter = min(len(ours), len(theirs))
        at = next((t for t in range(shorter) if ours[t] != theirs[t]), shorter)
        here, there = (self.tokenizer.convert_ids_to_tokens(ids[at : at + 4]) for ids in (ours, theirs))
        return f"token {at}: {here}, the template's own {there}"

    def token_of(self, text: str) -> int | None:
        """The one token that `text` is, an added one (special or not) or as it stands in the middle of a text; None
        where it is none or several."""
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        added = {token.content: int(i) for i, token in known.items()}
        if text in added:
            return added[text]
        ids = self._tokens.content(text, "text")
        return ids[0] if len(ids) == 1 else None

    def opening_token(self, text: str) -> int | None:
        """The one token that `text` is at the beginning of a user's message; None where it is none or several there, as
        special-token text, or text whose first space the template strips."""
        token = self.token_of(text)
        return token if token in self.prompt_ids((Message("user", text + "a"),)) else None

    def special_texts(self, text: str) -> list[str]:
        """The special tokens that stand literally in a text; they are rendered as text."""
        return self._tokens.special.findall(text)

    def reward_position(self, ids: Sequence[int]) -> int:
        """Index of the end-of-turn that closes the assistant's last turn in `ids`; padding after it is harmless.

        Raises `UserError` where that turn is not closed, or a later end-of-turn closes somebody else's: a reward read
        there would rate another turn.
        """
        ids = list(ids)
        header = self._header()
        starts = [t for t in range(len(ids) - len(header) + 1) if ids[t : t + len(header)] == header]
        for start in reversed(starts if header else [0]):
            # A leading EOS that is also the end-of-turn token closes nothing.
            first = max(start + len(header), 1)
            end = next((t for t in range(first, len(ids)) if ids[t] == self.end_id), None)
            if end is None:
                continue
            padding = {self.end_id, self.tokenizer.pad_token_id}
            tail = self._control(self._tail, self._tokens.after(self._end))
            rest = ids[end + 1 :]
            rest = rest[len(tail) :] if rest[: len(tail)] == tail else rest
            text = next((t for t, i in enumerate(rest) if i not in padding), len(rest))
            if self.end_id in rest[text:]:
                break
            return end
        cure = "Render the conversation with its answer closed (answer_ids(text, ended=True))."
        raise UserError("reward position", "the assistant's last turn is not closed by an end-of-turn", "one", cure)

    def closed(self, ids: Sequence[int]) -> list[int]:
        """`ids` up to the end-of-turn that closes the assistant's last turn, where a reward is read.

        That token is appended where the turn is still open (an answer as people keep it, without), and never twice;
        padding and text after it are left out. Raises `UserError` where somebody else's turn is the last one closed.
        """
        ids = list(ids)
        if (start := self._answer_starts(ids)) is None or self.end_id in ids[start:]:
            return ids[: self.reward_position(ids) + 1]
        while len(ids) > start and ids[-1] == self.tokenizer.pad_token_id:
            ids.pop()
        return ids + self.ending()

    def closes_answer(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` is the end-of-turn that closes the assistant's turn, and that turn's first."""
        start = self._answer_starts(ids := list(ids))
        return start is not None and self.end_id in ids[start:] and ids.index(self.end_id, start) == len(ids) - 1

    def last(self, prompt: Sequence[int], answer: Sequence[int], n: int) -> tuple[list[int], list[int]]:
        """The last `n` tokens of a prompt with its answer: the prompt loses its beginning first, down to what opens the
        answer, then the answer does."""
        least = max(1, len(self._header()))
        if n < least + 2:
            raise UserError("cutting from the left", f"{n} tokens", f"{least + 2} or more, for what opens an answer")
        kept = list(answer[-(n - least) :])
        return list(prompt[-(n - len(kept)) :]), kept

    def _answer_starts(self, ids: list[int]) -> int | None:
        """Where the assistant's last turn begins, after what opens it; None where there is no such turn."""
        header = self._header()
        if not header:  # Nothing opens a turn in plain text. A leading EOS that is also the end-of-turn closes nothing.
            return min(1, len(ids))
        last = header[-1]
        for t in range(len(ids) - 1, len(header) - 2, -1):
            if ids[t] == last and ids[t - len(header) + 1 : t + 1] == header:
                return t + 1
        return None

    def _header(self) -> list[int]:
        """The ids that open an assistant's turn: what stands between a question and its answer, from its last special
        token on (text cannot forge that), all of it where there is none."""
        written = self.template.layout(("user",), True).controls[-1] + self._opening
        ids = self._control(written, "text")
        special = [t for t, i in enumerate(ids) if i in self._control_ids]
        return ids[special[-1] :] if special else ids

    def _prompt(self, messages: Sequence[Message]) -> Rendered:
        if not messages or messages[-1].role == "assistant":
            got = "it ends with the assistant's turn" if messages else "it has no message"
            raise UserError("a prompt", got, "messages that end before the assistant's next turn")
        return self._rendered(messages, True)

    def _rendered(self, messages: Sequence[Message], generation: bool) -> Rendered:
        """Messages as tokens; with `generation`, up to the answer's first token."""
        if self.style == "plain" and sum(m.role != "assistant" for m in messages) > 1:
            got = f"{len(messages)} messages ({', '.join(m.role for m in messages)})"
            cure = "Choose --chat chatml (or template), or read the file as texts (--layout trl-plain-implicit)."
            raise UserError("chat style plain", got, "one text and its answer", cure)
        spans = self.template.spans(messages, generation) or self._whole(messages, generation)
        if generation and self._opening:
            spans = [*spans, Span(self._opening, CONTROL)]
        ids: list[int] = []
        trained: list[bool] = []
        roles: list[str] = []
        at, before = "start", ""
        for span in self._plain(spans) if self.style == "plain" else glued(spans):
            new, on = self._span(span, at, before)
            ids += new
            trained += on
            roles += [span.role] * len(new)
            before = span.role
            if before != CONTROL:
                at = "text"
            elif self.style != "plain":  # A plain text starts after its BOS: the tokenizer puts that before the text.
                at = self._tokens.after(span.text)
        return Rendered(ids, trained, roles, None)

    def _span(self, span: Span, at: str, before: str) -> tuple[list[int], list[bool]]:
        """A span's ids and which of them are trained: the assistant's content and the end-of-turn right after it."""
        if span.role != CONTROL:
            ids = self._content(span.text, at)
            return ids, [span.role == "assistant"] * len(ids)
        ids = self._control(span.text, at)
        closes = before == "assistant" and span.text.startswith(self._between + self._end)
        on = ids.index(self.end_id) + 1 if closes else 0
        return ids, [t < on for t in range(len(ids))]

    def _plain(self, spans: Sequence[Span]) -> list[Span]:
        """Plain spans, without a BOS that the text brings along where the tokenizer puts one."""
        bos = self.tokenizer.bos_token
        if not spans or spans[0].text != bos:
            return list(spans)
        return [spans[0], *(Span(s.text.removeprefix(bos) if s.role != CONTROL else s.text, s.role) for s in spans[1:])]

    def _whole(self, messages: Sequence[Message], generation: bool) -> list[Span]:
        """The template's text as it is, where it rewrites a content; refused where that content could forge a token."""
        for message in messages:
            if found := self._tokens.special.search(message.content):
                got = f'the template rewrites a {message.role} message that holds "{found[0]}"'
                raise UserError(
                    "the model's chat template", got, "a content without special-token text", "Drop the row."
                )
        return [Span(self.template.text(messages, generation), CONTROL)]

    def ending(self) -> list[int]:
        """What closes an answer: what the template writes before its end-of-turn token, and that token."""
        return [*self._control(self._between, "text"), self.end_id]

    def _control(self, text: str, at: str) -> list[int]:
        key = (text, at)
        if key not in self._controls:
            self._controls[key] = self._tokens.control(text, at)
        return list(self._controls[key])

    def _content(self, text: str, at: str) -> list[int]:
        """A content's ids, none of them a control token whatever its text says."""
        ids = self._tokens.content(text, at)
        if self._control_ids.isdisjoint(ids):
            return ids
        # A tokenizer that parses special-token text all the same: cut that text after its first character.
        literals = [re.escape(self.tokenizer.convert_ids_to_tokens(i)) for i in self._control_ids]
        ids = []
        for piece in re.split(rf"(?<=.)(?={'|'.join(t[1:] for t in literals if len(t) > 1)})", text):
            ids += self._tokens.content(piece, at)
            at = "text"
        if self._control_ids.isdisjoint(ids):
            return ids
        got = f'"{text[:40]}" is tokenised with a control token'
        raise UserError("the tokenizer", got, "contents without control tokens", "Drop the row.")


def glued(spans: Sequence[Span]) -> list[Span]:
    """Spans with a single space before a content moved into it: BPE gives a word its space, never a space alone."""
    out = list(spans)
    for i in range(1, len(out)):
        before, span = out[i - 1], out[i]
        if before.role != CONTROL or span.role == CONTROL or not span.text or span.text[0].isspace():
            continue
        if before.text.endswith(" ") and not before.text[:-1].endswith(" "):
            out[i - 1], out[i] = Span(before.text[:-1], CONTROL), Span(" " + span.text, span.role)
    return out
