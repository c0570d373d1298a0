"""`prompts`: questions of the town as a stage, in splits that share no question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trueline.errors import UserError, closest
from trueline.pipeline import stage
from trueline.records import Message, Prompt, write_jsonl
from trueline.store import Prompts
from trueline.world.corpus import Requests
from trueline.world.oracle import STYLES, Style, demonstrations, rng_of
from trueline.world.requests import SPLITS, phrasings, question

if TYPE_CHECKING:
    import random

    from trueline.work import Work


def ask(n: int, seed: int = 0, split: str = "train", shots: int = 0, style: Style = "good") -> list[Prompt]:
    """`n` different prompts of a split; see `prompts`."""
    if split not in SPLITS:
        raise UserError("world.prompts(split=...)", f'got "{split}"', "a split", closest(split, list(SPLITS)))
    if style not in STYLES:
        raise UserError("world.prompts(style=...)", f'got "{style}"', "a style", closest(style, list(STYLES)))
    if n < 1 or shots < 0:
        raise UserError("world.prompts(...)", f"got n={n}, shots={shots}", "n of at least 1, shots of at least 0")
    requests = Requests.of(split)
    # The kinds with few questions run out first; at this share of all the others have only begun to.
    room = sum(phrasings(r) for rs in requests.by_kind.values() for r in rs) * 6 // 10
    if n > room:
        raise UserError("world.prompts(n=...)", f"got {n}", f"at most {room} different prompts in split {split}")
    rng = rng_of("prompts", seed, split)
    found: dict[str, Prompt] = {}
    while len(found) < n:
        prompt = _draw(rng, requests, split)
        found.setdefault(prompt.text, prompt)
    out = list(found.values())
    if not shots:
        return out
    return [
        Prompt((*demonstrations(shots, style, _shots_seed(p, seed), p.meta["key"]), *p.messages), meta=p.meta)
        for p in out
    ]


def _shots_seed(prompt: Prompt, seed: int) -> int:
    return rng_of("shots", prompt.text, seed).randrange(2**31)


def _draw(rng: random.Random, requests: Requests, split: str) -> Prompt:
    request = requests.draw(rng)
    while request.split != split:  # the true value that a check was given may belong to another split
        request = requests.draw(rng)
    text = question(request, rng.randrange(phrasings(request)))
    return Prompt((Message("user", text),), meta={"key": request.key, "kind": request.kind, "split": split})


@stage(Prompts, rev=1, name="world.prompts", label="questions", estimate=lambda n, **_: {"prompts": n})
def prompts(work: Work, n: int, seed: int = 0, split: str = "train", shots: int = 0, style: Style = "good") -> None:
    """`n` different questions to the town.

    split: "sft", "train", "valid" or "test"; no question (in any wording) is in two of them. shots: so many questions
    of the train split, answered in a style ("good", "sloppy", "rude", "liar"), stand before each as earlier turns.
    Every prompt's meta holds the question's key, kind and split.
    """
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", ask(n, seed, split, shots, style)))
