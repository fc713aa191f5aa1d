"""The replay loss: exact however a step is cut, and gone where nothing is kept."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from posttrain.intervention.plan import Plan, Replay
from posttrain.intervention.ramp import Ramp
from posttrain.llm import prompts
from posttrain.llm.kept import kept_of
from posttrain.tuning import model
from posttrain.tuning.gate import Gate, Map
from posttrain.tuning.keep import Batch

SGD = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.5, "lr_scheduler_type": "constant"}
FIXED = {"value": lambda *_: 1.0}  # every advantage is 0: what moves is the replay


def loss_of(tiny, rows, *, batch=8, **replay):
    _, tokenizer = model.load(tiny)
    return kept_of(Replay(**{"weight": 1.0, **replay}), rows, tokenizer, batch=batch, seed=5).replay


def at(step, *, micro=0, micros=1, accumulation=1, rank=0, world=1):
    return Batch(
        step=step, micro=micro, micros=micros, accumulation=accumulation, rank=rank, world=world
    )


def step_of(online, plan, **given):
    """The gradient of one optimizer step."""
    trainer = online.trainer(plan, steps=1, **{**SGD, **given})
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    logged = next(row for row in trainer.state.log_history if "reward" in row)
    return {name: (before[name] - after[name].detach()) / 0.5 for name in before}, logged


def close(one, two, *, rtol=1e-4):
    top = max(float(value.abs().max()) for value in one.values())
    assert top > 1e-3
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=rtol, atol=top * 1e-5, msg=name)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_one_batch_of_eight_and_eight_of_one_have_one_gradient(online, algorithm):
    """RL's part too: eight groups of two rollouts, cut as one micro-batch or as eight."""
    plan = Replay(weight=0.7, share=0.5, token_weight="luffy")(Plan())
    extra = {"loss_type": "dr_grpo"} if algorithm == "grpo" else {}
    given = {
        "algorithm": algorithm,
        "num_generations": 2,
        "value": lambda _, text: len(text) % 4 / 3,
        **extra,
    }
    one, said = step_of(online, plan, per_device_train_batch_size=16, **given)
    eight, told = step_of(
        online, plan, per_device_train_batch_size=2, gradient_accumulation_steps=8, **given
    )
    close(one, eight)
    assert said["replay/nll"] == pytest.approx(told["replay/nll"], rel=1e-5)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_replay_gradient_is_the_mean_over_tokens_written_by_hand(online, sums, algorithm):
    rows = sums[0][:8]
    gradient, logged = step_of(
        online, Replay(weight=0.7)(Plan()), algorithm=algorithm, rows=rows, **FIXED,
        gradient_accumulation_steps=2, per_device_train_batch_size=8,
    )  # fmt: skip
    start, tokenizer = model.load(online.pi0)
    logps, tokens = [], 0
    for row in rows:  # 8 rows a step, 8 demonstrations: each comes once
        prompt, said = prompts.demonstration_ids(tokenizer, row)
        ids = torch.tensor([[*prompt, *said]])
        found = torch.log_softmax(start(input_ids=ids).logits[0, :-1], -1)
        logps.append(found.gather(-1, ids[0, 1:, None])[-len(said) :].sum())
        tokens += len(said)
    nll = -sum(logps) / tokens
    (0.7 * nll).backward()
    close(gradient, {name: p.grad for name, p in start.named_parameters()})
    assert logged["replay/nll"] == pytest.approx(float(nll.detach()), rel=1e-5)
    assert logged["regime/replay_rows"] == 8


def test_trls_fused_head_and_the_plain_forward_agree_at_temperature_1(online, sums):
    trainer = online.trainer(Replay(weight=1.0)(Plan()), rows=sums[0][:8])
    pairs = trainer.replay.pairs
    found = {}
    for temperature in (1.0, 0.5):  # only what the method believes: the head was made at 1
        trainer.temperature = temperature
        trainer.model.zero_grad()
        batch = model.batch_of(pairs, trainer.replay.pad, trainer.accelerator.device)
        logp, mask = trainer._label_logp(trainer.model, batch)
        (logp * mask).sum().backward()
        found[temperature] = (
            (logp * mask).detach(),
            {n: p.grad.clone() for n, p in trainer.model.named_parameters()},
        )
    torch.testing.assert_close(found[1.0][0], found[0.5][0], rtol=1e-5, atol=1e-6)
    close(found[1.0][1], found[0.5][1])


def test_the_loss_on_data_does_not_know_the_rollouts_temperature(online, sums):
    """The fused head of a trainer at another temperature would divide the logits by it."""
    rows = sums[0][:8]
    plan = Replay(weight=1.0)(Plan())
    one, _ = step_of(online, plan, rows=rows, **FIXED)
    two, _ = step_of(online, plan, rows=rows, temperature=0.3, **FIXED)
    close(one, two)


def test_rows_of_a_step_do_not_depend_on_how_it_is_cut(tiny, sums):
    replay = loss_of(tiny, sums[0][:20])
    kept = replay.kept(None)
    for step in range(5):
        whole = replay.rows_at(kept, at(step)).tolist()
        for world, parts in ((1, 8), (2, 4), (4, 2), (8, 1), (2, 2)):
            cut = [
                row
                for micro in range(parts)
                for rank in range(world)
                for row in replay.rows_at(
                    kept,
                    at(step, micro=micro, micros=parts, accumulation=parts, rank=rank, world=world),
                )
            ]
            assert cut == whole
            tokens = replay.tokens_at(kept, at(step, micros=parts, accumulation=parts, world=world))
            assert tokens == sum(len(replay.pairs[i][1]) for i in whole)


def test_a_step_that_an_epoch_cuts_short_counts_only_what_it_replays(tiny, sums):
    replay = loss_of(tiny, sums[0][:20])
    kept = replay.kept(None)
    rows = [
        row
        for micro in range(3)
        for row in replay.rows_at(kept, at(2, micro=micro, micros=3, accumulation=4))
    ]
    assert len(rows) == 6
    wanted = sum(len(replay.pairs[i][1]) for i in rows)
    assert replay.tokens_at(kept, at(2, micros=3, accumulation=4)) == wanted


def test_only_rows_that_the_gate_keeps_are_drawn_each_once_an_epoch(tiny, sums):
    rows = sums[0][:20]
    replay = loss_of(tiny, rows, gate="map")
    actions = {r.unit: "demonstration" if i % 5 == 0 else "rl" for i, r in enumerate(rows)}
    kept = replay.kept(Gate(Map(actions=actions, success=1.0), live=False))
    assert kept.tolist() == [0, 5, 10, 15]
    drawn = replay.rows_at(kept, at(0)).tolist()
    assert sorted(drawn) == sorted([0, 5, 10, 15] * 2)


def test_a_schedule_warms_up_peaks_and_decays(online):
    plan = Replay(weight=Ramp(1.0, 0.2, steps=2, shape="cosine", rise=2))(Plan())
    trainer = online.trainer(plan, steps=6)
    trainer.train()
    logged = [r["regime/replay_weight"] for r in trainer.state.log_history if "reward" in r]
    assert logged == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2, 0.2])
    # A weight of 0 costs nothing, and says nothing.
    measured = ["replay/nll" in r for r in trainer.state.log_history if "reward" in r]
    assert measured == [False, True, True, True, True, True]


def test_what_a_tool_answered_is_not_counted(tiny, sums):
    from posttrain.tuning.turns import Turns

    replay = loss_of(tiny, sums[0][:4])
    said = Turns((5, 6, 7, 8), (True, False, False, True))
    assert replay.lengths.tolist() == [len(c) for _, c in replay.pairs]
    labels = model.batch_of([((1, 2), said)], 0, torch.device("cpu"))["labels"]
    assert labels.tolist() == [[-100, -100, 5, -100, -100, 8]]


WORKER = """
    import os, sys, json, warnings
    warnings.filterwarnings("ignore")
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    import torch
    from conftest import Online, SUMS
    from posttrain.intervention.plan import Plan, Replay
    from posttrain.llm.data import load_rows
    from posttrain.llm.settings import DataSettings

    data = load_rows(DataSettings(path="reasoning_gym:basic_arithmetic", options=SUMS, size=300,
                                  heldout=60))
    out, world = Path(sys.argv[3]), int(os.environ.get("WORLD_SIZE", 1))
    rows = data[0][:8]
    online = Online(Path(sys.argv[2]), data, out / str(world))
    trainer = online.trainer(
        Replay(weight=0.7, share=0.25, prefix_share=0.25, token_weight="dft", gate="live")(Plan()),
        rows=rows, value=lambda *_: 0.0, dataset_returns={r.unit: [1.0] for r in rows}, steps=2,
        optim="sgd", max_grad_norm=0.0, learning_rate=0.5, num_generations=4,
        per_device_train_batch_size=16 // world, gradient_accumulation_steps=2,
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    logged = [r for r in trainer.state.log_history if "reward" in r]
    torch.save(
        {
            "weights": {n: p.detach().clone() for n, p in trainer.model.named_parameters()},
            "logged": logged,
            "actions": trainer.gate.actions,
        },
        out / f"{world}-{rank}.pt",
    )
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(tiny, tmp_path):
    """Real processes: two, each with half of every micro-batch, against one."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    arguments = [sys.executable, str(script), str(Path(__file__).parent), str(tiny), str(tmp_path)]
    clean = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

    def start(**extra):
        return subprocess.Popen(
            arguments, env={**clean, **extra}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    port = str(20_000 + os.getpid() % 20_000)
    together = [
        start(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
              MASTER_PORT=port)
        for rank in range(2)
    ]  # fmt: skip
    for process in (*together, start()):
        told, _ = process.communicate(timeout=300)
        assert process.returncode == 0, told.decode()[-3000:]
    one = torch.load(tmp_path / "1-0.pt")
    two = [torch.load(tmp_path / f"2-{rank}.pt") for rank in range(2)]
    assert two[0]["actions"] == two[1]["actions"] == one["actions"]
    start_weights = dict(model.load(tiny)[0].named_parameters())
    for name, value in one["weights"].items():
        moved = float((value - start_weights[name].detach()).abs().max())
        for other in two:
            gap = float((value - other["weights"][name]).abs().max())
            assert gap <= 1e-4 * moved + 1e-7, name
    keys = ("replay/nll", "regime/replay_share", "regime/prefix_share", "regime/gate_rl")
    for key in keys:
        assert [r[key] for r in two[0]["logged"]] == pytest.approx([r[key] for r in one["logged"]])
