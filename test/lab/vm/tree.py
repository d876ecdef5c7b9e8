"""The project in the machines: copied there, compiled, set up and paired, unless that is so already."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import cache, service
from ..spawning import PROJECT
from .vmhost import VmHost

PLACE = "/opt/phaul"
PRODUCT = ("p.haul", "p.haul-service", "setup.py", "README.md", "phaul")
TEST = ("test",)
LEFT_OUT = {"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
UNPACK = f"rm -rf {PLACE} && mkdir -p {PLACE} && tar -xf - -C {PLACE} && ln -sfn {PLACE}/test /opt/lab"
COMPILE = ("python3", "-m", "compileall", "-q", f"{PLACE}/phaul", f"{PLACE}/test/lab", f"{PLACE}/test/at_point.py")
KEYS = "/etc/lab-tree"


def refresh(*hosts: VmHost) -> None:
    """Make sure that the machines have the current tree; where the program itself was another, set it up anew."""
    product, test = key(PRODUCT), key(TEST)
    stale, unknown = [], []
    for host in hosts:
        there = host.run("cat", KEYS, check=False).out.split()
        if there != [product, test]:
            stale.append(host)
        if there[:1] != [product]:
            unknown.append(host)
    with ThreadPoolExecutor() as pool:
        list(pool.map(unpack, stale))
    if unknown:
        with ThreadPoolExecutor() as pool:
            list(pool.map(service.setup, hosts))
        for source, target in (hosts, hosts[::-1]):
            service.pair(source, target, fresh=False)
    for host in stale:
        host.put(KEYS, f"{product} {test}\n".encode())


def unpack(host: VmHost) -> None:
    host._run(("sh", "-ec", UNPACK), timeout=60, input=packed())
    host.run(*COMPILE, timeout=120)


def files(tops: tuple[str, ...]) -> Iterator[Path]:
    for top in tops:
        for path in [PROJECT / top, *sorted((PROJECT / top).rglob("*"))]:
            if path.is_file() and not LEFT_OUT.intersection(path.parts) and path.suffix != ".pyc":
                yield path


def key(tops: tuple[str, ...]) -> str:
    return cache.key(*(part for path in files(tops) for part in (str(path.relative_to(PROJECT)), path.read_bytes())))


def packed() -> bytes:
    """The tree as a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in files((*PRODUCT, *TEST)):
            tar.add(path, str(path.relative_to(PROJECT)))
    return buffer.getvalue()
