"""The line of a CRIU log that tells why it failed.

CRIU's lines are "(seconds.micros) [pid: ]Error (file.c:line): words"; the first error is the
cause as a rule, later ones its consequences (criu(8), --log-file).
"""

from __future__ import annotations

import re
from pathlib import Path

LINE = re.compile(r"^\(\s*\d+\.\d+\)\s*(?:\d+:\s*)?(Error|Warn)\s*\(([^)]*)\):\s*(.*)$")
MAX_BYTES, MAX_LINE = 8 << 20, 4000
# Said on the way to other failures, or on success too.
NOT_DECIDING = (
    "Dumping FAILED",
    "Restoring FAILED",
    "Unable to kill",
    "Unix socket",
    "Bad pid from ptrace",
    "rlimit: ",
)


def deciding_line(path: Path) -> str:
    """The first telling error in the log, without its clock; "" where there is none or no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    found = map(LINE.match, (line[:MAX_LINE] for line in lines))
    errors = [match.group(3).strip() for match in found if match and match.group(1) == "Error"]
    telling = [words for words in errors if not words.startswith(NOT_DECIDING)]
    return (telling or errors or [""])[0]
