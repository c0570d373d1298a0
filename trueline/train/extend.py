"""`extend`: a policy with more tokens than it had, and what a policy's tokens are beside another's.

A condition made of tokens (`conditions`) needs a vocabulary that has them. New rows of the embeddings start near the
old ones; what they mean is learned by training on them.

Shape suffixes: V tokens that were there, X new ones, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from trueline.errors import UserError
from trueline.fingerprint import call_site
from trueline.pipeline import stage
from trueline.store import Policy

if TYPE_CHECKING:
    import torch

    from trueline.work import Work

Init = Literal["normal", "copy"]


def extend(
    start: Policy,
    tokens: tuple[str, ...],
    *,
    init: Init = "normal",
    like: str = "",
    chat: str = "auto",
    seed: int = 0,
    label: str = "",
) -> Policy:
    """The policy `start` with `tokens` added to its vocabulary, each of which stands for itself in any text.

    init: what a new token's rows in the embeddings are. "normal": every number drawn, from `seed`, from the normal
    distribution with the mean and the standard deviation that the rows of the old tokens have in that dimension, as
    Quark does; the output embedding, where it is not the same table, by its own rows, so that no new token starts out
    likelier than old ones are on average (Quark leaves it at the library's initialisation, around 0). "copy": the
    rows of the token `like`, "" for the end of a turn, as ALT starts its separator. chat: the rendering, as in `train`;
    a tokenizer without a template gets one here. Heads stay.

    Raises `UserError` for tokens that are there already, or that a text would not give as one token.
    """
    if isinstance(tokens, str) or not tokens or not all(isinstance(t, str) and t.strip() for t in tokens):
        raise UserError(call_site(), f"extend(tokens={tokens!r})", "a tuple of texts", 'Write ("<good>", "<bad>").')
    if len(set(tokens)) < len(tokens):
        raise UserError(call_site(), f"extend(tokens={tokens!r})", "each token once")
    if init not in ("normal", "copy"):
        raise UserError(call_site(), f'extend(init="{init}")', '"normal" or "copy"')
    if like and init != "copy":
        raise UserError(call_site(), 'extend(like=...) has no effect with init="normal"', 'init="copy"')
    return extended(start, tuple(tokens), init, like, chat, seed, label=label)


@stage(Policy, rev=1, name="extend", label="extended", estimate=lambda tokens, **_: {"added_tokens": len(tokens)})
def extended(
    work: Work,
    start: Policy,
    tokens: tuple[str, ...],
    init: Init = "normal",
    like: str = "",
    chat: str = "auto",
    seed: int = 0,
) -> None:
    """Open `start`, add the tokens and their rows, save a folder that plain transformers opens."""
    import torch

    from trueline import models
    from trueline.chat import Renderer

    loaded = models.load(start, machine=work.machine, chat=chat, full=True)
    model, tokenizer = loaded.model, loaded.tokenizer
    source = loaded.renderer.end_id
    if like:
        found = loaded.renderer.token_of(like)
        if found is None:
            raise UserError("extend(like=...)", f'"{like}" is not one token of {start.name}', "one that it has")
        source = found
    before = len(tokenizer)
    add(tokenizer, tokens, start.name)
    check_whole(Renderer(tokenizer, chat), tokens)
    models.grow(model, len(tokenizer))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for rows_VD in tables(model):
            fill(rows_VD, before, len(tokenizer), source if init == "copy" else None, generator)
    models.save(model, tokenizer, work.dir, loaded.heads)
    work.count("added_tokens", len(tokens))


def add(tokenizer: Any, tokens: tuple[str, ...], name: str) -> None:
    """Put the tokens into the tokenizer. Raises `UserError` where some are there already."""
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    if there := [token for token in tokens if token in known]:
        cure = "Add the other ones, or rename them."
        if len(there) == len(tokens):
            cure = "It was extended with them before: use it as it is."
        raise UserError("extend(tokens=...)", f"{name} has {', '.join(there)} already", "tokens that are new", cure)
    # Not special ones: contents hold them, and what is special is read as plain text there.
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in tokens])


def check_whole(renderer: Any, tokens: tuple[str, ...]) -> None:
    """Refuse tokens that do not come out as exactly one token, wherever they stand in a message."""
    from trueline.records import Message

    numbers = renderer.tokenizer.convert_tokens_to_ids(list(tokens))
    for token, number in zip(tokens, numbers, strict=True):
        for text in (f"{token}a b", f"a{token} b"):
            ids = renderer.prompt_ids((Message("user", text),))
            if [i for i in ids if i in numbers] != [number]:
                got = f'"{text}" does not hold the token "{token}" once, as the model\'s chat template writes it'
                cure = "Name it without white space around it, and no token inside another."
                raise UserError("extend(tokens=...)", got, "one token", cure)


def tables(model: Any) -> list[torch.Tensor]:
    """The embeddings' rows, input first; the output's, and its bias as a column, where they are its own."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = [inputs.weight]
    if outputs is not None and outputs.weight is not inputs.weight:
        found.append(outputs.weight)
    if outputs is not None and getattr(outputs, "bias", None) is not None:
        found.append(outputs.bias.unsqueeze(1))
    return found


def fill(rows_VD: torch.Tensor, before: int, after: int, source: int | None, generator: torch.Generator) -> None:
    """Set the rows from `before` to `after`: copies of the row `source`, else draws by what is above them.

    Rows beyond are padding, which some models have below their tokens, and count for nothing.
    """
    import torch

    if source is not None:
        rows_VD[before:after] = rows_VD[source]
        return
    old_VD = rows_VD[:before].float()
    drawn_XD = torch.randn(after - before, rows_VD.shape[1], generator=generator).to(old_VD.device)
    rows_VD[before:after] = (old_VD.mean(0) + old_VD.std(0) * drawn_XD).to(rows_VD.dtype)


def beyond(ours: Any, theirs: Any) -> tuple[int, ...]:
    """Ids of the tokens that the tokenizer `ours` of a policy has and `theirs` of its reference has not.

    Raises `UserError` where they differ in anything else: a token that the reference alone has, or another id.
    """
    mine, others = ours.get_vocab(), theirs.get_vocab()
    apart = [token for token, number in others.items() if mine.get(token) != number]
    if apart:
        token = min(apart, key=lambda t: others[t])
        there = f"{mine[token]} in the policy's" if token in mine else "not in the policy's"
        got = f'its token "{token}" is {others[token]} in its vocabulary and {there} ({len(apart)} such)'
        cure = "Take one with the same tokenizer, such as the start, rendered in the same chat style."
        raise UserError("train(reference=...)", got, "the same ids for the tokens that both have", cure)
    return tuple(sorted(number for token, number in mine.items() if token not in others))
