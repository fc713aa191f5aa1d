"""What a killed run needs to go on to the same result: weights, moments, noise, buffer, counts.

A member's checkpoint is its own: a population that was killed may go on as lone runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from posttrain.record import read_json, replacing, replacing_folder, write_text

if TYPE_CHECKING:
    from control.agent import Agent
    from control.stepper import Stepper
    from control.storage import Storage
    from control.streams import Streams

LAST = "last"


def step_of(folder: Path) -> int | None:
    """Steps done at the last whole checkpoint in a folder; None where there is none."""
    path = Path(folder) / LAST / "state.json"
    return int(read_json(path)["step"]) if path.exists() else None


def save(
    folder: Path,
    *,
    step: int,
    m: int,
    view: Agent,
    steppers: Sequence[Stepper],
    streams: Mapping[str, Streams],
    facts: Mapping[str, Any],
    storage: Storage | None = None,
    closed: int = 0,
) -> None:
    """Write member m's checkpoint; the one before is kept until this one is whole.

    Args:
        folder: of this member.
        step: steps done.
        m: the member.
        view: its agent.
        steppers: what moves the weights.
        streams: noise, by name.
        facts: what else the loop needs, as JSON.
        storage: own rows; those before `closed` will not change any more and are written once.
        closed: own rows of episodes that have ended.
    """
    if storage is not None:
        _append_rows(folder, storage, m, closed)
    tensors = {f"agent/{k}": v for k, v in view.state_dict().items()}
    for i, stepper in enumerate(steppers):
        for j, p in enumerate(stepper.views[m]):
            state = stepper.adam.state.get(p, {})
            tensors |= {f"adam/{i}/{j}/{k}": v for k, v in state.items()}
    for name, stream in streams.items():
        tensors[f"noise/{name}"] = stream.generators[m].get_state()
    if storage is not None:
        tensors["rows"] = _open_rows(storage, m, closed)
    with replacing_folder(folder / LAST) as here:
        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(plain, here / "state.safetensors")
        added = 0 if storage is None else int(storage.added[m])
        told = {"step": step, "added": added, "closed": closed, **facts}
        write_text(here / "state.json", json.dumps(told) + "\n")


def restore(
    folder: Path,
    *,
    m: int,
    view: Agent,
    steppers: Sequence[Stepper],
    streams: Mapping[str, Streams],
    storage: Storage | None = None,
) -> dict[str, Any]:
    """Put member m back where its checkpoint was taken, and return the loop's facts."""
    facts = dict(read_json(folder / LAST / "state.json"))
    tensors = load_file(folder / LAST / "state.safetensors")
    with torch.no_grad():
        for name, value in view.state_dict().items():
            value.copy_(tensors[f"agent/{name}"])
    for i, stepper in enumerate(steppers):
        for j, p in enumerate(stepper.views[m]):
            prefix = f"adam/{i}/{j}/"
            found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if found:
                # Fused Adam keeps its count beside the weights.
                stepper.adam.state[p] = {k: v.to(p.device) for k, v in found.items()}
    for name, stream in streams.items():
        stream.generators[m].set_state(tensors[f"noise/{name}"])
    if storage is not None:
        rows = torch.cat([_closed_rows(folder, facts["closed"], storage), tensors["rows"]])
        kept = rows[-storage.capacity :] if storage.capacity else rows[:0]
        storage.restore(m, kept, facts["added"])
    return facts


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """A numpy generator's state as JSON."""
    return dict(rng.bit_generator.state)


def set_generator_state(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put a numpy generator back."""
    rng.bit_generator.state = dict(state)


def _chunks(folder: Path) -> list[tuple[int, int, Path]]:
    """Files of closed rows: first, one past the last, where."""
    found = []
    for path in sorted((folder / "rows").glob("*.safetensors")):
        first, stop = path.stem.split("-")
        found.append((int(first), int(stop), path))
    return found


def _append_rows(folder: Path, storage: Storage, m: int, closed: int) -> None:
    """Write closed rows that no file holds yet."""
    written = max((stop for _, stop, _ in _chunks(folder)), default=0)
    oldest = int(storage.added[m]) - storage.size(m)
    first = max(written, oldest)
    if closed <= first:
        return
    rows = storage.own(m)[first - oldest : closed - oldest]
    with replacing(folder / "rows" / f"{first:09d}-{closed:09d}.safetensors") as temporary:
        save_file({"rows": rows.cpu().contiguous().clone()}, temporary)


def _open_rows(storage: Storage, m: int, closed: int) -> Tensor:
    """Rows of the episode that has not ended."""
    still_open = int(storage.added[m]) - closed
    rows = storage.own(m)
    return rows[len(rows) - min(still_open, len(rows)) :]


def _closed_rows(folder: Path, closed: int, storage: Storage) -> Tensor:
    """Closed rows up to the checkpoint; a file that a later, unfinished one wrote is cut."""
    parts = [torch.empty(0, storage.width)]
    for first, stop, path in _chunks(folder):
        if first < closed:
            parts.append(load_file(path)["rows"][: closed - first])
        del stop
    return torch.cat(parts)
