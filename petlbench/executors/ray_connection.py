"""Connect to a Ray cluster and leave it, in silence: what Ray itself has to say goes to its own log files and to the log ``petlbench.executors``."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from petlbench.errors import ConfigError

INSTALL = "executor=ray needs Ray; install it with: pip install 'petlbench[ray]'"
PATIENCE = 5.0  # seconds for an address to answer
_log = logging.getLogger("petlbench.executors")


def require_ray() -> None:
    """ConfigError when Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ConfigError(INSTALL) from None


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect this process to a cluster and disconnect at the end; without an address to one that is started on this machine, for this block.

    A process that is connected already stays so. ConfigError when no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here sends nothing to Ray's makers
    import ray
    from ray.job_config import JobConfig

    if ray.is_initialized():
        yield
        return
    place = "local" if address is None else _found(address)
    plugins = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    _keep_errors_in_log()
    with _handlers_kept():
        try:
            ray.init(
                place,
                job_config=JobConfig(_py_driver_sys_path=plugins),
                log_to_driver=False,
                configure_logging=True,
                logging_level=logging.CRITICAL,
                **own,
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ConfigError(f"cannot connect to the Ray cluster at {place}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _found(address: str) -> str:
    """Return the address of a cluster that answers. Ray itself would wait for one that does not, and say nothing."""
    if "://" in address:
        raise ConfigError(f"address={address}: run bench on a machine of the cluster, with address=auto or HOST:PORT (docs/cluster.md)")
    place = address
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        try:
            place = os.environ.get("RAY_ADDRESS") or canonicalize_bootstrap_address("auto") or ""
        except ConnectionError:
            place = ""
        if not place or place == "auto":
            raise ConfigError("address=auto: no Ray cluster runs on this machine; start one (ray start --head) or give address=HOST:PORT")
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"address must be auto or HOST:PORT, such as address=10.0.0.1:6379, got '{place}'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"no Ray cluster answers at {place} ({said}); look whether it runs (ray status), or give another address="
        ) from None
    return place


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put back how this process ends on a signal, which Ray replaces: an interrupt has runs to record."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _keep_errors_in_log() -> None:
    """Send what Ray prints of dying machines, with twenty lines of their logs, to a log: the bench says in one line what it lost."""
    import ray._private.worker as of_ray

    def to_log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        _log.info("ray: %s", "\n".join(map(str, data.get("lines", ()))))

    of_ray.print_to_stdstream = to_log
