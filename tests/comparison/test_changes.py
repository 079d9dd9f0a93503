"""How likely a difference between two experiments is by chance."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from image_classifier.comparison.changes import p_values


@pytest.mark.parametrize(
    ("fixed", "broken"), [(6, 2), (0, 6), (5, 0), (3, 4), (7, 7), (0, 0), (1, 0), (90, 60)]
)
def test_p_values_are_those_of_the_exact_test(fixed: int, broken: int):
    """The probability of all outcomes that are at most as likely as this one."""
    ways = [comb(fixed + broken, number) for number in range(fixed + broken + 1)]
    expected = Fraction(sum(way for way in ways if way <= ways[fixed]), sum(ways))
    found = p_values(np.array([[0, fixed], [broken, 0]]))
    assert found == pytest.approx(np.array([[1, expected], [expected, 1]], float), rel=1e-9)


def test_p_values_of_large_numbers():
    found = p_values(np.array([[0, 500_000, 1_000], [500_100, 0, 0], [0, 0, 0]]))
    assert found[0, 1] == found[1, 0] == pytest.approx(0.921, abs=0.001)
    assert 0 <= found[0, 2] == found[2, 0] < 1e-300 and found[1, 2] == 1
