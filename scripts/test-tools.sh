#!/bin/sh
# Installs what tests need besides Rust and a C compiler, if this machine lacks it: the sqlite3
# shell, Debian's own python3 (which may load SQLite extensions; pyenv's may not), nm, and OpenSSH's
# server and ssh-keygen.
set -eu
missing=
command -v sqlite3 >/dev/null || missing="$missing sqlite3"
test -x /usr/bin/python3 || missing="$missing python3"
command -v nm >/dev/null || missing="$missing binutils"
test -x /usr/sbin/sshd || command -v sshd >/dev/null || missing="$missing openssh-server"
command -v ssh-keygen >/dev/null || missing="$missing openssh-client"
test -z "$missing" && exit 0
command -v apt-get >/dev/null || { echo "please install:$missing" >&2; exit 1; }
sudo=
test "$(id -u)" = 0 || sudo=sudo
install() {
    # shellcheck disable=SC2086 # a list of words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing \
        >/dev/null
}
install || { $sudo apt-get update >/dev/null && install; }
case "$missing" in
*openssh-server*)
    # The tests start their own on a port of their own: nobody asked for one that lets people in.
    if test -d /run/systemd/system; then
        $sudo systemctl disable --now ssh ssh.socket 2>/dev/null || true
    fi
    ;;
esac
