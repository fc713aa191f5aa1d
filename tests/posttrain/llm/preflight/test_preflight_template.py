from dataclasses import replace

import pytest

from posttrain.llm import prompts
from posttrain.llm.preflight.labels import Taught, label_checks, length_check, taught
from posttrain.llm.preflight.length import context_check, demonstrations_check, rollouts_check
from posttrain.llm.preflight.template import system_check, template_checks
from posttrain.tuning import model

SYSTEM = {"role": "system", "content": "Answer with a number ."}


@pytest.fixture
def loaded(tiny):
    return model.load(tiny)


def template(rows, policy, tokenizer, **given):
    named = {
        "ends": model.end_ids(policy, tokenizer),
        "embeddings": policy.get_input_embeddings().weight.shape[0],
        **given,
    }
    return {f.check: f for f in template_checks(rows, tokenizer, **named)}


def test_the_tiny_template_passes_every_check(loaded, sums):
    found = template(sums[0][:20], *loaded, base=loaded[1])
    assert {f.severity for f in found.values()} == {"ok"}
    assert set(found) == {
        "template.prefix", "template.end", "template.bos", "template.vocabulary", "template.same",
        "template.system",
    }  # fmt: skip


def test_a_template_that_changes_the_prompt_stops(loaded, sums):
    policy, tokenizer = loaded
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|assistant|>' }}{% endif %}", "<|assistant|><|system|>' }}{% endif %}"
    )
    found = template(sums[0][:4], policy, tokenizer)
    assert found["template.prefix"].severity == "stop"
    assert "not a prefix" in found["template.prefix"].text


def test_a_template_without_the_end_token_stops(loaded, sums):
    policy, tokenizer = loaded
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|end|>'", "''")
    found = template(sums[0][:4], policy, tokenizer)
    assert found["template.end"].severity == "stop"
    assert found["template.end"].value["without"] == 4


def test_an_end_token_that_generation_does_not_know_stops(loaded, sums):
    """SFT ends with another token than the one in the generation config."""
    policy, tokenizer = loaded
    found = template(sums[0][:4], policy, tokenizer, ends=[tokenizer.pad_token_id])
    assert found["template.end"].severity == "stop"
    assert "<|end|>" in found["template.end"].text


def test_two_beginnings_stop_and_one_does_not(loaded, sums):
    policy, tokenizer = loaded
    tokenizer.bos_token = "<|system|>"
    once = tokenizer.chat_template
    tokenizer.chat_template = "<|system|>" + once
    assert template(sums[0][:4], policy, tokenizer)["template.bos"].severity == "ok"
    tokenizer.chat_template = "<|system|><|system|>" + once
    found = template(sums[0][:4], policy, tokenizer)["template.bos"]
    assert (found.severity, found.value["doubled"]) == ("stop", 4)


def test_a_token_without_an_embedding_stops(loaded, sums):
    found = template(sums[0][:4], *loaded, embeddings=len(loaded[1]) - 1)
    assert found["template.vocabulary"].severity == "stop"


def test_signs_that_the_tokenizer_does_not_know_are_counted(loaded, sums):
    rows = [replace(row, completion="βγδ") for row in sums[0][:4]]
    found = template(rows, *loaded)["template.vocabulary"]
    assert found.severity == "warn"
    assert "unknown" in found.text


def test_another_template_than_the_bases_is_named(loaded, sums, tiny):
    other = model.load(tiny)[1]
    other.chat_template += " "
    found = template(sums[0][:4], *loaded, base=other)["template.same"]
    assert (found.severity, found.value["differ"]) == ("warn", ["chat template"])


def test_a_system_message_in_some_rows_warns(sums):
    rows = sums[0][:4]
    asked = [replace(row, prompt=(SYSTEM, *row.prompt)) for row in rows]
    assert system_check(rows).severity == "ok"
    assert system_check(asked).severity == "ok"
    assert system_check([*rows[:2], *asked[2:]]).severity == "warn"


def learnt(loaded, rows, folder, pad_is_end=False, **trainer):
    policy, tokenizer = loaded
    seen = taught(rows, policy, tokenizer, trainer, folder)
    ends = model.end_ids(policy, tokenizer)
    found = label_checks(rows, seen, tokenizer, ends=ends, pad_is_end=pad_is_end)
    return seen, {f.check: f for f in found}


def test_trls_own_labels_hold_the_answer_and_its_end(loaded, sums, tmp_path):
    rows = sums[0][:4]
    seen, found = learnt(loaded, rows, tmp_path)
    assert {f.severity for f in found.values()} == {"ok"}
    for row, one in zip(rows, seen, strict=True):
        assert list(one.learnt) == prompts.demonstration_ids(loaded[1], row)[1]


def test_padding_with_the_end_token_leaves_the_end_in_trls_loss(loaded, sums, tmp_path):
    loaded[1].pad_token = loaded[1].eos_token
    rows = [sums[0][0], replace(sums[0][1], completion="1 2 3 4 5 6 7 8 9")]  # one is padded
    _, found = learnt(loaded, rows, tmp_path, pad_is_end=True)
    assert found["sft.end"].severity == "ok"
    assert "some collators would mask" in found["sft.end"].text


def test_a_limit_that_cuts_the_end_stops(loaded, sums, tmp_path):
    rows = sums[0][:4]
    length = len(prompts.prompt_ids(loaded[1], rows[0].prompt))
    seen, found = learnt(loaded, rows, tmp_path, max_length=length + 1)
    assert found["sft.end"].severity == "stop"
    assert found["sft.answer"].severity == "warn"
    assert "max_length" in found["sft.end"].change
    assert seen[0] is not None


def test_an_end_that_is_seen_but_carries_no_loss_is_not_learnt(loaded, sums):
    """What a collator does that masks every padding token where padding is the end."""
    rows, tokenizer = sums[0][:2], loaded[1]
    end = tokenizer.eos_token_id
    seen = []
    for row in rows:
        prompt, said = prompts.demonstration_ids(tokenizer, row)
        seen.append(Taught(ids=(*prompt, *said), learnt=tuple(t for t in said if t != end)))
    found = label_checks(rows, seen, tokenizer, ends=[end], pad_is_end=True)
    assert [f.severity for f in found] == ["stop", "warn"]
    assert found[0].value["without_end"] == 2


def test_rows_that_trl_drops_are_counted_as_without_end(loaded, sums, tmp_path):
    rows = [sums[0][0], replace(sums[0][1], prompt=({"role": "user", "content": "1 " * 30},))]
    seen, found = learnt(loaded, rows, tmp_path, max_length=20)
    assert seen[1] is None
    assert found["sft.end"].value["without_end"] == 1


def test_a_loss_on_the_prompt_is_said(loaded, sums, tmp_path):
    _, found = learnt(loaded, sums[0][:4], tmp_path, completion_only_loss=False)
    assert found["sft.answer"].severity == "warn"
    assert found["sft.answer"].value["with_prompt"] == 4


def test_sfts_own_limit_is_compared_with_the_rows():
    assert length_check([10, 20], limit=1024).severity == "ok"
    assert length_check([10, 20], limit=None).severity == "ok"
    assert length_check([10] * 9 + [20], limit=15).severity == "warn"
    found = length_check([10, 20, 20], limit=15)
    assert found.severity == "stop"
    assert "max_length=20" in found.change


def records(*lengths):
    return [{"steps": n} for n in lengths]


def test_demonstrations_longer_than_rls_limit():
    assert demonstrations_check(records(*range(1, 9)), limit=8).severity == "ok"
    found = demonstrations_check(records(*[4] * 9, 9), limit=8)
    assert (found.severity, found.value["cut"]) == ("warn", 0.1)
    assert "rollout.max_new_tokens=9" in found.change
    assert demonstrations_check(records(9, 9, 1), limit=8).severity == "stop"


def test_rollouts_that_reach_the_limit():
    def told(cut, whole):
        flags = [{"truncated": True}] * cut + [{"truncated": False}] * whole
        return rollouts_check(flags, limit=8).severity

    assert [told(1, 19), told(3, 17), told(11, 9), told(0, 0)] == ["ok", "warn", "stop", "unknown"]


def test_prompt_and_answer_must_fit_the_models_window(loaded, sums):
    rows, tokenizer = sums[0][:4], loaded[1]
    longest = max(len(prompts.prompt_ids(tokenizer, row.prompt)) for row in rows)

    def told(window):
        return context_check(rows, tokenizer, limit=5, window=window).severity

    assert [told(longest + 5), told(longest + 4), told(None)] == ["ok", "stop", "unknown"]
