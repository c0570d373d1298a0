"""What every engine promises. One test per promise, each for all engines; a new engine joins by a line in `ENGINES`."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import pytest

from tests.sample import given
from tests.sample.served.loopback import Loopback
from trueline.errors import UserError
from trueline.models import pretrained
from trueline.pipeline import make
from trueline.records import Completion, Message, Prompt
from trueline.sample.hf import HF
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.served import Anthropic, Connection, OpenAI
from trueline.sample.shots import Shots
from trueline.store import using
from trueline.world import MODELS

ANSWERS = (
    "Ada bakes the bread, and Bert sells it at the market.", "Clara keeps it. Ask her tomorrow.", "I do not know.",
)  # fmt: skip


def scripted(tmp):
    return Scripted(ANSWERS)


def llama(tmp):
    return HF(make(given.llama(tmp / "llama")))


def mamba(tmp):
    return HF(make(given.mamba(tmp / "mamba")))


@functools.cache
def server():
    """One for all tests of this file; it ends with the process."""
    return Loopback().__enter__()


def chat(tmp):
    return OpenAI("m", Connection(server().url + "/v1"))


def continued(tmp):
    """The completion protocol, whose server reads log-probs by an echo."""
    return OpenAI("m", Connection(server().url + "/v1"), protocol="completion", end="<end>")


def claude(tmp):
    """One request at a time: without a seed the server can only tell a prompt's answers apart by their order."""
    return Anthropic("m", Connection(server().url, concurrency=1))


def shown(tmp):
    """A model that is shown two dialogues before each prompt; whose tokens these are is not kept."""
    dialogues = ((Message("user", "Who mills?"), Message("assistant", "Bert.")),) * 2
    return Prompted(make(given.llama(tmp / "llama")), Shots("two", dialogues), 2, form="chat")


def vllm(tmp):
    pytest.importorskip("vllm", reason="vLLM is not installed; docs/scale.md says how this test runs with it")
    from trueline.sample.vllm import VLLM, Hold

    return VLLM(make(pretrained(MODELS / "small")), hold=Hold(cache=1 << 28, rows=32))


ENGINES = [scripted, llama, mamba, chat, continued, claude, shown, vllm]
SERVED = ("chat", "continued", "claude")  # over HTTP: tokens are the server's affair, so none can be banned
MUTE = ("chat", "claude")  # and of these, protocols that cannot tell how likely a given answer is


@pytest.fixture(scope="module", params=ENGINES, ids=lambda f: f.__name__)
def engine(request, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("engine")
    with using(tmp / "store"), request.param(tmp) as opened:
        yield opened


def texts(answers):
    return [[c.text for c in said] for said in answers]


def test_it_is_an_engine(engine):
    assert isinstance(engine, Engine)
    assert engine.name


def test_n_answers_per_prompt_in_order(engine):
    sampling = Sampling(n=3, max_tokens=12)
    answers = engine.generate(given.PROMPTS, sampling)
    assert [len(said) for said in answers] == [3] * len(given.PROMPTS)
    backwards = engine.generate(given.PROMPTS[::-1], sampling)
    assert texts(backwards[::-1]) == texts(answers)
    assert {c.author for said in answers for c in said} == {engine.name}
    assert engine.generate([], sampling) == []


def test_a_rerun_says_the_same_and_another_seed_something_else(engine):
    sampling = Sampling(n=2, max_tokens=12, seed=5)
    answers = texts(engine.generate(given.PROMPTS, sampling))
    assert texts(engine.generate(given.PROMPTS, sampling)) == answers
    other = texts(engine.generate(given.PROMPTS, Sampling(n=2, max_tokens=12, seed=6)))
    assert (other == answers) == isinstance(engine, Scripted)


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(engine):
    """Alone, among others, or as one of more answers: prompt by prompt and number by number the same."""
    sampling = Sampling(n=2, max_tokens=16, seed=1)
    together = texts(engine.generate(given.PROMPTS, sampling))
    alone = [texts(engine.generate([prompt], sampling))[0] for prompt in given.PROMPTS]
    assert alone == together
    more = texts(engine.generate(given.PROMPTS, Sampling(n=9, max_tokens=16, seed=1)))
    assert [said[:2] for said in more] == together


def test_answers_to_one_prompt_differ(engine):
    (said,) = texts(engine.generate(given.PROMPTS[:1], Sampling(n=3, max_tokens=12)))
    assert len(set(said)) == 3


def test_a_cut_answer_says_so_and_is_as_long_as_allowed(engine):
    answers = engine.generate(given.PROMPTS, Sampling(n=3, max_tokens=4))
    cut = [c for said in answers for c in said if c.stopped == "length"]
    assert cut
    assert all(len(c.tokens) == 4 for c in cut if c.tokens is not None)
    assert all(len(c.tokens) <= 4 for said in answers for c in said if c.tokens is not None)
    longer = engine.generate(given.PROMPTS, Sampling(n=3, max_tokens=9))
    pairs = [(a, b) for s, t in zip(answers, longer, strict=True) for a, b in zip(s, t, strict=True)]
    assert all(b.text.startswith(a.text.rstrip("\ufffd")) for a, b in pairs)
    assert all(a == b for a, b in pairs if a.stopped == "stop")


def test_min_tokens_are_written(engine):
    answers = engine.generate(given.PROMPTS, Sampling(n=3, max_tokens=9, min_tokens=9, stop=("e",)))
    for completion in (c for said in answers for c in said if c.tokens is not None):
        assert len(completion.tokens) == 9


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(engine):
    """Against the same answers without stop texts: cut before the first of them, everything else the same."""
    stop = ("ead", "s ", "th")
    free = engine.generate(given.PROMPTS, Sampling(n=4, max_tokens=40))
    stopped = engine.generate(given.PROMPTS, Sampling(n=4, max_tokens=40, stop=stop))
    cuts = 0
    for whole, part in ((a, b) for s, t in zip(free, stopped, strict=True) for a, b in zip(s, t, strict=True)):
        at = min((whole.text.find(s) for s in stop if s in whole.text), default=None)
        if at is None:
            assert part == whole
            continue
        cuts += 1
        assert (part.text, part.stopped) == (whole.text[:at], "stop")
        assert part.tokens is None or part.tokens == whole.tokens[: len(part.tokens)]
    assert cuts


def test_a_server_is_not_asked_for_what_it_cannot_do(engine, request):
    if request.node.callspec.id in SERVED:
        with pytest.raises(UserError, match="no banned tokens"):
            engine.generate(given.PROMPTS[:1], Sampling(ban=("keeps",)))
    if request.node.callspec.id in MUTE:
        with pytest.raises(UserError, match="how likely a given answer is"):
            engine.logprobs(given.PROMPTS[:1], [[Completion("Ada.")]])


def test_banned_tokens_are_not_written(engine, request):
    """The two most frequent tokens stand in no answer; the likeliest answer changes only from the first of them on."""
    if request.node.callspec.id in (*SERVED, "shown"):  # whose tokens are not told; what it wraps is tested itself
        return
    sampling = Sampling(n=4, max_tokens=16)
    free = engine.generate(given.PROMPTS, sampling)
    if isinstance(engine, Scripted):
        ban = ("keeps",)
    else:
        writer = engine.writer
        counts = Counter(t for said in free for c in said for t in c.tokens if t not in writer.loaded.renderer.stop_ids)
        text_of = writer.loaded.renderer.text_of
        ban = tuple(t for t in map(text_of, ([i] for i, _ in counts.most_common())) if "\ufffd" not in t)[:2]
    without = engine.generate(given.PROMPTS, dataclasses.replace(sampling, ban=ban))
    assert texts(without) != texts(free)
    if isinstance(engine, Scripted):
        assert not any("keeps" in c.text.split() for said in without for c in said)
        return
    shown = [writer.loaded.renderer.token_of(text) for text in ban]
    assert not any(set(c.tokens) & set(shown) for said in without for c in said)
    likeliest = Sampling(temperature=0, max_tokens=16)
    free, without = (engine.generate(given.PROMPTS, dataclasses.replace(likeliest, ban=b)) for b in ((), ban))
    for (before,), (after,) in zip(free, without, strict=True):
        until = next((i for i, t in enumerate(before.tokens) if t in shown), len(before.tokens))
        assert before.tokens[:until] == after.tokens[:until]


def test_what_is_not_one_token_cannot_be_banned(engine, request):
    if isinstance(engine, Scripted) or request.node.callspec.id in SERVED:
        return
    with pytest.raises(UserError, match="'two words' is not one token"):
        engine.generate(given.PROMPTS, Sampling(ban=("two words",)))


def test_log_probs_given_are_log_probs_read(engine, request):
    """What was noted while writing is what reading the tokens gives; one number per token, the end included."""
    if request.node.callspec.id in MUTE:
        return
    answers = engine.generate(given.PROMPTS, Sampling(n=3, max_tokens=12, temperature=0.7, top_p=0.9))
    read = engine.logprobs(given.PROMPTS, answers)
    for said, logps in zip(answers, read, strict=True):
        for completion, numbers in zip(said, logps, strict=True):
            assert all(number <= 0 for number in numbers)
            if completion.logprobs is not None:
                assert len(completion.tokens) == len(numbers)
                assert numbers == pytest.approx(completion.logprobs, abs=2e-4)


def test_a_text_is_read_by_its_own_tokens(engine, request):
    """Without token ids: as many numbers as words or tokens, one more where the answer ended."""
    if request.node.callspec.id in MUTE:
        return
    answers = engine.generate(given.PROMPTS[:2], Sampling(n=1, max_tokens=3))
    bare = [[Completion(c.text, stopped=stopped) for c in said for stopped in ("stop", "length")] for said in answers]
    for ended, cut in engine.logprobs(given.PROMPTS[:2], bare):
        assert len(ended) == len(cut) + 1
        assert ended[:-1] == pytest.approx(cut, abs=1e-4)
    assert engine.logprobs([Prompt.of("Why?")], [[]]) == [[]]
