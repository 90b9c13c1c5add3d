#!/bin/sh
# Makes a virtual environment of Python with the packages in python.txt, in the directory that is
# named, or sees that it is there already. Cargo has to have made its own directory before, since
# only then it marks that as its own, and tests look for the mark.
set -eu

directory=$1
wanted=$(dirname "$0")/python.txt
# A copy of the list, written last, says that the environment is whole.
whole=$directory/whole.txt

[ ! -e "$whole" ] || ! cmp -s "$wanted" "$whole" || exit 0

echo "making a Python environment"
rm -rf "$directory"
python3 -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
cp "$wanted" "$whole"
