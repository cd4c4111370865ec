"""Loopback addresses 127.x.y.z for nodes and pods; each kubelet of this machine has an x to itself."""

import socket

_PORT = 11250
"""Where kubelets serve logs; a real one would take 10250. Whoever listens on 127.x.0.1 owns 127.x.*."""


class Addresses:
    """Hands out addresses that nobody else on this machine uses, as long as its socket is open.

    Raises:
        OSError: more than 200 kubelets run on this machine.
    """

    def __init__(self) -> None:
        for network in range(20, 220):
            try:
                self.socket = socket.create_server((f"127.{network}.0.1", _PORT))
            except OSError:
                continue
            break
        else:
            raise OSError("no loopback network is left for this kubelet")
        self.own = f"127.{network}.0.1"
        self.port = _PORT
        self._network = network
        self._taken = 1

    def take(self) -> str:
        """The next address."""
        self._taken += 1
        return f"127.{self._network}.{self._taken // 250}.{self._taken % 250 + 1}"
