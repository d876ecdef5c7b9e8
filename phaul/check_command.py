"""The command line of `p.haul check`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from typing import Any

from phaul import check, check_document, check_text, htype, log, targets
from phaul.check import BLOCKED, MOVABLE, WARNINGS
from phaul.errors import PhaulError, Refused

COLUMNS = (80, 120)  # at least, at most
STATUS_WARNINGS = 11
STATUSES = {MOVABLE: 0, WARNINGS: STATUS_WARNINGS, BLOCKED: Refused.status}


def add(commands: argparse._SubParsersAction[Any], add_haul: Callable[..., None]) -> None:
    """The command, with a subcommand for each row of the table, which takes what a haul takes (`add_haul`)."""
    top = commands.add_parser("check", help="say whether it could be moved, and what that would take; touch nothing")
    kinds = top.add_subparsers(dest="haul_type", metavar="TYPE", required=True)
    for name in htype.TABLE:
        # A haul's option of the same name means something else.
        sub = kinds.add_parser(name, help=f"check a {name}", conflict_handler="resolve")
        htype.load(name).add_arguments(sub)
        add_haul(sub)
        sub.add_argument(
            "--json", action="store_true", help="print one document (phaul/check_document.py says what is in it)"
        )


def run(options: argparse.Namespace) -> int:
    """Returns the exit status. Raises what keeps a check from its end, which --json tells as well."""
    log.setup(verbosity=options.verbosity)
    try:
        return _told(options)
    except PhaulError as error:
        if options.json:
            print(json.dumps(check_document.of_error(error)))
        raise


def _told(options: argparse.Namespace) -> int:
    driver = htype.load(options.haul_type)
    source = driver.source(options.subject, options)
    reach = targets.reach(options.target, port=options.port)
    try:
        report = check.examine(driver, source, reach, options)
    finally:
        reach.close()
    if options.json:
        print(json.dumps(check_document.of(report)))
    else:
        least, most = COLUMNS
        check_text.show(report, sys.stdout, max(least, min(most, shutil.get_terminal_size((least, 24)).columns)))
    return STATUSES[report.verdict]
