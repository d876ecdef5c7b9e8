"""The docker images of the lab, made here and cached, since no registry can be reached.

busybox          every applet, and /bin/ticker; runs sh
busybox-layered  the same on top of two layers more, 1 MiB of incompressible bytes in one of them
memhog           /bin/memhog on top of busybox's layer
shifter          /bin/shifter on top of it
kinds            /bin/kinds on top of it
workload         /bin/workload, what the benchmark hauls, on top of the same
apps             Debian's redis-server, memcached, node, python3 with their libraries
services         Debian's nginx, postgres with pgbench and amcheck, redis-server
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import archive, cache, rootfs, tools
from .errors import LabError
from .host import Host

APPS = ("redis-server", "memcached", "nodejs", "python3", "libjemalloc2", "procps")
SERVICES = ("nginx", "postgresql", "redis-server", "procps")
LOAD_TIMEOUT_S = 300
LEAN = ("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*")


def load(host: Host, *names: str) -> None:
    """Make sure that the host has the images, each as NAME:latest. Cheap where it has them."""
    for name in names:
        if not has(host, name):
            with tar(name).open("rb") as content:
                loader = host.popen(
                    "docker", "load", "-q", stdin=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                said, _ = loader.communicate(timeout=LOAD_TIMEOUT_S)
            if loader.returncode:
                raise LabError(f"{host.name}: docker load {name}: {said.decode(errors='replace')}")
        host.kept_images.add(f"{name}:latest")


def remove(host: Host, *names: str) -> None:
    """Make sure that the host has not got the images."""
    for name in names:
        host.engine.delete(f"/images/{name}:latest?force=true")
        host.kept_images.discard(f"{name}:latest")


def remove_all(host: Host) -> None:
    """Make sure that the host has no layer of anything."""
    for image in host.engine.get("/images/json"):
        host.engine.delete(f"/images/{image['Id']}?force=true")
    host.kept_images.clear()


def has(host: Host, name: str) -> bool:
    tags = [tag for image in host.engine.get("/images/json") for tag in image["RepoTags"] or ()]
    return f"{name}:latest" in tags


def tar(name: str) -> Path:
    """The image's archive on this machine, made now where it is missing."""
    if name not in IMAGES:
        raise LabError(f"The lab has no image {name!r}, only {', '.join(IMAGES)}.")
    layers, command = IMAGES[name]
    paths = tuple(layer() for layer in layers)
    image = archive.Image(f"{name}:latest", paths, command)
    made_from = cache.key(Path(archive.__file__).read_bytes(), repr(image))
    return cache.made(f"image-{name}-{made_from}.tar", lambda target: archive.write(target, image))


def layer(name: str, make: Callable[[Path], None], *made_from: str | bytes) -> Path:
    """The cached layer; `made_from` is all that its content depends on."""
    return cache.made(f"layer-{name}-{cache.key(*made_from)}.tar", make)


def layer_of_files(name: str, files: dict[str, bytes], links: dict[str, str], *, base: bool = False) -> Path:
    directories = archive.DIRECTORIES if base else ()

    def make(target: Path) -> None:
        archive.write_layer(target, files=files, links=links, directories=directories)

    content = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items())]
    return layer(name, make, Path(archive.__file__).read_bytes(), *content, *sorted(links))


def program(name: str) -> bytes:
    return (tools.directory() / name).read_bytes()


def busybox_layer() -> Path:
    busybox = rootfs.host_root() / "usr/bin/busybox"
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    links = {f"bin/{applet}": "busybox" for applet in listing.split() if applet != "busybox"}
    files = {"bin/busybox": busybox.read_bytes(), "bin/ticker": program("ticker")}
    return layer_of_files("busybox", files, links, base=True)


def program_layer(name: str) -> Path:
    """One of the lab's own programs."""
    return layer_of_files(name, {f"bin/{name}": program(name)}, {})


def noise_layer() -> Path:
    """1 MiB that no compression makes smaller, the same each time."""
    noise = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(1 << 15))
    return layer_of_files("noise", {"opt/noise": noise}, {})


def note_layer() -> Path:
    return layer_of_files("note", {"opt/note": b"the topmost layer\n"}, {"opt/link": "note"})


def apps_layer() -> Path:
    def make(target: Path) -> None:
        rootfs.bootstrap(target, APPS, variant="essential", extra=LEAN)

    return layer("apps", make, rootfs.SUITE, *APPS, *LEAN)


def services_layer() -> Path:
    def make(target: Path) -> None:
        rootfs.bootstrap(target, SERVICES, variant="essential", extra=LEAN)

    return layer("services", make, rootfs.SUITE, *SERVICES, *LEAN)


IMAGES: dict[str, tuple[tuple[Callable[[], Path], ...], tuple[str, ...]]] = {
    "busybox": ((busybox_layer,), ("sh",)),
    "busybox-layered": ((busybox_layer, noise_layer, note_layer), ("sh",)),
    "memhog": ((busybox_layer, partial(program_layer, "memhog")), ("memhog", "16")),
    "shifter": ((busybox_layer, partial(program_layer, "shifter")), ("shifter", "16")),
    "kinds": ((busybox_layer, partial(program_layer, "kinds")), ("kinds",)),
    "workload": ((busybox_layer, partial(program_layer, "workload")), ("sh",)),
    "apps": ((apps_layer,), ("bash",)),
    "services": ((services_layer,), ("bash",)),
}
