"""Two machines as they are after boot, set up and paired, saved so that an instance is up in seconds."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import cache
from . import image, machine, tree
from .vmhost import VmHost

HOSTS_FILE = b"127.0.0.1 localhost\n10.79.0.1 a\n10.79.0.2 b\n"
WARM = ("docker", "run", "--rm", "busybox", "true")


def ready() -> Path:
    """The directory with NAME.state and NAME.qcow2 of each machine, and the key of the tree that they have."""
    return cache.made(f"vm-saved-{key()}", make)


def key() -> str:
    recipe = [Path(__file__).read_text(), *machine.hardware(Path(), "name", "10.79.0.1")]
    qemu = Path(shutil.which("qemu-system-x86_64") or "/dev/null").resolve().stat()
    return cache.key(image.base_key(), *recipe, f"{qemu.st_size} {qemu.st_mtime_ns}")


def new_disk(path: Path) -> Path:
    """A disk whose content is the base image's until it is changed."""
    base = image.base() / "disk.img"
    cache.build(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path])
    return path


def begin(host: VmHost) -> None:
    host.set_clock()
    host.put("/etc/hosts", HOSTS_FILE)
    host.dockerd.start()


def warm_up(host: VmHost) -> None:
    """Use once what each haul uses."""
    host.run(*WARM, timeout=120)
    host.run("criu", "check", timeout=120, check=False)
    host.run("sync")


def make(target: Path) -> None:
    from .lab import VmLab

    target.mkdir()
    with VmLab.boot(f"saving-{os.getpid()}", target) as lab:
        with ThreadPoolExecutor() as pool:
            list(pool.map(begin, lab.hosts))
            tree.refresh(*lab.hosts)
            list(pool.map(warm_up, lab.hosts))
        for host in lab.hosts:
            assert host.machine is not None
            host.machine.save(target / f"{host.name}.state")
