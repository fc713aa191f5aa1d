"""What verdicts, tests and flags are called on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Saying:
    """A regime in plain words."""

    headline: str
    meaning: str


REGIMES: Final = {
    "superior": Saying(
        "π₀ is better than its dataset",
        "Keep π₀: hold RL close to it. Going back to the dataset would pull it down.",
    ),
    "comparable": Saying(
        "π₀ and its dataset are equally good",
        "Neither is worth protecting more than the other: keep either, or both lightly.",
    ),
    "inferior": Saying(
        "The dataset is better than π₀",
        "Keep the dataset: go on learning from it while RL runs. Holding RL close to π₀ would "
        "hold it back.",
    ),
    "undecided": Saying(
        "There is not enough evidence to say",
        "The interval of the gap reaches into more than one zone. This is an answer, and not the "
        "same as equally good.",
    ),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a kind of run calls the things that all kinds have."""

    pretraining: str
    """What made pi_0 out of D."""
    step: str
    """What RL counts."""
    returned: str
    """What an evaluation measures."""
    unit_of_nll: str
    losses: str
    """What the losses of pretraining are."""
    batch: str
    """What D takes a share of."""
    reward: str
    """What training rollouts get."""


LLM: Final = Terms(
    pretraining="SFT",
    step="RL step",
    returned="held-out return",
    unit_of_nll="per token",
    losses="loss, nats a token",
    batch="group",
    reward="reward",
)
CONTROL: Final = Terms(
    pretraining="pretraining",
    step="environment step",
    returned="return",
    unit_of_nll="nats an action",
    losses="misfit to D's actions",
    batch="batch",
    reward="return",
)

VLA: Final = Terms(
    pretraining="SFT",
    step="RL step",
    returned="held-out return",
    unit_of_nll="nats a token",
    losses="loss, nats a token",
    batch="batch",
    reward="return",
)
TERMS: Final = {"llm": LLM, "control": CONTROL, "vla": VLA}
"""By kind of recipe."""

TESTS: Final = {
    "paired": "paired by unit",
    "welch": "Welch, two independent samples",
    "exact": "exact",
    "sequential": "anytime-valid confidence sequence",
}

FLAGS: Final = {
    "sft_not_converged": "π₀ was still being trained",
    "both_near_zero": "Both sides are near zero",
    "both_near_ceiling": "Both sides are near the ceiling",
    "success_filtered": "Every demonstration succeeds",
    "unscorable": "Some demonstrations have no score",
    "truncated": "Some episodes were cut off",
    "seen_prompts": "Measured on prompts seen in SFT",
    "decoding_changes_regime": "The regime depends on the decoding",
    "partly_paired": "Not every unit could be paired",
    "unpaired": "The two sides could not be paired",
    "few_units": "Few units",
    "unbounded": "No bounds to test from",
    "tasks_differ": "Tasks differ",
    "few_tasks": "Few tasks",
    "tasks_left_out": "Tasks are left out",
    "no_variance": "Nothing varies, and nothing is bounded",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One of the four meanings of a unit."""

    key: str
    title: str
    when: str
    action: str


CELLS: Final = (
    Cell("keep", "Keep the demonstration", "demonstration right, π₀ never succeeds",
         "RL finds no success here by itself. The dataset holds the only one."),
    Cell("rl", "Leave it to RL", "demonstration right, π₀ succeeds sometimes or always",
         "π₀ already finds successes, so reward is enough to learn from."),
    Cell("fix", "Fix or remove the prompt", "demonstration wrong, π₀ never succeeds",
         "Nobody succeeds: the prompt, its answer or the reward may be at fault."),
    Cell("drop", "Drop the demonstration", "demonstration wrong, π₀ succeeds sometimes or always",
         "Imitating it would teach a mistake that π₀ does not make."),
)  # fmt: skip

INTERVENTIONS: Final = {
    "anchor": "Anchor to π₀",
    "replay": "Replay of the dataset",
    "warmup": "Warm-up by π₀",
    "reset": "Reset",
}

STRENGTHS: Final = {
    ("anchor", "coefficient"): "coefficient of the pull towards π₀",
    ("replay", "weight"): "weight of the imitation loss on D",
    ("replay", "share"): "share of every {batch} taken from D",
}

FIRST: Final = {
    "sft_more": "First train π₀ further by {pretraining}, and diagnose again.",
    "measure_more": "First measure more units.",
    "check_reward": "First check the reward.",
    "skip_rl": "There is nothing here for RL to gain.",
}

FAMILIES: Final = {
    "supervised": "supervised: no RL, the dataset is cloned further",
    "minimal": "minimal: nothing is kept, plain RL",
    "pi0-centric": "π₀-centric: RL stays near π₀",
    "D-centric": "D-centric: the dataset is kept",
    "mixed": "mixed: both π₀ and the dataset are kept",
}


def title(kind: str, known: dict[str, str]) -> str:
    """The plain words of a kind, or the kind itself with spaces when it is a new one."""
    return known.get(kind, kind.replace("_", " ").capitalize())
