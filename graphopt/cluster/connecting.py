"""Finding a cluster, or making one of the cores of this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from graphopt.errors import BadInput, GraphoptError, MissingExtra

if TYPE_CHECKING:
    from distributed import Client

    from graphopt.cluster.cluster import Cluster

_CONNECT_SECONDS = 10
_WORKERS_SECONDS = 30.0
_POLL_SECONDS = 0.1


@contextmanager
def connect(address: str | None = None, *, cores: int | None = None) -> Generator[Cluster]:
    """The cluster behind a Dask scheduler, or one of this machine that lives as long as the block.

    Args:
        address: Of the scheduler, such as ``tcp://10.0.0.5:8786``; None for this machine.
        cores: How many calls run at once on this machine; one a core by default.

    Raises:
        MissingExtra: Dask is not installed.
        BadInput: No scheduler answers, or not any more; it has no workers, or these cannot be of use.
    """
    if importlib.util.find_spec("distributed") is None:
        raise MissingExtra("Working on many models or machines needs Dask: pip install 'graphopt[cluster]'.")
    with _client(address, cores) as client:
        from graphopt.cluster import serving
        from graphopt.cluster.cluster import Cluster

        found = Cluster(client, _agreed(client), local=address is None)
        try:
            yield found
        except Exception as error:
            if client.status != "running" and not isinstance(error, GraphoptError):
                # What the client raises then depends on what it was asked for.
                raise BadInput(
                    f"The Dask scheduler at {address or 'this machine'} does not answer any more, and"
                    " what was under way is lost."
                ) from error
            raise
        finally:
            if client.status == "running":
                found.cancel()
                with suppress(OSError, TimeoutError):
                    client.run(serving.release, on_error="ignore")


@contextmanager
def _client(address: str | None, cores: int | None) -> Generator[Client]:
    import dask.config
    from distributed import Client, LocalCluster

    # What it has to say of workers that come and go is told by what comes of the calls.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address is not None:
        try:
            client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise BadInput(
                f"No Dask scheduler answers at {address}: start one with 'dask scheduler', and workers with"
                f" 'dask worker {address}'."
            ) from error
        with client:
            _wait_for_workers(client, address)
            yield client
        return
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        tempfile.TemporaryDirectory(prefix="graphopt-dask-") as folder,
        LocalCluster(
            n_workers=1,
            processes=False,
            threads_per_worker=cores or os.cpu_count() or 1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def _wait_for_workers(client: Client, address: str) -> None:
    deadline = time.monotonic() + _WORKERS_SECONDS
    while not client.scheduler_info(n_workers=-1)["workers"]:
        if time.monotonic() > deadline:
            raise BadInput(
                f"The scheduler at {address} has no workers: start some with 'dask worker {address}'."
            )
        time.sleep(_POLL_SECONDS)


def _agreed(client: Client) -> Mapping[str, str]:
    """The versions of all workers.

    Raises:
        BadInput: A worker cannot import graphopt, or has another version of something that decides results.
    """
    from graphopt.cluster import serving

    try:
        found: Any = client.run(serving.about)
    except Exception as error:
        raise BadInput(
            f"The workers cannot do graphopt's work ({type(error).__name__}: {error}): install the same"
            " graphopt[cluster] on each."
        ) from error
    names = {
        place: worker["name"] for place, worker in client.scheduler_info(n_workers=-1)["workers"].items()
    }
    (first, versions), *others = sorted(found.items())
    for place, theirs in others:
        for package, version in theirs.items():
            if versions[package] != version:
                raise BadInput(
                    f"The workers {names.get(first, first)} and {names.get(place, place)} have"
                    f" {package} {versions[package]} and {version}, and would not come to the same results:"
                    " install the same on each."
                )
    return versions
