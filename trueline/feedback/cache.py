"""Verdicts that were paid for once: a cache keyed by content, kept in the store and shared by runs and stages.

The key is the whole question: who was asked (the comparer's fingerprint), the prompt as it stands in the record, and
both answers in the order shown. A changed temperature, wording or model is another comparer and never meets an old
verdict. Abstentions are kept too: a comparer is a function of its item, so asking again would buy the same reply.

It lies in the store's root (`verdicts.sqlite`; `kept`): a killed run keeps every finished call. A comparer that
`remembers` (its engine keeps each reply as it arrives, and counts what the answer costs whoever uses it) is asked anew:
it pays for nothing twice, and a second keeping would hide its costs from the record of the second user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from trueline.feedback import kept
from trueline.feedback.protocol import Comparer, Item, Verdict, meter
from trueline.fingerprint import fingerprint

FILE = "verdicts.sqlite"


def ask(comparer: Comparer, items: Sequence[Item]) -> list[Verdict]:
    """The comparer's verdicts on the items, in order; only items never answered before are asked, each once."""
    asker = fingerprint(comparer, f"comparer {comparer.name}")
    keys = [item_key(asker, item) for item in items]
    questions = dict(zip(keys, items, strict=True))
    if getattr(comparer, "remembers", False):
        known, missing = _asked(comparer, questions), len(questions)
    else:
        with kept.opened(FILE, "verdicts", ("p REAL", "raw TEXT")) as table:
            known = {key: Verdict(*values) for key, values in table.known(keys).items()}  # type: ignore[arg-type]
            fresh = _asked(comparer, {key: item for key, item in questions.items() if key not in known})
            table.keep((key, verdict.p, verdict.raw) for key, verdict in fresh.items())
            known, missing = known | fresh, len(fresh)
    meter("critic_calls", len(items))
    meter("cached", len(items) - missing)
    return [known[key] for key in keys]


def _asked(comparer: Comparer, questions: dict[str, Item]) -> dict[str, Verdict]:
    """The verdict on each question, by its key."""
    said = comparer.compare(list(questions.values())) if questions else []
    if len(said) != len(questions):
        raise ValueError(f"comparer {comparer.name} gave {len(said)} verdicts for {len(questions)} items")
    return dict(zip(questions, said, strict=True))


def item_key(asker: str, item: Item) -> str:
    """Hash of one question: the comparer's fingerprint, the prompt's record, the two answers in the order shown."""
    return hashlib.sha256(msgspec.json.encode((asker, *item), order="sorted")).hexdigest()[:40]
