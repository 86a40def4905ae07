"""The cluster that the tests start is a real one."""

from __future__ import annotations

from graphopt.cluster.connecting import connect
from tests.cluster.support import Running


def test_the_cluster_has_three_workers_of_which_one_carries_the_label(running: Running) -> None:
    with connect(running.address) as found:
        carry = {worker["name"]: worker["resources"] for worker in found.workers.values()}
    assert carry == {"one": {}, "two": {}, "edge": {"edge": 1.0}}
