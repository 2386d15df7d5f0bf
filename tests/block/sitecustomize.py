"""Refuses every connection that leaves this machine, in this process and in its Python children.

`tests/conftest.py` runs this file and puts its folder on PYTHONPATH, so that notebook kernels and subprocesses run it
as they start. Loopback addresses, this machine's own addresses and unix sockets stay open: notebook kernels, torchrun
and Ray talk over them.
"""

from __future__ import annotations

import sys

HOST_EVENTS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
ADDRESS_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def is_local(host: object) -> bool:
    """Whether `host` names this machine without asking anybody else."""
    import ipaddress

    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(name))
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    import psutil

    return str(address) in {own.address for each in psutil.net_if_addrs().values() for own in each}


def refuse(event: str, args: tuple) -> None:
    """Audit hook: raises ConnectionRefusedError before anything is sent."""
    if event in HOST_EVENTS:
        host = args[0]
    elif event in ADDRESS_EVENTS and isinstance(args[1], tuple) and args[1] and isinstance(args[1][0], (str, bytes)):
        host = args[1][0]
    else:
        return
    if not is_local(host):
        raise ConnectionRefusedError(f"sockets are blocked in tests: {host!r} is not on this machine")


# A hook, not a wrapper: it also sees sockets that were imported, subclassed or kept before it came.
sys.addaudithook(refuse)
