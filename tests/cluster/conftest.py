"""One cluster for all tests that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.support import Running, cluster


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A scheduler and the workers one, two and edge, which carries the resource of that name."""
    pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found
