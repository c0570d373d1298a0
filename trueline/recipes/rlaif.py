"""RLAIF, critically evaluated: is labelling preferences worth it, or would the same budget buy more as demonstrations?

One pool of prompts, an oracle asked once for each of them, spent in six ways:

    A  the weak teacher answers all                  D  the strong teacher answers all
    B  the weak teacher answers a share              E  the strong teacher answers a share
    C  B, then DPO on the critic's labels of the rest   F  E, then DPO on the critic's labels of the rest

C against A is the comparison that is usually shown; its critic is stronger than its teacher, so it is not a fair one.
D against C has one oracle for both, and C - B against F - E says what labels are worth once the teacher is as good as
the critic. Checkpoints are chosen on prompts apart from those that are reported.

Source: Sharma et al. 2024 (arXiv 2402.12366).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from trueline import world
from trueline.evaluate.contrasts import Contrast, contrasts
from trueline.evaluate.duel import duel
from trueline.evaluate.matrix import Labelled, Taught
from trueline.evaluate.matrix import matrix as crossed
from trueline.evaluate.report import Arm, report
from trueline.evaluate.reward_accuracy import reward_accuracy
from trueline.evaluate.scaling import Sized
from trueline.evaluate.scaling import scaling as by_size
from trueline.evaluate.select import select
from trueline.feedback.annotator import Annotator
from trueline.feedback.compare import Compare
from trueline.feedback.critique import Critique
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Comparer, Critic
from trueline.feedback.reward import Reward
from trueline.heads import Head
from trueline.heads.classification import as_classifier
from trueline.models import pretrained
from trueline.prompts.asked import asked
from trueline.prompts.take import take, without
from trueline.sample.draw import draw
from trueline.sample.named import engine
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.served import Connection
from trueline.sample.teach import teach
from trueline.store import File, Groups, Policy, Prompts, Report
from trueline.train.objectives.bradley_terry import BradleyTerry
from trueline.train.objectives.dpo import DPO
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train
from trueline.train.views import Demonstrations, Pairs

SFT_EPOCHS, DPO_EPOCHS = (2, 4), (1, 2)


def compared(labels_unfair: str, demonstrations_unfair: str, judged: str = "") -> tuple[Contrast, ...]:
    """What is worth knowing of six arms, and why a comparison is not fair where it is not. judged: what makes the judge
    a party, which bears on every one."""
    labels_unfair, demonstrations_unfair = (
        "; ".join(filter(None, (why, judged))) for why in (labels_unfair, demonstrations_unfair)
    )
    return (
        Contrast("C - A: labels against weak demonstrations", ("C",), ("A",), labels_unfair),
        Contrast("D - C: demonstrations against labels", ("D",), ("C",), demonstrations_unfair),
        Contrast("F - D: both against demonstrations", ("F",), ("D",), demonstrations_unfair),
        Contrast("C - B: labels after the weak teacher", ("C",), ("B",), judged),
        Contrast("F - E: labels after the strong teacher", ("F",), ("E",), judged),
        Contrast("(C - B) - (F - E): what the weak teacher explains", ("C", "E"), ("B", "F"), judged),
    )


@dataclass(frozen=True)
class Contest:
    """What all arms have in common. first: the prompts that teachers answer in B and E. rest: the others. chosen_on:
    prompts on which checkpoints are chosen. questions: the held-out prompts. gold: what answers to both are scored by.
    """

    start: Policy
    pool: Prompts
    first: Prompts
    rest: Prompts
    chosen_on: Prompts
    questions: Prompts
    critic: Comparer
    judge: Comparer
    gold: Critic
    beta: float
    sft_lr: float
    dpo_lr: float
    max_length: int
    seed: int

    @property
    def fit(self) -> Any:
        """`train`, with what all arms have in common."""
        return partial(train, max_length=self.max_length, seed=self.seed)

    def taught(self, name: str, teacher: Engine, prompts: Prompts) -> Policy:
        """SFT on a teacher's answers, the best of its checkpoints."""
        view = Demonstrations(teach(teacher, prompts, Sampling(seed=self.seed), label=f"taught-{name}"))
        made = [self.fit(self.start, view, SFT(), lr=self.sft_lr, epochs=n, label=f"{name}-{n}") for n in SFT_EPOCHS]
        return self.best(name, made)

    def drawn(self, name: str, policy: Policy) -> Groups:
        """Two of the policy's answers to each prompt of the rest of the pool."""
        return draw(policy, self.rest, Sampling(n=2, seed=self.seed), label=f"drawn-{name}")

    def labelled(self, name: str, policy: Policy, drawn: Groups | None = None) -> Policy:
        """DPO on the critic's labels of the policy's answers to the rest of the pool; the best of its checkpoints."""
        drawn = drawn or self.drawn(name, policy)
        pairs = Pairs(judge(drawn, Compare(by=self.critic, orders=1), label=f"labelled-{name}"), ties="drop")
        learn = partial(self.fit, policy, pairs, DPO(beta=self.beta, sft=0.05), lr=self.dpo_lr, max_dropped=0.5)
        return self.best(name, [learn(epochs=n, label=f"{name}-{n}") for n in DPO_EPOCHS])

    def best(self, name: str, candidates: Sequence[Policy]) -> Policy:
        """The candidate whose answers to prompts of their own are worth most."""
        graded = tuple(self.graded(f"tried-{policy.label}", policy, self.chosen_on) for policy in candidates)
        return select(tuple(candidates), graded, label=name)

    def graded(self, name: str, policy: Policy, prompts: Prompts) -> Groups:
        """A policy's answers, scored."""
        answers = draw(policy, prompts, Sampling(seed=self.seed), label=f"answers-{name}")
        return judge(answers, self.gold, label=f"graded-{name}")

    def arms(self, weak: Engine, strong: Engine) -> dict[str, Policy]:
        """The six arms by their letters."""
        made = {}
        for full, some, tuned, teacher in (("A", "B", "C", weak), ("D", "E", "F", strong)):
            made[full] = self.taught(full, teacher, self.pool)
            made[some] = self.taught(some, teacher, self.first)
            made[tuned] = self.labelled(tuned, made[some])
        return {name: made[name] for name in sorted(made)}

    def reported(self, weak: Engine, strong: Engine, contrasted: tuple[Contrast, ...]) -> Report:
        """The six arms beside each other, each in a duel with A, and what one has over another."""
        made = self.arms(weak, strong)
        graded = {name: self.graded(name, made[name], self.questions) for name in made}
        by = Compare(by=self.judge)
        duels = tuple(duel(graded[name], graded["A"], by, label=f"{name}-vs-A") for name in graded if name != "A")
        arms = tuple(Arm(name, graded[name], made[name]) for name in graded)
        told = contrasts(tuple(graded.items()), contrasted)
        return report("One oracle call per prompt, spent in six ways", arms, duels, baseline="A", also=(told,))


def in_town(
    base: str, pool: int, share: float, noise: float, position_bias: float, held_out: int, chosen_on: int, beta: float,
    seed: int,
) -> Contest:  # fmt: skip
    """The contest in the town, whose judge never errs."""
    every = world.prompts(pool, seed=seed, split="train", label="pool")
    first = take(every, max(1, round(share * pool)), label="first")
    critic = world.Oracle(noise=noise, position_bias=position_bias, seed=seed)
    return Contest(
        world.base(base), every, first, without(every, first, label="rest"),
        world.prompts(chosen_on, seed=seed, split="valid", label="chosen-on"),
        world.prompts(held_out, seed=seed, split="test", label="held-out"),
        critic, world.Oracle(seed=seed), world.Gold(), beta, 5e-4, 2e-4, 256, seed,
    )  # fmt: skip


def rlaif(
    *,
    base: Literal["tiny", "small"] = "tiny",
    pool: int = 640,
    share: float = 0.1,
    weak: float = 0.5,
    strong: float = 1.0,
    noise: float = 0.1,
    position_bias: float = 0.0,
    held_out: int = 400,
    chosen_on: int = 100,
    beta: float = 0.1,
    seed: int = 0,
) -> Report:
    """Spend one oracle call per prompt in six ways, in the town, and report what each bought.

    Args:
        base: which of the town's pretrained models to start from.
        pool: prompts, each of which an oracle is asked about once.
        share: of the pool that a teacher answers before the rest is labelled.
        weak: quality of the weak teacher: the share of its answers that earn the full gold reward.
        strong: quality of the strong teacher.
        noise: share of the critic's labels that are tossed, from 0 to 1.
        position_bias: how far the critic favours the answer shown first, from 0 to 1.
        held_out: prompts that all arms are judged on.
        chosen_on: prompts, apart from those, on which checkpoints are chosen.
        beta: DPO's inverse temperature.
        seed: of prompts, sampling and training.
    """
    of = in_town(base, pool, share, noise, position_bias, held_out, chosen_on, beta, seed)
    unfair = "the critic is stronger than the teacher" if weak < strong else ""
    return of.reported(world.Teacher(quality=weak), world.Teacher(quality=strong), compared(unfair, ""))


def matrix(
    *,
    base: Literal["tiny", "small"] = "tiny",
    pool: int = 640,
    share: float = 0.1,
    oracles: tuple[float, ...] = (0.5, 0.75, 1.0),
    position_bias: float = 0.8,
    length_bias: float = 0.5,
    noise: float = 0.5,
    held_out: int = 400,
    chosen_on: int = 100,
    beta: float = 0.1,
    seed: int = 0,
) -> Report:
    """Every oracle as the teacher, every oracle as the critic, four judges: `trueline make rlaif:matrix`.

    An oracle of quality q errs in 1 - q of its calls: as a teacher it writes a sloppy answer, as a critic it tosses.

    Args:
        base: which of the town's pretrained models to start from.
        pool: prompts, each of which an oracle is asked about once.
        share: of the pool that a teacher answers before the rest is labelled.
        oracles: their qualities, from 0 to 1.
        position_bias: of the judge that favours the answer shown first, from 0 to 1.
        length_bias: of the judge that favours the longer answer, from 0 to 1.
        noise: of the judge that tosses some of its verdicts, from 0 to 1.
        held_out: prompts that all answers are judged on.
        chosen_on: prompts, apart from those, on which checkpoints are chosen.
        beta: DPO's inverse temperature.
        seed: of prompts, sampling and training.
    """
    judges = {
        "fair judge": world.Oracle(seed=seed),
        f"position {position_bias:g}": world.Oracle(position_bias=position_bias, seed=seed),
        f"length {length_bias:g}": world.Oracle(length_bias=length_bias, seed=seed),
        f"noise {noise:g}": world.Oracle(noise=noise, seed=seed + 1),
    }
    of = in_town(base, pool, share, 0.0, 0.0, held_out, chosen_on, beta, seed)
    rows, cells = [], []
    for quality in sorted(set(oracles)):
        teacher, name = world.Teacher(quality=quality), f"{quality:g}"
        start = of.taught(f"B-{name}", teacher, of.first)
        every = of.taught(f"A-{name}", teacher, of.pool)
        before = of.graded(f"B-{name}", start, of.questions)
        rows.append(Taught(name, before, of.graded(f"A-{name}", every, of.questions)))
        drawn = of.drawn(f"B-{name}", start)
        for skill in sorted(set(oracles)):
            by, arm = replace(of, critic=world.Oracle(noise=1 - skill, seed=seed)), f"C-{name}-by-{skill:g}"
            after = of.graded(arm, by.labelled(arm, start, drawn), of.questions)
            fought = tuple(
                (title, duel(after, before, Compare(by=judge), label=f"{arm}-{title.replace(' ', '-')}"))
                for title, judge in judges.items()
            )
            unfair = (
                ""
                if skill == quality
                else f"the critic is {'stronger' if skill > quality else 'weaker'} than the teacher"
            )
            cells.append(Labelled(name, f"{skill:g}", after, fought, unfair))
    return crossed(tuple(rows), tuple(cells), label="rlaif-matrix")


def scaling(
    *,
    base: Literal["tiny", "small"] = "tiny",
    pools: tuple[int, ...] = (80, 160, 320, 640, 1280),
    share: float = 0.1,
    weak: float = 0.5,
    strong: float = 1.0,
    noise: float = 0.1,
    held_out: int = 400,
    chosen_on: int = 100,
    beta: float = 0.1,
    seed: int = 0,
) -> Report:
    """The six arms at several sizes of the pool: `trueline make rlaif:scaling`.

    Args:
        base: which of the town's pretrained models to start from.
        pools: prompts, each of which an oracle is asked about once; the smaller pools are part of the larger.
        share: of the pool that a teacher answers before the rest is labelled.
        weak: quality of the weak teacher: the share of its answers that earn the full gold reward.
        strong: quality of the strong teacher.
        noise: share of the critic's labels that are tossed, from 0 to 1.
        held_out: prompts that all arms are judged on.
        chosen_on: prompts, apart from those, on which checkpoints are chosen.
        beta: DPO's inverse temperature.
        seed: of prompts, sampling and training.
    """
    sizes = []
    for pool in sorted(set(pools)):
        of = in_town(base, pool, share, noise, 0.0, held_out, chosen_on, beta, seed)
        made = of.arms(world.Teacher(quality=weak), world.Teacher(quality=strong))
        graded = tuple((name, of.graded(f"{name}-of-{pool}", made[name], of.questions)) for name in made)
        sizes.append(Sized(pool, graded))
    contrasted = (
        ("What labels add", (
            Contrast("C - B: labels after the weak teacher", ("C",), ("B",)),
            Contrast("F - E: labels after the strong teacher", ("F",), ("E",)),
        )),
        ("What more demonstrations add", (
            Contrast("A - B: more of the weak teacher", ("A",), ("B",)),
            Contrast("D - E: more of the strong teacher", ("D",), ("E",)),
        )),
        ("The strong teacher against its labels", (
            Contrast("D - C: demonstrations less labels after the weak teacher", ("D",), ("C",)),
            Contrast("D - F: demonstrations less labels after the strong teacher", ("D",), ("F",)),
        )),
    )  # fmt: skip
    beside = (("Weak teacher", ("A", "B", "C")), ("Strong teacher", ("D", "E", "F")))
    return by_size(tuple(sizes), contrasted, beside, label="rlaif-scaling")


def reward_model(
    *,
    base: Literal["tiny", "small"] = "tiny",
    pool: int = 640,
    share: float = 0.1,
    quality: float = 0.5,
    noise: float = 0.1,
    length_bias: float = 0.0,
    held_out: int = 400,
    samples: int = 4,
    epochs: int = 2,
    lr: float = 5e-4,
    seed: int = 0,
) -> tuple[Report, Policy]:
    """A reward model of the critic's labels, read on held-out prompts, and as a folder that TRL and vLLM load.

    Args:
        base: which of the town's pretrained models to start from.
        pool: prompts, a share of which a teacher answers; answers to the others are compared.
        share: of the pool that the teacher answers.
        quality: of the teacher: the share of its answers that earn the full gold reward.
        noise: share of the critic's labels that are tossed, from 0 to 1.
        length_bias: how far the critic favours the longer answer, from 0 to 1.
        held_out: prompts on which the reward model is read, beside an oracle that never errs.
        samples: answers to each prompt, compared each with the next.
        epochs: over the comparisons.
        lr: peak learning rate.
        seed: of prompts, sampling and training.
    """
    of = in_town(base, pool, share, noise, 0.0, held_out, 100, 0.1, seed)
    start = of.taught("B", world.Teacher(quality=quality), of.first)
    critic = world.Oracle(noise=noise, length_bias=length_bias, seed=seed)

    def compared(prompts: Prompts, by: Comparer, name: str) -> Groups:
        drawn = draw(start, prompts, Sampling(n=samples, seed=seed), label=f"drawn-{name}")
        return judge(drawn, Compare(by=by, pairs="adjacent"), label=f"compared-{name}")

    learned = compared(of.rest, critic, "rest")
    fit = partial(of.fit, start, Pairs(learned), BradleyTerry(), head=Head(), max_dropped=0.5)
    rater = fit(epochs=epochs, lr=lr, label="reward-model")
    read = judge(compared(of.questions, of.judge, "held-out"), Reward(rater), label="rewarded-held-out")
    told = reward_accuracy(read, trained_on=learned, group="kind", label="reward-accuracy")
    return told, as_classifier(rater, label="classifier")


def served(
    *,
    base: str,
    prompts: Path,
    weak_teacher: str,
    teacher: str,
    critic: str,
    judge: str,
    pool: int = 2048,
    share: float = 0.1,
    held_out: int = 400,
    chosen_on: int = 100,
    beta: float = 0.05,
    sft_lr: float = 1e-6,
    dpo_lr: float = 1e-7,
    max_length: int = 1024,
    seed: int = 0,
    connection: Connection = Connection(),  # noqa: B008  (frozen)
) -> Report:
    """The same for your model, your prompts and your oracles: `trueline make rlaif:served`.

    Args:
        base: a Hugging Face model folder, or a hub id.
        prompts: JSON lines with "prompt" or "messages", or text with a prompt per line (.txt).
        weak_teacher: who answers in A, B and C: openai:MODEL, anthropic:MODEL, a URL, a folder.
        teacher: who answers in D, E and F.
        critic: who labels pairs; where it is not the teacher, the report calls the comparison unfair.
        judge: who scores and compares the held-out answers; best neither of the two.
        pool: prompts, each of which an oracle is asked about once.
        share: of the pool that a teacher answers before the rest is labelled.
        held_out: prompts that all arms are judged on.
        chosen_on: prompts, apart from those, on which checkpoints are chosen.
        beta: DPO's inverse temperature.
        sft_lr: peak learning rate of SFT.
        dpo_lr: peak learning rate of DPO.
        max_length: tokens of prompt and answer together.
        seed: of prompts, sampling and training.
        connection: how engines over HTTP are reached, and what may be spent on each.
    """
    every = asked(File(prompts))
    questions = take(every, held_out, seed=seed, label="held-out")
    rest = without(every, questions, label="not-held-out")
    tried = take(rest, chosen_on, seed=seed, label="chosen-on")
    chosen = take(without(rest, tried, label="to-learn-on"), pool, seed=seed, label="pool")
    first = take(chosen, max(1, round(share * pool)), label="first")
    by = {name: engine(name, connection, where=f"--{option}") for option, name in
          (("weak-teacher", weak_teacher), ("teacher", teacher), ("critic", critic), ("judge", judge))}  # fmt: skip
    of = Contest(
        pretrained(base), chosen, first, without(chosen, first, label="rest"), tried, questions,
        Annotator(by[critic]), Annotator(by[judge]), Critique(by=by[judge], wording="dialogue"),
        beta, sft_lr, dpo_lr, max_length, seed,
    )  # fmt: skip
    party = f"{judge} judges what it taught or labelled" if judge in (weak_teacher, teacher, critic) else ""
    labels, demonstrations = (
        "" if critic == name else "the critic is not the teacher" for name in (weak_teacher, teacher)
    )
    return of.reported(by[weak_teacher], by[teacher], compared(labels, demonstrations, party))
