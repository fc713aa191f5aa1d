"""What is known of D4RL's datasets: files, successors, environments, horizons, references?

Built from families, since a family shares everything but its level. Sources: D4RL's `infos.py` and
environment registrations (reference returns, horizons, file names); the fork of D4RL that WSRL uses
(ultra mazes); Minari's generation scripts (successors and their environments); WSRL's launch
scripts (scale and bias of rewards).

`study` marks our reading of the 21 datasets of "The Three Regimes of Offline-to-Online
Reinforcement Learning" (arXiv 2510.01460): the paper says "21 datasets (MuJoCo, AntMaze, Kitchen,
Adroit) adopted by WSRL", and this is a composition of WSRL's families that sums to 21.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from control.datasets import maze_maps
from control.datasets.known import Env, Known, Success

__all__ = ["REGISTRY", "known", "near"]

BERKELEY = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
REFERENCES: Final[Mapping[str, tuple[float, float]]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
}


def _mujoco() -> Iterator[Known]:
    """Gymnasium's v4 has the data's dynamics; v5 changed Walker2d and some rewards."""
    bodies = {
        "halfcheetah": "HalfCheetah",
        "hopper": "Hopper",
        "walker2d": "Walker2d",
        "ant": "Ant",
    }
    for body, title in bodies.items():
        low, high = REFERENCES[body]
        for level in (
            "random",
            "medium-replay",
            "medium",
            "full-replay",
            "medium-expert",
            "expert",
        ):
            file = f"{body}_{level.replace('-', '_')}-v2.hdf5"
            successor = level in {"medium", "expert"} and body != "ant"
            yield Known(
                name=f"{body}-{level}-v2",
                horizon=1000,
                hdf5=file,
                url=f"{BERKELEY}/gym_mujoco_v2/{file}",
                env=Env(
                    id=f"{title}-v4",
                    kwargs={"use_contact_forces": True} if body == "ant" else {},
                ),
                minari=f"mujoco/{body}/{level}-v0" if successor else None,
                minari_env=Env(id=f"{title}-v5") if successor else None,
                ref_min=low,
                ref_max=high,
                study=body != "ant" and level in {"random", "medium", "medium-replay"},
            )


ANT = (
    "another ant: D4RL's motors give at most 30 N m at steps of 0.02 s, this one's 150 at 0.01 s, "
    "and x and y count from the middle of the maze, not from the start; a policy learnt from the "
    ".hdf5 file will not walk here: use the successor's data, or make some"
)


def _antmaze() -> Iterator[Known]:
    """D4RL's rows run upwards in y, Gymnasium-Robotics' downwards: the file's maps are flipped."""
    titles = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze", "ultra": "ultra"}
    ids = {"umaze": "AntMaze_UMaze-v4", "medium": "AntMaze_Medium-v4", "large": "AntMaze_Large-v4"}
    for size, title in titles.items():
        for kind in ("", "diverse") if size == "umaze" else ("play", "diverse"):
            level = f"{size}-{kind}".rstrip("-")
            many = (kind != "", kind == "diverse")
            file = f"Ant_maze_{title}_noisy_multistart_{many[0]}_multigoal_{many[1]}_sparse"
            ultra = size == "ultra"
            file = f"{file}.hdf5" if ultra else f"{file}_fixed.hdf5"
            flipped = maze_maps.ANTMAZE[size][::-1]
            successor = flipped if size == "umaze" else maze_maps.ANTMAZE.get(size)
            folder = f"{BERKELEY}/ant_maze_v2"
            if ultra:
                folder = "https://github.com/ZhengyaoJiang/d4rl/releases/download/public"
            yield Known(
                name=f"antmaze-{level}-v2",
                horizon={"umaze": 700, "ultra": 2000}.get(size, 1000),
                hdf5=file,
                url=f"{folder}/{file}",
                env=Env(
                    id=ids.get(size, "AntMaze_Large-v4"),
                    kwargs={"maze_map": maze_maps.cells(flipped)},
                    differs=ANT,
                ),
                minari=None if ultra else f"D4RL/antmaze/{level}-v1",
                minari_env=None
                if ultra or successor is None
                else Env(id=ids[size], kwargs={"maze_map": maze_maps.cells(successor)}),
                goal=None if ultra or successor is None else maze_maps.centre(successor, "g", 4.0),
                ref_min=0.0,
                ref_max=1.0,
                score="success",
                success=Success(at=1.0),
                reward_scale=10.0,
                reward_bias=-5.0,
                failure_reward=0.0,
                labels="touches",
                study=size != "umaze",
            )


def _kitchen() -> Iterator[Known]:
    four = ["microwave", "kettle", "light switch", "slide cabinet"]
    mixed = ["microwave", "kettle", "bottom burner", "light switch"]
    files = {
        "complete": "mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
        "partial": "kitchen_microwave_kettle_light_slider-v0.hdf5",
        "mixed": "kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
    }
    for level, file in files.items():
        tasks = {"tasks_to_complete": mixed if level == "mixed" else four}
        yield Known(
            name=f"kitchen-{level}-v0",
            horizon=280,
            hdf5=file,
            url=f"{BERKELEY}/kitchen/{file}",
            env=Env(
                id="FrankaKitchen-v1",
                kwargs=tasks,
                differs="observes 59 numbers (positions and velocities), the file 60 (positions "
                "and goal)",
            ),
            minari=f"D4RL/kitchen/{level}-v2",
            minari_env=Env(id="FrankaKitchen-v1", kwargs=tasks),
            ref_min=0.0,
            ref_max=4.0,
            success=Success(of="return", at=4.0),
            labels="tasks",
            study=True,
        )


def _adroit() -> Iterator[Known]:
    changed = "gymnasium-robotics 1.2.1 changed this task's dense reward under the same version"
    for hand in ("pen", "door", "hammer", "relocate"):
        title, horizon = hand.capitalize(), 100 if hand == "pen" else 200
        low, high = REFERENCES[hand]
        for level in ("human", "cloned", "expert"):
            file = f"{hand}-{level}-v1.hdf5"
            yield Known(
                name=f"{hand}-{level}-v1",
                horizon=horizon,
                hdf5=file,
                url=f"{BERKELEY}/hand_dapg_v1/{file}",
                env=Env(id=f"AdroitHand{title}-v1", differs=None if hand == "pen" else changed),
                minari=f"D4RL/{hand}/{level}-v2",
                minari_env=Env(
                    id=f"AdroitHand{title}-v1", differs=None if hand == "pen" else changed
                ),
                ref_min=low,
                ref_max=high,
            )
        if hand == "hammer":
            continue
        yield Known(
            name=f"{hand}-binary-v0",
            horizon=horizon,
            env=Env(
                id=f"AdroitHand{title}Sparse-v1",
                differs="pays 10 and -0.1 where the data have 0 and -1: compare success, and scale "
                "online rewards by 1/10.1 after taking 10 away",
            ),
            score="success",
            success=Success(at=0.0),
            reward_scale=10.0,
            reward_bias=5.0,
            failure_reward=-1.0,
            study=True,
        )


def _maze2d() -> Iterator[Known]:
    for size, horizon in (("umaze", 300), ("medium", 600), ("large", 800)):
        title = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}[size]
        for dense in ("", "-dense"):
            name = f"maze2d-{size}{dense}-v1"
            file = f"maze2d-{size}{dense or '-sparse'}-v1.hdf5"
            env_id = f"PointMaze_{title}{'Dense' if dense else ''}-v3"
            yield Known(
                name=name,
                horizon=horizon,
                hdf5=file,
                url=f"{BERKELEY}/maze2d/{file}",
                env=Env(
                    id=env_id,
                    kwargs={"continuing_task": True, "reset_target": False},
                    differs="another point: coordinates, scale and physics are not D4RL's, and the "
                    "goal is observed; the file is one long walk, whose pieces between goals are "
                    "no episodes of the task",
                ),
                minari=f"D4RL/pointmaze/{size}{dense}-v2",
                minari_env=Env(id=env_id, kwargs={"continuing_task": True}),
                ref_min=REFERENCES[name][0],
                ref_max=REFERENCES[name][1],
                success=None if dense else Success(at=1.0),
            )


REGISTRY: Final[Mapping[str, Known]] = {
    entry.name: entry
    for family in (_mujoco, _antmaze, _kitchen, _adroit, _maze2d)
    for entry in family()
}
"""By D4RL name."""


def known(name: str) -> Known | None:
    """Find a dataset by its D4RL name, its file's name or its successor's id."""
    if name in REGISTRY:
        return REGISTRY[name]
    return next((k for k in REGISTRY.values() if name in {k.hdf5, k.minari}), None)


def near(name: str, others: tuple[str, ...] = ()) -> list[str]:
    """Names that one may have meant, best first."""
    ids = [k.minari for k in REGISTRY.values() if k.minari]
    return get_close_matches(name, [*REGISTRY, *ids, *others], n=4, cutoff=0.5)
