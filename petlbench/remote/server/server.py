"""The server process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from petlbench.backbones.backbone import load_backbone
from petlbench.errors import ConfigError
from petlbench.remote.server.app import create_app
from petlbench.remote.server.connections import Connection
from petlbench.remote.server.service import Service
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.server.worker import Worker

_LOOPBACK = ("127.", "::1", "localhost")


def serve(config: ServeConfig, device: torch.device, ready: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Answer until interrupted. ``ready`` gets one line with the address as soon as requests are taken. ConfigError when the address is in use."""
    token = config.token()
    if config.backbone == "remote":
        raise ConfigError("serve needs a model in this process, got backbone=remote; petlbench ls backbones lists them")
    if config.threads:
        torch.set_num_threads(config.threads)
    with _listening(config.host, config.port) as listener:
        service = Service(load_backbone(config.backbone, config.checkpoint).to(device), config, device)
        app = create_app(service, config, token)
        if token is None and not config.host.startswith(_LOOPBACK):
            warn(f"warning: anyone who reaches {config.host} can query this model; set PETLBENCH_TOKEN or token_file=")
        model, facts, port = service.model, service.model.facts, listener.getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        answers = f"answers {facts.output.value}" if facts.has_text else "features only"
        ready(f"serving {facts.name} (sha256 {model.sha256[:12]}…, {model.precision}, {answers}) at http://{host}:{port}")
        try:
            uvicorn.Server(http_settings(app, config)).run(sockets=[listener])
        finally:
            _end(service.worker, warn)


def http_settings(app: FastAPI, config: ServeConfig) -> uvicorn.Config:
    """Return the settings of the HTTP server around an application."""
    connection: Any = partial(Connection, most=config.max_connections)
    return uvicorn.Config(
        app,
        http=connection,
        ws="none",
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )


def _end(worker: Worker, warn: Callable[[str], None]) -> None:
    """Close the worker. If a forward pass is running, end the process at once: the interpreter would abort at exit."""
    worker.close()
    if worker.is_alive:
        warn("stopped during a forward pass")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _listening(host: str, port: int) -> socket.socket:
    """Open a socket that accepts connections; they wait until the server reads them."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host} port {port}: {error.strerror}; choose another with host= and port=") from None
