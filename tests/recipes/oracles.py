"""Oracles of the town behind a real HTTP server: teachers, a critic and a judge that speak OpenAI's protocol.

    with serving() as server: served(base=..., teacher=f"{server.url}/v1#strong", ...)

What a request asks is read from its text, as a model would: a pair in brackets is compared, a reply under REPLY is
criticised, anything else is answered, by "weak" half of the time as a sloppy person does.
"""

from __future__ import annotations

import re

from tests.sample.served.loopback import Loopback
from trueline import world
from trueline.records import Prompt
from trueline.sample.protocol import Sampling

SHOWN = r"\[REQUEST\]\n(.*)\n\[END OF REQUEST\].*\[ANSWER A\]\n(.*)\n\[END OF ANSWER A\].*\[ANSWER B\]\n(.*)\n\[END OF"
PAIR = re.compile(SHOWN, re.S)
REPLY = re.compile(r"DIALOGUE\n(.*)\n\nREPLY\n(.*)\n\nDo three things", re.S)
TEACHERS = {"weak": world.Teacher(quality=0.5), "strong": world.Teacher()}


def bare(asked: str) -> str:
    """The question in a shown dialogue, without who said it."""
    return asked.strip().splitlines()[0].rpartition(": ")[2] if "?" in asked else asked.strip()


def say(body: dict, number: int) -> str:
    """The reply."""
    text = body["messages"][-1]["content"]
    if found := PAIR.search(text):
        asked, first, second = found.groups()
        gap = world.gold(Prompt.of(bare(asked)), first) - world.gold(Prompt.of(bare(asked)), second)
        return "Tie" if abs(gap) < 1e-9 else "A" if gap > 0 else "B"
    if found := REPLY.search(text):
        score = world.gold(Prompt.of(bare(found[1])), found[2])
        return f"Analysis: as the town knows it. Feedback: so it is. Score: {3 * score:.2f}"
    ((answer,),) = TEACHERS[body["model"]].generate([Prompt.of(text)], Sampling(seed=body.get("seed", 0)))
    return answer.text


def serving(**faults) -> Loopback:
    """The server."""
    return Loopback(say=say, **faults)
