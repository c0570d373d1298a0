"""From seeds to comparisons, slowly enough to be killed: `python -m tests.feedback.chained STORE` makes it.

Invented prompts, three configurations' answers, what is no answer set aside, comparisons by who wrote, as released.
"""

from __future__ import annotations

import os
import sys
import time

from tests.prompts.inventor import Inventor
from trueline.feedback.generator import ByGenerator
from trueline.feedback.judge import judge
from trueline.feedback.shape import WellFormed
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.prompts.invent import SAMPLING, invent
from trueline.records import Message, Prompt
from trueline.sample.pooled import gather
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.shots import Shots
from trueline.store import Groups, Prompts

PROMPTS, SHARD = 24, 3
SHOWN = (Message("user", "q?"), Message("assistant", "a."))
FAITHFUL, HHH = Shots("Faithful", (SHOWN,) * 3), Shots("HHH", (SHOWN,) * 5)


def said(prompt: Prompt, least: int) -> str:
    """An answer of its own to every prompt, and now and then none."""
    time.sleep(0.01 if os.environ.get("SLOWLY") else 0.0)
    with open(os.environ["ASKED"], "a") as log:
        log.write(f"{prompt.id} {least}\n")
    number = int(prompt.id.removeprefix("p-"), 16) + least
    return "I do not know." if number % 5 == 0 else "word " * (least + number % 9) + "end."


def long(prompt: Prompt, index: int) -> str:
    return said(prompt, 60)


def middling(prompt: Prompt, index: int) -> str:
    return said(prompt, 40)


def brief(prompt: Prompt, index: int) -> str:
    return said(prompt, 20)


def chain() -> tuple[Prompts, Groups]:
    """The prompts, and the comparisons at the end."""
    prompts = invent(Inventor(), PROMPTS, batch=4, sampling=SAMPLING)
    tiers = (
        Prompted(Scripted(long, name="fake-13b"), FAITHFUL, 3),
        Prompted(Scripted(middling, name="fake-7b"), FAITHFUL, 3),
        Prompted(Scripted(brief, name="fake-7b"), HHH, 1),
    )
    drawn = gather(tiers, prompts, Sampling(max_tokens=300))
    return prompts, judge(judge(drawn, WellFormed(published=True)), ByGenerator(tiers, pairs="almost"))


if __name__ == "__main__":
    make(chain()[1], store=sys.argv[1], machine=Machine(shard=SHARD))
