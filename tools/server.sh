# What the scripts have in common that run a server for the tests, in a temporary folder, on a free port of 127.0.0.1, for as long
# as standard input is open: whoever holds the pipe may be killed, and nothing is left behind. To be sourced, with `name` set to that
# of the script.

say() { echo "$name: $*" >&2; }

# Goes on in a session of its own: a Ctrl-C or a kill of the tests' whole process group does not reach it, the closed pipe does.
leave_session() {
    [ -z "${LENSGATE_TEST_SESSION:-}" ] && command -v setsid >/dev/null || return 0
    LENSGATE_TEST_SESSION=1 exec setsid --wait "tools/$name.sh" "$@"
}

# Calls `start`, which begins a server on $port with its output in $folder/server.log and returns when it answers, or fails when it
# ends instead. Only a port in use, as this pattern tells it, is a reason to try another one.
start_on_a_free_port() {
    tries=0
    while :; do
        # Below the ports that the system gives to clients.
        port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
        if start; then return; fi
        server=
        tries=$((tries + 1))
        if [ $tries -eq 10 ] || ! grep -qi "$1" "$folder/server.log"; then
            say "the server does not start:"
            cat "$folder/server.log" >&2
            exit 1
        fi
    done
}
