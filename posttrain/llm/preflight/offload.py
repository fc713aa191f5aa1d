"""DeepSpeed releases that trained on a part of the gradient and said nothing.

With ZeRO 1 or 2, the optimizer offloaded to the CPU, and gradients accumulated over several
micro-batches, DeepSpeed 0.15.2 to 0.18.9 kept the first micro-batch only (introduced by its pull
request 6550, repaired by 7967); before 0.15.2 the same path added wrongly in another way (what
6550 set out to repair). From 0.18.3 on, several `backward` calls with accumulation 1 kept the
last one only (repaired by 7981). Both repairs were first released in 0.19.0; the releases were
read off the tags that contain the commits. ZeRO 3, and ZeRO 1 and 2 without offload, are right.
A pi_0 made so was trained on a fraction of D and looks inferior to it.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.llm.preflight.finding import Finding

BROKEN, REPAIRED = (0, 15, 2), (0, 19, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """How a DeepSpeed run would be set up. None: not said."""

    stage: int | None
    cpu_optimizer: bool
    accumulation: int


def installed() -> str | None:
    """Version of the installed DeepSpeed; None without one."""
    try:
        return importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        return None


def offload_check(where: str, found: Offload | None, version: str | None) -> Finding:
    """Judge one configuration against one release.

    Args:
        where: the field that the configuration belongs to: sft.trainer or rl.trainer.
        found: the configuration; None without DeepSpeed.
        version: of DeepSpeed; None where it is not installed.
    """
    check = f"deepspeed.{where.partition('.')[0]}"
    if found is None:
        return Finding(check=check, severity="ok", text=f"{where}: no DeepSpeed", value={})
    value = {
        "stage": found.stage,
        "cpu_optimizer": found.cpu_optimizer,
        "accumulation": found.accumulation,
        "version": version,
    }
    at_risk = found.stage in {1, 2} and found.cpu_optimizer and found.accumulation > 1
    set_up = (
        f"{where}: ZeRO {found.stage}, optimizer "
        f"{'on the CPU' if found.cpu_optimizer else 'not offloaded'}, gradients accumulated over "
        f"{found.accumulation} micro-batches"
    )
    if not at_risk:
        text = f"{set_up}: not the combination that lost gradients"
        return Finding(check=check, severity="ok", text=text, value=value)
    if version is None:
        return Finding(
            check=check,
            severity="unknown",
            text=f"{set_up}: the combination that lost gradients before 0.19.0, and DeepSpeed is "
            "not installed here",
            change="train with deepspeed>=0.19.0, or without offload_optimizer",
            value=value,
        )
    if _numbers(version) >= REPAIRED:
        text = f"{set_up}: repaired in the installed DeepSpeed {version}"
        return Finding(check=check, severity="ok", text=text, value=value)
    kept = f"keeps 1 of {found.accumulation} micro-batches' gradients"
    what = kept if _numbers(version) >= BROKEN else "adds the micro-batches' gradients wrongly"
    return Finding(
        check=check,
        severity="stop",
        text=f"{set_up}: the installed DeepSpeed {version} {what}, silently",
        change="install deepspeed>=0.19.0, or set ZeRO stage 3, or gradient_accumulation_steps=1, "
        "or leave offload_optimizer out",
        value=value,
    )


def made_elsewhere(path: str) -> Finding:
    """A checkpoint does not say how it was trained."""
    return Finding(
        check="deepspeed.checkpoint",
        severity="unknown",
        text=f"pi_0 is {path}, trained elsewhere: whether its SFT lost gradients cannot be read "
        "off the weights",
        change="ask for its DeepSpeed version and configuration: before 0.19.0, ZeRO 1 or 2 with "
        "offload_optimizer and gradient accumulation dropped gradients; if so, repeat SFT",
        value={"path": path},
    )


def from_trainer(trainer: Mapping[str, Any]) -> Offload | None:
    """The configuration that a recipe's `trainer` section names under `deepspeed`.

    Raises:
        ValueError: the file is missing or no JSON.
    """
    given = trainer.get("deepspeed")
    if given is None:
        return None
    config = given if isinstance(given, Mapping) else _json(Path(str(given)))
    return _from_deepspeed(config, int(trainer.get("gradient_accumulation_steps", 1)))


def from_accelerate(path: Path, trainer: Mapping[str, Any]) -> Offload | None:
    """The configuration that an accelerate file names; None without DeepSpeed.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    from posttrain.recipe import read

    config = read(path)
    if config.get("distributed_type") != "DEEPSPEED":
        return None
    inner = config.get("deepspeed_config") or {}
    accumulation = int(trainer.get("gradient_accumulation_steps", 1))
    if file := inner.get("deepspeed_config_file"):
        return _from_deepspeed(_json(path.parent / file), accumulation)
    said = inner.get("gradient_accumulation_steps", accumulation)
    return Offload(
        stage=_whole(inner.get("zero_stage")),
        cpu_optimizer=inner.get("offload_optimizer_device") in {"cpu", "nvme"},
        accumulation=max(accumulation, _whole(said) or 1),
    )


def _from_deepspeed(config: Mapping[str, Any], accumulation: int) -> Offload:
    zero = config.get("zero_optimization") or {}
    device = (zero.get("offload_optimizer") or {}).get("device", "none")
    said = _whole(config.get("gradient_accumulation_steps"))  # "auto" is the trainer's
    return Offload(
        stage=_whole(zero.get("stage")),
        cpu_optimizer=device in {"cpu", "nvme"} or bool(zero.get("cpu_offload")),
        accumulation=accumulation if said is None else said,
    )


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int) or str(value).isdigit() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: wanted an object, got {type(config).__name__}")  # noqa: TRY004
    return config


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.partition("+")[0].split(".")[:3]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
