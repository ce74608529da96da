#!/bin/bash
# dracut: the crash dump of this machine is sent to a Blockloom server.

BLOCKLOOM_PROGRAM=/usr/sbin/blockloom-dump BLOCKLOOM_SHARE=/usr/share/blockloom-dump BLOCKLOOM_IP=dhcp

check() {
    [ -f /etc/blockloom/dump.conf ] || return 1
    # shellcheck source=/dev/null
    . /etc/blockloom/dump.conf
    require_binaries "$BLOCKLOOM_PROGRAM" || return 1
    # Only where it is asked for: kdump's initramfs.
    return 255
}

depends() {
    echo network
}

install() {
    # shellcheck source=/dev/null
    . /etc/blockloom/dump.conf
    inst_binary "$BLOCKLOOM_PROGRAM" /usr/sbin/blockloom-dump
    inst_multiple reboot sync
    inst_multiple -o makedumpfile /etc/blockloom/dump.token /etc/blockloom/dump.psk \
        /etc/blockloom/dump.pki/{ca-cert,client-cert,client-key}.pem
    inst_simple /etc/blockloom/dump.conf
    inst_script "$BLOCKLOOM_SHARE/blockloom-send" /usr/bin/blockloom-send
    # kdump sets the network up itself where it sends over one.
    # shellcheck disable=SC2154  # set by dracut
    if ! grep -qE '^(ssh|nfs)[[:space:]]' /etc/kdump.conf 2> /dev/null; then
        mkdir -p "$initdir/etc/cmdline.d"
        echo "rd.neednet=1 ip=$BLOCKLOOM_IP" > "$initdir/etc/cmdline.d/50blockloom-dump.conf"
    fi
    # shellcheck disable=SC2154
    inst_hook pre-pivot 95 "$moddir/blockloom-dump.sh"
}
