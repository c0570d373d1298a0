"""When a critic says nothing too often: the share that stops a run, and the replies that tell why.

One abstention is a value like others. A critic that abstains on most of what it is asked is misunderstood by its
engine, rate-limited or unfit, and a run that went on would be paid for and trained on what little is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trueline.errors import UserError
from trueline.records import Group

FIRST = 100  # a critic that says nothing of its first so many is stopped, however many are still to come
SHOWN, CHARACTERS = 3, 160  # replies in the error, and how much of each


class Abstained:
    """A running count of a critic's opinions. most: the share that may be abstentions.

    Worked: of 10 completions with at most half, the sixth abstention is one too many, whatever the others will be.
    """

    def __init__(self, critic: str, most: float) -> None:
        self.critic, self.most = critic, most
        self.said = self.silent = self.leading = 0  # leading: abstentions before anything was said
        self.paired = False
        self.last: list[str] = []

    def add(self, before: Sequence[Group], after: Sequence[Group]) -> None:
        """Count what was added to the groups."""
        for abstained, raw, paired in opinions(before, after):
            self.paired |= paired
            self.said += not abstained
            self.silent += abstained
            if abstained:
                self.leading += not self.said
                self.last = [*self.last, raw][-SHOWN:]

    def watch(self, completions: int) -> None:
        """Raise `UserError` as soon as the share cannot come out small enough, of so many completions in all.

        How many pairs a critic compares is not known beforehand: its share is checked at the end.
        """
        hopeless = not self.paired and self.silent > self.most * completions
        if hopeless or (self.leading >= FIRST and self.most < 1):
            self.stop()

    def check(self) -> None:
        """Raise `UserError` where the share of what was counted is too large."""
        if self.silent > self.most * (self.said + self.silent):
            self.stop()

    def stop(self) -> None:
        """Raise the error, with share and replies."""
        asked = self.said + self.silent
        replies = "; ".join(_shortened(raw) for raw in self.last)
        raise UserError(
            f"critic {self.critic}",
            f"it abstained on {self.silent} of {asked} ({self.silent / asked:.1%}); its last replies: {replies}",
            f"at most {self.most:.1%} of all may be abstentions",
            "Mend what it is asked, or whom; or allow more with judge(..., max_abstained=...).",
        )


def opinions(before: Sequence[Group], after: Sequence[Group]) -> Iterator[tuple[bool, str, bool]]:
    """(whether it abstained, its reply, whether of a pair) of each opinion that was added, in order."""
    for old, new in zip(before, after, strict=True):
        for index, said in enumerate(new.feedback):
            for feedback in said[len(old.feedback[index]) if old.feedback else 0 :]:
                yield feedback.abstained, feedback.raw or "", False
        for preference in new.preferences[len(old.preferences) :]:
            yield preference.p is None, " | ".join(preference.raw), True


def _shortened(raw: str) -> str:
    return repr(raw if len(raw) <= CHARACTERS else raw[: CHARACTERS - 3] + "...") if raw else "(none)"
