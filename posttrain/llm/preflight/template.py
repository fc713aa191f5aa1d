"""Do SFT and RL see the same text, and does SFT teach the end that RL waits for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding, clip
from posttrain.llm.prompts import demonstration_ids
from posttrain.tuning.model import ModelError
from posttrain.tuning.seen import tokenizer_of

if TYPE_CHECKING:
    from posttrain.tuning.seen import Processing


def template_checks(
    rows: Sequence[Row],
    processing: Processing,
    *,
    ends: Sequence[int],
    embeddings: int,
    base: Processing | None = None,
) -> tuple[Finding, ...]:
    """What can be told from tokens alone.

    Args:
        rows: of D.
        processing: pi_0's tokenizer or processor, which RL will use.
        ends: tokens at which generation stops.
        embeddings: rows of the model's embedding.
        base: of the model before SFT, where pi_0 is there already.
    """
    try:
        pairs = [demonstration_ids(processing, row) for row in rows]
    except ModelError as error:
        broken = Finding(
            check="template.prefix",
            severity="stop",
            text=str(error),
            change="use a chat template that writes the same prompt with and without the answer "
            "(chat_template.jinja in model.path); templates that open a thought in the prompt and "
            "drop it later do not",
        )
        return (broken, *_same(processing, base), system_check(rows))
    prefix = Finding(
        check="template.prefix",
        severity="ok",
        text=f"the prompt is a prefix of the conversation in all of {len(rows)} rows",
    )
    return (
        prefix,
        _end(pairs, processing, ends),
        _bos([list(prompt) for prompt, _ in pairs], processing),
        _vocabulary(pairs, processing, embeddings),
        *_same(processing, base),
        system_check(rows),
    )


def _end(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    processing: Processing,
    ends: Sequence[int],
) -> Finding:
    """The last token of a demonstration must be one at which generation stops."""
    tokenizer = tokenizer_of(processing)
    last = [completion[-1] if completion else -1 for _, completion in pairs]
    wrong = [token for token in last if token not in ends]
    names = {int(i): str(tokenizer.convert_ids_to_tokens(int(i))) for i in ends}
    value = {"ends": names, "without": len(wrong), "rows": len(pairs)}
    if not wrong:
        text = f"all of {len(pairs)} demonstrations end with one of {sorted(names.values())}"
        return Finding(check="template.end", severity="ok", text=text, value=value)
    seen = clip(str(tokenizer.decode([wrong[0]]))) if wrong[0] >= 0 else "nothing"
    return Finding(
        check="template.end",
        severity="stop",
        text=f"{len(wrong)} of {len(pairs)} demonstrations do not end with a token at which "
        f"generation stops ({sorted(names.values())}) but with {seen}: after SFT every rollout "
        "runs to the length limit",
        change="let the chat template write the tokenizer's eos_token behind the assistant's "
        "turn, or name the token that it writes as eos_token in tokenizer_config.json and as "
        "eos_token_id in generation_config.json of model.path",
        value=value,
    )


def _bos(prompts: Sequence[list[int]], processing: Processing) -> Finding:
    """One beginning is enough: templates write it, and so do some tokenizers."""
    tokenizer = tokenizer_of(processing)
    bos = tokenizer.bos_token_id
    if bos is None:
        return Finding(check="template.bos", severity="ok", text="the tokenizer has no BOS token")
    doubled = sum(ids[:2] == [bos, bos] for ids in prompts)
    value = {"doubled": doubled, "rows": len(prompts), "bos": int(bos)}
    if doubled:
        return Finding(
            check="template.bos",
            severity="stop",
            text=f"{doubled} of {len(prompts)} prompts begin with two {tokenizer.bos_token!r}",
            change="take the BOS out of the chat template, or set add_bos_token: false in "
            "tokenizer_config.json of model.path",
            value=value,
        )
    again = tokenizer(tokenizer.decode(prompts[0]))["input_ids"]
    if list(again[:2]) == [bos, bos]:
        return Finding(
            check="template.bos",
            severity="warn",
            text="the chat template writes the BOS token, and the tokenizer adds another to text "
            "that has one: prompts sent as text (to a vLLM server, say) begin with two",
            change="send token ids, or set add_bos_token: false in tokenizer_config.json of "
            "model.path",
            value=value,
        )
    text = f"none of {len(prompts)} prompts begins with two BOS tokens"
    return Finding(check="template.bos", severity="ok", text=text, value=value)


def _vocabulary(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], processing: Processing, embeddings: int
) -> Finding:
    """Every token must have a row in the embedding, and D must consist of known tokens."""
    tokenizer = tokenizer_of(processing)
    largest = max(max([*prompt, *completion], default=0) for prompt, completion in pairs)
    special = [i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None]
    largest = max([largest, *special])
    unknown = tokenizer.unk_token_id
    lost = 0.0
    if unknown is not None:
        tokens = [t for prompt, completion in pairs for t in (*prompt, *completion)]
        lost = tokens.count(unknown) / len(tokens)
    value = {
        "tokens": len(tokenizer),
        "embeddings": embeddings,
        "largest": largest,
        "unknown": lost,
    }
    text = f"{len(tokenizer):,} tokens, {embeddings:,} rows in the embedding"
    check = "template.vocabulary"
    if largest >= embeddings or len(tokenizer) > embeddings:
        return Finding(
            check=check,
            severity="stop",
            text=f"{text}: token {max(largest, len(tokenizer) - 1)} has no row",
            change="use the tokenizer that belongs to model.path, or resize the model's embedding",
            value=value,
        )
    if lost > 0.01:
        return Finding(
            check=check,
            severity="warn",
            text=f"{text}; {lost:.1%} of D's tokens are unknown to the tokenizer "
            f"({tokenizer.unk_token!r}), so the model cannot read or write them",
            change="use a tokenizer that knows the signs in data.path",
            value=value,
        )
    return Finding(check=check, severity="ok", text=text, value=value)


def _same(processing: Processing, base: Processing | None) -> tuple[Finding, ...]:
    """The tokenizer that SFT wrote, against the one that it read."""
    if base is None:
        return ()
    mine, theirs = tokenizer_of(processing), tokenizer_of(base)
    pairs: Mapping[str, tuple[Any, Any]] = {
        "chat template": (processing.chat_template, base.chat_template),
        "end token": (mine.eos_token, theirs.eos_token),
        "number of tokens": (len(mine), len(theirs)),
    }
    other = [name for name, (a, b) in pairs.items() if a != b]
    check = "template.same"
    if not other:
        text = "pi_0's tokenizer and that of model.path agree"
        return (Finding(check=check, severity="ok", text=text),)
    shown = "; ".join(
        f"{name}: {clip(str(pairs[name][0]), 50)} and {clip(str(pairs[name][1]), 50)}"
        for name in other
    )
    return (
        Finding(
            check=check,
            severity="warn",
            text=f"pi_0's tokenizer and that of model.path differ in {shown}",
            change="keep one chat template: leave sft.trainer.chat_template_path out, or deploy "
            "with pi_0's tokenizer and not with the base model's",
            value={"differ": other},
        ),
    )


def system_check(rows: Sequence[Row]) -> Finding:
    """A system message in a part of the rows teaches two policies."""
    said = [next((m["content"] for m in r.prompt if m["role"] == "system"), None) for r in rows]
    having = sum(text is not None for text in said)
    value = {"with": having, "rows": len(rows), "different": len(set(said))}
    text = f"{having} of {len(rows)} prompts have a system message"
    if having in {0, len(rows)}:
        return Finding(check="template.system", severity="ok", text=text, value=value)
    return Finding(
        check="template.system",
        severity="warn",
        text=f"{text}, the others none",
        change="give every row the same with data.system (and data.heldout_path the same rows' "
        "form), or RL and deployment ask in another voice than SFT",
        value=value,
    )
