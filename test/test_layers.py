"""The shape of the code itself: layers, sizes, who may start processes, and what is promised in help and README."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phaul import args_parser, display_json, htype
from phaul.check_command import STATUS_WARNINGS
from phaul.errors import BY_STATUS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "phaul"
# A module imports only from layers above its own in this table, and in its own only what stands before it.
LAYERS = {
    "ground": "errors policy barrier codec places messages_pb2 message_bounds documents procfs streams log run pace "
    "mstats overview outcome interrupts display display_json display_live views report_page report tasks criu_log uffd "
    "dirty spans inotify diagnosis net_ns link_probe sockets_seen log_bundle",
    "wire": "relay handshakes keys pin_watch link tls ssh connection xem_rpc targets pairing listener",
    "memory": "pages_wire pages_images pages_store pages_source pages_target pages_asker pages_filler",
    "host": "freezer tasks_seen task_sockets task_checks firewall sample journal htype host_facts verify",
    "files": "forecast pre_copy pre_compare images fs_haul fs_haul_subtree fs_watch fs_changes fs_passes",
    "drivers": "criu_images criu_api pid_files p_haul_pid docker_config docker_api docker_rootfs docker_image "
    "docker_logs docker_networks docker_wanted dump_unseen dump_pages docker_lazy docker_dump docker_restore "
    "docker_confined docker_mount_checks docker_checks docker_execs docker_names docker_policy_mounts "
    "docker_policy_networks docker_policy docker_volumes docker_host_checks docker_network_checks "
    "docker_target_checks docker_source_network docker_source docker_target docker_project p_haul_docker",
    "workers": "preflight outlook prospect session service post_copy resolve guard check desk iters",
    "programs": "host_setup bundle project history standing check_document check_text check_command args_parser "
    "service_args manual pager_keeper pager",
    "alone": "bridge shim",  # started by others with the bare interpreter
}
# Whoever is not run.py and starts processes has a reason, which its docstrings give.
STARTERS = {
    "run": "every external command",
    "guard": "a second Python of our own, which outlives the first",
    "ssh": "the master stays in the terminal's process group, to ask there",
    "listener": "the service itself, on demand, in a session of its own",
    "pager_keeper": "it is one, which holds what it holds",
    "shim": "stands alone, in the place of runc",
}
STARTING = {
    "subprocess": ("Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"),
    "os": ("system", "popen", "fork", "forkpty", "spawn", "posix_spawn", "exec"),
    "pty": ("fork", "spawn"),
    "multiprocessing": ("Process", "Pool"),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"extract", "extractall"}  # of tar files
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "yaml", "xmlrpc"}


def modules() -> dict[str, ast.Module]:
    found = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    return {name: ast.parse(path.read_text()) for name, path in found.items()}


MODULES = modules()
WRITTEN = sorted(MODULES.keys() - {"messages_pb2"})


def imported(module: ast.Module) -> set[str]:
    """The modules of phaul that it imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "phaul":
                found.update(alias.name for alias in node.names)
            elif (node.module or "").startswith("phaul."):
                found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("phaul."))
    return found & MODULES.keys()


def calls(module: ast.Module) -> set[tuple[str, str]]:
    """What it calls, as ("os", "fork"), or ("", "eval") for a plain name."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else "?"
            found.add((owner, node.func.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(("", node.func.id))
    return found


def test_every_module_has_its_place() -> None:
    placed = [name for names in LAYERS.values() for name in names.split()]
    assert sorted(placed) == sorted(MODULES)


def test_imports_go_one_way() -> None:
    order = [name for names in LAYERS.values() for name in names.split()]
    upward = [
        f"{name} imports {other}"
        for name, tree in MODULES.items()
        for other in imported(tree)
        if order.index(other) >= order.index(name)
    ]
    assert upward == []


def test_nobody_imports_what_stands_alone_and_it_imports_nobody() -> None:
    alone = set(LAYERS["alone"].split())
    assert [name for name, tree in MODULES.items() if imported(tree) & alone] == []
    assert [name for name in alone if imported(MODULES[name])] == []


@pytest.mark.parametrize("worker", LAYERS["workers"].split())
def test_workers_know_no_driver(worker: str) -> None:
    assert imported(MODULES[worker]) & set(LAYERS["drivers"].split()) == set()
    source = (PACKAGE / f"{worker}.py").read_text()
    assert [name for name in htype.TABLE if re.search(rf"\b{name}\b", source, re.IGNORECASE)] == []


def test_drivers_do_not_know_each_other() -> None:
    entries = {row.rpartition(".")[2] for row in htype.TABLE.values()}
    assert {name for name in MODULES if imported(MODULES[name]) & entries} == set()


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.glob("*.py"), *(ROOT / "test").rglob("*.py")]), ids=lambda path: path.name
)
def test_modules_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 40] == []


def test_no_module_is_called_for_nothing_in_particular() -> None:
    assert MODULES.keys() & {"helpers", "common", "misc", "util", "utils", "tools", "base"} == set()


def test_who_starts_processes() -> None:
    def starts(tree: ast.Module) -> bool:
        return any(name.startswith(STARTING.get(owner, ("\0",))) for owner, name in calls(tree))

    assert {name for name, tree in MODULES.items() if starts(tree)} == STARTERS.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_that_came_over_the_wire_can_be_run(name: str) -> None:
    tree = MODULES[name]
    assert {called for owner, called in calls(tree) if not owner} & FORBIDDEN_CALLS == set()
    assert {called for owner, called in calls(tree) if owner} & FORBIDDEN_METHODS == set()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {found.split(".")[0] for found in names} & FORBIDDEN_MODULES == set()
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "shell"]
    assert keywords == []


def tool(*argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--no-cache", "--quiet", ".")


def test_ruff_would_format_nothing() -> None:
    tool("ruff", "format", "--no-cache", "--check", "--quiet", ".")


def test_mypy_finds_nothing() -> None:
    tool("mypy")


def statuses() -> dict[int, str]:
    """The documented exit statuses and their meanings."""
    return {
        int(number): words for number, words in re.findall(r"^\s+(\d+)\s+(.+)$", args_parser.STATUSES, re.MULTILINE)
    }


def test_every_status_that_can_be_is_documented() -> None:
    assert statuses().keys() == {0, 1, *BY_STATUS, STATUS_WARNINGS}


@pytest.mark.parametrize("program", ["p.haul", "p.haul-service"])
def test_help(program: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / program, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(words in done.stdout for words in statuses().values())
    if program == "p.haul":
        assert all(re.search(rf"^\s+{name}\s+move a {name}", done.stdout, re.MULTILINE) for name in htype.TABLE)


def test_readme_documents_every_exit_status() -> None:
    readme = (ROOT / "README.md").read_text()
    _, heading, section = readme.partition("xit status")
    assert heading
    missing = [number for number in statuses() if not re.search(rf"^[\s|*`-]*{number}\b", section, re.MULTILINE)]
    assert missing == []


def test_readme_documents_every_type_of_object() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [kind for kind, words in display_json.TYPES.items() if f"| `{kind}` | {words} |" not in readme] == []
