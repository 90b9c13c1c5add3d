#!/bin/sh
# Installs cargo-deb, which makes the Debian package, in the directory that is named, or sees that
# it is there already. Cargo has to have made its own directory before, as for python.sh.
set -eu

directory=$1
version=3.8.0

[ "$("$directory/bin/cargo-deb" --version 2>/dev/null)" != "cargo-deb $version" ] || exit 0

echo "installing cargo-deb $version"
# Unoptimized, in half the time: what is slow is done by the programs xz and strip. Without xz in
# it: the program of that name is faster, and dpkg-dev brings it.
"${CARGO:-cargo}" install --quiet --force --debug --locked cargo-deb --version "$version" \
    --no-default-features --features debug-id --root "$directory" --target-dir "$directory/build"
rm -rf "$directory/build"
