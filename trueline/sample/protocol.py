"""What an engine is, and how it is asked: the value types that sampling shares with every other package.

    Sampling(n=4, temperature=0.7, top_p=0.95, max_tokens=64, stop=("\\n\\n",), seed=1)

An `Engine` writes completions and says how likely given ones are. It is a frozen dataclass (its own configuration and
identity; one that holds a `Policy` makes it a parent of what it draws) that opens models and connections in
`__enter__`. Nothing here imports torch or knows of models; any package may import this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trueline.errors import UserError
from trueline.fingerprint import added
from trueline.records import Completion, Prompt

if TYPE_CHECKING:
    from trueline.machine import Machine
    from trueline.models import Loaded
    from trueline.sample.live import Live as Live
    from trueline.sample.live import Order as Order

PLAYED = "self_play"
"""Where in a prompt's meta stands which turn of which dialogue of self-play it is."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    n: answers per prompt.
    temperature: the logits are divided by it; 0 takes the likeliest token (greedy), 1 is the model's distribution.
    top_p: only the fewest likeliest tokens whose probability reaches this share are drawn; 1 draws all.
    top_k: only that many likeliest tokens are drawn, before top_p looks at them; 0 draws all.
    max_tokens: an answer that has not ended after so many tokens is cut ("length").
    min_tokens: an answer does not end before it has this many tokens.
    stop: an answer ends before the first of these texts; the text itself is not part of it.
    seed: of the random numbers. The same seed draws the same answers, whatever else is drawn beside them.
    ban: tokens that are never drawn, by their texts, each exactly one token of the policy.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 128
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    ban: tuple[str, ...] = added(())

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _texts("stop", self.stop))
        object.__setattr__(self, "ban", _texts("ban", self.ban))
        _whole("n", self.n, 1)
        _whole("max_tokens", self.max_tokens, 1)
        _whole("min_tokens", self.min_tokens, 0)
        _whole("top_k", self.top_k, 0)
        _whole("seed", self.seed, 0)
        if self.min_tokens > self.max_tokens:
            raise _refusal("min_tokens", self.min_tokens, f"at most max_tokens, which is {self.max_tokens}")
        if not _number(self.temperature) or self.temperature < 0:
            raise _refusal("temperature", self.temperature, "a number of at least 0 (0: always the likeliest token)")
        if not _number(self.top_p) or not 0 < self.top_p <= 1:
            raise _refusal("top_p", self.top_p, "a share above 0 and at most 1 (1: all tokens)")
        if self.temperature == 0 and self.n > 1:
            cure = "Set a temperature above 0, or n=1."
            raise _refusal("n", self.n, "1 at temperature 0, where all answers to a prompt are the same", cure)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """`value`, a tuple (or a list) of texts, as a tuple."""
    if not isinstance(value, list | tuple):
        raise _refusal(name, value, "a tuple of texts", f"Write {name}=({value!r},)." if value else "")
    if not all(isinstance(text, str) and text for text in value):
        raise _refusal(name, tuple(value), "texts that are not empty")
    return tuple(value)


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise _refusal(name, value, f"a whole number of at least {least}")


def _refusal(name: str, got: Any, wanted: str, cure: str = "") -> UserError:
    return UserError(f"Sampling({name}=...)", f"got {got!r}", wanted, cure)


class NoRoom(UserError):
    """A prompt for which an engine has no room, as its server says once it is asked. prompt: its id."""

    prompt = ""


@runtime_checkable
class Engine(Protocol):
    """Writes completions, and says how likely given ones are. Used as a context manager:

        with engine:
            (answers,) = engine.generate([Prompt.of("Who bakes bread?")], Sampling(n=2))

    `name` signs the completions. An engine keeps these promises, which one test holds all engines to: `n` completions
    per prompt, in the order of the prompts; the same call gives the same answers; an answer depends on its prompt, the
    sampling and its place among the prompt's n, not on what else is in the call; a stop text is never part of an
    answer; `stopped` is "length" exactly where the answer was cut; no token of `sampling.ban` is drawn.

    An engine may also have `groups(prompts, sampling)`, the prompts as groups of the same completions with feedback of
    its own (what a model's heads read while it wrote), `too_long(prompt, sampling)`, why a prompt leaves no room,
    `opening_token(text)`, the one token that a text is to it at the beginning of a message (or None), and
    `calls(prompts, samples)`, what so many answers to so many prompts will ask of a server, for the plan,
    `first_logprobs(prompts, among)`, per prompt the log-probs of those one-token answers of `among` that it knows of,
    and `remembers`, True where it keeps every reply as it arrives and pays for none twice. What it costs it counts
    where it happens (`feedback.protocol.meter`).
    """

    @property
    def name(self) -> str: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in order."""
        ...

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Per completion of each prompt, the natural log-prob of each of its tokens at temperature 1.

        The tokens are the completion's own where it carries them, else its text's, and then the end-of-turn token of
        an answer that was not cut.
        """
        ...


def money(counts: Mapping[str, int]) -> str:
    """What the engines of a stage cost, from its record's counts, for people.

    >>> money({"calls": 40, "cost_microusd": 12345})
    '$0.0123'
    >>> money({"calls": 40, "unpriced_calls": 40})
    'unknown'
    >>> money({"calls": 40, "cost_microusd": 12345, "unpriced_calls": 3})
    'at least $0.0123'
    >>> money({"samples": 40})
    '$0'
    """
    known, unknown = counts.get("cost_microusd", 0), counts.get("unpriced_calls", 0)
    if unknown:
        return f"at least ${known / 1e6:.4f}" if known else "unknown"
    return f"${known / 1e6:.4f}" if known else "$0"


class Writing(Protocol):
    """What writes answers with a model that is open already (`writing`): the engine for policies, without its door."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """As `Engine.generate`."""
        ...

    def too_long(self, prompt: Prompt, length: int, sampling: Sampling) -> UserError | None:
        """Why a prompt of `length` tokens cannot be answered within the model's context; None where it can."""
        ...

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a rendered prompt."""
        ...


def writing(loaded: Loaded, machine: Machine | None = None) -> Writing:
    """The project's own decoding for an opened model, for whoever has it open to score as well."""
    from trueline.machine import current
    from trueline.sample.hf import Writer

    return Writer(loaded, loaded.folder.name, machine or current())


def live(loaded: Loaded, name: str = "", machine: Machine | None = None) -> Live:
    """An opened model that answers orders as they come, for whoever serves it: `sample.live.Live`."""
    from trueline.sample.live import Live

    return Live.of(loaded, name, machine)


def order(prompt: Prompt, sampling: Sampling, **told: Any) -> Order:
    """What `live` takes in: `sample.live.Order`."""
    from trueline.sample.live import Order

    return Order(prompt, sampling, **told)


def continuations(
    model: Any,
    texts: Sequence[Sequence[int]],
    sampling: Sampling,
    ends: Sequence[int] = (),
    ended: Callable[[list[int]], bool] | None = None,
    machine: Machine | None = None,
) -> list[list[int]]:
    """Tokens that an opened model writes after each of `texts`, token ids taken as they are.

    One continuation each (`sampling.n`, `stop` and `ban` are not looked at). It ends with a token of `ends`, where
    `ended` says so of the tokens so far, or after `sampling.max_tokens`; what ended it is part of it.
    """
    from trueline.machine import current
    from trueline.sample import hf

    return hf.continuations(model, texts, sampling, ends, ended, machine or current())
