"""Which prompts and answers meet in which step, what is kept, what is logged; and policies that do learn."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import folders
from tests.train.online.told import Vowels, questions, rollout
from trueline import models
from trueline.errors import UserError
from trueline.feedback.protocol import meter
from trueline.machine import Machine
from trueline.models import LoRA
from trueline.pipeline import make
from trueline.records import Completion, Feedback, Preference, Prompt
from trueline.sample.protocol import Sampling
from trueline.train.online import rollouts
from trueline.train.online.grpo import GRPO
from trueline.train.online.loop import Iterations, described, gathered, mini_batches, watched
from trueline.train.online.ppo import PPO
from trueline.train.online.protocol import Advantages
from trueline.train.online.rloo import RLOO
from trueline.train.online.rollouts import Answered, Collector, Judged, Read
from trueline.train.online.snapshots import snapshot
from trueline.train.online.stage import online

CPU = Machine(device="cpu", threads=1, micro_tokens=600)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return folders.folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def start(base):
    return models.pretrained(base)


def made(policy, store, machine=CPU):
    """The policy's folder, what it logged, and its record."""
    make(policy, store=store, machine=machine)
    (folder,) = (store / "policy").glob(policy.name)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, rows, json.loads((folder / "record.json").read_text())


@pytest.mark.parametrize("rule", [None, RLOO(), GRPO()])
def test_a_policy_learns_to_please_its_critic(start, tmp_path, rule):
    """A random model that writes random tokens learns to write vowels, with values and without."""
    algorithm = PPO(**({"advantage": rule} if rule else {}), kl=0.01, epochs=2, missing_eos=0.0)
    policy = online(
        start, questions(12), Vowels(), algorithm, sampling=Sampling(n=6, max_tokens=6), iterations=8, rollout=6,
        batch_size=18, lr=1e-2,
    )  # fmt: skip
    folder, rows, record = made(policy, tmp_path)
    assert policy.label == algorithm.name
    assert np.mean([row["reward"] for row in rows[-2:]]) > np.mean([row["reward"] for row in rows[:2]]) + 0.05
    assert [row["iteration"] for row in rows] == list(range(1, 9))
    assert rows[-1]["step"] == 8 * 2 * 2 == record["counts"]["steps"]
    assert rows[0]["kl/answer"] == pytest.approx(0, abs=1e-4) and rows[-1]["kl/answer"] > 0.5
    assert max(row["sampler/gap_max"] for row in rows) < 1e-4
    assert rows[0]["sharing"] > 3, "answers to one prompt share it"
    assert ("value/explained" in rows[0]) == (rule is None)
    assert not (folder / "heads.json").exists()


def test_adapters_are_their_own_reference_when_they_are_switched_off(base, start, tmp_path):
    """No second model is opened, and the folder holds merged weights under the start's names."""
    policy = online(
        start, questions(4), Vowels(), PPO(epochs=2), sampling=Sampling(n=2, max_tokens=6), iterations=2, rollout=4,
        batch_size=8, lr=1e-2, lora=LoRA(r=4),
    )  # fmt: skip
    folder, rows, _ = made(policy, tmp_path)
    assert rows[0]["kl/answer"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[1]["kl/answer"]) > 1e-3
    assert max(row["sampler/gap_max"] for row in rows) < 1e-4
    trained, before = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (folder, base))
    assert trained.keys() == before.keys()
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    assert torch.equal(trained["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_a_frozen_part_stays_and_a_watching_critic_changes_nothing(base, start, tmp_path):
    asked = {"sampling": Sampling(n=2, max_tokens=6), "iterations": 2, "rollout": 4, "batch_size": 4, "lr": 3e-3}
    algorithm = PPO(RLOO(), epochs=1)
    plain = made(online(start, questions(4), Vowels(), algorithm, freeze=("embed",), **asked), tmp_path / "a")
    seen = made(
        online(start, questions(4), Vowels(), algorithm, freeze=("embed",), watch=Vowels(quiet=3), **asked),
        tmp_path / "b",
    )
    one, two = ((folder / "model.safetensors").read_bytes() for folder, _, _ in (plain, seen))
    assert one == two
    assert "watched" in seen[1][0] and "watched" not in plain[1][0]
    trained, before = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (plain[0], base))
    assert torch.equal(trained["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_answers_without_a_score_are_left_out_and_counted(start, tmp_path):
    """A critic that says nothing of short answers; where it says nothing at all, the run stops."""
    asked = {"sampling": Sampling(n=4, max_tokens=6, seed=1), "iterations": 1, "rollout": 4, "batch_size": 4}
    algorithm = PPO(RLOO(), epochs=1)
    _, (row,), _ = made(online(start, questions(4), Vowels(quiet=8), algorithm, max_abstained=0.95, **asked), tmp_path)
    assert 0 < row["abstained"] < 16
    with pytest.raises(UserError, match="it gave no score to 16 of 16 answers"):
        make(online(start, questions(4), Vowels(quiet=1000), algorithm, **asked), store=tmp_path, machine=CPU)


def test_other_sampling_is_said_in_the_record(start, tmp_path):
    sampling = Sampling(n=2, max_tokens=6, temperature=0.5, top_p=0.9)
    policy = online(start, questions(4), Vowels(), PPO(RLOO(), epochs=1), sampling=sampling, iterations=1, rollout=9)
    _, (row,), record = made(policy, tmp_path)
    assert "temperature=0.5, top_p=0.9" in record["notes"]["sampling"]
    assert "instead of 9" in record["notes"]["rollout"]
    # Both sides are at temperature 1, so that they agree all the same.
    assert row["sampler/gap_max"] < 1e-4


class Preferring:
    """Prefers the first completion to all others."""

    name = "first"

    def calls(self, groups, completions):
        return groups

    def __call__(self, groups):
        return [g.with_preferences(Preference(0, i, 1.0, "first") for i in (1, 2)) for g in groups]


class Careless(Preferring):
    """Forgets what it was asked."""

    def __call__(self, groups):
        return groups[:-1]


class Infinite(Preferring):
    def __call__(self, groups):
        return [g.with_feedback(Feedback("first", score=float("inf")) for _ in g.completions) for g in groups]


def group(number=0):
    from trueline.records import Group

    return Group(Prompt.of(f"Who bakes bread number {number}?"), tuple(Completion(t) for t in ("Ada.", "Bert.", "No.")))


def test_a_critic_that_compares_gives_the_mean_probability_of_winning():
    """The first beats both: 1; each other lost its only comparison: 0."""
    assert rollouts.scored(Preferring(), [group()]) == [(1.0, 0.0, 0.0)]


def test_refuses_critics_that_change_what_they_are_given_or_say_no_number():
    with pytest.raises(UserError, match="changed what it was given"):
        rollouts.scored(Careless(), [group(0), group(1)])
    with pytest.raises(UserError, match="it said inf"):
        rollouts.scored(Infinite(), [group()])


def iterations_of(n, each):
    state = SimpleNamespace(prompts=[[1]] * n, each=each, loop=SimpleNamespace(settings=SimpleNamespace(seed=0)))
    return lambda number: Iterations.chosen(state, number).tolist()


def test_every_prompt_comes_up_once_before_any_comes_up_again():
    """Seven prompts, three at a time: two iterations to a pass, one prompt of each pass left out."""
    chosen = iterations_of(7, 3)
    for epoch in range(4):
        both = chosen(2 * epoch) + chosen(2 * epoch + 1)
        assert len(set(both)) == 6
    assert chosen(0) != chosen(2)
    assert chosen(5) == chosen(5)


def test_answers_to_a_prompt_stay_together_and_each_is_used_once_per_pass():
    """Four prompts with 2, 1, 2 and 1 answers left, steps of 3, two passes."""
    group_N = np.array([0, 0, 1, 2, 2, 3])
    steps = [s.tolist() for s in mini_batches(group_N, 3, epochs=2, seed=0, iteration=5)]
    assert [len(s) for s in steps] == [3, 3, 3, 3]
    for first in (0, 2):
        order = steps[first] + steps[first + 1]
        assert Counter(order) == Counter(range(6))
        assert abs(order.index(0) - order.index(1)) == abs(order.index(3) - order.index(4)) == 1
    again = [s.tolist() for s in mini_batches(group_N, 3, epochs=2, seed=0, iteration=6)]
    assert again != steps


def test_what_is_logged_of_an_iteration():
    """Two answers of 2 and 1 tokens. log p - log p_ref = 0.5, -0.1 and 0.2: 0.3 per answer, 0.2 per token. Returns 1,
    1, 4 and values 1, 1, 1: of a variance of 2 the values foresaw 0. The second answer did not end."""
    told = rollout([2, 1], [1.0, 3.0], logps=[0.5, -0.1, 0.2], values=[1, 1, 1], ended=[True, False])
    found = described(told, np.array([0.0, 1.0, 3.0]), Advantages(np.array([0.0, 0, 3]), np.array([1.0, 1, 4])))
    wanted = {
        "reward": 2, "reward/deviation": 1, "reward/token_sum": 2, "kl/answer": 0.3, "kl/token": 0.2, "length": 1.5,
        "unfinished": 0.5, "advantage/deviation": 2**0.5, "value/mean": 1, "value/explained": 0,
    }  # fmt: skip
    assert found == pytest.approx(wanted)


def test_standard_errors_are_over_prompts():
    """1 and 3 to one prompt, 6 to another: their means 2 and 6 have deviation sqrt(8), over sqrt(2): 2. So has the
    divergence of 1, 3 and 6 nats. The watching critic's 0, 1, silence and 3: means 0.5 and 3, half of 2.5."""
    told = rollout([1, 1, 1], [1.0, 3.0, 6.0], group=[0, 0, 1], logps=[1.0, 3.0, 6.0])
    found = described(told, np.zeros(3), Advantages(np.zeros(3)))
    assert (found["reward/se"], found["kl/se"]) == pytest.approx((2, 2))
    two = (Completion("a"), Completion("b"))
    seen = watched([Answered(4, two, (0.0, 0.0), (0.0, 1.0)), Answered(2, two, (0.0, 0.0), (None, 3.0))])
    assert seen == pytest.approx({"watched": 4 / 3, "watched/se": 1.25})
    assert watched([Answered(4, two, (0.0, 0.0))]) == {}
    assert watched([Answered(4, two, (0.0, 0.0), (0.0, 1.0))]) == {"watched": 0.5}


def test_answers_are_laid_end_to_end_with_their_prompts_numbered():
    read = [Read(np.array(x), np.zeros(len(x)), np.zeros(len(x)), None) for x in ([-1.0, -2.0], [-3.0])]
    kept = [Judged(7, Completion("a", stopped="length"), 0.5), Judged(3, Completion("b"), 1.5)]
    found = gathered(kept, read)
    assert found.counts_N.tolist() == [2, 1] and found.logps_E.tolist() == [-1, -2, -3]
    assert found.group_N.tolist() == [1, 0] and found.ended_N.tolist() == [False, True]
    assert found.values_E is None and found.last_N.tolist() == [1, 2] and found.seq_E.tolist() == [0, 0, 1]


class Once:
    """A critic that may be asked once."""

    name = "once"

    def __init__(self):
        self.asked = 0

    def __call__(self, groups):
        self.asked += 1
        assert self.asked == 1, "what was paid for is not asked again"
        meter("critic_calls", len(groups))
        return [g.with_feedback(Feedback("once", score=0.5) for _ in g.completions) for g in groups]


class Echo:
    """Writes its number, and the seed that it was given."""

    def generate(self, prompts, sampling):
        return [[Completion(f"{p.id} {sampling.seed} {i}", tokens=(5, 2)) for i in range(sampling.n)] for p in prompts]


def collector(folder, critic):
    counted = Counter()
    work = SimpleNamespace(scratch=folder, count=lambda name, n: counted.update({name: n}))
    one = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True, wait_for_everyone=lambda: None)
    prompts = [Prompt.of(f"Who bakes bread number {i}?", id=f"p{i}") for i in range(4)]
    return Collector(Echo(), critic, None, prompts, Sampling(n=2, seed=4), one, work), counted


def test_what_was_drawn_and_judged_is_not_paid_for_twice(tmp_path):
    critic = Once()
    collect, counted = collector(tmp_path, critic)
    found = collect(3, [2, 0])
    assert [a.prompt for a in found] == [2, 0]
    assert found[0].completions[1].text == "p2 4000015 1", "every iteration has a seed of its own"
    assert found[0].scores == (0.5, 0.5)
    again, recounted = collector(tmp_path, critic)
    assert again(3, [2, 0]) == found
    assert counted == recounted == {"critic_calls": 2}
    again.forget(3)
    assert again.path(3).is_file()
    again.forget(4)
    assert not again.path(3).exists()


def test_work_is_dealt_to_processes_and_comes_back_in_order(monkeypatch):
    """Five items over two processes: 0, 2, 4 and 1, 3."""
    parts = {0: [0, 20, 40], 1: [10, 30]}
    monkeypatch.setattr(rollouts, "everyones", lambda accelerator, mine: [parts[0], parts[1]])
    accelerator = SimpleNamespace(num_processes=2, process_index=1)
    seen = []

    def work(items):
        seen.extend(items)
        return [10 * i for i in items]

    assert rollouts.shared(accelerator, [0, 1, 2, 3, 4], work) == [0, 10, 20, 30, 40]
    assert seen == [1, 3]


def test_the_share_without_a_score_is_bounded():
    state = SimpleNamespace(collect=SimpleNamespace(critic=SimpleNamespace(name="c")), max_abstained=0.5)
    answered = [Answered(0, (Completion("a"), Completion("b"), Completion("c")), (1.0, None, None))]
    with pytest.raises(UserError, match="iteration 3: it gave no score to 2 of 3 answers"):
        Iterations.judged(state, 2, answered)
    state.max_abstained = 0.7
    assert [j.score for j in Iterations.judged(state, 2, answered)] == [1.0]


@pytest.mark.parametrize("lora", [None, LoRA(r=4)])
def test_a_snapshot_is_what_a_shorter_run_ends_with(start, tmp_path, lora):
    """After 2 of 4 iterations, kept on the way: the bytes of a run of 2; and the run is as if nothing had been kept."""
    asked = {"sampling": Sampling(n=2, max_tokens=6), "rollout": 4, "batch_size": 4, "lr": 3e-3, "lora": lora}
    runs = [
        online(start, questions(8), Vowels(), PPO(epochs=2), **asked, iterations=n, snapshots=kept)
        for n, kept in ((4, (1, 2)), (4, ()), (2, ()))
    ]
    assert runs[0].fingerprint != runs[1].fingerprint
    long, plain, short = (made(run, tmp_path)[0] for run in runs)
    taken = made_at(snapshot(runs[0], 2), tmp_path)
    weights = [folder / "model.safetensors" for folder in (taken, short, long, plain)]
    one, two, three, four = (path.read_bytes() for path in weights)
    assert one == two != three == four
    assert sorted(p.name for p in (long / "snapshots").iterdir()) == ["1", "2"]
    assert AutoModelForCausalLM.from_pretrained(taken) is not None


def made_at(policy, store):
    make(policy, store=store, machine=CPU)
    (folder,) = (store / "policy").glob(policy.name)
    return folder


def test_only_iterations_that_are_kept_can_be_taken(start):
    with pytest.raises(UserError, match=r"snapshots=\(2, 5\), iterations=5.*from 1 to 4"):
        online(start, questions(4), Vowels(), PPO(), iterations=5, snapshots=(2, 5))
    run = online(start, questions(4), Vowels(), PPO(), iterations=5, snapshots=(2,))
    assert snapshot(run, 2).label == "ppo-2"
    for policy, number, said in ((run, 3, "keeps 2, not 3"), (start, 1, "keeps none, not 1")):
        with pytest.raises(UserError, match=said):
            snapshot(policy, number)
