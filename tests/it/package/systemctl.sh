#!/bin/sh
# systemctl, as far as the package's scripts and this test ask for it: starts and stops what a unit
# says, as the user that it says, and notes what it was asked to do in /mnt/systemctl.log.
set -eu

pids=/run/units
mkdir -p "$pids"

# The file of a unit, an administrator's first; of an instance, its template's.
file_of() {
    template=$(echo "$1" | sed 's/@.*\./@./')
    for place in /etc/systemd/system /usr/lib/systemd/system; do
        [ ! -e "$place/$template" ] || { echo "$place/$template"; return; }
    done
    echo "Unit $1 not found." >&2
    exit 5
}

# What a unit says for a key, with its instance's name.
value_of() {
    instance=$(echo "$1" | sed -n 's/.*@\(.*\)\..*/\1/p')
    sed -n "s/^$2=//p" "$(file_of "$1")" | sed "s,%i,$instance,g"
}

pid_of() {
    pid=$(cat "$pids/$1" 2>/dev/null || echo 0)
    # A zombie has ended.
    grep -q '^State:	[^Z]' "/proc/$pid/status" 2>/dev/null && echo "$pid" || echo 0
}

is_active() { [ "$(pid_of "$1")" -gt 0 ]; }

# What runs of the names and patterns that are given.
active_of() {
    for pattern in "$@"; do
        for unit in "$pids"/*; do
            unit=${unit##*/}
            # shellcheck disable=SC2254 # it is a pattern
            case $unit in $pattern) ! is_active "$unit" || echo "$unit" ;; esac
        done
    done
}

start() {
    user=$(value_of "$1" User)
    for place in /var/lib /run; do
        name=$(value_of "$1" "$([ $place = /run ] && echo Runtime || echo State)Directory")
        install -d -o "$user" -g "$user" -m 0700 "$place/$name"
        [ $place = /run ] && runtime=/run/$name || state=/var/lib/$name
    done
    # shellcheck disable=SC2046 # words of a command line
    env -i STATE_DIRECTORY="$state" RUNTIME_DIRECTORY="$runtime" \
        setsid setpriv --reuid "$user" --regid "$user" --init-groups \
        $(value_of "$1" ExecStart) </dev/null >>"/mnt/$1.log" 2>&1 &
    echo $! >"$pids/$1"
}

stop() {
    pid=$(pid_of "$1")
    [ "$pid" -eq 0 ] || kill "$pid"
    while is_active "$1"; do sleep 0.02; done
}

verb=
names=
for word in "$@"; do
    case $word in
    -*) ;;
    *) [ -n "$verb" ] && names="$names $word" || verb=$word ;;
    esac
done
set -f
# shellcheck disable=SC2086 # names and patterns have no blanks
set -- $names
set +f

case $verb in
daemon-reload | enable | disable | mask | unmask) echo "$verb${names}" >>/mnt/systemctl.log ;;
is-active) is_active "$1" ;;
is-enabled) echo disabled && exit 1 ;;
show) pid_of "$1" ;;
list-units) for unit in $(active_of "$@"); do echo "$unit loaded active running A daemon"; done ;;
start | restart)
    for unit; do
        echo "$verb $unit" >>/mnt/systemctl.log
        stop "$unit"
        start "$unit"
    done
    ;;
stop)
    for unit in $(active_of "$@"); do
        echo "$verb $unit" >>/mnt/systemctl.log
        stop "$unit"
    done
    ;;
*) echo "the test's systemctl does not know $verb" >&2 && exit 1 ;;
esac
