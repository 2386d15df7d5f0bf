"""The block on sockets holds in tests, in their subprocesses and in notebook kernels, and lets this machine through."""

from __future__ import annotations

import socket
import subprocess
import sys

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

REFUSED = "sockets are blocked"
OUTSIDE = "192.0.2.1"  # reserved for documentation: never answers (RFC 5737)


def send_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbound:
        outbound.sendto(b"x", (OUTSIDE, 9))


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection((OUTSIDE, 80), timeout=1),
        lambda: socket.socket().connect((OUTSIDE, 80)),
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.gethostbyname("example.org"),
        send_datagram,
    ],
    ids=["create_connection", "connect", "getaddrinfo", "gethostbyname", "sendto"],
)
def test_outside_is_refused(reach):
    with pytest.raises(ConnectionRefusedError, match=REFUSED):
        reach()


def test_outside_is_refused_in_a_subprocess():
    code = f"import socket; socket.create_connection(({OUTSIDE!r}, 80), timeout=1)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode != 0
    assert REFUSED in child.stderr


def test_outside_is_refused_in_a_notebook_kernel():
    code = f"import socket\ntry:\n    socket.create_connection(({OUTSIDE!r}, 80), timeout=1)\n"
    code += "except OSError as error:\n    print(error)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    assert REFUSED in notebook.cells[0].outputs[0].text


def test_this_machines_own_addresses_are_reached():
    own = [each.address for card in psutil.net_if_addrs().values() for each in card if each.family == socket.AF_INET]
    assert "127.0.0.1" in own
    for address in own:
        with socket.create_server((address, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()


def test_this_machine_is_reached():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"
