"""One Quark step written out in plain torch, padded and without a trie, against ours: same loss, same weights after.

The script below is the specification: five answers to each prompt behind the token of their quantile, the reference
over the same answers behind the bare prompt, the divergence over the tokens that both models have, everything averaged
over the answers' tokens. Nothing of ours is used in it.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trueline.chat import Renderer
from trueline.machine import Machine
from trueline.records import Message
from trueline.train.fit import fit
from trueline.train.objectives.conditional import ConditionalLM
from trueline.train.rows import Encoder, encode
from trueline.train.settings import Settings
from trueline.train.views import Answer, Example
from trueline.trie import attention

TEXT = "the a old new baker miller bread flour river town gladly no yes go away please sells makes knows"
WORDS = TEXT.split()
QUANTILES = [f"_Q_{k}_" for k in range(5)]
RATE, KL, ENTROPY = 1e-4, 0.05, 0.06


def tokenizer(*added):
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    made.add_tokens(list(added))
    return made


def model(family, size, seed):
    torch.manual_seed(seed)
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "bos_token_id": 1, "eos_token_id": 1}
        off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=size, **sizes, **off))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, **sizes, max_position_embeddings=96, eos_token_id=1))


def samples(prompts=2, each=8):
    """(quantile, prompt, answer); two answers to a prompt are the same under different quantiles."""
    generator = torch.Generator().manual_seed(1)

    def sentence(low, high):
        n = int(torch.randint(low, high, (), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (n,), generator=generator).tolist())

    out = []
    for _ in range(prompts):
        prompt, answers = sentence(18, 40), [sentence(2, 10) for _ in range(each - 1)]
        out += [(k % 5, prompt, answer) for k, answer in enumerate([*answers, answers[0]])]
    return out


def plain_step(policy, reference, direction):
    """The step, padded: loss, divergence and entropy per token, and the weights after it."""
    words, size = tokenizer(*QUANTILES), len(tokenizer())
    ours, bare, answers = [], [], []
    for quantile, prompt, answer in samples():
        before, after = words(prompt)["input_ids"], [*words(answer)["input_ids"], words.eos_token_id]
        ours.append([words.convert_tokens_to_ids(QUANTILES[quantile]), *before, *after])
        bare.append([*before, *after])
        answers.append(len(after))

    def logits(run, rows):
        """At the positions that predict an answer's tokens, row after row."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        found = run(input_ids=ids, attention_mask=mask).logits
        return torch.cat([x[len(row) - n - 1 : len(row) - 1] for x, row, n in zip(found, rows, answers, strict=True)])

    targets = torch.cat([torch.tensor(row[len(row) - n :]) for row, n in zip(ours, answers, strict=True)])
    policy_logits = logits(policy, ours)
    with torch.no_grad():
        log_q = F.log_softmax(logits(reference, bare), -1)
    log_p = F.log_softmax(policy_logits[:, :size], -1)
    kl = log_q.exp() * (log_q - log_p) if direction == "forward" else log_p.exp() * (log_p - log_q)
    entropy = torch.distributions.Categorical(logits=policy_logits).entropy().mean()
    nll, kl = F.cross_entropy(policy_logits, targets), kl.sum(-1).mean()
    loss = nll + KL * kl - ENTROPY * entropy
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0).step()
    return [x.item() for x in (loss, nll, kl, entropy)], dict(policy.named_parameters())


@pytest.mark.parametrize("micro_tokens", [10_000, 200])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_quark_step(family, direction, micro_tokens):
    size = len(tokenizer())
    numbers, theirs = plain_step(model(family, size + 5, 0), model(family, size, 1).eval(), direction)

    start, reference = model(family, size + 5, 0).train(), model(family, size, 1).eval().requires_grad_(False)
    before = {name: p.detach().clone() for name, p in start.named_parameters()}
    start, reference = (attention.enable(x) or x for x in (start, reference))
    examples = [Example((Message("user", p),), (Answer(" " + a),), condition=QUANTILES[k]) for k, p, a in samples()]
    rows = encode(examples, Encoder(Renderer(tokenizer(*QUANTILES), "plain"), stripped=True))
    settings = Settings(lr=RATE, batch_size=len(rows), warmup=0.0, schedule="constant", max_grad_norm=1.0)
    objective = ConditionalLM(KL, ENTROPY, direction)
    (row,) = fit(
        start, rows, objective, settings, reference_model=reference, excluded=tuple(range(size, size + 5)),
        machine=Machine(device="cpu", micro_tokens=micro_tokens),
    )  # fmt: skip

    found = [row[name] for name in ("loss", "nll", "kl/token", "entropy/token")]
    assert found == pytest.approx(numbers, rel=1e-5)
    assert row["trie_tokens"] < row["tokens"]
    for name, p in start.named_parameters():
        # Biases begin at 0, so that all there is of them is the step.
        step = (theirs[name] - before[name]).norm()
        assert (p - theirs[name]).norm() <= 1e-3 * step, name
