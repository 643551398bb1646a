"""Starting one of the programs: where it listens, what it logs, how it stops."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn

#: Seconds that answers under way get after SIGTERM; Kubernetes waits 30 before it kills.
GRACE_SECONDS = 25

LOOPBACK = "127.0.0.1"


def parser(
    prog: str, description: str, *, port: int, environ: Mapping[str, str] = os.environ
) -> argparse.ArgumentParser:
    """``--host`` and ``--port``, whose defaults come from HOST and PORT; loopback where nothing is said."""
    made = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    made.add_argument("--host", default=environ.get("HOST") or LOOPBACK, help="address to listen on (HOST)")
    made.add_argument(
        "--port", type=_port, default=environ.get("PORT") or str(port), help="port to listen on (PORT)"
    )
    return made


def serve(app: Any, *, host: str, port: int, environ: Mapping[str, str] = os.environ) -> None:
    """Run until SIGTERM or Ctrl-C, then let answers under way finish.

    The caller's address is that of the connection. Only where FORWARDED_ALLOW_IPS names trusted proxies is
    their ``X-Forwarded-For`` believed.
    """
    # uvicorn raises the signal that ended it once more, for whoever handled it before: that is the end, cleanly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    proxies = environ.get("FORWARDED_ALLOW_IPS")
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def log_to_stderr() -> None:
    """One line for each record. httpx would log every call to the provider."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"the port must be a number from 1 to 65535, not {text[:20]!r}")
    return port
