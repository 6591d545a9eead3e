# SPDX-License-Identifier: Apache-2.0
# Sourced by the tests of the unit: installs what was built into a folder, as a package would, and finds the unit there.

set -u
srcdir=$(readlink -f "${srcdir:-.}")
folder=$(mktemp -d)
. "$srcdir/tests/script/checks.sh"

# A test that cannot run here is skipped, but where FALCON_NO_SKIP is set it has to run.
skip() { # REASON
	if [ -n "${FALCON_NO_SKIP-}" ]; then
		echo "FAIL  this test may not be skipped here: $1"
		exit 1
	fi
	echo "skipped: $1"
	exit 77
}

install_into() { # FOLDER
	"${MAKE:-make}" -s install DESTDIR="$1" >"$folder/install.log" 2>&1 || {
		cat "$folder/install.log"
		exit 1
	}
}

find_installed() { # FOLDER NAME: the file's path below the folder, from /; a completion is called as its program is
	local found
	found=$(find "$1" -type f -name "$2" -not -path '*/completions/*')
	[ -n "$found" ] && echo "${found#"$1"}"
}
