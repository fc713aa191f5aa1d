"""The checks that need a tokenizer or a model, in the order of a run's stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.llm import measure, prompts
from posttrain.llm.data import Row
from posttrain.llm.preflight import (
    labels,
    length,
    parity,
    reference,
    rehearsal,
    signal,
    template,
    verifier,
)
from posttrain.llm.preflight.case import Case, guarded, not_rehearsed
from posttrain.llm.preflight.finding import Finding
from posttrain.llm.preflight.subject import Start, returns_by_unit, rollouts_of
from posttrain.llm.reward import Judge
from posttrain.llm.sampling import judge_completions, transformers_generator
from posttrain.llm.score import score_demonstrations
from posttrain.tuning import model
from posttrain.tuning.seen import tokenizer_of

READ, MEASURED, REHEARSED = 64, 2_000, 8
"""Rows read as tokens one by one, rows whose length is taken, rows given to the models."""
DRAWN, REPLAYED = 64, 200
"""Prompts whose rollouts are drawn, and demonstrations that are replayed in an environment."""


def weight_checks(case: Case, start: Start, judge: Judge | None) -> Iterable[Finding]:
    """Look at the model that RL would start from.

    Args:
        case: the recipe and its rows.
        start: the model.
        judge: the reward; None where it cannot be made, and then nothing is rolled out.
    """
    some = [*case.train[:READ], *case.heldout[: READ // 4]]
    few = [*case.heldout[: REHEARSED // 2], *case.train[: REHEARSED // 2]]
    yield _who(start)
    yield from _texts(case, start, some)
    fix = "correct sft.trainer, data or the model's chat template as it says"
    yield from guarded("sft", lambda: _labels(case, start, some), fix)
    if judge is None:
        return
    yield from guarded("length", lambda: _lengths(case, start, judge), "correct data as it says")
    if case.factory is not None:
        yield not_rehearsed("the policy acts in an environment, so a rollout is a whole episode")
        return
    yield from guarded("signal", lambda: _signal(case, start, judge), "correct rollout as it says")
    rl = case.recipe.rl
    if rl is None or rl.algorithm not in rehearsal.TRAINERS:
        what = "there is no RL" if rl is None else f"rl.algorithm is {rl.algorithm}"
        yield not_rehearsed(f"{what}, so no trainer with rollouts is rehearsed")
        return
    fix = "correct rl.trainer or model as it says: RL would end there"
    yield from guarded("rehearsal", lambda: _rehearsed(case, start, few, judge), fix)


def _who(start: Start) -> Finding:
    if start.made:
        return Finding(check="model", severity="ok", text=f"pi_0 is {start.path}")
    return Finding(
        check="model",
        severity="unknown",
        text="SFT has not made pi_0 yet: the model before SFT stands for it in what follows",
        change="`posttrain run RECIPE --stop-after sample`, then preflight again, looks at pi_0",
    )


def _texts(case: Case, start: Start, rows: Sequence[Row]) -> Iterable[Finding]:
    recipe, base = case.recipe, None
    if recipe.sft is not None and start.made and not recipe.model.path.startswith("tiny"):
        base = prompts.load_tokenizer(recipe.model, texts=())
    return template.template_checks(
        rows,
        start.processing,
        ends=model.end_ids(start.model, start.processing),
        embeddings=int(start.model.get_input_embeddings().weight.shape[0]),
        base=base,
    )


def _labels(case: Case, start: Start, rows: Sequence[Row]) -> Iterable[Finding]:
    settings, processing = case.recipe.sft, start.processing
    if settings is None:
        return
    tokenizer = tokenizer_of(processing)
    folder = case.scratch / "labels"
    yield from labels.label_checks(
        rows,
        labels.taught(rows, start.model, processing, settings.trainer, folder),
        processing,
        ends=model.end_ids(start.model, processing),
        pad_is_end=tokenizer.pad_token_id == tokenizer.eos_token_id,
    )
    pairs = [prompts.demonstration_ids(processing, row) for row in case.train[:MEASURED]]
    yield labels.length_check(
        [len(prompt) + len(completion) for prompt, completion in pairs],
        limit=settings.trainer.get("max_length", None if rows[0].images else 1024),
        packing=bool(settings.trainer.get("packing")),
    )


def _lengths(case: Case, start: Start, judge: Judge) -> Iterable[Finding]:
    limit = case.recipe.rollout.max_new_tokens
    rows = [*case.train[:MEASURED], *case.heldout[:MEASURED]]
    if case.factory is not None:
        rows = rows[:REPLAYED]  # an episode each
    scored = score_demonstrations(
        rows, judge, start.processing, limit=limit, split="seen", factory=case.factory
    )
    if case.factory is not None:
        yield verifier.replayed_check(scored, scale=case.recipe.diagnose.scale)
    yield length.demonstrations_check(scored, limit=limit)
    window = getattr(start.model.config.get_text_config(), "max_position_embeddings", None)
    yield length.context_check(rows, start.processing, limit=limit, window=window)


def _signal(case: Case, start: Start, judge: Judge) -> Iterable[Finding]:
    recipe, wanted = case.recipe, case.options.rollouts
    drawn = rollouts_of(case.record)
    if not drawn and wanted and start.made:
        drawn = _draw(case, start, judge, wanted)
    yield length.rollouts_check(drawn, limit=recipe.rollout.max_new_tokens)
    if recipe.rl is not None and recipe.rl.algorithm in rehearsal.TRAINERS:
        yield signal.signal_check(
            returns_by_unit(drawn, recipe.diagnose.scale[0]),
            group=case.group,
            prompts=case.prompts,
            scale=recipe.diagnose.scale,
            alpha=recipe.diagnose.alpha,
        )


def _draw(case: Case, start: Start, judge: Judge, samples: int) -> list[dict[str, Any]]:
    rows = measure.one_a_unit(case.heldout)[:DRAWN]
    generate = transformers_generator(start.model, start.processing)
    answers = generate(rows, case.recipe.rollout, samples=samples, seed=case.recipe.seed)
    return judge_completions(judge, rows, answers, split="heldout", decoding="rollout")


def _rehearsed(case: Case, start: Start, few: Sequence[Row], judge: Judge) -> Iterable[Finding]:
    recipe, rl = case.recipe, case.recipe.rl
    half = recipe.model.dtype == "bfloat16" or (rl is not None and rl.trainer.get("bf16") is True)
    yield reference.precision_check(few, start.model, start.processing, used=half)
    ends = model.end_ids(start.model, start.processing)
    sampler = rehearsal.diagnosis_sampler(start, few[0], recipe.rollout)
    seen = rehearsal.rehearse(recipe, start, few, judge, folder=case.scratch / "rehearsal")
    anchored = case.plan is None or case.plan.anchor is not None
    lora = recipe.model.lora is not None
    yield from reference.reference_checks(seen, start, anchored=anchored, lora=lora)
    yield parity.prompts_check(few, seen, start.processing)
    yield parity.sampler_check(seen, sampler, ends=ends)
    yield parity.reward_check(few, seen, judge, start.processing, ends=ends)
