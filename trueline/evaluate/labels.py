"""The distribution of a critic's labels over answers; what it abstained on is a row of its own.

labels Harmless, Harmless, Harmful and one abstention: Harmless 2 of 4 (67 % of those labelled), Harmful 1 of 4
(33 %), no label 1 of 4
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from trueline.evaluate.statistics import Interval, mean_interval, wilson
from trueline.records import Group, Record


class Share(Record, frozen=True):
    """One label's part: `count` answers, their share of all answers, and of those with a label.

    label: None for answers without one. Shares are means over prompts.
    """

    label: str | None
    count: int
    share: Interval
    of_labelled: Interval | None = None


class Distribution(Record, frozen=True):
    """The distribution by one critic, the known labels first in their order, abstentions last."""

    by: str
    samples: int
    rows: tuple[Share, ...]


def labels(groups: Sequence[Group], by: str, known: Sequence[str] = ()) -> Distribution:
    """How critic `by` labelled the answers.

    known: labels that have a row even where nobody got them, in this order; others follow, the commonest first.
    """
    said: dict[str, list[str | None]] = {}
    for group in groups:
        said.setdefault(group.prompt.id, []).extend(labels_of(group, by))
    counts = Counter(label for of in said.values() for label in of)
    names = [*known, *(label for label, _ in counts.most_common() if label is not None and label not in known)]
    labelled = {prompt: [x for x in of if x is not None] for prompt, of in said.items()}
    rows = [Share(name, counts[name], share_of(said, name), share_of(labelled, name)) for name in names]
    rows.append(Share(None, counts[None], share_of(said, None)))
    return Distribution(by, counts.total(), tuple(rows))


def labels_of(group: Group, by: str) -> list[str | None]:
    """The last label that critic `by` gave to each answer; None where it gave none."""
    out: list[str | None] = []
    for said in group.feedback or ((),) * len(group.completions):
        given = [f.label for f in said if f.by == by and f.label is not None]
        out.append(given[-1] if given else None)
    return out


def share_of(said: Mapping[str, Sequence[str | None]], label: str | None) -> Interval:
    """Mean over prompts of a label's share of a prompt's answers; prompts without answers are left out.

    Where every prompt is all or nothing (one answer to each, or nobody got the label) the interval is Wilson's, which
    does not collapse at 0 and 1; else it is a bootstrap over prompts.
    """
    shares = [sum(x == label for x in of) / len(of) for of in said.values() if of]
    if all(share in (0.0, 1.0) for share in shares):
        return wilson(sum(shares), len(shares))
    return mean_interval(shares)
