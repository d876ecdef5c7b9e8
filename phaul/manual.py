"""The man pages and the completion of bash, made from the parsers themselves: `python3 -m phaul.manual`.

What it writes, to phaul/docs, is kept beside the code, as setup.py has to install it where nothing else is there
yet. The completion is shtab's work, which is needed for this alone.
"""

from __future__ import annotations

import argparse
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phaul import VERSION, args_parser, display_json, htype, service_args

DOCS = Path(__file__).resolve().parent / "docs"
DATE = "2026-11-27"
WIDTH = 78
STATUS = re.compile(r"^ +(\d+) +(.+)$", re.MULTILINE)

FILES = {
    "/etc/phaul": "this host's key, and in peers/ those of paired hosts; remove one to end its pairing",
    "/etc/docker/daemon.json": "where p.haul-service setup adds the runtime that restores containers",
    "/var/lib/phaul/journal": "what became of each haul, the last 200 of them",
    "/var/lib/phaul/work": "images and the like while a haul is under way",
    "/var/log/phaul": "a directory for each haul, with CRIU's logs",
}
SIGNALS = (
    "SIGINT (Ctrl-C), SIGTERM and SIGHUP cancel a haul at any moment before it is committed to the target: what was to "
    "be moved runs on here, and the target keeps nothing. After that they come too late, and the haul goes to its end."
)
# What is completed in the place of an argument, by the name that the usage has for it.
CONTAINERS, TARGETS = "_phaul_containers", "_phaul_targets"
NEW_NAMES = {"dst_id"}
COMPLETED = {"container": CONTAINERS, "NAME": CONTAINERS, "target": TARGETS}
PREAMBLE = f"""
{CONTAINERS}() {{
  compgen -W "$(docker ps --format '{{{{.Names}}}}' 2>/dev/null)" -- "$1"
}}

{TARGETS}() {{
  compgen -W "$(cd /etc/phaul/peers 2>/dev/null && ls | sed -n 's/\\.pem$//p')" -- "$1"
  compgen -A hostname -- "$1"
}}
"""


def pages() -> dict[str, str]:
    """What is to be written, by its path below DOCS."""
    haul, service = args_parser.parser(), service_args.parser()
    return {
        "p.haul.1": _page(haul, 1, "p.haul-service(8)"),
        "p.haul-service.8": _page(service, 8, "p.haul(1)"),
        "completions/p.haul": _completion(haul),
        "completions/p.haul-service": _completion(service),
    }


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(text)


# Completion


def _completion(parser: argparse.ArgumentParser) -> str:
    shtab: Any = importlib.import_module("shtab")
    completed = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY, **{k: {"bash": v} for k, v in COMPLETED.items()}}
    for one in (parser, *_commands(parser).values()):
        for action in one._actions:
            found = completed.get(_argument(action))
            if found and action.dest not in NEW_NAMES:
                action.complete = found  # type: ignore[attr-defined]
    return str(shtab.complete(parser, "bash", preamble={"bash": PREAMBLE}))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _argument(action: argparse.Action) -> str:
    """What the usage calls its argument."""
    return str(action.metavar or action.dest)


# Man pages


def _page(parser: argparse.ArgumentParser, section: int, also: str) -> str:
    commands = _commands(parser)
    lines = [
        f'.TH {parser.prog.upper()} {section} {DATE} "P.Haul {VERSION}"',
        *_section("name", f"{_plain(parser.prog)} \\- {_plain(_lower(parser.description or ''))}"),
        *_section("synopsis"),
        *_synopses(parser, commands),
        *_section("description", _plain(parser.description or "")),
        *_section("options"),
        *_options(parser),
        *_haul_types(commands),
        *_others(commands),
        *_section("exit status"),
        *_terms(dict(STATUS.findall(args_parser.STATUSES))),
        *(_for_programs() if commands else ()),
        *(_section("signals", _plain(SIGNALS)) if commands else ()),
        *_section("files"),
        *_terms(FILES),
        *_section("see also", f"{_plain(also)}, docker(1), criu(8), runc(8)"),
    ]
    return "\n".join(lines) + "\n"


def _synopses(parser: argparse.ArgumentParser, commands: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    for index, one in enumerate(list(commands.values()) or [parser]):
        yield from [".br"] if index else []
        yield from _synopsis(one)
    if commands:
        yield ".br"
        yield from _wrapped(f"\\fB{_plain(parser.prog)} \\-\\-resolve\\fR \\fINAME\\fR [\\fB\\-\\-force\\fR]")


def _synopsis(parser: argparse.ArgumentParser) -> list[str]:
    words = [f"\\fB{_plain(parser.prog)}\\fR", "[options]"]
    for action in parser._actions:
        if not action.option_strings:
            words.append(f"[{_value(action)}]" if action.nargs == "?" else _value(action))
    return _wrapped(" ".join(words))


def _value(action: argparse.Action) -> str:
    if action.choices and not isinstance(action, argparse._SubParsersAction):
        return "|".join(f"\\fB{_plain(str(choice))}\\fR" for choice in action.choices)
    return (
        f"\\fI{_plain(_argument(action) if action.metavar or not action.option_strings else action.dest.upper())}\\fR"
    )


def _haul_types(commands: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Each with what it alone has; then what they share."""
    types = [commands[name] for name in htype.TABLE if name in commands]
    if not types:
        return
    shared = set.intersection(*({_names(action) for action in one._actions} for one in types))
    for one in types:
        yield from _section(one.prog.removeprefix("p.haul "), _plain(one.description or ""))
        yield from _options(one, but=shared)
    yield from _section("options of every haul")
    yield from _options(types[0], only=shared)


def _others(commands: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    for name, one in commands.items():
        if name not in htype.TABLE:
            yield from _section(name, _plain(one.description or ""))
            yield from _options(one)


def _names(action: argparse.Action) -> tuple[str, ...]:
    return tuple(action.option_strings) or (_argument(action),)


def _options(
    parser: argparse.ArgumentParser,
    *,
    but: set[tuple[str, ...]] | None = None,
    only: set[tuple[str, ...]] | None = None,
) -> Iterator[str]:
    for action in parser._actions:
        names = _names(action)
        if names in (but or ()) or (only is not None and names not in only):
            continue
        if "--help" in names or isinstance(action, argparse._SubParsersAction):
            continue
        head = ", ".join(f"\\fB{_plain(name)}\\fR" for name in action.option_strings)
        if not action.option_strings or action.nargs != 0:
            head = " ".join(filter(None, (head, _value(action))))
        yield ".TP"
        yield head
        yield from _wrapped(_plain((action.help or "") % {**vars(action), "prog": parser.prog}))


def _for_programs() -> Iterator[str]:
    said = (
        'With --json everything on stdout is one JSON object a line, each with "type" and "time" (seconds since 1970).'
    )
    yield from _section("for programs", _plain(said))
    yield from _terms(display_json.TYPES)


def _section(title: str, text: str = "") -> list[str]:
    return [f'.SH "{title.upper()}"', *(_wrapped(text) if text else ())]


def _terms(meanings: dict[str, str]) -> Iterator[str]:
    for term, meaning in meanings.items():
        yield ".TP"
        yield f"\\fB{_plain(term)}\\fR"
        yield from _wrapped(_plain(meaning))


def _plain(text: str) -> str:
    """Text in which nothing means anything to roff."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def _wrapped(text: str) -> list[str]:
    """Its lines; none begins as a request of roff does."""
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"\\&{line}" if line[0] in ".'" else line for line in lines]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


if __name__ == "__main__":
    main()
