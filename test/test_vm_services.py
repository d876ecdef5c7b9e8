"""Programs that many have in containers, moved while they work: other users' workers, shared memory, sockets."""

from __future__ import annotations

import re

import pytest
from hauling import haul, inspect, state, wait_for
from lab import Host, images
from lab.vm import VmLab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

NGINX = """
mkdir /www
echo first page >/www/index.html
cat >/tmp/nginx.conf <<'END'
user www-data;
worker_processes 2;
daemon off;
pid /tmp/nginx.pid;
error_log /tmp/error.log;
events {}
http {
    access_log /tmp/access.log;
    keepalive_timeout 0;
    limit_conn_zone $server_name zone=all:1m;
    server {
        listen 80;
        listen unix:/tmp/web.sock;
        root /www;
        limit_conn all 100;
    }
}
END
exec nginx -c /tmp/nginx.conf
"""
OVER_UNIX = """
use IO::Socket::UNIX;
my $peer = IO::Socket::UNIX->new("/tmp/web.sock") or die;
print $peer "GET /index.html HTTP/1.0\\r\\n\\r\\n";
print while <$peer>;
"""
# What runs in the container: the server, and a client that does a bounded amount of work on it.
POSTGRES = """
set -e
cd /tmp
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
printf 'local all all trust\\nhost all all all trust\\n' >/tmp/hba
postgres -D /etc/postgresql/*/main -c hba_file=/tmp/hba -c unix_socket_directories=/tmp -c external_pid_file= \
    -c ssl=off -c listen_addresses='*' -c logging_collector=off >/tmp/log 2>&1 &
until pg_isready -q -h /tmp; do sleep 0.2; done
createdb -h /tmp bench
pgbench -q -i -h /tmp bench
touch /tmp/ready
for round in $(seq 1 100); do
    [ ! -e /tmp/enough ] || break
    pgbench -n -h /tmp -c 2 -R 20 -T 10 --log --log-prefix=/tmp/acknowledged bench >>/tmp/summary 2>&1
done
touch /tmp/finished
wait
"""

FAILED = re.compile(r"number of failed transactions: (.*)")


def there(host: Host, name: str, path: str) -> bool:
    return not host.run("docker", "exec", name, "test", "-e", path, check=False).code


def page(host: Host, name: str) -> str:
    """The page that the container's web server has, asked for by its host."""
    address = inspect(host, name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    return host.run("busybox", "wget", "-T", "20", "-q", "-O", "-", f"http://{address}/index.html", check=False).out


def users(host: Host, name: str) -> set[str]:
    """Whose processes the container consists of."""
    return {line.split()[0] for line in host.docker("top", name, "-eo", "user:20,pid,comm").splitlines()[1:]}


@pytest.mark.long
def test_nginx_answers_at_the_target(served: VmLab) -> None:
    a, b = served.hosts
    images.load(a, "services")
    a.docker("run", "-d", "--name", "web", "services", "sh", "-c", NGINX)
    wait_for(lambda: page(a, "web") == "first page\n", "nginx")
    owners = users(a, "web")
    assert len(owners) == 2
    haul(a, "docker", "web", b.ip)
    assert page(b, "web") == "first page\n"
    assert b.docker("exec", "web", "perl", "-e", OVER_UNIX).endswith("first page")
    assert users(b, "web") == owners
    b.docker("exec", "web", "sh", "-c", "echo second page >/www/index.html")
    b.docker("kill", "-s", "HUP", "web")
    wait_for(lambda: page(b, "web") == "second page\n", "the page after a reload")
    assert int(b.docker("exec", "web", "sh", "-c", "wc -l </tmp/access.log")) >= 3
    b.docker("stop", "web")
    assert (state(b, "web"), inspect(b, "web")["State"]["ExitCode"]) == ("exited", 0)


def test_postgres_loses_no_transaction(served: VmLab) -> None:
    """Moved while pgbench works on it, inside: whatever it was told is committed is there, and indexes fit tables."""
    a, b = served.hosts
    images.load(a, "services")
    a.docker(*("run", "-d", "--name", "db", "-u", "postgres", "-p", "5432:5432", "services", "bash", "-c", POSTGRES))
    wait_for(lambda: there(a, "db", "/tmp/ready"), "postgres")
    wait_for(lambda: query(a, "SELECT count(*) > 20 FROM pgbench_history") == "t", "some transactions")
    haul(a, "docker", "db", b.ip)
    b.docker("exec", "db", "touch", "/tmp/enough")
    wait_for(lambda: there(b, "db", "/tmp/finished"), "the end of the load")
    summary = b.docker("exec", "db", "cat", "/tmp/summary")
    assert set(FAILED.findall(summary)) == {"0 (0.000%)"}, summary
    assert "ERROR" not in summary and "error:" not in summary, summary
    acknowledged = int(b.docker("exec", "db", "sh", "-c", "cat /tmp/acknowledged.* | wc -l"))
    assert acknowledged > 100, summary
    assert int(query(b, "SELECT count(*) FROM pgbench_history")) == acknowledged
    sums = "(SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"
    assert query(b, f"SELECT {sums}") == "t"
    check_tables(b)
    new_client(a, b)
    assert int(query(b, "SELECT count(*) FROM pgbench_history")) == acknowledged + 20


def query(host: Host, words: str) -> str:
    return host.docker("exec", "db", "psql", "-h", "/tmp", "-qAt", "-c", words, "bench")


def check_tables(host: Host) -> None:
    """amcheck finds nothing."""
    script = "/usr/lib/postgresql/*/bin/pg_amcheck -h /tmp --install-missing --heapallindexed bench"
    assert host.docker("exec", "db", "sh", "-c", script, timeout=120) == ""


def new_client(here: Host, there: Host) -> None:
    """A client on the old host goes on with the database at its new address."""
    load = f"pgbench -n -h {there.ip} -U postgres -t 20 bench"
    here.docker("run", "--rm", "--network", "host", "-u", "postgres", "services", "sh", "-c", load, timeout=120)
