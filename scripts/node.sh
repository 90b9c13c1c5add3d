#!/bin/sh
# Makes a directory with the packages of node.txt (npm), in the place that is named, or sees that it
# is there already. Cargo has to have made its own directory before, since only then it marks that
# as its own, and tests look for the mark.
set -eu

directory=$1
wanted=$(dirname "$0")/node.txt
# A copy of the list, written last, says that all of it is there.
whole=$directory/whole.txt

[ ! -e "$whole" ] || ! cmp -s "$wanted" "$whole" || exit 0

echo "fetching packages for Node.js"
rm -rf "$directory"
mkdir -p "$directory"
# Else npm would look for a package above.
echo '{ "private": true }' >"$directory/package.json"
# shellcheck disable=SC2046 # one argument a package
npm install --silent --no-audit --no-fund --no-package-lock --prefix "$directory" \
    $(grep -v '^#' "$wanted")
cp "$wanted" "$whole"
