import numpy as np

from control.datasets import Dataset


def walk(rng, lengths, *, size=3, ends="timeout", rewards=None):
    """D4RL columns of random walks: smooth inside an episode, a fresh start after it."""
    observations, terminals, timeouts = [], [], []
    for episode, length in enumerate(lengths):
        start = rng.normal(size=size) * 5
        observations.append(start + rng.uniform(-0.1, 0.1, (length, size)).cumsum(axis=0))
        last = np.arange(length) == length - 1
        terminal = ends == "terminal" or (ends == "mixed" and episode % 2 == 0)
        terminals.append(last & terminal)
        timeouts.append(last & (not terminal))
    rows = sum(lengths)
    return {
        "observations": np.concatenate(observations).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32) if rewards is None else rewards,
        "terminals": np.concatenate(terminals),
        "timeouts": np.concatenate(timeouts),
    }


def episodes_of(rewards, *, terminal=(), success=None, incomplete=None, last_rewards=None):
    """A dataset with the given rewards an episode; observations count rows."""
    flat = np.concatenate([np.asarray(r, float) for r in rewards])
    rows = np.arange(len(flat), dtype=np.float32)[:, None]
    ends = np.zeros(len(flat), bool)
    ends[np.cumsum([len(r) for r in rewards]) - 1] = True
    terminals = np.zeros(len(flat), bool)
    terminals[list(terminal)] = True
    return Dataset(
        observations=rows,
        actions=np.zeros((len(flat), 1)),
        rewards=flat,
        next_observations=rows + 1,
        terminals=terminals,
        ends=ends,
        name="toy",
        success=success,
        incomplete=incomplete,
        last_rewards=last_rewards,
    )


def save(path, columns):
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def same(one, other, *, about=True):
    """Whether two datasets are equal to the last bit."""
    for name in (
        "observations", "actions", "rewards", "next_observations", "terminals", "ends",
        "success", "incomplete", "last_rewards",
    ):  # fmt: skip
        a, b = getattr(one, name), getattr(other, name)
        if (a is None) != (b is None):
            return False
        if a is not None and (a.dtype != b.dtype or a.tobytes() != b.tobytes()):
            return False
    drop = {"source"}
    left, right = ({k: v for k, v in d.about.items() if k not in drop} for d in (one, other))
    return one.name == other.name and (not about or left == right)
