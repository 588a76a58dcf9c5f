"""``chimerad`` and ``python -m chimerad``: the command line of the daemon. Parses, then hands over."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from chimera import __version__, paths
from chimera.errors import EXIT_FAILED, EXIT_OK, ChimeraError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon in the foreground; returns the exit code."""
    options = _parser().parse_args(arguments)
    os.umask(0o077)
    try:
        home = paths.home(options.home)
        socket_path = paths.socket_path(options.home, options.socket)
        _run(home, socket_path, options.log_level)
    except ChimeraError as error:
        sys.stderr.write(f"chimerad: {error.message}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"chimerad: {error.filename or 'the disk'}: {error.strerror or error}\n")
        return EXIT_FAILED
    return EXIT_OK


def _run(home: str, socket_path: str, log_level: str | None) -> None:
    from chimera.config import load_config
    from chimerad import logs
    from chimerad.daemon import raise_descriptor_limit, run_daemon
    from chimerad.eager import new_event_loop

    config = load_config(home)
    logs.set_up(log_level or config.daemon.log_level)
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run_daemon(home, socket_path, config))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chimerad",
        description="The session daemon: owns the event log and serves JSON-RPC over a Unix socket, in the foreground.",
        epilog="SIGTERM and SIGINT stop it cleanly, SIGHUP reads config.toml again.",
    )
    parser.add_argument("--home", help="state home (default: $CHIMERA_HOME, else ~/.chimera)")
    parser.add_argument("--socket", help="socket to listen on (default: $CHIMERA_SOCKET, else below the home)")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="overrides config.toml")
    parser.add_argument("--version", action="version", version=f"chimerad {__version__}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
