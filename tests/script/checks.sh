# SPDX-License-Identifier: Apache-2.0
# Sourced by scripts that test: each check says how it went. A script counts its failures and goes on.

failures=0

ok() { # WHAT COMMAND...: the command succeeds
	what=$1
	shift
	if "$@"; then
		echo "ok    $what"
	else
		echo "FAIL  $what"
		failures=$((failures + 1))
	fi
}

same() { # WHAT EXPECTED GOT
	if [ "$2" = "$3" ]; then
		echo "ok    $1"
	else
		printf 'FAIL  %s\n      expected: %s\n      got:      %s\n' "$1" "$2" "$3"
		failures=$((failures + 1))
	fi
}
