"""runc without an engine: a script with tar, and the floor of post-copy."""

from __future__ import annotations

import json
import os
from typing import Any

from lab import Host, LabError

from .bed import PROGRAM, SHARED, VOLUME_AT, Bed
from .cases import Case
from .rivals import HAUL_S, TAR, Receiver, send_directories

BUNDLE = "/tmp/bundle"
IMAGES = "/tmp/runc-images"
SWITCHES = "--manage-cgroups-mode ignore"
NAME = "bench"
PAGES_PORT = 27000
CLEAR = f"""
runc delete -f {NAME}
for mounted in $(grep -o ' {BUNDLE}/[^ ]*' /proc/mounts | sort -r); do umount -l $mounted; done
rm -rf {BUNDLE} {IMAGES}
"""


class Script:
    """`runc checkpoint`, tar, `runc restore`."""

    name = "script"
    words = "script: runc checkpoint + tar + runc restore"
    copies = 3
    alone = False

    def start(self, bed: Bed, case: Case) -> None:
        run(bed, case)
        directories = [IMAGES, f"{BUNDLE}/rootfs", *([VOLUME_AT] if case.volume_mib else [])]
        self.directories = directories
        bed.target.run("mkdir", "-p", *directories)
        self.receivers = [
            Receiver.start(bed.target, *TAR, "-xf", "-", "-C", place, port=9000 + number)
            for number, place in enumerate(directories)
        ]

    def haul(self, bed: Bed) -> str:
        bed.source.run("sh", "-c", checkpoint(""), timeout=HAUL_S)
        for directory, receiver in zip(self.directories, self.receivers, strict=True):
            send_directories(bed.source, receiver, directory)
        return bed.target.run("sh", "-c", restore(IMAGES, ""), timeout=HAUL_S).out

    def clear(self, bed: Bed) -> None:
        for receiver in getattr(self, "receivers", ()):
            receiver.close()
        clear(bed)


class RuncLazy:
    """`runc checkpoint --lazy-pages`, `runc restore --lazy-pages`: the images lie where both hosts see them."""

    name = "runc-lazy"
    words = "floor: bare runc lazy checkpoint + restore"
    copies = 2
    alone = False

    def start(self, bed: Bed, case: Case) -> None:
        run(bed, case)
        self.images = f"{SHARED}/runc-images"
        bed.source.run("mkdir", "-p", self.images, f"{self.images}-work")
        pages = f"criu lazy-pages --daemon --page-server --address {bed.source.ip} --port {PAGES_PORT}"
        lazy = f"{pages} --images-dir {self.images} --work-dir {IMAGES} -o {IMAGES}/lazy.log && "
        command = f"read go && {lazy}{restore(self.images, '--lazy-pages')}"
        bed.target.run("mkdir", "-p", IMAGES)
        self.restoring = bed.target.popen("bash", "-c", command, stdin=-1, stdout=-1, stderr=-2)

    def haul(self, bed: Bed) -> str:
        ready, told = os.pipe()
        options = f"--lazy-pages --page-server 0.0.0.0:{PAGES_PORT} --status-fd {told}"
        command = checkpoint(options, images=self.images, work=f"{self.images}-work")
        dumping = bed.source.popen("bash", "-c", command, pass_fds=[told], stdout=-1, stderr=-2)
        os.close(told)
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read(1):
                raise LabError(f"runc checkpoint: {dumping.communicate()[0].decode(errors='replace')}")
        said, _ = self.restoring.communicate(b"go\n", HAUL_S)
        if self.restoring.returncode:
            raise LabError(f"runc restore: {said.decode(errors='replace')}")
        dumping.communicate(timeout=HAUL_S)
        return str(said.decode(errors="replace"))

    def clear(self, bed: Bed) -> None:
        if hasattr(self, "restoring"):
            self.restoring.kill()
            self.restoring.communicate()
        clear(bed)
        bed.source.run("rm", "-rf", f"{SHARED}/runc-images", f"{SHARED}/runc-images-work")


def checkpoint(options: str, *, images: str = IMAGES, work: str = IMAGES) -> str:
    return failing(
        f"runc checkpoint {SWITCHES} {options} --image-path {images} --work-path {work} {NAME}", work, "dump"
    )


def restore(images: str, options: str) -> str:
    command = f"runc restore --detach {SWITCHES} {options} --image-path {images} --work-path {IMAGES}"
    return failing(f"{command} --bundle {BUNDLE} {NAME} </dev/null >/dev/null 2>&1", IMAGES, "restore")


def failing(command: str, work: str, log: str) -> str:
    """The command, which says why where it fails."""
    return f"{{ {command} || {{ grep Error {work}/{log}.log; exit 1; }}; }}"


def run(bed: Bed, case: Case) -> None:
    """Start the workload as a container of runc's on the source; the target has the same bundle."""
    for host in bed.lab.hosts:
        make_bundle(host, bed, case)
    if case.files:
        bed.fill(bed.source.path(f"{BUNDLE}/rootfs"), case)
    bed.source.run("mkdir", "-p", IMAGES)
    bed.source.run("sh", "-c", f"runc run --detach --bundle {BUNDLE} {NAME} </dev/null >/dev/null 2>&1")


def make_bundle(host: Host, bed: Bed, case: Case) -> None:
    host.run("mkdir", "-p", f"{BUNDLE}/rootfs/bin", f"{BUNDLE}/data", *([VOLUME_AT] if case.volume_mib else []))
    host.run("cp", f"{SHARED}/{PROGRAM}", f"{BUNDLE}/rootfs/bin/")
    host.run("runc", "spec", "--bundle", BUNDLE)
    file = host.path(f"{BUNDLE}/config.json")
    spec: dict[str, Any] = json.loads(file.read_text())
    spec["process"].update(terminal=False, args=[f"/bin/{PROGRAM}", *bed.arguments(case)])
    spec["root"]["readonly"] = False
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    data = VOLUME_AT if case.volume_mib else f"{BUNDLE}/data"
    for place, inside in ((SHARED, SHARED), (data, "/data")):
        spec["mounts"].append({"source": place, "destination": inside, "type": "bind", "options": ["bind", "rw"]})
    file.write_text(json.dumps(spec))


def clear(bed: Bed) -> None:
    for host in bed.lab.hosts:
        host.run("sh", "-c", CLEAR, check=False)
    bed.target.run("rm", "-rf", VOLUME_AT)
