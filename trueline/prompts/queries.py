"""How a model is asked for one more query, and what of its reply is one: the parts of `invent` that need no engine.

    Instruction of the seeds

    Query: How do I bake bread?
    Query: Why is the sky blue?
    Query:

The last line has no space at its end: the model writes its own. What it writes up to the end of the line is the query.
ALMoST's released code threw that away, since it looked for the next "Query:", and kept the second one; `read(...,
"second")` does as it did.

Source: Kim et al. 2023 (arXiv 2305.13735), stage 1, and the code they released.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from trueline.errors import UserError
from trueline.files import text_rows
from trueline.records import Group
from trueline.store import File, Groups, Prompts

MARKER = "Query:"
SEEDS = Path(__file__).parent / "seeds.txt"
"""100 first messages of 32 to 120 characters, written for trueline, and the instruction that goes with them."""
Reading = Literal["direct", "second"]
_INSTRUCTION = re.compile(r"#*[ \t]*instructions?[ \t]*:", re.IGNORECASE)
_AGAIN = re.compile(r"query ?:", re.IGNORECASE)


class Sown(NamedTuple):
    """What is shown to the model: the instruction above the examples, and the texts they are drawn from."""

    instruction: str
    texts: tuple[str, ...]


def sown(seeds: File | Prompts | Groups, instruction: str = "") -> Sown:
    """The different seeds of a file, or of prompts, with their instruction.

    A file's first line is its instruction, "### Instruction: ..."; every other line that is not blank is a seed.
    Prompts have none: they get `instruction`, or that of our own seeds. Raises `UserError` for a file without, for a
    prompt of several turns, and where no seed is left.
    """
    if isinstance(seeds, File):
        lines = [(row.where, row.value["prompt"].strip()) for row in text_rows(Path(seeds))]
        first = lines[0] if lines else ("", "")
        if _INSTRUCTION.match(first[1]):
            instruction, lines = instruction or first[1], lines[1:]
        elif not instruction:
            raise UserError(
                first[0] or str(seeds.path), f"the first line is {first[1][:60]!r}",
                'an instruction, "### Instruction: ...", above the seeds',
                "Put one there, or pass it: invent(..., instruction=...).",
            )  # fmt: skip
        texts = [text for _, text in lines]
    else:
        prompts = [item.prompt if isinstance(item, Group) else item for item in seeds.read()]
        for prompt in prompts:
            if len(prompt.messages) > 1:
                got = f"seed {prompt.id} has {len(prompt.messages)} messages"
                raise UserError("invent(seeds=...)", got, "first messages of a conversation")
        texts = [" ".join(prompt.text.split()) for prompt in prompts]
        instruction = instruction or sown(File(SEEDS)).instruction
    found = tuple(dict.fromkeys(filter(None, texts)))
    if not found:
        raise UserError("invent(seeds=...)", "there is no seed", "at least one text to show")
    return Sown(instruction, found)


def few_shot(instruction: str, examples: Sequence[str]) -> str:
    """The text that the model goes on with.

    >>> few_shot("Ask something.", ["Why?", "Who?"])
    'Ask something.\\n\\nQuery: Why?\\nQuery: Who?\\nQuery:'
    """
    return "\n".join([instruction, "", *(f"{MARKER} {text}" for text in examples), MARKER])


def read(reply: str, reading: Reading = "direct") -> str:
    """The query of a reply; "" where it has none.

    "direct": the reply's first line, without a marker that the model repeats before it. "second": the first line that
    begins with the marker, all "Query:" taken out. Both end before the next "query:" in the line, whatever its case.

    >>> reply = " How do I bake bread?\\nQuery: Why is it hard? query: x\\nQuery: Who?"
    >>> read(reply), read(reply, "second"), read(" no second one", "second")
    ('How do I bake bread?', 'Why is it hard?', '')
    """
    if reading == "second":
        lines = (line.strip() for line in reply.split("\n"))
        line = next((line for line in lines if line.startswith(MARKER)), "").replace(MARKER, "").strip()
    else:
        line = reply.strip().split("\n")[0].removeprefix(MARKER).strip()
    return _AGAIN.split(line)[0].strip("\n ")


class Refusal(NamedTuple):
    """Why a query is not kept: what it is counted as, and the reason in words."""

    kind: str
    reason: str


@dataclass(frozen=True)
class QueryFilter:
    """Which queries are kept, by their shape; lengths in characters.

    shortest: shorter ones are kept only where they end in a punctuation mark ("Hi?"). longest: longer ones are not
    kept. Neither are queries without a letter or digit, and those that were cut off at max_tokens.

    compatible: as ALMoST's released code: of long queries only those are dropped that end in a punctuation mark (the
    finished ones), marks are ASCII's, and nothing else is looked at.
    """

    shortest: int = 30
    longest: int = 250
    compatible: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.shortest <= self.longest:
            got = f"shortest {self.shortest}, longest {self.longest}"
            raise UserError("QueryFilter(...)", f"got {got}", "numbers of characters, in this order")

    def refuse(self, text: str, cut: bool = False) -> Refusal | None:
        """Why a query is not kept; None where it is. cut: whether the reply ended in the middle of it.

        >>> [QueryFilter().refuse(text) is None for text in ("Hi?", "Hi there", "a" * 250, "a" * 251, "?!")]
        [True, False, True, False, False]
        """
        if not text.strip():
            return Refusal("blank", "the reply holds no query")
        ends = self._mark(text[-1])
        if not self.compatible:
            if not any(c.isalnum() for c in text):
                return Refusal("wordless", "it has no letter and no digit")
            if cut:
                return Refusal("cut", "it was cut off before its end")
        if len(text) < self.shortest and not ends:
            return Refusal("short", f"{len(text)} characters without a mark at the end, fewer than {self.shortest}")
        if len(text) > self.longest and (ends or not self.compatible):
            return Refusal("long", f"{len(text)} characters, more than {self.longest}")
        return None

    def _mark(self, last: str) -> bool:
        return last in string.punctuation or (not self.compatible and unicodedata.category(last).startswith("P"))
