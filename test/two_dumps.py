"""two_dumps.py CONTAINER: on a lab host: dumps a frozen container twice, as CRIU alone does it, and without its seeing
memory; prints what the images say that differs, as JSON: {file: [only in the first, only in the second]}, and how much
memory there was, under "pages".
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, "/opt/phaul")
from pycriu import images as reader

from phaul import docker_dump, dump_unseen, freezer, host_facts

PAGE, LAZY, PRESENT = 4096, 2, 4
WORK = Path("/tmp/two-dumps")


def dumped(container: str, pids: list[int], work: Path) -> Path:
    images = work / "images"
    images.mkdir(parents=True)
    dump = docker_dump.Dump(container, images=images, work=work, network=[], runc=host_facts.runc_version(), lazy=True)
    try:
        dump.until_poised()
        dump.finish(pids)
        dump.await_end()
    finally:
        dump.close()
    return images


def said(images: Path) -> dict[str, set[str]]:
    """Of each task's memory: a word for each page, and for each mapping."""
    found = {}
    for path in images.glob("pagemap-*.img"):
        head, *entries = loaded(path)
        pages = images / f"pages-{head['pages_id']}.img"
        with pages.open("rb") as data:
            found[path.name] = {word for entry in entries for word in words(entry, data)}
            assert not data.read(1)
    for path in images.glob("mm-*.img"):
        found[path.name] = {json.dumps(vma, sort_keys=True) for vma in loaded(path)[0]["vmas"]}
    return found


def loaded(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        entries: list[dict[str, Any]] = reader.load(file)["entries"]
    return entries


def words(entry: dict[str, Any], data: Any) -> list[str]:
    start, count = int(entry["vaddr"]), int(entry.get("nr_pages") or entry["compat_nr_pages"])
    kind = "lazy" if entry["flags"] & (LAZY | PRESENT) == LAZY else "present"
    contents = [hashlib.sha256(data.read(PAGE)).hexdigest() if kind == "present" else "" for _ in range(count)]
    return [f"{start + number * PAGE:x} {kind} {content}" for number, content in enumerate(contents)]


def main(container: str) -> None:
    pid = json.loads(subprocess.check_output(["docker", "inspect", container]))[0]["State"]["Pid"]
    pids = freezer.of(pid).pids()
    shutil.rmtree(WORK, ignore_errors=True)
    assert dump_unseen.possible()
    dump_unseen.WORTH_BYTES = 0
    possible, dump_unseen.possible = dump_unseen.possible, lambda: False
    first = said(dumped(container, pids, WORK / "first"))
    dump_unseen.possible = possible
    second = said(dumped(container, pids, WORK / "second"))
    assert first.keys() == second.keys()
    differ = {name: [sorted(first[name] - second[name]), sorted(second[name] - first[name])] for name in first}
    pages = sum(len(words) for name, words in second.items() if name.startswith("pagemap"))
    print(json.dumps({"pages": pages, **{name: both for name, both in differ.items() if any(both)}}))


main(sys.argv[1])
