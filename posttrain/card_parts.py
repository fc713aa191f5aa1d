"""The sections of a model card, each from one part of a run's record, empty where it is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.regime.diagnosis import Diagnosis

DID = {
    "grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "sft": "further SFT on the same data (no RL)",
}  # fmt: skip


def told(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    bars = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in bars)


def level(alpha: float) -> str:
    """The name of an interval of error `alpha`."""
    return f"{100 * (1 - alpha):g} % interval"


def spread(interval: Sequence[float], form: str = ".3g") -> str:
    """An interval in words."""
    low, high = interval
    return f"{low:{form}} to {high:{form}}"


def diagnosis(found: Diagnosis | None) -> str:
    """Regime, both returns, the gap, and what there is to know about them."""
    if found is None:
        return ""
    d = found
    rows = [
        ("", "mean return", level(d.alpha), "units"),
        ("pretrained policy, J(pi_0)", f"{d.j_policy:.3g}", spread(d.j_policy_interval),
         f"{d.units:,}"),
        ("its dataset, J(D)", f"{d.j_dataset:.3g}", spread(d.j_dataset_interval),
         f"{d.units_dataset:,}"),
    ]  # fmt: skip
    lines = [
        "## Diagnosis, before fine-tuning",
        d.sentence,
        told(rows),
        f"Test: {d.test}. {d.reason}",
    ]
    if d.recoverability is not None:
        r = d.recoverability
        never = f"{100 * r.no_success:.0f} % of units had no success in {r.k} samples"
        passed = ", ".join(f"pass@{k} {p:.2f}" for k, p in r.pass_at.items())
        lines.append(f"Recoverability: {passed}; {never}.")
    if d.flags:
        lines.append("\n".join(f"- {flag.text}" for flag in d.flags))
    return "\n\n".join(lines)


def plan(stored: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> str:
    """What RL was told to keep, why, and what would show the reason to be wrong."""
    if stored is None:
        return ""
    from posttrain.intervention.plan import plan_from_dict
    from posttrain.terminal import describe

    kept = plan_from_dict(stored["plan"])
    prescribed = stored.get("source") == "prescribed"
    rl = recipe.get("rl") or {}
    did = DID.get(str(rl.get("algorithm")))
    steps = f", {rl['steps']} steps" if did and "steps" in rl else ""
    lines = [
        "## What was kept",
        f"Family **{kept.family}**, {'prescribed by the diagnosis' if prescribed else 'chosen'}"
        + (f"; {did}{steps}." if did else "."),
        "```\n" + describe(kept) + "\n```",
    ]
    for label, key in (("Reason", "reason"), ("Refuted by", "refuted_by")):
        if stored.get(key):
            lines.append(f"{label}: {stored[key]}")
    return "\n\n".join(lines)


def outcome(stored: Mapping[str, Any] | None) -> str:
    """The gain with its interval, and the curve's parts."""
    if stored is None:
        return "## Outcome\n\nNot measured: the run's record holds no outcome."
    rows: list[Sequence[str]] = [("decoding", "before", "after", "gain", level(stored["alpha"]))]
    for name, gain in ((stored.get("decoding", "rollout"), stored),
                       ("deployment", stored.get("deployment"))):  # fmt: skip
        if gain is not None:
            rows.append(
                (name, f"{gain['before']:.3f}", f"{gain['after']:.3f}", f"{gain['gain']:+.3f}",
                 spread(gain["interval"], "+.3f"))
            )  # fmt: skip
    low, high = stored["interval"]
    verdict = "Gained" if low > 0 else "Lost" if high < 0 else "No gain or loss was shown"
    lines = [
        "## Outcome",
        f"{verdict}: return on {stored['units']:,} held-out units, paired by unit.",
        told(rows),
    ]
    parts = stored.get("decomposition")
    return "\n\n".join([*lines, *([] if parts is None else _decomposition(parts))])


def _decomposition(parts: Mapping[str, Any]) -> list[str]:
    """The curve in parts, best = prior + stability + plasticity, measured and behind the noise."""
    corrected = parts.get("corrected")
    rows: list[Sequence[str]] = [("part of the curve", "as measured", "behind the noise")]
    for name, meaning in (
        ("stability", "stability: how far it fell below the better prior"),
        ("plasticity", "plasticity: how far it rose from its lowest point"),
        ("plasticity_over_prior", "gain over the better prior"),
    ):
        behind = "unknown"
        if corrected is not None:
            inside = spread(corrected[name], "+.3f")
            behind = f"{corrected['parts'][name]:+.3f} ({100 * corrected['level']:g} %: {inside})"
        rows.append((meaning, f"{parts[name]:+.3f}", behind))
    prior = f"the better prior is {parts['prior']:.3f}, of the {parts['prior_source']}"
    return [
        f"The curve of {parts['evaluations']} evaluations (arXiv 2510.01460): {prior}.",
        told(rows),
    ]


def sft(stored: Mapping[str, Any] | None) -> str:
    """Whether the policy that was diagnosed had been trained to its end."""
    if stored is None or not stored.get("text"):
        return ""
    return f"## SFT\n\n{stored['text'].capitalize()}."


def reproduce(recipe: Mapping[str, Any], environment: Mapping[str, Any] | None) -> str:
    """The recipe, and what it ran on."""
    import yaml

    known = environment or {}
    packages = known.get("packages") or known.get("versions") or {}
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    machine = known.get("accelerator") or known.get("platform") or "unknown"
    commit = f" (commit {known['commit'][:10]})" if known.get("commit") else ""
    text = yaml.safe_dump(portable(recipe), sort_keys=False, allow_unicode=True)
    return "\n\n".join(
        [
            "## Reproduce",
            f"Save the recipe as `recipe.yaml`, then `posttrain run recipe.yaml`. The record was "
            f"made with seed {known.get('seed', 'unknown')} on {machine}{commit}.",
            *([f"Versions: {versions}."] if versions else []),
            f"<details><summary>Recipe</summary>\n\n```yaml\n{text}```\n\n</details>",
        ]
    )


def portable(value: Any, name: str = "") -> Any:
    """A recipe without its machine: no output folder, and of absolute paths only the last name."""
    if isinstance(value, Mapping):
        return {k: portable(v, k) for k, v in value.items() if not (name == "" and k == "output")}
    if isinstance(value, list):
        return [portable(item, "item") for item in value]
    if isinstance(value, str):
        for path in (PurePath(value), PureWindowsPath(value)):
            if path.is_absolute():
                return path.name
    return value
