"""`AsUser`: an engine that writes the human's next message, where `Prompted` writes the assistant's.

    AsUser(policy, "answering", shots=3)                       a base model goes on with "... Human:"
    AsUser(engine("openai:gpt-5-mini"), "hedging", shots=2, form="chat")   a chat model is told to play the human

It sees a conversation that ends with the assistant's turn, the dialogues of the demonstrations before it, and continues
where the human speaks. What it writes beyond its message is cut as an answer is.

Source: the self-play of ALMoST, Kim et al. 2023 (arXiv 2305.13735), whose code was not released.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from trueline.errors import UserError
from trueline.records import Completion, Message, Prompt
from trueline.sample.prompted import Prompted, cut_turns
from trueline.sample.shots import ASSISTANT, HUMAN, as_text

INSTRUCTION = (
    "You play the human in a conversation with an assistant. You are shown the conversation so far. Write the human's "
    "next message, in the human's voice: one message, without a name in front, and nothing else."
)
"""What a chat model is told."""


@dataclass(frozen=True)
class AsUser(Prompted):
    """`by`, shown dialogues and the conversation so far, speaks for the human. Fields as of `Prompted`; form "text" or
    "chat", which puts the whole text into one message below an instruction.

    It signs MODEL-STYLE-Nshot-user.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "almost":
            raise UserError("AsUser(form=...)", 'got "almost"', '"text" or "chat": the release has no user')

    @property
    def name(self) -> str:
        """MODEL-STYLE-Nshot-user."""
        return f"{super().name}-user"

    def asking(self, prompt: Prompt) -> Prompt:
        """The conversation as the engine sees it, up to where the human speaks; its id as it was.

        Raises `UserError` for a conversation in which the assistant has not spoken last.
        """
        if prompt.messages[-1].role != "assistant":
            got = f"the conversation ends with the {prompt.messages[-1].role}'s turn"
            raise UserError(f"engine {self.name}, prompt {prompt.id}", got, "one that ends with the assistant's")
        shown = self.shown
        order = shown.first(self.shots, self.seed, prompt.id)
        preamble, messages = shown.preamble if self.preamble is None else self.preamble, prompt.messages
        if messages[0].role == "system":
            preamble, messages = "\n\n".join(filter(None, (preamble, messages[0].content))), messages[1:]
        text = as_text(preamble, [shown.dialogues[i] for i in order], messages).removesuffix(ASSISTANT) + HUMAN
        told = (Message("system", INSTRUCTION),) if self.form == "chat" else ()
        return msgspec.structs.replace(prompt, messages=(*told, Message("user", text)))

    def _completion(self, completion: Completion) -> Completion:
        whole = completion.text.strip().removeprefix(HUMAN).strip()
        text = cut_turns(whole)
        stopped = completion.stopped if text == whole else "stop"
        return Completion(text, author=self.name, ask=completion.ask, stopped=stopped)
