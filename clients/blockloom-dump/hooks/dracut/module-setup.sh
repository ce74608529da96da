#!/bin/bash
# dracut: the crash dump of this machine is sent to a Blockloom server.

check() {
    [ -f /etc/blockloom/dump.conf ] || return 1
    require_binaries blockloom-dump || return 1
    # Only where it is asked for: kdump's initramfs.
    return 255
}

depends() {
    echo network
}

install() {
    inst_multiple blockloom-dump reboot sync
    inst_multiple -o makedumpfile
    inst_simple /etc/blockloom/dump.conf
    inst_simple -o /etc/blockloom/dump.token
    # shellcheck disable=SC2154  # set by dracut
    inst_script "$moddir/../../../../share/blockloom-dump/blockloom-send" /usr/bin/blockloom-send
    # shellcheck disable=SC2154
    inst_hook pre-pivot 95 "$moddir/blockloom-dump.sh"
}
