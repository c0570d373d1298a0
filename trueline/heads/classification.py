"""Reward models as other programs load them: Hugging Face's sequence classification with one label, `score.weight`.

    as_classifier(reward)               -> a folder for AutoModelForSequenceClassification, TRL's reward_funcs, vLLM
    from_classifier(pretrained(folder)) -> a policy with a head: a critic (`Reward`), or a start to train on

A classifier of the decoder kind reads its label at the last token that is no padding; ours reads a head at the
end-of-turn that closes the answer. Both are one token where the text *ends* there, so the folder's chat template is
made to: what it would write after the last answer (ChatML's line break) is left out, what it writes between turns
stays. The padding token must not be that end-of-turn; where it is, there is a new one.

What one linear map of the final state is can be written so: no pooler, no other layers, no bias. The rest is refused.
Nothing is taken on trust: the folder written is opened again by plain transformers, and its logits on some
conversations are compared with the head's rewards.

Shape suffixes: N conversations, D hidden width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.errors import UserError
from trueline.heads.spec import Head, Last, Layer, column, require, rewards
from trueline.pipeline import stage
from trueline.records import Message
from trueline.store import Policy

if TYPE_CHECKING:
    import torch

    from trueline.chat import Renderer
    from trueline.heads.readout import Heads
    from trueline.work import Work

TOLERANCE = 1e-4
"""By how much a logit may differ from the reward that it stands for, beside 1 and the largest; float32 leaves 1e-6."""
PADDING = "<|pad|>"
PROBES = (
    (("user", "Who bakes the bread?"), ("assistant", "Ada bakes it.")),
    (("user", "Is 7 more than 5?"), ("assistant", "Yes: 7 - 5 = 2.")),
    (("user", "Hello"), ("assistant", "Hi. What is it?"), ("user", "Nothing."), ("assistant", "Gladly, and often so.")),
)


@stage(Policy, rev=1)
def as_classifier(work: Work, reward: Policy, head: str = "", chat: str = "auto") -> None:
    """The head called `head` ("": the only or first one) of `reward`, on its backbone, as a classifier of one label.

    chat: how its conversations are rendered, as in training. The folder's logit at the end of a conversation rendered
    by its own chat template is the head's reward. Weights are float32.

    Raises `UserError` for a head that is more than a linear map, for an architecture of which transformers knows no
    classifier, and where the logits do not come out as the rewards are.
    """
    from trueline import models

    folder, where = models.folder_of(reward), f"as_classifier({reward.name})"
    opened = models.load(folder, chat=chat, full=True)
    read = require(opened)
    index = column(read, head, "as_classifier(head=...)")
    weight_D = linear(read, index, where)
    wanted = probed(opened)[:, index].tolist()
    tokenizer, renderer = opened.tokenizer, opened.renderer
    del opened  # a second copy of the weights is read next
    net = classifier_of(models.open_weights(folder, weight_D.dtype), weight_D, where)
    tokenizer.chat_template = ending_there(tokenizer, renderer)
    if tokenizer.pad_token_id in (None, renderer.end_id):
        tokenizer.add_special_tokens({"pad_token": PADDING})
    models.grow(net, len(tokenizer))
    net.config.pad_token_id = net.config.get_text_config().pad_token_id = int(tokenizer.pad_token_id)
    net.config.id2label, net.config.label2id = {0: read.names[index]}, {read.names[index]: 0}
    with models.quiet():
        net.save_pretrained(work.dir, safe_serialization=True)
    tokenizer.save_pretrained(work.dir)
    del net
    agree(work, wanted, logits(work.dir), where)


@stage(Policy, rev=1)
def from_classifier(work: Work, classifier: Policy, exact: bool = True) -> None:
    """A classifier of one label as a policy with a head of that name: `Reward` reads it, `train` goes on from it.

    Where its template writes something after the last end-of-turn, transformers reads it there and a head of ours would
    not: such a classifier is refused, and is read by `feedback.Classifier` as it is. exact=False takes it all the
    same, as a start for training alone. Output embeddings that the folder lacks are zero: it rates, it cannot write.

    Raises `UserError` for several labels, a bias, no chat template, an architecture that has no causal language model.
    """
    from trueline import models
    from trueline.chat import Renderer

    folder, where = models.folder_of(classifier), f"from_classifier({classifier.name})"
    tokenizer = models.open_tokenizer(folder)
    if not tokenizer.chat_template:
        cure = 'Read it as a critic: Classifier(folder, template="{asked}\\n{answer}").'
        raise UserError(where, "its tokenizer has no chat template", "one", cure)
    renderer = Renderer(tokenizer, style="template")
    if exact and not renderer.ends_there:
        got = f"its chat template writes {renderer.tail!r} after the last end-of-turn, and its label is read there"
        cure = "Read it as a critic, Classifier(folder); or take it as a start, from_classifier(..., exact=False)."
        raise UserError(where, got, "a conversation that ends with the end-of-turn", cure)
    import torch

    net = open_classifier(folder, torch.float32)
    weight_D, label = score_of(net, where)
    model = language_model_of(net, where)
    made = Head((label,)).build(model)
    with torch.no_grad():
        made.out.weight.copy_(weight_D[None])
    models.save(model, tokenizer, work.dir, made)
    del net, model
    if exact:
        agree(work, logits(folder), probed(models.load(work.dir, full=True))[:, 0].tolist(), where)


# --- heads and labels ------------------------------------------------------------------------------------------------


def linear(heads: Heads, index: int, where: str) -> torch.Tensor:
    """weight_D of a head that is one linear map of the final state. Raises `UserError` for any other."""
    spec = heads.spec
    final = isinstance(spec.aggregate, Last) or spec.aggregate in (Layer(-1), Layer(heads.shape.states - 1))
    wanted = 'a head with aggregate=Last() and pooler="identity", which a classifier\'s `score` can hold'
    cure = "Train one so, or read this one by Reward(policy), `trueline rank` or heads.rewards."
    if not final:
        raise UserError(where, f"its head reads {spec.aggregate}", wanted, cure)
    if spec.pooler != "identity":
        raise UserError(where, f'its head has the pooler "{spec.pooler}"', wanted, cure)
    if heads.out.bias is not None and float(heads.out.bias[index].abs()) > 0:
        raise UserError(where, f"its head adds a bias of {float(heads.out.bias[index]):.3g}", "none", cure)
    return heads.out.weight[index].detach().cpu().clone()


def score_of(net: Any, where: str) -> tuple[torch.Tensor, str]:
    """(weight_D, the label's name) of a classifier. Raises `UserError` for any but a linear map to one label."""
    from torch import nn

    if net.config.num_labels != 1:
        got = f"it has {net.config.num_labels} labels"
        raise UserError(where, got, "one: a reward", 'As a critic, one of them: Classifier(folder, "LABEL").')
    score = getattr(net, "score", None)
    if not isinstance(score, nn.Linear) or score.bias is not None:
        cure = "Read it as a critic: Classifier(folder)."
        raise UserError(where, f"{type(net).__name__} has no plain `score`", "a linear map without a bias", cure)
    label = str((net.config.id2label or {}).get(0, ""))
    named = label.replace("-", "_").isidentifier() and label != "LABEL_0"
    return score.weight[0].detach(), label if named else "reward"


# --- models ----------------------------------------------------------------------------------------------------------


def classifier_of(model: Any, weight_D: torch.Tensor, where: str) -> Any:
    """A causal language model's own backbone under `score`. Raises `UserError` where transformers has no such class."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = model.config
    config.num_labels = 1
    net = _around(AutoModelForSequenceClassification, config, model, where)
    if not isinstance(getattr(net, "score", None), torch.nn.Linear):
        raise UserError(where, f"{type(net).__name__} has no `score`", "a classifier that reads the last token", CURE)
    net.score = torch.nn.Linear(len(weight_D), 1, bias=False)
    with torch.no_grad():
        net.score.weight.copy_(weight_D[None])
    return _whole(net, where)


def language_model_of(net: Any, where: str) -> Any:
    """A classifier's own backbone under output embeddings: tied ones where its config says so, else zero."""
    import torch
    from transformers import AutoModelForCausalLM

    model = _around(AutoModelForCausalLM, net.config, net, where)
    output = model.get_output_embeddings()
    if net.config.get_text_config().tie_word_embeddings:
        model.tie_weights()
    else:
        for name, table in list(output.named_parameters()):
            setattr(output, name, torch.nn.Parameter(torch.zeros(table.shape)))
    return _whole(model, where)


CURE = "Read it where it is: Reward(policy), `trueline rank`."


def _around(kind: Any, config: Any, model: Any, where: str) -> Any:
    """An empty model of this kind with the backbone of `model` in it: nothing is copied."""
    import torch

    try:
        with torch.device("meta"):
            made = kind.from_config(config)
    except (ValueError, KeyError) as error:
        from trueline import models

        got = f"transformers has no {kind.__name__} for {type(config).__name__} ({models.first_line(error)[:80]})"
        raise UserError(where, got, "an architecture that has both", CURE) from error
    own, given = getattr(made, made.base_model_prefix, None), model.base_model
    if type(own) is not type(given):
        got = f"{type(made).__name__} is built on {type(own).__name__}, not on {type(given).__name__}"
        raise UserError(where, got, "one backbone for both", CURE)
    setattr(made, made.base_model_prefix, given)
    return made.eval().requires_grad_(False)


def _whole(made: Any, where: str) -> Any:
    """Refuse a model of which some weights stand nowhere."""
    if lacking := [name for name, weight in made.named_parameters() if weight.is_meta]:
        got = f"{type(made).__name__} has weights that the other has not: {', '.join(lacking[:3])}"
        raise UserError(where, got, "one backbone for both", CURE)
    return made


def open_classifier(folder: Path, dtype: torch.dtype) -> Any:
    """The classifier of a folder, from safetensors. Raises `UserError` where its head was never trained."""
    from transformers import AutoModelForSequenceClassification

    from trueline import models

    where = f'classifier "{folder}"'
    try:
        with models.quiet():
            net, found = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
    except (ValueError, OSError, KeyError) as error:
        raise UserError(where, models.first_line(error), "a sequence classification model") from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            where, f"the weights of {', '.join(missing)} are not there", "a trained classifier",
            "Its head would be random. Heads of trueline are read by Reward(policy), and as_classifier writes them so.",
        )  # fmt: skip
    return net.eval().requires_grad_(False)


def is_classifier(folder: Path) -> bool:
    """Whether a folder says that it holds a sequence classification model."""
    try:
        named = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError):
        return False
    return any(str(name).endswith("ForSequenceClassification") for name in named)


# --- where it is read ------------------------------------------------------------------------------------------------


def ending_there(tokenizer: Any, renderer: Renderer) -> str:
    """The tokenizer's chat template; a conversation with an answer last ends with the end-of-turn that closes it."""
    template = str(tokenizer.get_chat_template())
    if renderer.ends_there:
        return template
    kept = f"written[:written | length - {len(renderer.tail)}]" if renderer.tail else "written"
    end = "" if renderer.writes_end else f" + {json.dumps(renderer.text_of([renderer.end_id]), ensure_ascii=False)}"
    return (
        # What a template of its own line ends with is dropped by jinja2, and would not be in here.
        "{% set written %}" + template.removesuffix("\n") + "{% endset %}"
        "{% if messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt %}"
        "{{ " + kept + end + " }}{% else %}{{ written }}{% endif %}"
    )


def conversation(probe: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """A probe as messages."""
    return tuple(Message(role, content) for role, content in probe)  # type: ignore[arg-type]


def askable(renderer: Renderer) -> list[tuple[Message, ...]]:
    """The probes that a chat style takes: plain text has one turn."""
    return [conversation(probe) for probe in PROBES if renderer.style != "plain" or len(probe) == 2]


def probed(opened: Any) -> Any:
    """rewards_NH of the probes, each closed; in float32, on a machine that would compute in bfloat16 too."""
    from trueline import machine as machines
    from trueline import trie

    sequences = []
    for messages in askable(opened.renderer):
        prompt = opened.renderer.prompt_ids(messages[:-1])
        sequences.append(trie.Sequence.of(prompt, opened.renderer.answer_ids(messages[-1].content, True)))
    return rewards(opened, sequences, dataclasses.replace(machines.current(), precision="fp32"))


def logits(folder: Path) -> list[float]:
    """What plain transformers reads of the probes: its own template and tokens, one batch, padded on the right."""
    import torch
    from transformers import AutoTokenizer

    from trueline.chat import Renderer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    asked = askable(Renderer(tokenizer))
    rows = [[{"role": m.role, "content": m.content} for m in messages] for messages in asked]
    texts = tokenizer.apply_chat_template(rows, tokenize=False)
    net = open_classifier(folder, torch.float32)
    if tokenizer.pad_token_id is None:
        given = [tokenizer([text], return_tensors="pt", add_special_tokens=False) for text in texts]
    else:
        given = [tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)]
    with torch.no_grad():
        return [x for one in given for x in net(**one).logits[:, 0].tolist()]


def agree(work: Work, wanted: Sequence[float], found: Sequence[float], where: str) -> None:
    """Refuse logits that are not the rewards; the largest difference is noted."""
    worst = max(abs(a - b) for a, b in zip(wanted, found, strict=True))
    work.note("largest_difference", worst)
    if worst > TOLERANCE * max(1.0, *(abs(a) for a in wanted)):
        got = f"logits and rewards differ by up to {worst:.2g}"
        cure = "Its tokenizer or its template may write other tokens than the policy saw: `trueline check` says where."
        raise UserError(where, got, f"the same to {TOLERANCE:g}", cure)
