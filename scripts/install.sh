#!/bin/sh
# Installs what the tests, the benchmarks and the demo need and this machine lacks, on
# Debian and Ubuntu: a Postgres server with wal2json, Redis, Varnish with xkey, Chromium with its
# driver, promtool, Valgrind, Node.js, Go with a client of Redis, Python with virtual environments,
# openssl, systemd's tools, a C compiler, and what makes packages and renders their pages.
# `install.sh servers` leaves out the browser, promtool, Valgrind, Node.js and Go, which only tests
# need.
# Starts no service, makes no database cluster, and touches nothing that is there already.
set -eu

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

wanted=${1:-everything}

# The newest major version that has a server, else nothing.
server_version() {
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        version=${initdb#/usr/lib/postgresql/}
        [ ! -x "$initdb" ] || echo "${version%%/*}"
    done | sort -n | tail -n 1
}

# Whether Varnish's module for surrogate keys is there.
has_xkey() {
    for module in /usr/lib/varnish/vmods/libvmod_xkey.so /usr/lib/*/varnish/vmods/libvmod_xkey.so; do
        [ ! -e "$module" ] || return 0
    done
    return 1
}

# What is missing, as package names; @N stands for the distribution's Postgres version.
missing() {
    # Whoever names a directory of binaries answers for what is in it.
    if [ -z "${WALPURGE_PG_BIN:-}" ]; then
        version=$(server_version)
        if [ -n "$version" ]; then
            [ -e "/usr/lib/postgresql/$version/lib/wal2json.so" ] || echo "postgresql-$version-wal2json"
            [ -x "/usr/lib/postgresql/$version/bin/psql" ] || echo "postgresql-client-$version"
        elif ! command -v initdb >/dev/null; then
            echo "postgresql-@N postgresql-@N-wal2json"
        fi
    fi
    command -v redis-server >/dev/null || echo redis-server
    PATH="$PATH:/usr/sbin" command -v varnishd >/dev/null || echo varnish
    has_xkey || echo varnish-modules
    if [ "$wanted" != servers ]; then
        command -v chromium >/dev/null || echo chromium
        command -v chromedriver >/dev/null || echo chromium-driver
        command -v promtool >/dev/null || echo promtool
        command -v valgrind >/dev/null || echo valgrind
        command -v node >/dev/null || echo nodejs
        command -v npm >/dev/null || echo npm
        command -v go >/dev/null || echo golang-go
        [ -e /usr/share/gocode/src/github.com/gomodule/redigo ] ||
            echo golang-github-gomodule-redigo-dev
    fi
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v openssl >/dev/null || echo openssl
    command -v systemd-analyze >/dev/null && command -v systemd-sysusers >/dev/null || echo systemd
    command -v cc >/dev/null || echo "gcc libc6-dev"
    command -v dpkg-shlibdeps >/dev/null || echo dpkg-dev
    command -v xz >/dev/null || echo xz-utils
    command -v groff >/dev/null || echo groff-base
    PATH="$PATH:/usr/sbin" command -v adduser >/dev/null || echo adduser
    # The TLS library brings ready-made bindings and assembly for these two only.
    case $(uname -m) in
    x86_64 | aarch64) ;;
    *) command -v cmake >/dev/null && command -v clang >/dev/null || echo "cmake clang" ;;
    esac
}

packages=$(missing | xargs)
[ -n "$packages" ] || exit 0

command -v apt-get >/dev/null || fail "please install by hand: $packages"
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "needs root to install: $packages"
    exec sudo WALPURGE_PG_BIN="${WALPURGE_PG_BIN:-}" "$0" "$@"
fi

# Both files last only while packages are being installed.
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/walpurge-install.conf
written=
unpacked=
log=$(mktemp)
restore() {
    # shellcheck disable=SC2086 # one argument a file; neither name holds a blank
    rm -rf "$log" $unpacked $written
}
trap restore EXIT
trap 'exit 130' INT TERM HUP

if [ ! -e "$policy" ]; then
    written="$written $policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
if [ -z "$(server_version)" ] && [ ! -e "$cluster" ]; then
    written="$written $cluster"
    mkdir -p "${cluster%/*}"
    echo 'create_main_cluster = false' >"$cluster"
fi

quietly() {
    "$@" >"$log" 2>&1 </dev/null || {
        cat "$log" >&2
        fail "failed: $*"
    }
}

export DEBIAN_FRONTEND=noninteractive
quietly apt-get update -q
case $packages in
*@N*)
    version=$(apt-cache depends postgresql | sed -n 's/^ *Depends: postgresql-\([0-9][0-9]*\)$/\1/p')
    [ -n "$version" ] || fail "apt offers no Postgres server"
    packages=$(echo "$packages" | sed "s/@N/$version/g")
    ;;
esac
echo "installing $packages"
# promtool comes with a server that would be enabled as a service: only the program is taken.
case " $packages " in
*" promtool "*)
    packages=$(echo " $packages " | sed 's/ promtool / /')
    unpacked=$(mktemp -d)
    quietly sh -c 'cd "$1" && apt-get download -q prometheus && dpkg -x ./*.deb .' sh "$unpacked"
    quietly install -D "$unpacked/usr/bin/promtool" /usr/local/bin/promtool
    ;;
esac
# shellcheck disable=SC2086 # one argument a package
quietly apt-get install -q -y --no-install-recommends $packages

packages=$(missing | xargs)
[ -z "$packages" ] || fail "still missing after the installation: $packages"
