import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.mazes import MAZES, Grid, MazeError, grid_of, maze_map

maps = st.lists(
    st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4), min_size=1, max_size=4
).filter(lambda rows: any(0 in row for row in rows))


def moves(grid: Grid) -> np.ndarray:
    """Moves between all cells by Floyd and Warshall: another algorithm than the one under test."""
    away = np.abs(grid.cells[:, None] - grid.cells[None]).sum(axis=-1)
    far = np.where(away <= 1, away, 10**6).astype(float)
    for k in range(len(far)):
        far = np.minimum(far, far[:, k : k + 1] + far[k : k + 1])
    return far


@given(maps, st.booleans())
def test_every_way_is_a_shortest_one(rows, backwards):
    grid = grid_of(rows)
    far, ways = moves(grid), grid.ways(backwards=backwards)
    for goal in range(len(far)):
        for cell in range(len(far)):
            step = ways[goal, cell]
            if cell == goal or far[goal, cell] >= 10**6:
                assert step == cell
            else:
                assert far[cell, step] == 1
                assert far[goal, step] == far[goal, cell] - 1


@given(maps, st.sampled_from([1.0, 4.0]))
def test_a_place_is_in_the_cell_whose_centre_is_near(rows, scale):
    grid = grid_of(rows, scale=scale)
    shaken = grid.centres() + 0.49 * scale * np.array([1, -1])
    assert grid.number(shaken).tolist() == list(range(len(grid.cells)))


def test_coordinates_by_hand():
    grid = grid_of([[1, 0, 1], [1, "g", 1]])
    assert grid.centres().tolist() == [[0.0, 0.5], [0.0, -0.5]]
    assert grid_of([[1, 1, 0]], scale=4.0).centres().tolist() == [[4.0, 0.0]]


def test_the_two_orders_take_the_two_sides_of_the_fork():
    grid = grid_of(maze_map("fork"))
    rows = {}
    for backwards in (False, True):
        ways = grid.ways(backwards=backwards)
        cell, goal = (int(grid.number(np.array([[x, 0.0]]))[0]) for x in (-3, 3))
        seen = []
        while cell != goal:
            cell = int(ways[goal, cell])
            seen.append(int(grid.cells[cell, 0]))
        rows[backwards] = (min(seen), max(seen), len(seen))
    assert rows == {False: (1, 3, 10), True: (3, 5, 10)}


@pytest.mark.parametrize(
    ("name", "far"), [("corridor", 4), ("umaze", 6), ("fork", 10), ("medium", 16), ("large", 23)]
)
def test_maps_are_closed_connected_and_as_far_as_they_say(name, far):
    maze = maze_map(name)
    flat = [cell for row in maze for cell in row]
    assert (flat.count("r"), flat.count("g")) == (1, 1)
    border = [*maze[0], *maze[-1], *(row[0] for row in maze), *(row[-1] for row in maze)]
    assert set(border) == {1}
    grid = grid_of(maze)
    codes = [maze[row][column] for row, column in grid.cells]
    assert moves(grid).max() < 10**6
    assert moves(grid)[codes.index("r"), codes.index("g")] == far


def test_no_map_is_missing_from_the_test_above():
    assert set(MAZES) == {"corridor", "umaze", "fork", "medium", "large"}


def test_an_unknown_map_is_refused_with_the_nearest():
    with pytest.raises(MazeError, match="did you mean 'medium'"):
        maze_map("medum")
    with pytest.raises(MazeError, match="at least one free cell"):
        grid_of([[1, 1]])
