"""What a plan costs beside plain TRL: docs/llm_speed.md.

    OMP_NUM_THREADS=1 python benchmarks/llm_speed.py --write

Every arm is a trainer in a thread of its own that runs while all others wait, some steps at a
time. The learning rate is 0 and each arm has its own random numbers, so that all of them train on
the same rollouts and only the plan differs.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig
from side_by_side import clock, machine, publish, ratio, rounds, spread, table
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from posttrain.assets import resolve
from posttrain.intervention.plan import Anchor, Plan, Replay
from posttrain.llm import rl
from posttrain.llm.data import Row, load_rows
from posttrain.llm.kept import kept_of
from posttrain.llm.prompts import demonstration_ids
from posttrain.llm.settings import DataSettings, RlSettings
from posttrain.llm.trainer import PlanGRPOTrainer
from posttrain.tuning import callbacks, keep, tiny, training
from posttrain.tuning.model import batch_of, device, load, save, token_logps

SUMS = {
    "min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2, "operators": ["+"],
    "allow_parentheses": False, "allow_negation": False,
}  # fmt: skip
SIZES = {"tiny": (128, 2), "wide": (256, 4)}
DEFAULT = RlSettings()
LOGGED = 5
"""The steps between two logs, unless a recipe says otherwise; a turn has as many."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SIZES), help="tiny, wide, smollm2")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64, help="rollouts a step")
    parser.add_argument("--tokens", type=int, default=16, help="of a rollout")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    if device().type == "cpu":
        torch.set_num_threads(1)
    training.silence()
    train, heldout = load_rows(
        DataSettings(path="reasoning_gym:basic_arithmetic", options=SUMS, size=300, heldout=60)
    )
    times, bytes_ = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.models:
            folder = folder_of(name, [*train, *heldout], Path(scratch))
            job = Job(folder, train, heldout, asked, Path(scratch) / "out")
            times.append(time_line(name, job))
            bytes_ += memory_lines(name, job)
            print(times[-1], *bytes_[-4:], sep="\n", flush=True)
    publish("training", page(times, bytes_, asked), write=asked.write)


class Job:
    """What all arms of a model share."""

    def __init__(
        self,
        folder: Path,
        rows: tuple[Row, ...] | list[Row],
        heldout: tuple[Row, ...] | list[Row],
        asked: argparse.Namespace,
        out: Path,
    ) -> None:
        """Take the model's folder, the data and the command's arguments."""
        self.folder, self.rows, self.heldout = folder, rows, heldout
        self.asked, self.out = asked, out

    def trainer(self, cls: type, *, beta: float = 0.0, lora: bool = False, **more: Any) -> Any:
        """An arm's trainer, on a model of its own."""
        policy, tokenizer = load(self.folder)
        config = {
            "output_dir": str(self.out), "max_steps": 10_000, "learning_rate": 0.0, "beta": beta,
            "per_device_train_batch_size": self.asked.batch, "num_generations": 8,
            "max_completion_length": self.asked.tokens, "logging_steps": LOGGED,
            "save_strategy": "no", "seed": 1,
        }  # fmt: skip
        made = cls(
            model=policy,
            reward_funcs=lambda completions, **_: [
                float(len(c[0]["content"])) for c in completions
            ],
            args=training.trainer_config(GRPOConfig, "rl.trainer", {}, ours=config),
            train_dataset=rl.prompts_of(self.rows, stage="train"),
            processing_class=tokenizer,
            peft_config=LoraConfig(target_modules="all-linear") if lora else None,
            **more,
        )
        training.quiet(made)
        return made

    def probe(self) -> callbacks.ProbeBatch:
        """As many units as a run probes by default."""
        policy, tokenizer = load(self.folder)
        said = [(row, demonstration_ids(tokenizer, row)[1]) for row in self.heldout]
        given: Any = SimpleNamespace(pi0_rollouts=said, heldout=self.heldout)
        return rl.probe_of(policy, tokenizer, given, DEFAULT.probe_units)

    def kept(self) -> keep.Kept:
        """A replay of as many demonstrations as a run replays by default."""
        replay = Replay(weight=0.1)(Plan()).replay
        tokenizer = load(self.folder)[1]
        return kept_of(replay, self.rows, tokenizer, batch=DEFAULT.replay_rows, seed=0)


class Turns(TrainerCallback):
    """Runs a trainer some steps at a time, in a thread, with random numbers of its own."""

    def __init__(self, trainer: Any, steps: int) -> None:
        """Hold `trainer` before its first step."""
        self.trainer, self.steps, self.stop = trainer, steps, False
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.failed: BaseException | None = None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.state = random_state()
        trainer.add_callback(self)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.go.acquire()
        try:
            self.trainer.train()
        except BaseException as error:  # told to whoever waits for the turn
            self.failed = error
        self.done.release()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hand over when the turn's steps are taken."""
        del args
        if state.global_step % self.steps == 0:
            self.done.release()
            self.go.acquire()
            control.should_training_stop = self.stop

    def __call__(self) -> float:
        """One turn; returns seconds a step."""
        kept = random_state()
        set_random_state(self.state)
        start = clock()
        self.go.release()
        self.done.acquire()
        seconds = clock() - start
        self.state = random_state()
        set_random_state(kept)
        if self.failed is not None:
            raise self.failed
        return seconds / self.steps

    def end(self) -> None:
        """Let the trainer come to its end."""
        self.stop = True
        self.go.release()
        self.thread.join()


def random_state() -> list[torch.Tensor]:
    """Of the CPU, and of the GPU where there is one."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.random.get_rng_state(), *gpu]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Put back what `random_state` took."""
    torch.random.set_rng_state(state[0])
    for gpu in state[1:]:
        torch.cuda.set_rng_state(gpu)


def time_line(name: str, job: Job) -> tuple[str, ...]:
    """A line of the table of times."""
    probed = job.trainer(PlanGRPOTrainer)
    probed.add_callback(callbacks.Probe(probed, job.probe()))
    turns = {
        "trl": Turns(job.trainer(GRPOTrainer), LOGGED),
        "empty": Turns(job.trainer(PlanGRPOTrainer), LOGGED),
        "probe": Turns(probed, LOGGED),
        "replay": Turns(job.trainer(PlanGRPOTrainer, kept=job.kept()), LOGGED),
    }
    arms: Mapping[str, Callable[[], float]] = {**turns, "floor": floor(job)}
    found = rounds(arms, count=job.asked.rounds)
    for turn in turns.values():
        turn.end()
    bare = [a + b for a, b in zip(found["empty"], found["floor"], strict=True)]
    extra = [a - b for a, b in zip(found["replay"], found["empty"], strict=True)]
    return (
        name,
        f"{1000 * spread(found['trl']).median:.0f}",
        f"{ratio(found['empty'], found['trl']):.3f}",
        f"{ratio(found['probe'], found['empty']):.3f}",
        f"{1000 * spread(found['floor']).median:.0f}",
        f"{ratio(found['replay'], bare):.3f}",
        f"{ratio(extra, found['floor']):.2f}",
    )


def floor(job: Job) -> Callable[[], float]:
    """Forward and backward of the replay's batches and nothing else, in seconds a step."""
    policy, _ = load(job.folder)
    policy = policy.to(device()).train()
    replay = job.kept().replay
    if replay is None:
        raise ValueError("no replay")
    rows = [replay.pairs[i : i + replay.rows] for i in range(0, LOGGED * replay.rows, replay.rows)]
    batches = [batch_of(part, replay.pad, device()) for part in rows]

    def run() -> float:
        start = clock()
        for batch in batches:
            logps, mask = token_logps(policy, batch)
            (-logps.sum() / mask.sum()).backward()
        seconds = clock() - start
        policy.zero_grad()
        return seconds / LOGGED

    return run


def memory_lines(name: str, job: Job) -> list[tuple[str, ...]]:
    """Lines of the table of bytes: parameters that a trainer holds, after two steps."""
    anchor = Anchor(coefficient=0.1)(Plan()).anchor
    arms = {
        "all weights": partial(job.trainer, PlanGRPOTrainer),
        "all weights, anchored": partial(job.trainer, PlanGRPOTrainer, beta=0.1, anchor=anchor),
        "adapter": partial(job.trainer, PlanGRPOTrainer, lora=True),
        "adapter, anchored": partial(
            job.trainer, PlanGRPOTrainer, lora=True, beta=0.1, anchor=anchor
        ),
    }
    own = sum(p.nbytes for p in load(job.folder)[0].parameters())
    lines = []
    for arm, make in arms.items():
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer = make()
        trainer.args.max_steps = 2
        trainer.train()
        models = [trainer.model, *([trainer.ref_model] if trainer.ref_model is not None else [])]
        held = {p.data_ptr(): p.nbytes for model in models for p in model.parameters()}
        peak = (
            f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if torch.cuda.is_available() else "-"
        )
        lines.append(
            (
                name,
                arm,
                f"{sum(held.values()) / 2**20:.2f}",
                f"{sum(held.values()) / own:.2f}",
                peak,
            )
        )
    return lines


def folder_of(name: str, rows: list[Row], scratch: Path) -> Path:
    """The model's folder; small ones are made."""
    if name == "smollm2":
        return Path(resolve("asset:smollm2"))
    hidden, layers = SIZES[name]
    tokenizer = tiny.make_tokenizer(row.text for row in rows)
    save(tiny.make_model(tokenizer, hidden=hidden, layers=layers), tokenizer, scratch / name)
    return scratch / name


def page(
    times: list[tuple[str, ...]], bytes_: list[tuple[str, ...]], asked: argparse.Namespace
) -> str:
    """The block of docs/llm_speed.md."""
    said = (
        f"{machine()}; {asked.rounds} rounds of {LOGGED} steps; {asked.batch} rollouts of "
        f"{asked.tokens} tokens a step, {DEFAULT.replay_rows} demonstrations replayed, "
        f"{DEFAULT.probe_units} units probed every {LOGGED} steps."
    )
    first = table(
        ("model", "TRL's step, ms", "empty plan / TRL", "with the probe / without",
         "replay's floor, ms", "with replay / (without + floor)", "(with - without) / floor"),
        times,
    )  # fmt: skip
    second = table(
        ("model", "what is trained", "parameters held, MiB", "of the model's own",
         "peak on the GPU, MiB"),
        bytes_,
    )  # fmt: skip
    return f"{said}\n\n{first}\n\n{second}"


if __name__ == "__main__":
    main()
