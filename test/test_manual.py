"""The man pages and the completion of bash: as the parsers are now, and read by what they are for."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess

import pytest
from lab import Host, workloads
from lab.waiting import until

from phaul import args_parser, manual
from phaul.check_command import STATUS_WARNINGS

PAGES = ("p.haul.1", "p.haul-service.8")
COMPLETE = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p "$2" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_they_are_as_the_parsers_are() -> None:
    """Otherwise: python3 -m phaul.manual."""
    assert {name: (manual.DOCS / name).read_text() for name in manual.pages()} == manual.pages()


@pytest.mark.parametrize("page", PAGES)
def test_a_strict_reader_of_man_pages_finds_no_fault(page: str) -> None:
    if not shutil.which("mandoc"):
        pytest.skip("the command mandoc is not on this machine")
    done = subprocess.run(["mandoc", "-Tlint", manual.DOCS / page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def read(page: str) -> str:
    if not shutil.which("mandoc"):
        pytest.skip("the command mandoc is not on this machine")
    done = subprocess.run(["mandoc", "-Tascii", manual.DOCS / page], capture_output=True, text=True, check=True)
    return re.sub(".\x08", "", done.stdout)


def test_every_option_and_status_is_there() -> None:
    text = read("p.haul.1")
    parsers = [args_parser.parser(), *manual._commands(args_parser.parser()).values()]
    options = {name for one in parsers for action in one._actions for name in action.option_strings} - {"-h", "--help"}
    assert [name for name in options if not re.search(rf"^ +(\S+, )?{name}\b", text, re.MULTILINE)] == []
    assert re.findall(r"^       (\d+) +[a-z]", text, re.MULTILINE) == [
        str(number) for number in range(STATUS_WARNINGS + 1)
    ]
    assert "stopcopy: released when all memory is" in text and "\\" not in text
    assert "--bind-addr ADDR" in read("p.haul-service.8")


def completed(host: Host, *words: str, program: str = "p.haul") -> list[str]:
    """What bash offers for the last word."""
    file = f"/opt/phaul/phaul/docs/completions/{program}"
    return host.run("bash", "-c", COMPLETE, "bash", file, program, *words).out.split()


def test_bash_completes(paired: object, clean_lab: object, host_a: Host, host_b: Host) -> None:
    workloads.counter(host_a, "webshop")
    assert completed(host_a, "st") == ["status"]
    assert set(completed(host_a, "")) >= {"docker", "pid", "pair", "status", "cancel", "history"}
    assert completed(host_a, "docker", "--postcopy-t") == ["--postcopy-timeout"]
    assert completed(host_a, "docker", "--mode", "p") == ["precopy", "postcopy"]
    assert completed(host_a, "docker", "webs") == ["webshop"]
    assert host_b.ip in completed(host_a, "docker", "webshop", host_b.ip[:4])
    assert completed(host_a, "docker", "--compress", "zstd", "webs") == ["webshop"]
    assert completed(host_a, "docker", "--img-path", "/var/lib/ph") == ["/var/lib/phaul"]
    assert completed(host_a, "cancel", "webs") == completed(host_a, "--resolve", "webs") == ["webshop"]
    assert completed(host_a, "docker", "--dst-id", "webs") == []
    assert set(completed(host_a, "", program="p.haul-service")) >= {"setup", "pair"}


def test_bash_completes_what_is_typed() -> None:
    """By the Tab key, in a shell that somebody sits at."""
    child, terminal = pty.fork()
    if not child:
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    seen = b""

    def shows(words: bytes) -> bool:
        nonlocal seen
        seen += os.read(terminal, 4096)
        return words in seen

    try:
        os.write(terminal, f"source {manual.DOCS}/completions/p.haul; echo rea''dy\n".encode())
        until(lambda: shows(b"ready\r\n"), "bash", timeout=20)
        os.write(terminal, b"echo p.haul; p.haul history --js\t")
        until(lambda: shows(b"p.haul history --json "), "the completion", timeout=20)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
