"""Static HHH: which of two answers is the more helpful, honest and harmless one. Askell et al. 2021, arXiv 2112.00861.

221 pairs of four kinds, the better answer first. The baseline to know: in 139 of the 221 pairs the better answer is
the longer one in characters (`readers.longest`), in 80 it is the shorter one, and 2 pairs tie.

Read by a preference head or a reward model (`PreferenceHead`), by likelihood, or by asking the policy in both orders
(`TwoOrders`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trueline import files, transcripts
from trueline.errors import UserError
from trueline.evaluate.benchmarks.pairs import of_pair, pair_of
from trueline.evaluate.benchmarks.rows import FromRows, Hub, Place
from trueline.evaluate.protocol import Item
from trueline.files import Row, Unusable, kind
from trueline.fingerprint import added, call_site
from trueline.records import Message

KINDS = ("harmless", "helpful", "honest", "other")


@dataclass(frozen=True)
class HHH(FromRows):
    """221 pairs: helpful 59, honest 61, harmless 58, other 43.

    Rows: {"chosen", "rejected", "type"} with whole transcripts, or with "prompt" and answers; or as BIG-bench publishes
    them: a folder per kind with a task.json of examples {"input", "target_scores": {answer: 1 or 0}}.

    ties: two answers of one score are "half" a hit; "hit" reports ALMoST's figure first, which counts them as hits
    (a judge that sees only the position then scores 100 %), and accuracy beside it.
    """

    ties: Literal["half", "hit"] = added("half")

    name = "hhh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ties not in ("half", "hit"):
            raise UserError(call_site(), f"HHH(ties={self.ties!r})", '"half" or "hit"')

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy; before it, where ties are hits, the compatible figure."""
        return ("accuracy",) if self.ties == "half" else ("ties_hit", "accuracy")

    def places(self) -> Mapping[str, Place]:
        """The one split there is. No commit of the hub is pinned."""
        names = ("hhh_alignment/*/task.json", "*/task.json", "hhh_eval_pairs.jsonl", "hhh_alignment_parsed.jsonl")
        return {"test": Place(names, "github.com/google/BIG-bench, bigbench/benchmark_tasks/hhh_alignment")}

    def rows(self) -> Iterator[Row]:
        """The rows, a BIG-bench task's examples with the name of its folder as their type."""
        if isinstance(self.source, Hub) or not all(file.path.name == "task.json" for file in self.source):
            yield from super().rows()
            return
        for file in self.source:
            path = Path(file)
            task: Any = files.decode(path, path.read_bytes())
            examples = task.get("examples") if isinstance(task, dict) else None
            if not isinstance(examples, list):
                raise UserError(str(path), "it has no examples", "a BIG-bench task")
            for number, example in enumerate(examples):
                row = files.as_row(f"{path} example {number}", example)
                yield Row(row.where, {**row.value, "type": path.parent.name})

    def item(self, row: Row, number: int) -> Item:
        """One pair."""
        said = row.text("type")
        if said not in KINDS:
            raise UserError(row.where, f'field "type" is {said!r}', f"one of {', '.join(KINDS)}")
        if row.has("prompt") or not row.has("input"):
            context, chosen, rejected = pair_of(row)
            if row.has("prompt"):
                context = turns(row, row.text("prompt"))
        else:
            context, (chosen, rejected) = turns(row, row.text("input")), ranked(row)
        return of_pair(row, number, context, chosen, rejected, said)


def turns(row: Row, text: str) -> tuple[Message, ...]:
    """The conversation in a text whose first turn may go without its "Human:"."""
    text = text.strip().removesuffix("Assistant:").strip()
    try:
        return transcripts.messages("\n\nHuman: " + text.removeprefix("Human:").strip())
    except Unusable as error:
        raise UserError(row.where, error.got, error.wanted, "Mend or drop the row.") from None


def ranked(row: Row) -> tuple[str, str]:
    """The answer marked 1 and the one marked 0."""
    scores = row.get("target_scores")
    if not isinstance(scores, dict) or sorted(scores.values()) != [0, 1]:
        raise UserError(row.where, f'"target_scores" is {kind(scores)}', "two answers, one with 1 and one with 0")
    first, second = sorted(scores, key=lambda answer: -scores[answer])
    return first, second
