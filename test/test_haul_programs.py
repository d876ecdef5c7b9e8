"""Real programs go on where they were: memory, threads, timers, children, pipes, listening sockets."""

from __future__ import annotations

from collections import defaultdict

import pytest
from conftest import CAP_SYS_RESOURCE
from hauling import haul, refused, state, summary, unchanged, wait_for
from lab import Host, Lab, images
from lab.workloads import check_counter, check_memory, file_in, memhog, ticks, wait_ticks

from phaul.tasks_seen import have_capability

KEYS = 400
# How long redis takes to write each key to disk, by its own setting for tests.
KEY_DELAY_US = 50_000
MIB = 1 << 20


@pytest.fixture
def apps(served: Lab) -> Lab:
    """Both hosts have the image of the programs."""
    for host in served.hosts:
        images.load(host, "apps")
    return served


def run(host: Host, name: str, *command: str, options: tuple[str, ...] = ()) -> None:
    host.docker("run", "-d", "--name", name, *options, "apps", *command)


def redis(host: Host, *command: str) -> str:
    return host.docker("exec", "redis", "redis-cli", *command)


def persistence(host: Host) -> dict[str, str]:
    """What redis tells of its saving."""
    lines = redis(host, "info", "persistence").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# All keys and values as one number.
DIGEST = """
local all = {}
for number, key in ipairs(redis.call('keys', '*')) do all[number] = key .. redis.call('get', key) end
table.sort(all)
return redis.sha1hex(table.concat(all))
"""


def test_redis_with_a_dump_in_progress(apps: Lab) -> None:
    a, b = apps.hosts
    server = (
        "redis-server",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        "/data",
        "--rdb-key-save-delay",
        str(KEY_DELAY_US),
    )
    run(a, "redis", *server, options=("-v", "/data", "-p", "6379:6379"))
    wait_for(lambda: "Ready to accept" in a.docker("logs", "redis"), "redis")
    redis(a, "eval", f"for i = 1, {KEYS} do redis.call('set', 'key:' .. i, string.rep(i, 100)) end", "0")
    digest = redis(a, "eval", DIGEST, "0")
    redis(a, "bgsave")
    haul(a, "docker", "redis", b.ip)

    assert persistence(b)["rdb_bgsave_in_progress"] == "1"
    assert redis(b, "dbsize") == str(KEYS)
    assert redis(b, "eval", DIGEST, "0") == digest
    talk = "printf 'GET key:7\\r\\nQUIT\\r\\n' | busybox nc -w 5 127.0.0.1 6379"
    assert "7" * 100 in b.run("sh", "-c", talk).out
    wait_for(lambda: persistence(b)["rdb_bgsave_in_progress"] == "0", "the end of the dump")
    assert persistence(b)["rdb_last_bgsave_status"] == "ok"
    assert f"{KEYS} keys read" in b.docker("exec", "redis", "redis-check-rdb", "/data/dump.rdb")
    assert redis(b, "set", "new", "value") == "OK"


def test_memcached_with_values(apps: Lab) -> None:
    a, b = apps.hosts
    run(a, "cache", "memcached", "-u", "root", "-m", "64")
    script = (
        "import socket\n"
        "talk = socket.create_connection(('127.0.0.1', 11211), 10)\n"
        "talk.settimeout(10)\n"
        "talk.sendall({what} + b'quit\\r\\n')\n"
        "print(talk.makefile().read().count({wanted!r}))\n"
    )
    ask = "b''.join(b'get key%d\\r\\n' % n for n in range(500))"
    store = "b''.join(b'set key%d 0 0 300\\r\\n%0300d\\r\\n' % (n, n) for n in range(500))"

    def said(host: Host, what: str, wanted: str) -> str:
        program = script.format(what=what, wanted=wanted)
        return host.run("docker", "exec", "cache", "python3", "-c", program, check=False).out.strip()

    wait_for(lambda: said(a, "b''", "x") == "0", "memcached to answer")
    assert said(a, store, "STORED") == "500"
    haul(a, "docker", "cache", b.ip)
    assert said(b, ask, "0" * 290) == "500"
    assert said(b, store, "STORED") == "500"


def marks(host: Host, name: str) -> dict[str, list[int]]:
    """The numbers that each part of the program has written so far, in their order."""
    found: dict[str, list[int]] = defaultdict(list)
    whole, _, _ = file_in(host, name, "/marks").decode().rpartition("\n")
    for line in whole.splitlines():
        who, number = line.split()
        found[who].append(int(number))
    return found


def reached(host: Host, name: str, parts: set[str], number: int) -> bool:
    found = marks(host, name)
    return found.keys() == parts and all(numbers[-1] >= number for numbers in found.values())


def goes_on(a: Host, b: Host, name: str, parts: set[str]) -> None:
    """Haul it; each part of the program must go on at the target, no number left out and none twice."""
    wait_for(lambda: "/marks" in a.docker("diff", name), "the program")
    wait_for(lambda: reached(a, name, parts, 20), "each part to write")
    haul(a, "docker", name, b.ip)
    last = max(numbers[-1] for numbers in marks(a, name).values())
    wait_for(lambda: reached(b, name, parts, last + 20), "each part to go on at the target")
    for who, numbers in marks(b, name).items():
        assert numbers == list(range(1, len(numbers) + 1)), who


PYTHON = r"""
import os, select, signal, socket, subprocess, threading, time
out = open("/marks", "a", buffering=1)
lock = threading.Lock()
counts = {}

def mark(who):
    with lock:
        counts[who] = counts.get(who, 0) + 1
        out.write(f"{who} {counts[who]}\n")

def sleeper():
    while True:
        time.sleep(0.01)
        mark("thread-that-sleeps")

def waiter(event=threading.Event()):
    while not event.wait(0.01):
        mark("thread-that-waits")

def again():
    mark("thread-of-a-timer")
    timer = threading.Timer(0.01, again)
    timer.daemon = True
    timer.start()

def over(descriptor):
    while os.read(descriptor, 8):
        mark("timer-descriptor")

def child():
    with subprocess.Popen(["cat"], stdin=-1, stdout=-1, bufsize=0) as process:
        while True:
            process.stdin.write(b"ping\n")
            assert process.stdout.readline() == b"ping\n"
            mark("child-over-pipes")
            time.sleep(0.01)

def pair(one, two):
    poll = select.epoll()
    poll.register(two, select.EPOLLIN)
    while True:
        one.send(b"x")
        while not poll.poll():
            pass
        two.recv(1)
        mark("socket-pair")
        time.sleep(0.01)

descriptor = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(descriptor, initial=0.01, interval=0.01)
for target, arguments in ((sleeper, ()), (waiter, ()), (over, (descriptor,)), (child, ()), (pair, socket.socketpair())):
    threading.Thread(target=target, args=arguments, daemon=True).start()
again()
ring = threading.Semaphore(0)
signal.signal(signal.SIGALRM, lambda *_: ring.release())
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while True:
    ring.acquire()
    mark("interval-timer")
"""


def test_python_with_threads_and_timers(apps: Lab) -> None:
    a, b = apps.hosts
    run(a, "python", "python3", "-c", PYTHON)
    threads = {"thread-that-sleeps", "thread-that-waits", "thread-of-a-timer", "child-over-pipes", "socket-pair"}
    goes_on(a, b, "python", {*threads, "timer-descriptor", "interval-timer"})


NODE = r"""
const fs = require('fs'), { Worker } = require('worker_threads'), { spawn } = require('child_process');
const counts = {};
const mark = who => fs.appendFileSync('/marks', `${who} ${counts[who] = (counts[who] || 0) + 1}\n`);
setInterval(() => mark('interval'), 10);
const again = () => { mark('timeout'); setTimeout(again, 10); };
again();
const promise = async () => { for (;;) { await fs.promises.stat('/marks'); mark('thread-pool');
    await new Promise(done => setTimeout(done, 10)); } };
setTimeout(promise, 10);
new Worker("setInterval(() => require('worker_threads').parentPort.postMessage(1), 10)", { eval: true })
    .on('message', () => mark('worker'));
const cat = spawn('cat');
cat.stdout.on('data', () => { mark('child'); setTimeout(() => cat.stdin.write('x'), 10); });
cat.stdin.write('x');
"""


def test_node_with_timers_and_workers(apps: Lab) -> None:
    a, b = apps.hosts
    run(a, "node", "node", "-e", NODE)
    goes_on(a, b, "node", {"interval", "timeout", "thread-pool", "worker", "child"})


PIPELINE = """
mkfifo /fifo
cat /fifo | while read -r word number; do echo "seen $word $number"; done |
    while read -r word what number; do echo "$word $number" >>/marks; done &
i=0
while :; do i=$((i + 1)); echo "line $i"; sleep 0.01; done | cat | tee /dev/null >/fifo
"""


def test_a_pipeline_of_shells(served: Lab) -> None:
    a, b = served.hosts
    a.docker("run", "-d", "--name", "pipeline", "busybox", "sh", "-c", PIPELINE)
    goes_on(a, b, "pipeline", {"seen"})
    assert len(b.docker("top", "pipeline").splitlines()) >= 8


SLEEPER = "date +%s >/began; sleep 8; date +%s >/woke; while :; do sleep 1; done"


def test_a_sleep_is_slept_out(served: Lab) -> None:
    a, b = served.hosts
    a.docker("run", "-d", "--name", "sleeper", "busybox", "sh", "-c", SLEEPER)
    wait_for(lambda: "sleep 8" in a.docker("top", "sleeper"), "the sleep to begin")
    haul(a, "docker", "sleeper", b.ip)
    wait_for(lambda: "/woke" in b.docker("diff", "sleeper"), "the sleep to end")
    began, woke = (int(file_in(b, "sleeper", name)) for name in ("/began", "/woke"))
    assert 7 <= woke - began < 100


def test_64_mib_of_random_memory(served: Lab) -> None:
    a, b = served.hosts
    for host in served.hosts:
        images.load(host, "memhog")
    memhog(a, "hog", mib=64, hot_mib=4)
    wait_for(lambda: check_memory(a, "hog") >= 1, "a first look at all of the memory")
    said = summary(haul(a, "docker", "hog", b.ip))
    last, looks = ticks(a, "hog")[-1][0], check_memory(a, "hog")
    wait_for(lambda: check_memory(b, "hog") >= looks + 2, "two more looks at the target")
    assert said.bytes["memory"] >= 68 * MIB
    check_counter(wait_ticks(b, "hog", last))


def test_who_is_not_root_in_there(served: Lab) -> None:
    """Without CAP_SYS_RESOURCE CRIU cannot dump it, so the haul is refused; with it, the container moves."""
    a, b = served.hosts
    a.docker("run", "-d", "--name", "user", "-u", "1234", "busybox", "sh", "-c", "while :; do sleep 1; done")
    if have_capability(CAP_SYS_RESOURCE):
        haul(a, "docker", "user", b.ip)
        assert b.docker("exec", "user", "id", "-u") == "1234"
        assert (state(a, "user"), state(b, "user")) == ("exited", "running")
        return
    with unchanged(a, b):
        sentence = refused(haul(a, "docker", "user", b.ip, check=False), "cap-sys-resource")
    assert "uid 1234" in sentence
    assert (state(a, "user"), state(b, "user")) == ("running", "")


def test_a_shell_that_starts_programs_all_the_time(served: Lab) -> None:
    """A parent sleeps in vfork(2) for a moment each time, where CRIU could not seize it."""
    a, b = served.hosts
    loops = "for n in 1 2 3 4; do (while true; do /bin/true; done) & done; wait"
    a.docker("run", "-d", "--name", "starter", "busybox", "sh", "-c", loops)
    haul(a, "docker", "starter", b.ip)
    assert len(b.docker("top", "starter").splitlines()) >= 1 + 5
