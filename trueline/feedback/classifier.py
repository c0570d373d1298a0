"""`Classifier`: a sequence classification model of transformers as a critic: reward models, toxicity classifiers.

    judge(samples, Classifier("my-reward-model"))                          one logit, the conversation by its template
    judge(samples, Classifier(pretrained("my-toxicity-classifier"), "toxic", template="{answer}", less=True))
    judge(samples, Classifier(rm, template="<|startoftext|>{asked}\\nTL;DR: {answer}<|endoftext|>"))

The text is put together, never cut at a marker: a post or an answer that holds "TL;DR:" or an end-of-text in words is
read whole, and its special-token texts are words. What the template itself writes, special tokens too, is what the
model was trained on, and is kept whether the vocabulary knows it or not.

Where a model of the decoder kind reads its logits is transformers' rule, the last token that is no padding; a batch is
padded on the right, with a token that cannot be mistaken for the end of one of its texts, so that a text's score is the
one that it has alone. Heads of our own are read by `Reward`; `heads.classification` turns the one into the other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trueline.errors import UserError, closest
from trueline.feedback.protocol import meter
from trueline.feedback.wording import SLOT, fill
from trueline.records import Feedback, Group, Message, Prompt
from trueline.store import Policy

if TYPE_CHECKING:
    import torch

    from trueline.chat import Renderer

C = TypeVar("C", bound="Classifier")
ROWS = 64  # texts in a batch: fewer than any vocabulary has tokens, so that one of them ends none of the texts


@dataclass(frozen=True)
class Classifier:
    """Scores every completion by one label of a model.

    model: a `Policy` (its files are the identity), or a folder or hub id to make one of. label: the label's name (or
    number) where there are several. template: "chat", the tokenizer's chat template over the whole conversation; or a
    text with the slots {asked} (the prompt's last turn) and {answer}, before and after which the tokenizer puts what it
    always does unless the template writes special tokens of its own. logit: the score is the label's logit, which is
    always so for a model of one label; else its probability, by soft-max, or label by label where the model's config
    says multi_label_classification. less: less of the label is better: 1 less the probability, minus the logit.

    A text beyond the model's longest sequence abstains and says so. Raises `UserError` for a folder that holds no
    trained classifier, no such label, or no chat template where one is wanted.
    """

    model: Any
    label: str = ""
    template: str = "chat"
    logit: bool = False
    less: bool = False

    def __post_init__(self) -> None:
        from trueline import models

        slots = SLOT.findall(self.template)
        if self.template != "chat" and (slots.count("answer") != 1 or not set(slots) <= {"asked", "answer"}):
            wanted = '"chat", or a text with one slot {answer} and perhaps {asked}'
            raise UserError("Classifier(template=...)", f"got {self.template!r}", wanted)
        if not isinstance(self.model, Policy):
            object.__setattr__(self, "model", models.pretrained(self.model))

    @property
    def name(self) -> str:
        return f"classifier:{self.model.name}" + (f":{self.label}" if self.label else "")

    def calls(self, groups: int, completions: int) -> int:
        """One reading per completion."""
        return completions

    def __enter__(self: C) -> C:
        vars(self)["_opened"] = _Opened(self)
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self).pop("_opened", None)

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each completion with a score; one that the model cannot read abstains and says why."""
        opened: _Opened | None = vars(self).get("_opened")
        if opened is None:
            with self:
                return self(groups)
        ids = [opened.ids(group.prompt, c.text) for group in groups for c in group.completions]
        why = [opened.unreadable(one) for one in ids]
        readable = [one for one, reason in zip(ids, why, strict=True) if reason is None]
        meter("critic_calls", len(readable))
        scores = iter(opened.scores(readable))
        said = iter([Feedback(self.name, next(scores)) if w is None else Feedback(self.name, raw=w) for w in why])
        return [group.with_feedback(next(said) for _ in group.completions) for group in groups]


class _Opened:
    """The model in memory, its tokenizer, and which number of its output is meant."""

    def __init__(self, critic: Classifier) -> None:
        import torch

        from trueline import machine as machines
        from trueline import models
        from trueline.chat import Renderer
        from trueline.chat.tokens import Tokens
        from trueline.heads import classification

        self.critic, self.machine = critic, machines.current()
        self.folder = models.folder_of(critic.model)
        self.tokenizer = models.open_tokenizer(self.folder)
        low = machines.device().startswith("cuda") and models.autocast_dtype() is not None
        self.net = classification.open_classifier(self.folder, torch.bfloat16 if low else torch.float32)
        self.net.to(machines.device(self.machine))
        models.choose_threads(self.net, self.machine)
        self.column = self._column()
        self.longest = models.fitting(self.net, 1 << 60)
        self.pieces = Tokens(self.tokenizer)
        self.renderer: Renderer | None = None
        if critic.template == "chat":
            if not self.tokenizer.chat_template:
                cure = 'Say how the text is put together: template="{answer}", or "{asked}\\n{answer}".'
                raise UserError(f'classifier "{self.folder}"', "its tokenizer has no chat template", "one", cure)
            self.renderer = Renderer(self.tokenizer, style="template")

    def _column(self) -> int:
        """Which of the model's outputs is read."""
        config, label = self.net.config, self.critic.label
        named = {str(name): int(index) for index, name in (config.id2label or {}).items()}
        if config.num_labels == 1 and not label:
            return 0
        if label in named:
            return named[label]
        if label.isdigit() and int(label) < config.num_labels:
            return int(label)
        known = list(named)
        got = f'no label "{label}"' if label else f"it has {config.num_labels} labels and none is chosen"
        raise UserError(f'classifier "{self.folder}"', got, "one of its labels", closest(label, known))

    def ids(self, prompt: Prompt, answer: str) -> list[int]:
        """The tokens of a prompt and its answer, as the model is shown them."""
        if self.renderer is not None:
            return self.renderer.conversation((*prompt.messages, Message("assistant", answer))).ids
        template, slots = self.critic.template, {"asked": prompt.text, "answer": answer}
        special = list(self.pieces.special.finditer(template)) if self.pieces.special.pattern != "(?!)" else []
        if not special:
            text = fill(template, slots)
            return list(self.tokenizer(text, split_special_tokens=True, truncation=False)["input_ids"])
        # Cut at the template's own special tokens, which nothing merges across; what is filled in is never searched.
        out: list[int] = []
        start, at = 0, "start"
        for token in special:
            out += self.pieces.content(fill(template[start : token.start()], slots), at)
            out.append(int(self.tokenizer.convert_tokens_to_ids(token[0])))
            start, at = token.end(), "special"
        return [*out, *self.pieces.content(fill(template[start:], slots), at)]

    def unreadable(self, ids: Sequence[int]) -> str | None:
        """Why a text cannot be scored; None where it can."""
        if not ids:
            return "no token to read"
        too_long = len(ids) > self.longest
        return f"a text of {len(ids)} tokens, the model's longest is {self.longest}" if too_long else None

    def scores(self, texts: Sequence[list[int]]) -> list[float]:
        """The score of each text, in order; those of like length run through the model together."""
        import torch

        out = [0.0] * len(texts)
        with torch.no_grad():
            for part in self._batches(texts):
                for index, score in zip(part, self._read([texts[i] for i in part]), strict=True):
                    out[index] = score
        return out

    def _batches(self, texts: Sequence[list[int]]) -> Iterator[list[int]]:
        part: list[int] = []
        for index in sorted(range(len(texts)), key=lambda i: len(texts[i])):
            full = (len(part) + 1) * len(texts[index]) > self.machine.micro_tokens
            if part and (full or len(part) >= ROWS):
                yield part
                part = []
            part.append(index)
        if part:
            yield part

    def _read(self, texts: Sequence[list[int]]) -> list[float]:
        """Scores of one batch: N texts, right-padded to T tokens, give logits [N, labels]."""
        import torch

        device, longest = self.net.device, max(map(len, texts))
        pad = self._padding(texts)
        ids_NT = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in texts], device=device)
        mask_NT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts], device=device)
        values_N = self._values(self.net(input_ids=ids_NT, attention_mask=mask_NT).logits.float())
        return [float(value) for value in values_N]

    def _padding(self, texts: Sequence[list[int]]) -> int:
        """The model's padding token; where it knows none, a token that ends no text of the batch, told to the model."""
        config = self.net.config.get_text_config()
        if self._own_padding is not None:
            return self._own_padding
        ends = {ids[-1] for ids in texts}
        config.pad_token_id = self.net.config.pad_token_id = next(i for i in range(len(texts) + 1) if i not in ends)
        return int(config.pad_token_id)

    @functools.cached_property
    def _own_padding(self) -> int | None:
        known = self.net.config.get_text_config().pad_token_id
        return None if known is None else int(known)

    def _values(self, logits_NL: torch.Tensor) -> torch.Tensor:
        import torch

        critic, config = self.critic, self.net.config
        if critic.logit or config.num_labels == 1:
            values_N = logits_NL[:, self.column]
            return -values_N if critic.less else values_N
        several = config.problem_type == "multi_label_classification"
        shares_NL = logits_NL.sigmoid() if several else torch.softmax(logits_NL, dim=-1)
        values_N = shares_NL[:, self.column]
        return 1 - values_N if critic.less else values_N
