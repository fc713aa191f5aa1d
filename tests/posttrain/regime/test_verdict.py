import pytest

from posttrain.regime.verdict import Interval, Regime, decide, meet


@pytest.mark.parametrize(
    ("low", "high", "regime"),
    [
        (0.06, 0.3, Regime.SUPERIOR),
        (0.05, 0.3, Regime.UNDECIDED),
        (0.04, 0.3, Regime.UNDECIDED),
        (-0.3, -0.06, Regime.INFERIOR),
        (-0.3, -0.05, Regime.UNDECIDED),
        (-0.3, 0.04, Regime.UNDECIDED),
        (-0.04, 0.04, Regime.COMPARABLE),
        (0.01, 0.04, Regime.COMPARABLE),
        (-0.05, 0.04, Regime.UNDECIDED),
        (-0.04, 0.05, Regime.UNDECIDED),
        (-0.3, 0.3, Regime.UNDECIDED),
    ],
)
def test_the_regime_follows_from_where_the_interval_lies(low, high, regime):
    assert decide(Interval(low, high), 0.05) is regime


def test_a_contradiction_keeps_what_was_known_first():
    assert meet(Interval(-0.2, 0.3), Interval(0.1, 0.5)) == (0.1, 0.3)
    assert meet(Interval(0.1, 0.2), Interval(0.3, 0.5)) == (0.1, 0.2)
