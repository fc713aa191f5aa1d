"""A Minari dataset with pictures and instructions as D."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.vla.demonstrations import Demonstrations, DemonstrationsError, Episode
from posttrain.vla.lerobot.stored import CACHE_BYTES, Recent
from posttrain.vla.observation import Images
from posttrain.vla.roles import cameras, need, pick


class MinariPictures:
    """Frames of a Minari dataset; the episodes that were read last are held."""

    def __init__(
        self, dataset: Any, columns: Mapping[str, str], shapes: Mapping[str, tuple[int, int, int]],
        episodes: Sequence[tuple[int, int]],
    ) -> None:  # fmt: skip
        """Frames of some episodes.

        Args:
            dataset: Minari's.
            columns: key of the observation by camera.
            shapes: height, width and channels by camera.
            episodes: Minari's number and the length of each, in the order of the rows.
        """
        self._dataset, self._columns, self._shapes = dataset, dict(columns), dict(shapes)
        self._numbers = [number for number, _ in episodes]
        self._ends = np.cumsum([length for _, length in episodes])
        self._recent: Recent[dict[str, Images]] = Recent(CACHE_BYTES)

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Height, width and channels by camera."""
        return self._shapes

    def read(self, rows: Sequence[int]) -> dict[str, Images]:
        """Frames of some rows."""
        found = {
            name: np.empty((len(rows), *shape), np.uint8) for name, shape in self.shapes.items()
        }
        for at, row in enumerate(rows):
            place = int(np.searchsorted(self._ends, row, side="right"))
            begin = int(self._ends[place - 1]) if place else 0
            frames = self._recent.get((place,), lambda p=place: self._load(p))  # type: ignore[misc]
            for name, pixels in frames.items():
                found[name][at] = pixels[row - begin]
        return found

    def _load(self, place: int) -> tuple[dict[str, Images], int]:
        (episode,) = self._dataset.iterate_episodes([self._numbers[place]])
        frames = {
            name: np.asarray(episode.observations[key], np.uint8)
            for name, key in self._columns.items()
        }
        return frames, sum(pixels.nbytes for pixels in frames.values())


def read_minari(name: str, columns: Mapping[str, str] | None = None) -> Demonstrations:
    """Open a Minari dataset that is on this machine.

    Its observations are a Dict with a picture or more (Box of uint8 with three axes) and a text.
    The observation after the last action is left out: nothing was decided there.

    Args:
        name: an id, or the folder of a dataset.
        columns: keys of the observation (`state`, `instruction`, or a camera), of the infos
            (`success`), or of an episode's metadata (`seed`), where they are named otherwise.

    Raises:
        DemonstrationsError: it is not there, or holds no pictures or no instruction.
    """
    said = dict(columns or {})
    data = _open(name)
    space: Any = data.observation_space
    keys = getattr(space, "spaces", None)
    if keys is None:
        raise DemonstrationsError(
            f"minari:{name} observes {space}; wanted is a Dict of pictures and an instruction"
        )
    pictures = [key for key, box in keys.items() if _is_picture(box)]
    chosen = cameras(pictures, said, f"minari:{name}")
    shapes = {camera: tuple(keys[key].shape) for camera, key in chosen.items()}
    instruction = need("instruction", keys, said, f"minari:{name}")
    state = pick("state", keys, said, f"minari:{name}")
    parts = [
        _part(episode, instruction, state, said) for episode in data.iterate_episodes()
        if len(episode.rewards)
    ]  # fmt: skip
    if not parts:
        raise DemonstrationsError(f"minari:{name}: holds no episode")
    numbers = [part["id"] for part in parts]
    seeds = _seeds(data, numbers, said)
    lengths = [len(part["rewards"]) for part in parts]
    return Demonstrations(
        name=f"minari:{name}",
        episodes=_episodes(parts, lengths, seeds),
        actions=_actions(parts),
        pictures=MinariPictures(data, chosen, shapes, list(zip(numbers, lengths, strict=True))),
        states=None if state is None else np.concatenate([part["state"] for part in parts]),
        rewards=np.concatenate([part["rewards"] for part in parts]),
        about={"source": f"Minari {data.id}"},
    )


def _open(name: str) -> Any:
    try:
        import minari
    except ModuleNotFoundError:
        raise DemonstrationsError(
            f"data.path: minari:{name} needs Minari: pip install 'minari[hdf5]'"
        ) from None
    folder = Path(name)
    with warnings.catch_warnings():  # of other folders there, which are no datasets
        warnings.simplefilter("ignore")
        for place in (folder / "data", folder):
            if (place / "metadata.json").is_file():
                return minari.MinariDataset(place)
        known = list(minari.list_local_datasets())
        if name in known:
            return minari.load_dataset(name)
    raise DemonstrationsError(
        f"data.path: Minari has no {name!r} on this machine, only {', '.join(known) or 'nothing'}; "
        f"`minari download {name}` would bring it"
    )


def _is_picture(box: Any) -> bool:
    shape: tuple[int, ...] = getattr(box, "shape", None) or ()
    return bool(box.dtype == np.uint8 and len(shape) == 3 and shape[-1] in {1, 3})


def _part(episode: Any, instruction: str, state: str | None, said: Mapping[str, str]) -> Any:
    """What is kept in memory of an episode: everything but its pictures."""
    steps = len(episode.rewards)
    texts = episode.observations[instruction]
    text = texts if isinstance(texts, str) else texts[0]
    infos = episode.infos if isinstance(episode.infos, Mapping) else {}
    wins = [said["success"]] if "success" in said else ["success", "is_success"]
    won = next((infos[key] for key in wins if key in infos), None)
    if won is None and "success" in said:
        raise DemonstrationsError(
            f"data.columns.success: episode {episode.id} has no info {said['success']!r}; it has "
            f"{', '.join(map(str, infos)) or 'none'}"
        )
    found = {
        "id": int(episode.id),
        "text": text.decode() if isinstance(text, bytes) else str(text),
        "actions": np.asarray(episode.actions),
        "rewards": np.asarray(episode.rewards, np.float32),
        "success": None if won is None else bool((np.asarray(won, float) > 0).any()),
    }
    if state is not None:
        values = np.asarray(episode.observations[state], np.float32)[:steps]
        found["state"] = values.reshape(steps, -1)
    return found


def _seeds(data: Any, numbers: Sequence[int], said: Mapping[str, str]) -> list[int | None]:
    key = said.get("seed", "seed")
    notes = list(data.storage.get_episode_metadata(numbers))
    if "seed" in said and not any(key in note for note in notes):
        raise DemonstrationsError(f"data.columns.seed: no episode's metadata has {key!r}")
    found = []
    for note in notes:
        value = None if note.get("options") else note.get(key)
        found.append(None if value is None or int(value) < 0 else int(value))
    return found


def _episodes(
    parts: Sequence[Any], lengths: Sequence[int], seeds: Sequence[int | None]
) -> tuple[Episode, ...]:
    ends = np.cumsum(lengths).tolist()
    return tuple(
        Episode(
            begin=end - length,
            length=length,
            instruction=part["text"],
            task=part["text"],
            seed=seed,
            success=part["success"],
            origin="unknown" if part["success"] is None else "stored",
        )
        for part, end, length, seed in zip(parts, ends, lengths, seeds, strict=True)
    )


def _actions(parts: Sequence[Any]) -> npt.NDArray[Any]:
    actions = np.concatenate([part["actions"] for part in parts])
    if actions.dtype.kind in "iu" and actions.size == len(actions):
        return actions.reshape(-1)
    return actions.reshape(len(actions), -1)
