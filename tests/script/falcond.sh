# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts that need a falcond: one on a private socket in a folder of its own, which goes with the script.
# Programs are in the build folder, where tests run; files of the source are below $srcdir.

srcdir=${srcdir:-.}
folder=$(mktemp -d)
falcond=
. "$srcdir/tests/script/checks.sh"
FALCOND_SOCKET=ipc://$folder/falcond.sock
export FALCOND_SOCKET
trap 'falcond_stop; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

# Starts the daemon with the bundled model and waits until it serves. Arguments: further options.
falcond_start() {
	./falcond --model "$srcdir/models/falcon-tales.Q8_0.gguf" --socket "$FALCOND_SOCKET" --state "$folder/state" "$@" \
		>"$folder/falcond.log" 2>&1 &
	falcond=$!
	./falconctl --wait 60 status >"$folder/status" || {
		cat "$folder/falcond.log"
		exit 1
	}
}

falcond_stop() {
	[ -n "$falcond" ] || return 0
	kill "$falcond" 2>/dev/null || true
	wait "$falcond" 2>/dev/null || true
	falcond=
}

exits() { # WHAT STATUS COMMAND...: its messages are in $folder/said
	what=$1 expected=$2
	shift 2
	status=0
	"$@" >"$folder/printed" 2>"$folder/said" || status=$?
	same "$what" "$expected" "$status"
}

eventually() { # COMMAND...: within 20 seconds it succeeds
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 400 ] || return 1
		sleep 0.05
	done
}

finish() {
	[ $failures = 0 ] || {
		echo "$failures failed; the daemon's log:"
		tail -n 30 "$folder/falcond.log"
		exit 1
	}
}
