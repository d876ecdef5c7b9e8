"""The command line of p.haul-service, and the running of the service itself."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from phaul import VERSION, host_facts, keys, listener, log, places, resolve, service
from phaul.args_parser import PAIRING_PORT, PORT, STATUSES, port_number, told
from phaul.errors import UsageError
from phaul.guard import Guard
from phaul.policy import Policy

LOG = logging.getLogger("phaul.service")
IDLE_SECONDS = 60.0
LOOK_SECONDS = 5.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


def directory(text: str) -> str:
    """An absolute path, for argparse; it need not be there yet."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no absolute path")
    return text


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="p.haul-service",
        description="Receive running containers and processes from other hosts.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "command",
        nargs="?",
        choices=("setup", "pair", "peers", "revoke"),
        help="setup: once for each host; pair: let one source pair with this host; peers: show who is paired with it; "
        "revoke: trust HOST no more, whose connections end at once; nothing: serve",
    )
    top.add_argument("host", nargs="?", metavar="HOST", help="revoke: its name or address, as peers shows it")
    top.add_argument("--version", action="version", version=f"P.Haul {VERSION}")
    top.add_argument("--bind-addr", default="0.0.0.0", metavar="ADDR", help="listen on this address (default: all)")
    top.add_argument("--port", type=port_number, help=f"listen on this port (default {PORT}, pair: {PAIRING_PORT})")
    top.add_argument(
        "--allow-privileged",
        action="store_true",
        help="take whatever paired sources bring: privileged containers, devices, capabilities, other drivers, bare "
        "processes (default: what Docker confines as it does by default)",
    )
    top.add_argument(
        "--allow-bind",
        action="append",
        default=[],
        type=directory,
        metavar="DIR",
        help="take bind mounts within this directory of this host, / for all; may be repeated (default: none)",
    )
    top.add_argument("--code", help="pair: use this code instead of a random one")
    top.add_argument("-v", dest="verbosity", action="count", default=0, help="tell more (twice: everything)")
    top.add_argument("--log-file", metavar="FILE", help="write the log to FILE as well")
    top.add_argument("--stdio", action="store_true", help="one connection on standard input and output (what ssh runs)")
    top.add_argument("--unix", action="store_true", help="listen on the local socket alone, and end when idle")
    return top


def main(argv: list[str] | None = None) -> int:
    """p.haul-service. Returns the exit status."""
    return told(lambda: _main(sys.argv[1:] if argv is None else argv), "p.haul-service")


def _main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    host_facts.require_root()
    if options.stdio:
        return listener.stdio()
    log.setup(verbosity=options.verbosity)
    if options.log_file:
        log.to_file(Path(options.log_file))
    if options.command == "setup":
        from phaul import host_setup

        print("\n".join(host_setup.setup()))
        return 0
    if bool(options.host) != (options.command == "revoke"):
        raise UsageError("A HOST is named where it is to be revoked, and nowhere else. See p.haul-service --help.")
    identity, peers = keys.Identity.load_or_make(), keys.Peers()
    if options.command in ("peers", "revoke"):
        print("\n".join(_shown(peers) if options.command == "peers" else _revoked(peers, options.host)))
        return 0
    if options.command == "pair":
        from phaul import pairing

        pairing.offer(
            identity,
            peers,
            bind=options.bind_addr,
            port=options.port or PAIRING_PORT,
            code=options.code,
            announce=lambda line: print(line, flush=True),
        )
        return 0
    return _serve(options, identity, peers)


def _shown(peers: keys.Peers) -> list[str]:
    paired = [f"{peer.name}  {peer.fingerprint}" for peer in peers.all()]
    return paired or ["No host is paired with this one."]


def _revoked(peers: keys.Peers, host: str) -> list[str]:
    return [f"{name} is not paired with this host any more." for name in peers.revoke(host)]


def _serve(options: argparse.Namespace, identity: keys.Identity, peers: keys.Peers) -> int:
    """Until SIGTERM or SIGINT; on the local socket alone, until nothing has been carried for a while."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.to_file(places.LOGS / "p.haul-service.log", most=log.MOST)
    service.recover_all()
    if not options.unix:  # started on demand, it has no time for that: somebody waits
        _say_what_lacks()
    # Beside the rest: targets may be asked, and be away.
    threading.Thread(target=_settle_source, name="settle", daemon=True).start()
    guard = Guard("target")
    serving = service.Service(Policy(privileged=options.allow_privileged, binds=tuple(options.allow_bind)))
    door = None if options.unix else (options.bind_addr, options.port or PORT)
    ears = listener.Listener(serving.handle, identity, peers, address=door, unix=True)
    try:
        where = f"{options.bind_addr} port {ears.port}" if door else "the local socket"
        print(f"p.haul-service listens on {where}", flush=True)
        _wait(stop, serving, idle_ends=options.unix)
    finally:
        ears.close()
        serving.close()
        guard.dismiss()
    return 0


def _settle_source() -> None:
    """What this host was the source of when it lost its power."""
    for sentence in resolve.settle_all():
        LOG.warning("%s", sentence)


def _say_what_lacks() -> None:
    """What this host lacks to be a target."""
    from phaul import docker_target_checks  # not loaded where it is not needed

    for blocker in docker_target_checks.of_host("this host"):
        LOG.warning("%s", blocker.sentence)


def _wait(stop: threading.Event, serving: service.Service, *, idle_ends: bool) -> None:
    while not stop.wait(LOOK_SECONDS):
        serving.tidy()
        since = serving.idle_since()
        if idle_ends and since is not None and time.monotonic() - since > IDLE_SECONDS:
            return
