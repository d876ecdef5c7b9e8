"""What every virtual machine starts from: kernel, a small initrd, and the disk with Debian on it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .. import cache, images, rootfs
from ..errors import LabError
from ..instance import Lab

GUEST = Path(__file__).resolve().parent / "guest"
PACKAGES = (
    *rootfs.HOST_PACKAGES,
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "udev", "dbus", "kmod", "apparmor"),
)
# No initrd of the distribution's: a small one is made here.
OPTIONS = ("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*")
# Loaded already; to load the greater of them in a machine would take minutes.
IMAGES = ("busybox", "memhog", "services")
DISK_SIZE = "6G"
AGENT_PORT = 7070
# Work that a machine living for minutes needs not do.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer"),
    *("systemd-hwdb-update.service", "ldconfig.service", "e2scrub_reap.service", "systemd-tmpfiles-clean.timer"),
    *("systemd-journal-catalog-update.service", "systemd-timesyncd.service", "getty@tty1.service"),
    *("serial-getty@ttyS0.service", "systemd-networkd-wait-online.service", "systemd-networkd.service"),
    *("systemd-pcrphase.service", "systemd-update-utmp.service", "man-db.timer", "logrotate.timer"),
)
COMPRESSED = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"))


def base() -> Path:
    """The directory with vmlinux, initrd, disk.img and the agent's token."""
    return cache.made(f"vm-base-{base_key()}", make)


def base_key() -> str:
    sources = [path.read_bytes() for path in (Path(__file__), *sorted(GUEST.iterdir())) if path.is_file()]
    archives = [images.tar(name).name for name in IMAGES]
    return cache.key(rootfs.SUITE, *PACKAGES, *OPTIONS, *rootfs.OPTIONS, *archives, *sources)


def make(target: Path) -> None:
    target.mkdir()
    (target / "token").touch(0o600)
    (target / "token").write_text(secrets.token_hex(16))
    root = target / "root"
    rootfs.bootstrap(root, PACKAGES, variant="minbase", extra=OPTIONS)
    configure(root, (target / "token").read_text())
    load_images(root)
    modules = next((root / "lib/modules").iterdir())
    (target / "vmlinux").write_bytes(uncompressed(root / f"boot/vmlinuz-{modules.name}"))
    make_initrd(target, root, modules)
    disk = target / "disk.img"
    cache.build(["mke2fs", "-q", "-t", "ext4", "-d", root, disk, DISK_SIZE])
    disk.chmod(0o444)
    shutil.rmtree(root)


def configure(root: Path, token: str) -> None:
    """Everything in the machines' root that the packages did not put there."""
    files = {
        "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 0\n",
        "etc/machine-id": "11111111111111111111111111111111\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/docker/daemon.json": '{"storage-driver": "overlay2"}\n',
        "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\n",
        "etc/lab-token": token,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "etc/lab-token").chmod(0o600)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        link(units / unit, "/dev/null")
    shutil.copy(GUEST / "agent.py", root / "usr/local/sbin/lab-agent")
    shutil.copy(GUEST / "net.sh", root / "usr/local/sbin/lab-net")
    for unit in ("lab-net.service", "lab-agent.service"):
        shutil.copy(GUEST / unit, units / unit)
        link(units / "multi-user.target.wants" / unit, f"../{unit}")
    for program in ("lab-agent", "lab-net"):
        (root / "usr/local/sbin" / program).chmod(0o755)
    for program in ("p.haul", "p.haul-service"):
        link(root / "usr/local/bin" / program, f"/opt/phaul/{program}")
    for directory in ("opt/phaul", "var/cache/pycache", "srv/shared"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    cache.build(["chroot", root, "ssh-keygen", "-A"])


def load_images(root: Path) -> None:
    """Put the images where the machines' dockerd will find them, by a dockerd at full speed."""
    with Lab.up(f"images-{os.getpid()}", ("loader",)) as lab:
        (host,) = lab.hosts
        images.load(host, *IMAGES)
        host.stop_dockerd()
        stored = host.path("/var/lib/docker")
        there = root / "var/lib/docker"
        there.mkdir(parents=True, exist_ok=True)
        for part in ("image", "overlay2"):
            cache.build(["cp", "-a", stored / part, there / part])


def link(path: Path, destination: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(destination)


def uncompressed(vmlinuz: Path) -> bytes:
    """The ELF kernel in the image: it boots without the decompressor, which is slow under emulation."""
    data = vmlinuz.read_bytes()
    for at, tool in streams(data):
        done = subprocess.run([tool, "-dcq"], input=data[at:], capture_output=True, check=False)
        if done.stdout.startswith(b"\x7fELF"):
            return done.stdout
    raise LabError(f"There is no kernel to be found in {vmlinuz}.")


def streams(data: bytes) -> Iterator[tuple[int, str]]:
    """Where compressed data may begin, and what decompresses it."""
    for magic, tool in COMPRESSED:
        at = data.find(magic)
        while at >= 0:
            yield at, tool
            at = data.find(magic, at + 1)


def make_initrd(target: Path, root: Path, modules: Path) -> None:
    """busybox and the one driver that the kernel does not have built in."""
    tree = target / "initrd-root"
    for directory in ("bin", "dev", "proc", "new", "modules"):
        (tree / directory).mkdir(parents=True)
    busybox = root / "usr/bin/busybox"
    shutil.copy(busybox, tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    shutil.copy(GUEST / "initrd.sh", tree / "init")
    (tree / "init").chmod(0o755)
    (packed,) = modules.glob("kernel/drivers/block/virtio_blk.ko*")
    driver = subprocess.run(["xz", "-dc", packed], capture_output=True, check=True).stdout
    (tree / "modules/virtio_blk.ko").write_bytes(driver)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))).encode()
    archive = subprocess.run(
        [busybox, "cpio", "-o", "-H", "newc"], input=names, cwd=tree, capture_output=True, check=True
    )
    (target / "initrd").write_bytes(archive.stdout)
    shutil.rmtree(tree)
