"""Tens of thousands of files that change right up to the freeze, of which few have changed since they were copied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from hauling import haul, wait_for
from lab import Host, Lab, images
from lab.errors import LabError
from lab.workloads import file_in

FILES = 20_000

# It knows of every file what is in it, which moves with its memory; at the target it compares.
CHANGER = """
import json, os, random, time

rng = random.Random(1)
model, count = {}, 0

def put(path, content, mode="wb"):
    with open(path, mode) as file:
        file.write(content)
    model[path] = model.get(path, b"") + content if mode == "ab" else content

def fill(top):
    for number in range(100):
        os.makedirs(f"{top}/{number}", exist_ok=True)
        for other in range(FILES // 200):
            put(f"{top}/{number}/{other}", b"%d %d" % (number, other))

def a_file():
    below = [path for path in every if path.startswith(lower)] if rng.random() < 0.2 else []
    return rng.choice(below or every)

def append():
    put(a_file(), rng.randbytes(50), "ab")

def move():
    one, two = a_file(), a_file()
    if one != two and one.startswith("/volume") == two.startswith("/volume"):
        os.rename(one, two)
        model[two] = model.pop(one)
        every.remove(one)

def remove():
    path = a_file()
    os.unlink(path)
    del model[path]
    every.remove(path)

def make():
    directory = os.path.dirname(a_file()) + f"/new-{count}"
    os.mkdir(directory)
    put(directory + "/in", rng.randbytes(20))
    os.rename(directory, directory + "-moved")
    model[directory + "-moved/in"] = model.pop(directory + "/in")
    every.append(directory + "-moved/in")

def at_home():
    with open("/which") as file:
        return file.read() == "a"

def read(path):
    with open(path, "rb") as file:
        return file.read()

def wrong():
    tops = ("/layer", "/volume", lower)
    seen = {f"{directory}/{name}" for top in tops for directory, _, names in os.walk(top) for name in names}
    found = [["missing", path] for path in model.keys() - seen] + [["came", path] for path in seen - model.keys()]
    return found + [["differs", path] for path in model.keys() & seen if read(path) != model[path]]

lower = "/usr/share/LOWER"
for directory, _, names in os.walk(lower):
    model.update({f"{directory}/{name}": read(f"{directory}/{name}") for name in names})
assert len(model) > 20
for top in ("/layer", "/volume"):
    fill(top)
every = sorted(model)
with open("/ready", "w") as file:
    file.write("ready")
while at_home():
    count += 1
    rng.choice((ACTS,))()
    time.sleep(0.0005)
with open("/verdict.new", "w") as file:
    json.dump({"wrong": wrong()[:20], "changes": count, "files": len(model)}, file)
os.rename("/verdict.new", "/verdict")
while True:
    time.sleep(60)
"""


@pytest.fixture
def which(lab: Lab) -> Iterator[str]:
    """A file that says on which host it is; to be asked for before the rest, so that it goes after it."""
    for host in lab.hosts:
        host.path("/srv/which").write_text(host.name)
    yield "/srv/which"
    for host in lab.hosts:
        host.path("/srv/which").unlink()


def there(host: Host, name: str, path: str) -> str:
    """What the container's file says; "" where there is none yet."""
    try:
        return file_in(host, name, path).decode()
    except LabError:
        return ""


@pytest.mark.parametrize(
    ("acts", "watched"),
    [("append, append, move, remove, make, make", False), ("append, make", True)],
    ids=["anything", "nothing vanishes"],
)
def test_many_files_that_change_up_to_the_freeze(which: str, served: Lab, acts: str, watched: bool) -> None:
    """Where nothing vanishes under the first pass, nothing has it look again, and so the watch is what tells."""
    a, b = served.hosts
    for host in served.hosts:
        images.load(host, "apps")
    find = "find /usr/share -mindepth 2 -type f | cut -d/ -f4 | sort | uniq -c | sort -n | tail -1 | awk '{print $2}'"
    lower = a.docker("run", "--rm", "apps", "sh", "-c", find)
    program = CHANGER.replace("FILES", str(FILES)).replace("LOWER", lower).replace("ACTS", acts)
    volumes = ("-v", "/volume", "-v", f"{which}:/which:ro")
    a.docker("run", "-d", "--name", "many", *volumes, "apps", "python3", "-c", program)
    wait_for(lambda: there(a, "many", "/ready"), "twenty thousand files")
    haul(a, "docker", "many", b.ip)
    verdict = json.loads(wait_for(lambda: there(b, "many", "/verdict"), "the verdict"))
    assert verdict["wrong"] == []
    assert verdict["changes"] > 100 and verdict["files"] > FILES // 2
    text = sorted(a.path("/var/log/phaul").glob("*/p.haul.log"))[-1].read_text()
    if watched:
        assert re.findall("all of .*", text) == []
