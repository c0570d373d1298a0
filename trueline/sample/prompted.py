"""`Prompted`: an engine that is shown dialogues before every prompt, and so writes in their style.

    Prompted(policy, "answering", shots=3)                  a base model continues a text: "Human: ... Assistant:"
    Prompted(HF(chat_model), "hedging", shots=5, form="chat")   the dialogues are earlier turns
    Prompted(policy, Shots.of("good", world.demonstrations(32)), shots=5, seed=0, form="chat")

It is an engine like others: `draw(Prompted(...), prompts, sampling)`. The group keeps the bare prompt under its own id,
so that random numbers and pairing do not know of the dialogues; what is drawn is signed MODEL-STYLE-Nshot, by which
`ByGenerator` tells generators apart.

Which dialogues: the first `shots` of them, the same for every prompt; with a `seed` a draw of its own for every prompt,
of which fewer are the beginning of more. None at all with 0, and more than there are is refused: ALMoST's release shows
all with 0, and signs 5 where there are 3.

The budget is the sampling's, whatever is shown: more tokens for the better style would be a preference for length. The
context check counts what is shown. As texts, answers end where the next turn begins; what the engine still writes
beyond that (`cut_turns`) is cut, and white space around an answer is taken off. Token ids and log-probs are not kept:
they belong to the longer prompt.

Source: ALMoST, Kim et al. 2023 (arXiv 2305.13735), section 3.1, and its released code, whose layout is form="almost".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from trueline.errors import UserError
from trueline.feedback.protocol import meter
from trueline.fingerprint import File
from trueline.records import Completion, Message, Prompt
from trueline.sample.hf import HF
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.shots import ASSISTANT, HUMAN, SEPARATOR, Shots, as_text, file_of
from trueline.sample.shots import shots as read_shots
from trueline.store import Policy

Form = Literal["text", "chat", "almost"]
STOPS = {
    "text": (SEPARATOR, f"\n{HUMAN}", f"\n{ASSISTANT}"),
    "almost": (SEPARATOR, HUMAN, ASSISTANT),
    "chat": (),
}


@dataclass(frozen=True)
class Prompted:
    """`by`, shown `shots` dialogues of `demonstrations` before every prompt.

    by: a policy or an engine. As a text it has to continue one as it stands: a policy is opened so, an engine says
    HF(..., chat="plain") or OpenAI(..., protocol="completion"). demonstrations: "hedging", "answering", a `File` of
    your own, or `Shots`. preamble: None takes that of the demonstrations, "" none. stop: texts that end an answer, in
    place of the form's own; the sampling's are added. form: "text", "chat" (the preamble as the system's message, the
    dialogues as turns), or "almost": as released, dialogues as they stand in the file, a space after the last
    "Assistant:", and markers that cut wherever they stand. seed: None shows the first dialogues, a number draws them.
    size: parameters of the model, where its name does not say ("7b"): for the reasons that `ByGenerator` gives. label:
    what the model is called in the signature, where its own name will not do.
    """

    by: Policy | Engine
    demonstrations: Any = "answering"
    shots: int = 3
    preamble: str | None = None
    stop: tuple[str, ...] | None = None
    form: Form = "text"
    seed: int | None = None
    size: float = 0
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.by, Policy | Engine):
            raise UserError("Prompted(by)", f"got {self.by!r}", "a policy or an engine")
        if self.form not in get_args(Form):
            raise UserError("Prompted(form=...)", f"got {self.form!r}", '"text", "chat" or "almost"')
        object.__setattr__(self, "demonstrations", file_of(self.demonstrations, "Prompted(demonstrations=...)"))
        if self.form != "chat" and getattr(self.by, "protocol", "") == "chat":
            cure = 'Write OpenAI(..., protocol="completion"), or form="chat".'
            raise UserError("Prompted(by)", f"{self._model} answers messages", "an engine that continues a text", cure)
        shown = self.shown
        if (
            not isinstance(self.shots, int)
            or isinstance(self.shots, bool)
            or not 0 <= self.shots <= len(shown.dialogues)
        ):
            raise UserError(
                f"Prompted({self._model}, shots=...)", f"got {self.shots!r}",
                f"0 to {len(shown.dialogues)}, which is how many dialogues {shown.name} has",
                "Show fewer, or write more.",
            )  # fmt: skip
        if self.size < 0:
            raise UserError("Prompted(size=...)", f"got {self.size}", "a number of parameters, or 0: not known")

    def identity(self) -> list[str]:
        """What completions are signed with: a file is known by its content, its name stands here."""
        return [self.shown.name]

    @property
    def shown(self) -> Shots:
        """The dialogues there are to show."""
        found: File | Shots = self.demonstrations
        return read_shots(found)

    @property
    def style(self) -> str:
        """What the dialogues are called."""
        return self.shown.name

    @property
    def model(self) -> str:
        """What the model is called, without what it is shown."""
        return self._model

    @property
    def _model(self) -> str:
        return self.label or self.by.name

    @property
    def name(self) -> str:
        """MODEL-STYLE-Nshot."""
        return f"{self._model}-{self.shown.name}-{self.shots}shot"

    @property
    def engine(self) -> Engine:
        """Who is asked: a policy through the engine `HF`, as plain text where the form is one."""
        if not isinstance(self.by, Policy):
            return self.by
        return HF(self.by, chat="auto" if self.form == "chat" else "plain")

    def __getattr__(self, name: str) -> Any:
        if name in ("calls", "remembers"):  # what only some engines have
            return getattr(self.by, name)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __enter__(self) -> Prompted:
        opened = self.engine.__enter__()
        vars(self)["_opened"] = opened
        style = opened.writer.loaded.renderer.style if isinstance(opened, HF) else "plain"
        if self.form != "chat" and style != "plain":
            self.__exit__()
            got = f'it renders prompts as {style}, and form="{self.form}" is a whole text'
            cure = 'Write HF(policy, chat="plain"), or form="chat".'
            raise UserError(f"engine {self.name}", got, "a model that continues the text as it stands", cure)
        return self

    def __exit__(self, *error: Any) -> None:
        opened = vars(self).pop("_opened", None)
        if opened is not None:
            opened.__exit__(*(error or (None, None, None)))

    @property
    def opened(self) -> Engine:
        """The open engine. Raises `RuntimeError` outside of `with`."""
        if "_opened" not in vars(self):
            raise RuntimeError("an engine is used inside `with`: with Prompted(...) as engine: ...")
        found: Engine = vars(self)["_opened"]
        return found

    def asking(self, prompt: Prompt) -> Prompt:
        """The prompt as the engine sees it: dialogues before it, its id as it was."""
        shown = self.shown
        order = shown.first(self.shots, self.seed, prompt.id)
        preamble, messages = shown.preamble if self.preamble is None else self.preamble, prompt.messages
        if messages[0].role == "system":
            preamble = "\n\n".join(filter(None, (preamble, messages[0].content)))
            messages = messages[1:]
        if self.form == "chat":
            said = [Message("system", preamble)] if preamble else []
            said += [message for i in order for message in shown.dialogues[i]]
            return msgspec.structs.replace(prompt, messages=(*said, *messages))
        as_released = self.form == "almost" and bool(shown.texts)
        dialogues = shown.texts if as_released else shown.dialogues
        text = as_text(preamble, [dialogues[i] for i in order], messages, " " if self.form == "almost" else "")
        return msgspec.structs.replace(prompt, messages=(Message("user", text),))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in order, each ended where the next turn would begin."""
        answers = self.opened.generate([self.asking(prompt) for prompt in prompts], self._stopping(sampling))
        if tokens := sum(len(c.tokens or ()) for said in answers for c in said):
            meter("tokens", tokens)
        return [[self._completion(completion) for completion in said] for said in answers]

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Natural log-probs of the completions' tokens after what is shown."""
        lead = " " if self.form == "text" else ""
        given = [[msgspec.structs.replace(c, text=lead + c.text) for c in said] for said in completions]
        return self.opened.logprobs([self.asking(prompt) for prompt in prompts], given)

    def too_long(self, prompt: Prompt, sampling: Sampling) -> UserError | None:
        """Why `prompt`, with what is shown before it, cannot be answered within the context; None where it can."""
        check: Callable[..., UserError | None] | None = getattr(self.opened, "too_long", None)
        return check(self.asking(prompt), self._stopping(sampling)) if check else None

    def _stopping(self, sampling: Sampling) -> Sampling:
        own = STOPS[self.form] if self.stop is None else self.stop
        return dataclasses.replace(sampling, stop=tuple(dict.fromkeys((*own, *sampling.stop))))

    def _completion(self, completion: Completion) -> Completion:
        text, stopped = completion.text, completion.stopped
        if self.form != "chat":
            whole = text.strip("\n ") if self.form == "almost" else text.strip()
            text = cut_turns(text, anywhere=self.form == "almost")
            stopped = stopped if text == whole else "stop"
        return Completion(text, author=self.name, ask=completion.ask, stopped=stopped)


def cut_turns(text: str, anywhere: bool = False) -> str:
    """An answer without the turns that a model invents after it.

    anywhere: as released: a separator, or "Human:" and "Assistant:" wherever they stand, and spaces and newlines are
    stripped, tabs not. Otherwise a turn is one that begins a line, and all white space is stripped.

    >>> cut_turns("Ada does.\\n\\nHuman: Who else?"), cut_turns("Ada does. Human: Who else?", anywhere=True)
    ('Ada does.', 'Ada does.')
    >>> cut_turns("Say Human: it is polite.")
    'Say Human: it is polite.'
    """
    text = text.split(SEPARATOR, 1)[0]
    if not anywhere:
        return re.split(rf"(?:\A|\n)[ \t]*(?:{HUMAN}|{ASSISTANT})", text, maxsplit=1)[0].strip()
    for marker in (ASSISTANT, HUMAN):
        text = text.split(marker, 1)[0]
    return text.strip("\n ")
