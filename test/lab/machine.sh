# Sourced by test/run and test/demo: gets the machine what the lab and the tests need.
# Needs $root, the project's directory.

cache=${PHAUL_LAB_CACHE:-/var/cache/phaul-lab}
export PYTHONPYCACHEPREFIX=$cache/pycache/machine

if [ "$(id -u)" != 0 ]; then
    echo "$0: root is needed, for the namespaces that the hosts are made of" >&2
    exit 1
fi
mkdir -p "$cache"

# install_missing: Debian's packages, asked for only where their commands are missing
install_missing() {
    local missing=() pair
    for pair in mmdebstrap:mmdebstrap ip:iproute2 gcc:gcc ps:procps rsync:rsync unshare:util-linux \
        mke2fs:e2fsprogs mandoc:mandoc zstd:zstd xz:xz-utils openssl:openssl ssh:openssh-client python3:python3; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    ls /usr/lib/*/libc.a >/dev/null 2>&1 || missing+=(libc6-dev)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    find_python || missing+=(python3 python3-venv)
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}"
    (
        flock 9
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    ) 9>"$cache/.apt.lock"
    hash -r
    find_python || {
        echo "$0: no Python 3.11 or newer that can make virtual environments" >&2
        exit 1
    }
}

# install_chromium: for the test that looks at a report, which is skipped where it cannot be had
install_chromium() {
    command -v chromium >/dev/null && return
    echo "installing chromium"
    (
        flock 9
        apt-get update -qq || true
        apt-get install -qq -y --no-install-recommends chromium >/dev/null
    ) 9>"$cache/.apt.lock" || echo "chromium cannot be installed: the test that looks at a report will be skipped" >&2
}

# install_qemu: for the tests on whole machines, which are skipped where it cannot be had
install_qemu() {
    command -v qemu-system-x86_64 >/dev/null && command -v qemu-img >/dev/null && return
    echo "installing qemu"
    (
        flock 9
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends qemu-system-x86 qemu-utils >/dev/null
    ) 9>"$cache/.apt.lock" || echo "qemu cannot be installed: tests on whole machines will be skipped" >&2
}

# find_python: sets $python to one that is new enough and can make virtual environments
find_python() {
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    return 1
}

# make_venv [FILE]: sets $python to that of an environment with the packages of requirements.txt, and of the file
make_venv() {
    local wanted key venv
    wanted=$root/test/lab/requirements.txt
    key=$({ cat "$wanted" "$@"; "$python" -VV; } | sha256sum | cut -c1-16)
    venv=$cache/venv-$key
    (
        flock 9
        [ -e "$venv/complete" ] && exit
        rm -rf "$venv"
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --disable-pip-version-check --requirement "$wanted" ${1:+--requirement "$1"} >"$cache/.pip.log" 2>&1 || {
            cat "$cache/.pip.log" >&2
            exit 1
        }
        touch "$venv/complete"
    ) 9>"$cache/.venv.lock"
    python=$venv/bin/python
}

# supervise COMMAND...: runs it to its end; what it may leave of a lab, if it is killed, is removed after it
supervise() {
    local status=0
    trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT HUP
    "$@" &
    child=$!
    wait "$child" || status=$?
    # a trap ends wait before the command has ended
    while kill -0 "$child" 2>/dev/null; do
        wait "$child" || status=$?
    done
    "$python" "$root/test/lab/lab" sweep
    return "$status"
}
