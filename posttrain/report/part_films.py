"""The section of a robot policy's run that shows episodes: each side from the same start."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from posttrain.record import RecordError
from posttrain.report.section import Section, plain

if TYPE_CHECKING:
    from posttrain.report.evidence import Evidence

SIDES: Final = {
    "data": ("D", "data"),
    "pi0": ("π₀", "pi0"),
    "finetuned": ("after RL", "tuned"),
}
"""By side: what it is called, and its colour."""
KINDS: Final = {".gif": "image/gif", ".png": "image/png"}


def films(evidence: Evidence) -> Section:
    """Films of D, pi_0 and the fine-tuned policy, a row for each start."""
    key, title = "films", "What does it look like?"
    found, folder = evidence.robot.films, evidence.robot.folder
    if not found or folder is None:
        return Section(key=key, title=title, absent="The record holds no films of episodes.")
    units = list(dict.fromkeys(film["unit"] for film in found if film["side"] != "data"))
    units += [f["unit"] for f in found if f["side"] == "data" and f["unit"] not in units]
    rows = [_row([f for f in found if f["unit"] == unit], unit, folder) for unit in units]
    sides = [name for side, (name, _) in SIDES.items() if any(f["side"] == side for f in found)]
    missing = [name for name, _ in SIDES.values() if name not in sides]
    return Section(key=key, title=title, body={"rows": rows, "missing": missing})


def _row(films: list[Mapping[str, Any]], unit: str, folder: Path) -> dict[str, Any]:
    return {
        "unit": unit,
        "instruction": films[0]["instruction"],
        "films": [film for side in SIDES for film in _of_side(films, side, folder)],
    }


def _of_side(films: list[Mapping[str, Any]], side: str, folder: Path) -> Iterator[dict[str, Any]]:
    name, colour = SIDES[side]
    for film in films:
        if film["side"] != side:
            continue
        mark, outcome = _outcome(film)
        yield {
            "name": name,
            "colour": colour,
            "mark": mark,
            "outcome": outcome,
            "alt": f"{name}, “{film['instruction']}”: {outcome}",
            **{key: _embedded(folder, film[key]) for key in ("gif", "strip", "still")},
        }


def _outcome(film: Mapping[str, Any]) -> tuple[str, str]:
    """A sign and the words for how an episode ended."""
    steps = f"{film['steps']:,} step{'' if film['steps'] == 1 else 's'}"
    mark, told = {
        True: ("✓", f"success in {steps}"),
        False: ("✗", f"no success in {steps}"),
        None: ("–", f"{steps}, success unknown"),
    }[film["success"]]
    value = film.get("return")
    return mark, told if value is None else f"{told}, return {plain(value)}"


def _embedded(folder: Path, name: str) -> str:
    """A picture as an address that holds it.

    Raises:
        RecordError: the index names something else than a picture beside it.
    """
    path = folder / name
    if Path(name).name != name or path.suffix not in KINDS or not path.is_file():
        raise RecordError(f"{folder / 'index.json'}: names {name!r}, which is no picture beside it")
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{KINDS[path.suffix]};base64,{content}"
