"""The lab by hand: `test/lab/lab up`, `shell a`, `run b docker ps`, `down`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import claims, images, rootfs, vm
from .errors import LabError
from .host import ENVIRONMENT, Host
from .instance import Lab


def main(arguments: Sequence[str]) -> int:
    """Run one command line; its exit status."""
    options = parser().parse_args(arguments)
    try:
        return int(options.action(options) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lab", description=__doc__)
    top.add_argument("--instance", default="hand", metavar="NAME", help="which lab (default: %(default)s)")
    actions = top.add_subparsers(required=True, metavar="COMMAND")
    up = actions.add_parser("up", help="bring the hosts up")
    up.add_argument("--hosts", default="a,b", help="their names (default: %(default)s)")
    up.add_argument("--machines", action="store_true", help="whole machines a and b under qemu, set up and paired")
    up.add_argument("--images", default="busybox", help=f"of {','.join(images.IMAGES)} (default: %(default)s)")
    up.set_defaults(action=bring_up)
    actions.add_parser("down", help="remove the hosts and all they hold").set_defaults(action=take_down)
    shell = actions.add_parser("shell", help="a shell in a host")
    shell.add_argument("host")
    shell.set_defaults(action=lambda options: enter(options.instance, options.host, ["bash", "-l"]))
    run = actions.add_parser("run", help="a command in a host")
    run.add_argument("host")
    run.add_argument("command", nargs=argparse.REMAINDER)
    run.set_defaults(action=lambda options: enter(options.instance, options.host, options.command))
    actions.add_parser("status", help="the hosts of this lab").set_defaults(action=status)
    actions.add_parser("list", help="all labs").set_defaults(action=list_all)
    made = actions.add_parser("build", help="make what up needs, without bringing anything up")
    made.add_argument("--machines", action="store_true", help="whole machines too")
    made.set_defaults(action=build)
    actions.add_parser("sweep", help="remove labs whose owner is dead").set_defaults(action=sweep)
    return top


def bring_up(options: argparse.Namespace) -> None:
    lab: Lab | vm.VmLab
    if options.machines:
        lab = vm.VmLab.up(options.instance, owned=False)
    else:
        lab = Lab.up(options.instance, options.hosts.split(","), owned=False)
    for host in lab.hosts:
        images.load(host, *filter(None, options.images.split(",")))
    show(lab.hosts)


def take_down(options: argparse.Namespace) -> None:
    claims.remove(options.instance)


def enter(instance: str, name: str, command: Sequence[str]) -> int:
    host = attach(instance).host(name)
    kept = {key: value for key, value in os.environ.items() if key == "TERM" or key.startswith("PHAUL_")}
    sys.stdout.flush()
    argv = host.argv(*command)
    os.execve(argv[0], argv, {**kept, **ENVIRONMENT})


def attach(instance: str) -> Lab | vm.VmLab:
    kind = vm.VmLab if vm.VmLab.is_up(instance) else Lab
    return kind.attach(instance)


def status(options: argparse.Namespace) -> None:
    show(attach(options.instance).hosts)


def show(hosts: Sequence[Host]) -> None:
    for host in hosts:
        running = len(host.engine.get("/containers/json")) if host.engine.answers() else None
        print(f"{host.name}  {host.ip}  " + ("no dockerd" if running is None else f"{running} containers running"))


def list_all(_: argparse.Namespace) -> None:
    for instance in claims.instances():
        print(instance, "(its owner is dead)" if claims.abandoned(instance) else "")


def build(options: argparse.Namespace) -> None:
    rootfs.host_root()
    for name in images.IMAGES:
        images.tar(name)
    if options.machines and not vm.missing():
        vm.snapshot.ready()


def sweep(_: argparse.Namespace) -> None:
    for instance in claims.sweep():
        print(f"removed {instance}")
