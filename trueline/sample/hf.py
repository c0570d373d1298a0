"""The engine for models of transformers, on this machine.

    with HF(policy) as engine:
        answers = engine.generate(prompts, Sampling(n=4, seed=1))
    ranked = draw(HF(policy, heads=True), prompts, Sampling(n=16))      # with what the policy's heads say of them

Prompts are rendered by `chat`, answers written by our own loop (`decode`) where it is proved for the model, else by
transformers' `generate` (`plainly`), with one log line that says so; both draw the same tokens from the same logits.

What is guaranteed: the random numbers of an answer depend on the seed, its prompt's id, which of the prompt's answers
it is, and the position of the token; on nothing else. A rerun of the same call on the same machine is identical. The
logits of an answer depend on what else is written beside it only by rounding (about 1e-6 in float32), so that another
batch composition draws another token only where a random number falls that close to a boundary.

Heads read an answer while it is in its slot: the end-of-turn that closes it is fed like any token (it is appended to an
answer that was cut, as `chat` closes one, and is no part of its text), and the state of that one step is all they need.
Neither prompt nor answer is computed twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trueline.errors import UserError
from trueline.fingerprint import added
from trueline.machine import Machine
from trueline.machine import current as current_machine
from trueline.records import Completion, Feedback, Group, Prompt
from trueline.sample.protocol import Sampling
from trueline.sample.stops import cut
from trueline.store import Policy

if TYPE_CHECKING:
    from trueline.models import Loaded
    from trueline.sample.choose import Chooser
    from trueline.sample.decode import Task, Written

log = logging.getLogger("trueline")


@dataclass(frozen=True)
class HF:
    """Samples from a policy.

    chat: how prompts are rendered (`chat.Renderer`'s styles). heads: whether the policy's heads read every answer while
    it is written; what they say becomes feedback by "<policy>/<head>" (`groups`).
    """

    policy: Policy
    chat: str = "auto"
    machine: Machine | None = None
    heads: bool = added(False)

    @property
    def name(self) -> str:
        """The policy's name: it is the author."""
        return self.policy.name

    def __enter__(self) -> HF:
        from trueline import models

        loaded = models.load(self.policy, machine=self.machine, chat=self.chat)
        if self.heads:
            check_heads(loaded, self.name)
        vars(self)["_writer"] = Writer(loaded, self.name, self.machine or current_machine(), self.heads)
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self).pop("_writer", None)

    @property
    def writer(self) -> Writer:
        """The open model. Raises `RuntimeError` outside of `with`."""
        if "_writer" not in vars(self):
            raise RuntimeError("an engine is used inside `with`: with HF(policy) as engine: ...")
        return vars(self)["_writer"]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in order.

        Raises `UserError` for a prompt that leaves no room for `sampling.max_tokens` in the model's context.
        """
        return self.writer.generate(prompts, sampling)

    def groups(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        """The prompts with their completions and, where `heads` is set, one feedback per head and completion."""
        return self.writer.groups(prompts, sampling)

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """Natural log-probs of the completions' tokens; one trie per prompt and its answers."""
        return self.writer.logprobs(prompts, completions)

    def first_logprobs(self, prompts: Sequence[Prompt], among: Sequence[str]) -> list[dict[str, float]]:
        """Per prompt, the natural log-probs, at temperature 1, of the answers of one token that `among` names.

        All tokens of the vocabulary that spell the same but for spaces count as one. Raises `UserError` for a text that
        no token spells.
        """
        return self.writer.first_logprobs(prompts, among)

    def too_long(self, prompt: Prompt, sampling: Sampling) -> UserError | None:
        """Why `prompt` cannot be answered within the model's context; None where it can."""
        return self.writer.too_long(prompt, len(self.writer.prompt_ids(prompt)), sampling)

    def opening_token(self, text: str) -> int | None:
        """The one token that `text` is at the beginning of a message; None where it is none or several."""
        return self.writer.loaded.renderer.opening_token(text)


@dataclass(eq=False)
class Writer:
    """An open model that answers prompts; `author` signs. reads: whether its heads read what it writes."""

    loaded: Loaded
    author: str
    machine: Machine
    reads: bool = False

    @cached_property
    def context(self) -> int | None:
        """Tokens that the model can look at, prompt and answer together; None where it does not say."""
        config = self.loaded.model.config
        found = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        return next((int(size) for size in found if size), None)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The rendered prompt. Raises `UserError` naming it where its messages cannot be rendered."""
        try:
            ids = self.loaded.renderer.prompt_ids(prompt.messages)
        except UserError as error:
            raise UserError(f"prompt {prompt.id}", str(error).rstrip(".")) from error
        if not ids:
            raise UserError(f"prompt {prompt.id}", "it renders to no token at all", "something to continue")
        return ids

    def too_long(self, prompt: Prompt, length: int, sampling: Sampling) -> UserError | None:
        """The error for a prompt of `length` tokens that leaves no room for the answer."""
        end = length + sampling.max_tokens + self.ending
        if self.context is None or end <= self.context:
            return None
        closed = ", closed for its heads," if self.reads else ""
        return UserError(
            f"prompt {prompt.id} ({prompt.text[:40]!r})",
            f"it has {length} tokens, and with max_tokens={sampling.max_tokens} the answer{closed} ends at {end}",
            f"at most the {self.context} that {self.author} can look at",
            'Lower max_tokens, or drop such prompts: draw(..., long="drop").',
        )  # fmt: skip

    @cached_property
    def ending(self) -> int:
        """Tokens that close an answer that was cut, where heads read it."""
        renderer = self.loaded.renderer
        return len(renderer.answer_ids("a")) - len(renderer.answer_ids("a", ended=False)) if self.reads else 0

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `HF.generate`."""
        return [[self.completion(a, sampling) for a in answers] for answers in self._answer(prompts, sampling, False)]

    def groups(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        """See `HF.groups`."""
        out = []
        for prompt, answers in zip(prompts, self._answer(prompts, sampling, self.reads), strict=True):
            group = Group(prompt, tuple(self.completion(answer, sampling) for answer in answers))
            for number, head in enumerate(self.loaded.heads.names if self.reads and self.loaded.heads else ()):
                by = f"{self.author}/{head}"
                group = group.with_feedback(Feedback(by, score=answer.read[number]) for answer in answers)
            out.append(group)
        return out

    def _answer(self, prompts: Sequence[Prompt], sampling: Sampling, reads: bool) -> list[list[Written]]:
        """`sampling.n` answers per prompt, read by the heads or not."""
        import numpy as np

        from trueline.sample.choose import Chooser, stream
        from trueline.sample.decode import Task

        rendered = []
        for prompt in prompts:
            ids = self.prompt_ids(prompt)
            if error := self.too_long(prompt, len(ids), sampling):
                raise error
            rendered.append(np.array(ids, dtype=np.int64))
        tasks = [Task(i, stream(sampling.seed, p.id, j)) for i, p in enumerate(prompts) for j in range(sampling.n)]
        chooser = Chooser(sampling, self.loaded.renderer.stop_ids, self.banned(sampling))
        written = self._write(rendered, tasks, chooser, sampling, reads)
        return [written[i * sampling.n : (i + 1) * sampling.n] for i in range(len(prompts))]

    def banned(self, sampling: Sampling) -> tuple[int, ...]:
        """The tokens of `sampling.ban`. Raises `UserError` for a text that is not exactly one token of the policy."""
        found = []
        for text in sampling.ban:
            token = self.loaded.renderer.token_of(text)
            if token is None:
                wanted = f"texts that are exactly one token of {self.author} each"
                raise UserError(
                    "Sampling(ban=...)", f"{text!r} is not one token", wanted, "Add it with `extend` first."
                )
            found.append(token)
        return tuple(found)

    def _write(
        self, prompts: list[Any], tasks: list[Task], choose: Any, sampling: Sampling, reads: bool = False
    ) -> list[Written]:
        from trueline.sample import decode, plainly

        if not tasks:
            return []
        ended = self.watch(sampling)
        model, limit = self.loaded.model, sampling.max_tokens
        proof = decode.proved(model)
        if proof.holds:
            rows, ahead = self.machine.sample_rows, self.machine.micro_tokens
            reading = self._reading(prompts, sampling) if reads else None
            run = decode.Decoder(model, prompts, tasks, choose, limit, ended, rows, ahead, proof.lean, reading)
            written = run.run()
        else:
            written = plainly.write(model, prompts, tasks, choose, limit, ended, self.machine.sample_rows)
            if reads:
                self._read_again(prompts, tasks, written, sampling)
        self.check_read(written)
        return written

    def check_read(self, written: Sequence[Written]) -> None:
        """Refuse what broken heads say."""
        if any(not math.isfinite(number) for answer in written for number in answer.read):
            cure = "Its weights are broken, as after a training that diverged: train again at a lower learning rate."
            raise UserError(f"the heads of {self.author}", "what they say is not finite", "heads that compute", cure)

    # --- reading -----------------------------------------------------------------------------------------------------

    def closed(self, prompt: Any, said: list[int], sampling: Sampling) -> list[int]:
        """An answer's tokens as its heads read them: up to the end-of-turn that closes it.

        Sampled tokens are read as they are. Where a stop text ended the answer, it is no part of what is read, and may
        end within a token: the text before it is tokenised anew.
        """
        renderer = self.loaded.renderer
        if said[-1] == renderer.end_id:
            return said
        if said[-1] in renderer.stop_ids:
            said = said[:-1]
        elif sampling.stop and (text := self._stopped(said, sampling)) is not None:
            said = renderer.answer_ids(text, ended=False)
        return renderer.closed([*prompt.tolist(), *said])[prompt.size :]

    def _reading(self, prompts: list[Any], sampling: Sampling) -> Any:
        from trueline.sample.decode import Reading

        assert self.loaded.heads is not None
        return Reading(lambda at, said: self.closed(prompts[at], said, sampling), self.loaded.heads.pool)

    def _read_again(self, prompts: list[Any], tasks: list[Task], written: list[Written], sampling: Sampling) -> None:
        """What the heads say of answers that transformers' generate wrote: it shows no states, so by a pass."""
        from trueline import heads
        from trueline.trie import Sequence as Ids

        closed = [self.closed(prompts[t.prompt], w.tokens, sampling) for t, w in zip(tasks, written, strict=True)]
        given = [Ids.of(prompts[task.prompt].tolist(), ids) for task, ids in zip(tasks, closed, strict=True)]
        for answer, row in zip(written, heads.rewards(self.loaded, given, self.machine), strict=True):
            answer.read = row.tolist()

    def watch(self, sampling: Sampling) -> Callable[[list[int]], bool] | None:
        """Whether an answer's last token completes a stop text."""
        if not sampling.stop:
            return None
        may = _Completing(self.loaded.renderer, sampling.stop)
        return lambda said: (
            len(said) >= sampling.min_tokens and may(said[-1]) and self._stopped(said, sampling) is not None
        )

    def _stopped(self, said: list[int], sampling: Sampling) -> str | None:
        """The text up to the stop text that the last token completes; None where it completes none."""
        decode = self.loaded.renderer.decode
        before = decode(said[:-1]).rstrip("\ufffd")
        return cut(decode(said), sampling.stop, len(before))

    def completion(self, answer: Written, sampling: Sampling) -> Completion:
        """What was written, as a record: its text without what ended it."""
        renderer = self.loaded.renderer
        text = None
        if answer.stopped == "stop" and answer.tokens[-1] not in renderer.stop_ids:
            text = self._stopped(answer.tokens, sampling)
        return Completion(
            renderer.decode(answer.tokens) if text is None else text,
            author=self.author,
            stopped=answer.stopped,
            tokens=tuple(answer.tokens),
            logprobs=tuple(answer.logps),
        )

    def first_logprobs(self, prompts: Sequence[Prompt], among: Sequence[str]) -> list[dict[str, float]]:
        """See `HF.first_logprobs`."""
        spelt = [(name, token) for name in among for token in self._spellings(name)]
        answers = [Completion(name, stopped="length", tokens=(token,)) for name, token in spelt]
        out = []
        for said in self.logprobs(prompts, [answers] * len(prompts)):
            shares = dict.fromkeys(among, 0.0)
            for (name, _), (logp,) in zip(spelt, said, strict=True):
                shares[name] += math.exp(logp)
            out.append({name: math.log(share) for name, share in shares.items() if share})
        return out

    def _spellings(self, name: str) -> list[int]:
        """The tokens that spell `name`, with spaces around it or not."""
        found = self._spelt.get(name.strip(), [])
        if not found:
            raise UserError(
                f"engine {self.author}", f"no token of its vocabulary is {name!r}", "a text that is one token",
                "Call the answers something shorter: FirstToken(\"A\", \"B\").",
            )  # fmt: skip
        return found

    @cached_property
    def _spelt(self) -> dict[str, list[int]]:
        """The tokens by what they spell without the spaces around it."""
        out: dict[str, list[int]] = {}
        special = set(self.loaded.tokenizer.all_special_ids)
        for token in range(len(self.loaded.tokenizer)):
            if token not in special and (text := self.loaded.renderer.text_of([token]).strip()):
                out.setdefault(text, []).append(token)
        return out

    def logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
    ) -> list[list[tuple[float, ...]]]:
        """See `HF.logprobs`."""
        import torch

        from trueline import trie

        renderer = self.loaded.renderer
        groups = []
        for prompt, answers in zip(prompts, completions, strict=True):
            before = self.prompt_ids(prompt)
            groups.append([trie.Sequence.of(before, tokens_of(renderer, answer)) for answer in answers])
        out: list[list[tuple[float, ...]]] = [[] for _ in groups]
        full = [index for index, group in enumerate(groups) if group]
        for part in trie.pack([groups[i] for i in full], self.machine.micro_tokens):
            members = [full[at] for at in part]
            batch = trie.build([sequence for i in members for sequence in groups[i]])
            with torch.inference_mode():
                outputs = trie.forward(self.loaded.model, batch)
            pieces = outputs.logps_E.split(outputs.counts_N.tolist())
            rows = iter(tuple(piece.tolist()) for piece in pieces)
            for i in members:
                out[i] = [next(rows) for _ in groups[i]]
        return out


def write(
    model: Any,
    prompts: Sequence[Any],
    tasks: Sequence[Task],
    choose: Chooser,
    limit: int,
    ended: Callable[[list[int]], bool] | None,
    machine: Machine,
) -> list[Written]:
    """The answers of `tasks`, by our own loop where it is proved for the model, else by transformers' generate."""
    from trueline.sample import decode, plainly

    if not tasks:
        return []
    proof = decode.proved(model)
    if proof.holds:
        rows, ahead = machine.sample_rows, machine.micro_tokens
        return decode.Decoder(model, prompts, tasks, choose, limit, ended, rows, ahead, proof.lean).run()
    return plainly.write(model, prompts, tasks, choose, limit, ended, machine.sample_rows)


def continuations(
    model: Any,
    texts: Sequence[Sequence[int]],
    sampling: Sampling,
    ends: Sequence[int],
    ended: Callable[[list[int]], bool] | None,
    machine: Machine,
) -> list[list[int]]:
    """See `protocol.continuations`."""
    import numpy as np

    from trueline.sample.choose import Chooser, stream
    from trueline.sample.decode import Task

    tasks = [Task(i, stream(sampling.seed, str(i), 0)) for i in range(len(texts))]
    prompts = [np.array(ids, dtype=np.int64) for ids in texts]
    chooser = Chooser(sampling, tuple(ends))
    return [answer.tokens for answer in write(model, prompts, tasks, chooser, sampling.max_tokens, ended, machine)]


def check_heads(loaded: Loaded, name: str) -> None:
    """Refuse a policy without heads, and heads that need more than decoding has at hand."""
    from trueline import heads

    found = heads.require(loaded)
    if found.want != {"last_hidden"}:
        raise UserError(
            f"HF({name}, heads=True)", f"its heads read {type(found.spec.aggregate).__name__}",
            "heads that read the last token's final state (aggregate=Last()): the only one that decoding has",
            "Draw without heads, then judge(groups, Reward(policy)).",
        )  # fmt: skip


def tokens_of(renderer: Any, completion: Completion) -> Sequence[int]:
    """A completion's own tokens where it carries them, else its text's."""
    if completion.tokens is not None:
        return completion.tokens
    return renderer.answer_ids(completion.text, ended=completion.stopped == "stop")


class _Completing:
    """Whether a token may complete one of the stop texts: a quick look at its own text, remembered."""

    def __init__(self, renderer: Any, stops: Sequence[str]) -> None:
        self.renderer = renderer
        self.last = {stop[-1] for stop in stops}
        self.known: dict[int, bool] = {}
        # Alone, a token may lose a leading space, and a part of a character shows as a replacement character.
        self.always = " " in self.last or any(ord(c) > 127 for c in self.last)

    def __call__(self, token: int) -> bool:
        if token not in self.known:
            self.known[token] = self.always or not self.last.isdisjoint(self.renderer.text_of([token]))
        return self.known[token]
