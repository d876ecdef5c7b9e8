"""The command line of p.haul, and the only place where its errors become text and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from phaul import VERSION, check_command, display_json, host_facts, htype, interrupts, log, places, report, resolve
from phaul.display import Display
from phaul.errors import PhaulError, UsageError
from phaul.iters import Haul
from phaul.mstats import Stats
from phaul.outcome import Outcome, facts, summary
from phaul.pace import Pace, rate_of
from phaul.streams import forgiving, harmless
from phaul.views import view

# Commands that are no haul types.
OTHERS = ("pair", "status", "cancel", "history", "bundle")
Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"

PORT = 12345
PAIRING_PORT = 12346

MODES = {
    "auto": "released when all memory is there, or --max-downtime is over",
    "precopy": "as auto, and refused where memory cannot go in rounds while it runs",
    "stopcopy": "released when all memory is there",
    "postcopy": "released at once, memory follows",
}
COMPRESS = {
    "auto": "where that is measured to be faster",
    "zstd": "always, and refused where a host cannot",
    "none": "never",
}
MAX_DOWNTIME = (
    "release it so many ms after the freeze at the latest, though it depends on this host then until the rest is there"
)

STATUSES = """\
exit status:
  0  it runs at the target
  1  an unforeseen error: its traceback and where the logs are
  2  the command line does not make sense
  3  refused: it cannot work; nothing was changed on either host
  4  no P.Haul service can be reached at the target
  5  the hosts are not paired, or a key is not the pinned one
  6  the peer speaks another protocol version
  7  failed on the way: it runs on here, the target is clean
  8  in doubt: the connection was lost after the commit; p.haul --resolve decides
  9  cancelled: it runs on here
  10 it runs at the target, but something could not be tidied up
  11 check: it could be moved, but there are warnings

target: an address or name (TLS, after p.haul pair), or user@host (over ssh, nothing listens there)
"""


class _Parser(argparse.ArgumentParser):
    """argparse, except that its complaints are ours."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


def port_number(text: str) -> int:
    """A TCP port, for argparse."""
    if not (text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port (1 to 65535)")
    return int(text)


def milliseconds(text: str) -> int:
    """A time, for argparse."""
    return _positive(text, "milliseconds")


def seconds(text: str) -> int:
    """A time, for argparse."""
    return _positive(text, "seconds")


def count(text: str) -> int:
    """How many, for argparse."""
    return _positive(text, "hauls")


def _positive(text: str, what: str) -> int:
    if not (text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}, 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """p.haul's whole command line: one subcommand for each row of the table, and the others."""
    top = _Parser(
        prog="p.haul",
        description="Move a running container or process to another host, and leave it running.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"P.Haul {VERSION}")
    top.add_argument("--resolve", metavar="NAME", help="settle a haul of NAME whose connection was lost in doubt")
    top.add_argument(
        "--force",
        action="store_true",
        help="with --resolve: let it run here, whatever became of it at the target",
    )
    commands = top.add_subparsers(dest="command", metavar="TYPE", title="haul types, and others")
    for name in htype.TABLE:
        driver = htype.load(name)
        sub = commands.add_parser(
            name, help=f"move a {name}", epilog=STATUSES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        driver.add_arguments(sub)
        _add_haul_arguments(sub)
    check_command.add(commands, _add_haul_arguments)
    pair = commands.add_parser("pair", help="pair this host with a target, once")
    pair.add_argument("target", help="the target's address; it must run `p.haul-service pair` meanwhile")
    pair.add_argument("--code", help="the code that the target shows (asked for where it is left out)")
    pair.add_argument(
        "--port",
        type=port_number,
        default=PAIRING_PORT,
        help=f"of `p.haul-service pair` there (default {PAIRING_PORT})",
    )
    _add_overviews(commands)
    for shown in commands._choices_actions:
        words = shown.help or ""
        commands.choices[shown.dest].description = f"{words[:1].upper()}{words[1:]}."
    return top


def _add_overviews(commands: Commands) -> None:
    status = commands.add_parser("status", help="show the hauls that are under way on this host, or in doubt")
    cancel = commands.add_parser("cancel", help="call off a haul that is under way from this host")
    history = commands.add_parser("history", help="show the hauls of this host that are over, the newest first")
    for sub in (status, history):
        sub.add_argument("container", nargs="?", help="its name, or the beginning of its id; left out: all")
        sub.add_argument("--json", action="store_true", help="as one JSON object a line, for programs")
    cancel.add_argument("container", help="its name, or the beginning of its id")
    packs = commands.add_parser("bundle", help="put the logs of a container's last haul, of both hosts, into a file")
    packs.add_argument("container", help="its name, or the beginning of its id")
    packs.add_argument("file", metavar="FILE", help="what to write, a tar: it has no memory in it, and no keys")
    history.add_argument("-n", dest="number", type=count, default=20, metavar="N", help="so many at most (default 20)")


def _add_haul_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("target", help="address or name of the target, or user@host for ssh")
    sub.add_argument("--port", type=port_number, default=PORT, help=f"of p.haul-service there (default {PORT})")
    sub.add_argument("-v", dest="verbosity", action="count", default=0, help="tell more (twice: everything)")
    sub.add_argument("--log-file", metavar="FILE", help="write the log to FILE as well")
    sub.add_argument("--json", action="store_true", help="tell how it goes as one JSON object a line, for programs")
    sub.add_argument("--report", metavar="FILE.html", help="write a page on how it went to FILE.html")
    sub.add_argument("--barrier", type=int, help=argparse.SUPPRESS)
    sub.add_argument("--keep-images", action="store_true", help="keep the dumped images of the source")
    sub.add_argument("--img-path", metavar="DIR", help=f"where to write images (default {places.WORK})")
    sub.add_argument(
        "--mode", choices=tuple(MODES), default="auto", help="; ".join(f"{k}: {v}" for k, v in MODES.items())
    )
    sub.add_argument("--max-downtime", type=milliseconds, metavar="MS", help=MAX_DOWNTIME)
    sub.add_argument(
        "--postcopy-timeout",
        type=seconds,
        default=60,
        metavar="S",
        help="in post-copy: how long to try again when the target cannot be reached (default 60)",
    )
    sub.add_argument(
        "--bandwidth", type=rate_of, default=0, metavar="LIMIT", help="bytes a second to send at most: 500k, 20M, 1G"
    )
    sub.add_argument(
        "--compress",
        choices=tuple(COMPRESS),
        default="auto",
        help="compress what is sent; " + "; ".join(f"{k}: {v}" for k, v in COMPRESS.items()),
    )
    sub.add_argument("--skip-cpu-check", action="store_true", help="do not compare the CPUs' features")
    sub.add_argument("--skip-criu-check", action="store_true", help="do not insist on a CRIU new enough for the kernel")
    sub.add_argument("--force", action="store_true", help="the same as --skip-cpu-check --skip-criu-check")


def main(argv: list[str] | None = None) -> int:
    """p.haul. Returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    # A check tells its errors in its own document.
    return told(lambda: _main(words), "p.haul", json="--json" in words and words[:1] != ["check"])


def told(body: Callable[[], int], program: str, *, json: bool = False) -> int:
    """Run a program's body; a foreseen error is a sentence and a status, another one its traceback.

    With `json` an object on stdout tells of it too.
    """
    try:
        return body()
    except PhaulError as error:
        interrupts.over()
        if json:
            display_json.write(sys.stdout, "error", **display_json.error_facts(error))
        with forgiving(sys.stderr):
            for line in (*error.sentence.split("\n"), *error.detail.split("\n")):
                if line:
                    print(f"{program}: {harmless(line)}", file=sys.stderr)
            print(f"{program}: [{harmless(error.code)}] exit status {error.status}", file=sys.stderr, flush=True)
        return error.status
    except Exception:
        interrupts.over()
        traceback.print_exc()
        if json:
            display_json.write(sys.stdout, "error", **display_json.unforeseen())
        print(f"{program}: this was not foreseen; the logs are in {places.LOGS}", file=sys.stderr)
        return 1


def _main(argv: list[str]) -> int:
    _known_type(argv)
    options = parser().parse_args(argv)
    if not options.command and not options.resolve:
        raise UsageError(f"What is to be moved? Known types: {', '.join(htype.TABLE)}. See p.haul --help.")
    host_facts.require_root()
    interrupts.install()
    if options.command == "check":
        _forced(options)
        return check_command.run(options)
    if options.resolve:
        return _resolve(options)
    if options.command in OTHERS:
        return _other(options)
    if getattr(options, "project", None):
        return _project(options, argv)
    return _haul(options)


def _other(options: argparse.Namespace) -> int:
    """What is no haul."""
    from phaul import bundle, history, standing

    log.setup(verbosity=0)
    run = {
        "pair": _pair,
        "status": standing.status,
        "cancel": standing.cancel,
        "history": history.history,
        "bundle": bundle.bundle,
    }
    return run[options.command](options)


def _project(options: argparse.Namespace, argv: list[str]) -> int:
    from phaul import project

    log.setup(verbosity=options.verbosity)
    if options.subject is not None or argv[0] != options.command:
        raise UsageError(f"Either a container or --project is moved: p.haul {options.command} --project NAME TARGET.")
    return project.haul(htype.load(options.command), options, argv)


def _known_type(argv: list[str]) -> None:
    """argparse would call an unknown type an invalid choice: this says which there are."""
    rest = argv[1:] if argv[:1] == ["check"] else argv
    words = [word for word in rest if not word.startswith("-")]
    known = (*htype.TABLE, *(("check", *OTHERS) if rest is argv else ()))
    if words and rest[0] == words[0] and words[0] not in known:
        htype.load(words[0])


def _haul(options: argparse.Namespace) -> int:
    from phaul import targets

    log.setup(verbosity=options.verbosity)
    if options.log_file:
        log.to_file(Path(options.log_file))
    _forced(options)
    stats = Stats(pace=Pace(options.bandwidth))
    title, asks = f"{options.subject} to {options.target}", targets.parse(options.target).by_ssh
    with report.kept(options.report, stats) as recorded:
        with view(stats, title=title, asks=asks, json=options.json) as shown:
            show = recorded(shown)
            with interrupts.late(partial(_too_late, show)):
                outcome, where = _hauled(options, stats, show)
        found = {"subject": outcome.subject, "target": where, "notes": list(outcome.notes), **facts(stats)}
        show.say("\n".join(summary(outcome, stats, where)), "summary", **found)
    return 0


def _hauled(options: argparse.Namespace, stats: Stats, show: Display) -> tuple[Outcome, str]:
    """What became of it, and the target's name."""
    from phaul import targets

    for sentence in resolve.settle_all():
        show.say(f"An earlier haul: {sentence}")
    driver = htype.load(options.command)
    source = driver.source(options.subject, options)
    with contextlib.closing(targets.reach(options.target, port=options.port)) as reach:
        return Haul(driver, source, reach, options, stats, show).run(), reach.name


def _too_late(show: Display, signal: str) -> None:
    show.say(f"{signal} came too late: what is moved is committed to the target, and this finishes.", "warning")


def _forced(options: argparse.Namespace) -> None:
    if options.force:
        options.skip_cpu_check = options.skip_criu_check = True


def _resolve(options: argparse.Namespace) -> int:
    log.setup(verbosity=0)
    record = resolve.of_subject(options.resolve)
    try:
        with interrupts.shielded():
            print(harmless("\n".join(resolve.settle(record, force=options.force))))
    finally:
        record.close()
    return 0


def _pair(options: argparse.Namespace) -> int:
    from phaul import keys, pairing

    identity, peers = keys.Identity.load_or_make(), keys.Peers()
    print(f"This host's key: {identity.fingerprint}")
    code = options.code or input(f"Code that `p.haul-service pair` shows on {options.target}: ")
    fingerprint = pairing.request(options.target, code, identity, peers, port=options.port)
    print(f"Paired with {options.target}: {fingerprint}")
    return 0
