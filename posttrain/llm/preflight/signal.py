"""How many groups will teach GRPO nothing, because all their rollouts score the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from posttrain.llm.preflight.finding import Finding
from posttrain.regime.statistics import clustered_mean

SIZES = (2, 4, 8, 16, 32, 64)
FEW_PROMPTS = 4


def all_equal(returns: Sequence[float], group: int) -> float:
    """Probability that `group` rollouts of a prompt all have the same return.

    With at least `group` returns at hand: the share of subsets of that size in which all are
    equal, which is unbiased whatever the returns' law. With fewer there is no unbiased estimate:
    binary returns take the mean over Jeffreys' posterior of p^n + (1-p)^n, others sum the n-th
    powers of the observed shares, which is too high.

    >>> all_equal([1, 1, 0, 0], 2)  # 2 of the 6 pairs
    0.3333333333333333
    >>> all_equal([0.0, 0.5, 1.0], 2)
    0.0

    Args:
        returns: of rollouts of one prompt, at least one.
        group: rollouts a group.
    """
    counts = [returns.count(value) for value in set(returns)]
    total = len(returns)
    if total >= group:
        return sum(comb(count, group) for count in counts) / comb(total, group)
    if set(returns) <= {0, 1}:
        hits = sum(returns)
        return _power(hits + 0.5, total - hits + 0.5, group) + _power(
            total - hits + 0.5, hits + 0.5, group
        )
    return float(sum((count / total) ** group for count in counts))


def _power(a: float, b: float, n: int) -> float:
    """E p^n under Beta(a, b)."""
    product = 1.0
    for i in range(n):
        product *= (a + i) / (a + b + i)
    return product


def signal_check(
    returns: Mapping[str, Sequence[float]],
    *,
    group: int,
    prompts: float,
    scale: tuple[float, float],
    alpha: float = 0.05,
    source: str = "rollouts of pi_0",
) -> Finding:
    """The share of groups without signal at the chosen size, and what is left of a batch.

    Args:
        returns: of each prompt's rollouts; empty where none were drawn.
        group: rollouts a group.
        prompts: groups in one optimizer step, over all processes.
        scale: lowest and highest return.
        alpha: 1 - level of the interval.
        source: where the returns come from, for the text.
    """
    check = "signal.groups"
    if not returns:
        return Finding(
            check=check,
            severity="unknown",
            text="pi_0 has no rollouts yet, so the share of groups without signal is not known",
            change="`posttrain run RECIPE --stop-after sample` makes pi_0 and its scores; where "
            "pi_0 is there already, preflight --rollouts 8 draws some now",
        )
    share, low, high = _share(returns, group, alpha)
    fewest = min(map(len, returns.values()))
    sizes = {n: _share(returns, n, alpha)[0] for n in SIZES if n <= fewest or n == group}
    failed = sum(max(r) == scale[0] for r in returns.values()) / len(returns)
    solved = sum(min(r) == scale[1] for r in returns.values()) / len(returns)
    left = (1 - share) * prompts
    text = (
        f"{share:.0%} of groups of {group} would have equal returns "
        f"({100 * (1 - alpha):g} % interval {low:.0%} to {high:.0%}; {len(returns)} prompts, "
        f"at least {fewest} {source} each"
        f"{', too few for an unbiased estimate' if fewest < group else ''}); of {prompts:g} "
        f"prompts a step {left:.1f} would teach anything. {failed:.0%} of prompts had no success "
        f"at all, {solved:.0%} nothing else"
    )
    value = {
        "share": share,
        "interval": [low, high],
        "group": group,
        "prompts": prompts,
        "left": left,
        "by_size": {str(n): s for n, s in sizes.items()},
        "never": failed,
        "always": solved,
        "samples": fewest,
    }
    change = _advice(sizes, group, failed, solved)
    if left < 1 or share > 0.98:
        return Finding(check=check, severity="stop", text=text, change=change, value=value)
    if share > 0.5 or left < min(FEW_PROMPTS, prompts / 2):
        return Finding(check=check, severity="warn", text=text, change=change, value=value)
    return Finding(check=check, severity="ok", text=text, value=value)


def _share(
    returns: Mapping[str, Sequence[float]], group: int, alpha: float
) -> tuple[float, float, float]:
    each = [all_equal(list(r), group) for r in returns.values()]
    if len(each) < 2:
        return each[0], 0.0, 1.0
    found = clustered_mean(each, level=1 - alpha, bounds=(0.0, 1.0))
    return found.mean, max(0.0, found.low), min(1.0, found.high)


def _advice(sizes: Mapping[int, float], group: int, failed: float, solved: float) -> str:
    better = next((n for n, share in sizes.items() if n > group and share <= 0.5), None)
    said = []
    if better is not None:
        said.append(
            f"rl.trainer.num_generations={better} leaves {sizes[better]:.0%} without signal"
        )
    if failed >= solved:
        said.append(
            "prompts without success need D: a replay intervention with gate: map (their "
            "demonstrations), or more SFT first"
        )
    else:
        said.append("most prompts are solved: drop those from data, or bring harder ones")
    if better is None:
        said.append("or raise rl.trainer.num_generations")
    return "; ".join(said)


def group_size(trainer: Mapping[str, Any]) -> int:
    """Rollouts a group in a recipe's `rl.trainer`; TRL's default is 8."""
    return int(trainer.get("num_generations", 8))


def prompts_a_step(trainer: Mapping[str, Any], *, world: int) -> float:
    """Groups of one optimizer step in a recipe's `rl.trainer`, over `world` processes."""
    rows = int(trainer.get("per_device_train_batch_size", 8))
    rows *= int(trainer.get("gradient_accumulation_steps", 1)) * world
    return rows / group_size(trainer)
