from itertools import combinations

import numpy as np
import pytest

from posttrain.report.style import CARD, DATA, INK, PALETTE, PAPER, PI0, SOFT, TUNED, css_variables

# Full dichromacy in linear RGB (Machado, Oliveira and Fernandes, IEEE TVCG 15, 2009).
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def _linear(colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _contrast(one, other):
    light = [float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)]
    return (max(light) + 0.05) / (min(light) + 0.05)


def _lab(linear):
    white = np.array([0.95047, 1.0, 1.08883])
    rgb_to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = np.clip(rgb_to_xyz @ linear, 0, None) / white
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("text", [INK, SOFT, PI0, DATA, TUNED], ids=lambda c: c.name)
@pytest.mark.parametrize("ground", [PAPER, CARD], ids=lambda c: c.name)
def test_text_meets_the_contrast_of_wcag_aa(text, ground, mode):
    assert _contrast(getattr(text, mode), getattr(ground, mode)) >= 4.5


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("sight", DEFICIENCIES)
def test_the_three_colours_with_meaning_stay_apart(sight, mode):
    seen = [
        _lab(np.clip(DEFICIENCIES[sight] @ _linear(getattr(c, mode)), 0, 1))
        for c in (PI0, DATA, TUNED)
    ]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


def test_colours_are_distinct_since_figures_are_recoloured_by_name():
    assert len({c.light for c in PALETTE}) == len(PALETTE)
    assert all(f"--{c.name}:{c.light}" in css_variables() for c in PALETTE)
