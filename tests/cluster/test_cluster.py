"""Joining a Ray cluster."""

import pytest

from image_classifier.cluster import connect
from image_classifier.errors import InputError


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=rf"^Ray at {address}: .*; allowed: its head, as") as error:
        connect(address)
    assert "\n" not in str(error.value)
