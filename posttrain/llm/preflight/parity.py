"""Do the diagnosis and RL ask the same, draw alike, and score alike?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.llm.data import Row
from posttrain.llm.preflight.finding import Finding, clip
from posttrain.llm.preflight.rehearsal import Rehearsal, table_columns
from posttrain.llm.prompts import prompt_ids
from posttrain.llm.reward import Judge
from posttrain.tuning.callbacks import Recorder
from posttrain.tuning.model import trim_after_end
from posttrain.tuning.seen import tokenizer_of

if TYPE_CHECKING:
    from posttrain.tuning.seen import Processing

NEUTRAL: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "min_length": 0,
    "num_beams": 1,
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "bad_words_ids": (),
    "exponential_decay_length_penalty": (),
    "forced_eos_token_id": (),
    "guidance_scale": 1.0,
}
"""Generation settings that change what is drawn, with the value that changes nothing."""


def prompts_check(rows: Sequence[Row], seen: Rehearsal, processing: Processing) -> Finding:
    """TRL must prompt with the tokens that the diagnosis prompts with."""
    tokenizer = tokenizer_of(processing)
    mine = {r.unit: tuple(prompt_ids(processing, r.prompt, r.images)) for r in rows}
    asked = [
        (mine[one.unit], ids) for one, ids in zip(seen.rollouts, seen.prompts, strict=True)
    ]  # in the order in which TRL asked
    other = [pair for pair in asked if pair[0] != pair[1]]
    value = {"rows": len(rows), "other": len(other)}
    if asked and not other:
        text = f"TRL prompts with the diagnosis' own tokens in {len(asked)} of {len(rows)} rows"
        return Finding(check="parity.prompts", severity="ok", text=text, value=value)
    shown = [clip(str(tokenizer.decode(list(ids)))) for pair in other[:1] for ids in pair]
    return Finding(
        check="parity.prompts",
        severity="stop",
        text=f"TRL prompts with other tokens than the diagnosis in {len(other)} of {len(rows)} "
        f"rows: {' became '.join(shown)}",
        change="leave rl.trainer.chat_template_kwargs out, and write what they change into the "
        "model's chat template: SFT and the diagnosis do not pass them",
        value=value,
    )


def sampler_check(seen: Rehearsal, diagnosis: Mapping[str, Any], *, ends: Sequence[int]) -> Finding:
    """The sampler that measured pi_0 must be the one from which RL starts.

    Args:
        seen: with TRL's generation settings, and the model's own, which fill what is left open.
        diagnosis: the settings of the diagnosis' sampler, by `diagnosis_sampler`.
        ends: tokens at which the diagnosis' rollouts end.
    """
    differ = {}
    for name, neutral in NEUTRAL.items():
        theirs = _effective(name, seen.sampler, seen.defaults)
        # Our own loop knows nothing of the model's generation_config.
        left = {} if diagnosis["own_loop"] else seen.defaults
        ours = _effective(name, diagnosis, left)
        if ours != theirs:
            differ[name] = {"diagnosis": ours, "rl": theirs, "neutral": neutral}
    stops = seen.sampler.get("eos_token_id")
    theirs = sorted(stops if isinstance(stops, list) else [stops])
    if theirs != sorted(ends):
        differ["eos_token_id"] = {"diagnosis": sorted(ends), "rl": theirs, "neutral": None}
    value = {"differ": differ}
    if not differ:
        text = "the diagnosis and RL sample with the same settings and end at the same tokens"
        return Finding(check="parity.sampler", severity="ok", text=text, value=value)
    shown = "; ".join(
        f"{name} is {d['diagnosis']} in the diagnosis and {d['rl']} in RL"
        for name, d in differ.items()
    )
    return Finding(
        check="parity.sampler",
        severity="warn",
        text=f"J(pi_0) would be measured with another sampler than RL's: {shown}",
        change="leave "
        + ", ".join(f"rl.trainer.{n}" for n in differ if n != "eos_token_id")
        + " and rl.trainer.generation_kwargs out, or take them out of the model's "
        "generation_config.json",
        value=value,
    )


def _effective(name: str, given: Mapping[str, Any], otherwise: Mapping[str, Any]) -> Any:
    value = given.get(name)
    if value is None:
        value = otherwise.get(name)
    neutral = NEUTRAL[name]
    if value is None or value in (neutral, -1) or (not value and not neutral):
        return neutral
    return value


def reward_check(
    rows: Sequence[Row],
    seen: Rehearsal,
    judge: Judge,
    processing: Processing,
    *,
    ends: Sequence[int],
) -> Finding:
    """One text, one return: by the diagnosis' path and by TRL's.

    Rollouts are compared as the diagnosis decodes them; demonstrations and padded texts as they
    come back from the table that TRL reads.
    """
    from posttrain.llm.rl import reward_function

    tokenizer, by_unit = tokenizer_of(processing), {row.unit: row for row in rows}
    wrong: list[tuple[str, Any, Any]] = []
    for one in seen.rollouts:
        kept = trim_after_end(one.ids, ends)[0]
        text = str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
        columns = {**by_unit[one.unit].reward_columns(), "completion_ids": list(kept)}
        mine = judge([columns], [text])[0].value
        if mine != one.value:
            wrong.append((one.text, mine, one.value))
    table = table_columns(rows)
    texts = [f" {row.completion}\n" for row in rows]
    theirs = reward_function(judge, Recorder())(
        prompts=[row.pop("prompt") for row in table],
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        **{name: [row[name] for row in table] for name in table[0]},
    )
    mine_all = judge([row.reward_columns() for row in rows], [row.completion for row in rows])
    wrong += [
        (row.completion, mine.value, his)
        for row, mine, his in zip(rows, mine_all, theirs, strict=True)
        if mine.value != his
    ]
    count = len(seen.rollouts) + len(rows)
    value = {"texts": count, "other": len(wrong)}
    if not wrong:
        text = f"{count} texts have the same return in the diagnosis and through TRL"
        return Finding(check="parity.reward", severity="ok", text=text, value=value)
    text, ours, his = wrong[0]
    return Finding(
        check="parity.reward",
        severity="stop",
        text=f"{len(wrong)} of {count} texts have another return through TRL than in the "
        f"diagnosis, such as {clip(text)}: {ours} and {his}",
        change="make the reward depend on the answer's text and the row's columns alone; columns "
        "that some rows lack, or whose types differ, are changed by the table that TRL reads",
        value=value,
    )
