"""Two iterations of ours equal a plain script of padded PyTorch: same model, same answers, same scores, float64.

The script below is one file of straight code: right-padded batches, transformers' own forward, loops over tokens. It
knows nothing of tries, rows or the training loop, and stands for the specification.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.train import tiny
from trueline.heads import Head
from trueline.machine import Machine
from trueline.records import Completion
from trueline.train import fit
from trueline.train.objectives.adaptive import Adaptive
from trueline.train.online.gae import GAE
from trueline.train.online.grpo import GRPO
from trueline.train.online.loop import Iterations
from trueline.train.online.ppo import PPO
from trueline.train.online.rloo import RLOO
from trueline.train.online.rollouts import Answered
from trueline.train.settings import Settings

RATE, EPOCHS = 3e-3, 3
PPO_FULL = PPO(
    GAE(gamma=0.99, lam=0.9), kl=Adaptive(0.3, 0.01, 20.0), epochs=EPOCHS, clip=0.05, value_clip=0.1, value_weight=0.4,
    entropy=0.03, missing_eos=0.5, scale="running", max_reward=3.0, whiten_rewards=True,
)  # fmt: skip
RLOO_FULL = PPO(RLOO(), kl=0.2, epochs=EPOCHS, clip=0.05, missing_eos=0.5, scale="none", max_reward=0.0)
GRPO_FULL = PPO(
    GRPO(), kl=0.2, kl_in="loss", epochs=EPOCHS, clip=0.05, scale="none", max_reward=0.0, reduction="answers"
)


def material(seed):
    """Three prompts (long enough to share) and two or three answers to each; some unfinished; scores."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 64, n).tolist() for n in (20, 31, 25)]
    answers, scores = [], []
    for n in (2, 3, 2):
        said = [rng.integers(3, 64, rng.integers(1, 9)).tolist() for _ in range(n)]
        answers.append([[*ids, tiny.END] if k % 3 < 2 else ids for k, ids in enumerate(said)])
        scores.append(rng.normal(1, 2, n).tolist())
    return prompts, answers, scores


# --- the plain script ------------------------------------------------------------------------------------------------


def padded(prompts, answers):
    """Right-padded ids, and which tokens are answers': [N, L]."""
    whole = [(p, a) for p, group in zip(prompts, answers, strict=True) for a in group]
    length = max(len(p) + len(a) for p, a in whole)
    ids = torch.zeros(len(whole), length, dtype=torch.int64)
    said = torch.zeros(len(whole), length, dtype=torch.bool)
    for row, (p, a) in enumerate(whole):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        said[row, len(p) : len(p) + len(a)] = True
    return ids, said


def plain_pass(model, head, ids):
    """Log-prob of each token given those before, entropy and value there: [N, L - 1]."""
    out = model(input_ids=ids, output_hidden_states=True)
    logps = torch.log_softmax(out.logits[:, :-1], -1)
    entropy = -(logps.exp() * logps).sum(-1)
    values = head(out.hidden_states[-1][:, :-1])[..., 0] if head is not None else None
    return logps.gather(-1, ids[:, 1:, None])[..., 0], entropy, values


def masked_whiten(x, mask, shift):
    mean = x[mask].mean()
    out = (x - mean) / torch.sqrt(x[mask].var() + 1e-8)
    return out if shift else out + mean


def plain_advantages(algorithm, rewards, old_values, mask, answers):
    """Advantages and returns [N, L - 1], answer by answer, token by token from the last."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    if old_values is not None:
        gamma, lam = algorithm.advantage.gamma, algorithm.advantage.lam
        for n in range(len(rewards)):
            after, value_after = 0.0, 0.0
            for t in reversed(mask[n].nonzero()[:, 0].tolist()):
                delta = rewards[n, t] + gamma * value_after - old_values[n, t]
                after = delta + gamma * lam * after
                value_after = old_values[n, t]
                advantages[n, t] = after
        return masked_whiten(advantages, mask, shift=True), advantages + old_values
    whole = (rewards * mask).sum(1)
    first = 0
    for group in answers:
        of = slice(first, first + len(group))
        for n in range(first, first + len(group)):
            if isinstance(algorithm.advantage, RLOO):
                others = [float(whole[m]) for m in range(first, first + len(group)) if m != n]
                advantages[n] = whole[n] - sum(others) / len(others)
            else:
                advantages[n] = (whole[n] - whole[of].mean()) / (whole[of].std() + 1e-4)
        first += len(group)
    return advantages, returns


def plain(model, reference, head, algorithm, iterations):
    """The script: what each iteration reports as its mean loss; model and head are trained in place."""
    parameters = [*model.parameters(), *(head.parameters() if head is not None else ())]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    kl, all_scores, losses = algorithm.first_kl, [], []
    for number, (prompts, answers, scores) in enumerate(iterations):
        ids, said = padded(prompts, answers)
        mask = said[:, 1:]
        flat = [a for group in answers for a in group]
        with torch.no_grad():
            old, _, old_values = plain_pass(model, head, ids)
            ref, _, _ = plain_pass(reference, None, ids)
            score = torch.tensor([x for group in scores for x in group], dtype=torch.float64)
            score = score - algorithm.missing_eos * torch.tensor([float(a[-1] != tiny.END) for a in flat])
            all_scores += score.tolist()
            if algorithm.scale == "running":
                score = score / torch.tensor(all_scores).std()
            if algorithm.max_reward:
                score = score.clamp(-algorithm.max_reward, algorithm.max_reward)
            if head is not None and number == 0:
                lift = score.mean() - old_values[mask].mean()
                head.bias += lift
                old_values = old_values + lift
            rewards = torch.zeros_like(old)
            if algorithm.kl_in == "reward":
                rewards -= kl * (old - ref)
            for n in range(len(flat)):
                rewards[n, mask[n].nonzero()[-1]] += score[n]
            if algorithm.whiten_rewards:
                rewards = masked_whiten(rewards, mask, shift=False)
            advantages, returns = plain_advantages(algorithm, rewards, old_values, mask, answers)
            apart = (old - ref)[mask].sum().item() / len(flat)
        mean = []
        for _ in range(algorithm.epochs):
            new, entropy, values = plain_pass(model, head, ids)
            ratio = (new - old).exp()
            loss = torch.max(
                -advantages * ratio, -advantages * ratio.clamp(1 - algorithm.clip, 1 + algorithm.clip)
            )  # fmt: skip
            if head is not None:
                held = old_values + (values - old_values).clamp(-algorithm.value_clip, algorithm.value_clip)
                error = torch.max((values - returns) ** 2, (held - returns) ** 2)
                loss = loss + algorithm.value_weight * 0.5 * error
            if algorithm.kl_in == "loss":
                loss = loss + kl * ((ref - new).exp() - (ref - new) - 1)
            loss = loss - algorithm.entropy * entropy
            if algorithm.reduction == "answers":
                total = sum(loss[n][mask[n]].mean() for n in range(len(flat))) / len(flat)
            else:
                total = loss[mask].mean()
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            mean.append(total.item())
        losses.append(sum(mean) / len(mean))
        if isinstance(algorithm.kl, Adaptive):
            error = min(max(max(apart, 0.0) / algorithm.kl.target - 1, -0.2), 0.2)
            kl *= 1 + error * len(flat) / algorithm.kl.horizon
    return losses, kl


# --- ours ------------------------------------------------------------------------------------------------------------


def ours(model, reference, heads, algorithm, iterations, micro_tokens):
    """The same by our loop, from answers that are there already; prompts of all iterations are numbered on."""
    machine = Machine(device="cpu", micro_tokens=micro_tokens)
    settings = Settings(lr=RATE, epochs=algorithm.epochs, batch_size=100, schedule="constant", warmup=0.0)
    accelerator = fit.open_accelerator(model, machine, None)
    loop = fit.Loop(
        model, (), algorithm, settings, machine, accelerator, None, heads, steps=len(iterations) * algorithm.epochs
    )
    prompts = [p for of, _, _ in iterations for p in of]

    def collect(number, _):
        _, answers, scores = iterations[number]
        return [
            Answered(
                number * len(answers) + k,
                tuple(
                    Completion("", stopped="stop" if a[-1] == tiny.END else "length", tokens=tuple(a)) for a in group
                ),
                tuple(scores[k]),
            )
            for k, group in enumerate(answers)
        ]

    state = Iterations(loop, algorithm, collect, prompts, reference, each=3)
    rows = [state.iterate() for _ in iterations]
    return [row["loss"] for row in rows], state.kl, rows


def close(found, wanted, before):
    """Weights to 1e-5 of their size, and the way that they went to 1e-4 of its length."""
    for name, tensor in wanted.items():
        distance = (found[name] - tensor).norm()
        assert distance <= 1e-5 * tensor.norm(), name
        assert distance <= 1e-4 * (tensor - before[name]).norm() + 1e-12, name


@pytest.mark.parametrize("micro_tokens", [10_000, 60])
@pytest.mark.parametrize("algorithm", [PPO_FULL, RLOO_FULL, GRPO_FULL], ids=["ppo", "rloo", "grpo"])
def test_two_iterations_of_three_steps(algorithm, micro_tokens):
    iterations = [material(0), material(1)]
    reference = tiny.model(seed=1, dtype=torch.float64).eval().requires_grad_(False)
    one, two = tiny.model(dtype=torch.float64), tiny.model(dtype=torch.float64)
    before = tiny.weights(one)
    heads = head = None
    if algorithm.advantage.values:
        heads = Head(("value",), bias=True).build(one).double()
        head = torch.nn.Linear(32, 1).double()
        head.load_state_dict(heads.out.state_dict())
    wanted, kl = plain(two, reference, head, algorithm, iterations)
    found, our_kl, rows = ours(one, reference, heads, algorithm, iterations, micro_tokens)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert our_kl == pytest.approx(kl, rel=1e-9)
    close(tiny.weights(one), tiny.weights(two), before)
    if head is not None:
        close(heads.out.state_dict(), head.state_dict(), {n: 0 * p for n, p in head.state_dict().items()})
    assert any(row["policy/clipped"] > 0 for row in rows), "the clip is part of what is compared"


def test_the_reference_is_read_and_the_first_ratio_is_one():
    """A single pass: what the loss sees in the first step of an iteration is exactly what was read before it."""
    model, reference = tiny.model(dtype=torch.float64), tiny.model(seed=1, dtype=torch.float64).eval()
    algorithm = PPO(RLOO(), epochs=1, kl=0.0)
    _, _, (row,) = ours(model, reference, None, algorithm, [material(0)], 10_000)
    assert row["policy/moved"] == pytest.approx(0, abs=1e-12)
    assert row["policy/clipped"] == 0
    assert row["kl/answer"] != pytest.approx(0, abs=1e-3)
