"""A connection-eater: forwards TCP to servers, and at a word goes mute on the connections that it has.

    eater.py URL...     prints the address that stands for each, then obeys lines of its input, and answers each
                        with the number of connections that were opened:
    mute                old connections take what is sent and answer nothing; new ones are served
    close N             a connection ends with its Nth answer, without a word of it beforehand; 0: never
    cut                 a connection that has answered ends when the next request comes
    down | up           nobody listens any more; somebody does again

Addresses of the servers in what they answer are replaced by the eater's own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from urllib.parse import urlsplit


class Eater:
    def __init__(self, urls: list[str]) -> None:
        self.generation = self.opened = self.close_after = 0
        self.cut = False
        self.targets = [urlsplit(url).netloc for url in urls]
        self.listeners: list[socket.socket] = []
        self.ports: list[int] = [0] * len(urls)

    def up(self) -> None:
        for index, target in enumerate(self.targets):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while True:
                listener.bind(("127.0.0.1", self.ports[index]))
                self.ports[index] = listener.getsockname()[1]
                if len(f"127.0.0.1:{self.ports[index]}") == len(target):
                    break
                listener, self.ports[index] = socket.socket(), 0
            listener.listen(64)
            self.listeners.append(listener)
            threading.Thread(target=self.accept, args=(listener, target), daemon=True).start()

    def down(self) -> None:
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.listeners.clear()

    def accept(self, listener: socket.socket, target: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.opened += 1
                threading.Thread(target=self.serve, args=(client, target), daemon=True).start()

    def serve(self, client: socket.socket, target: str) -> None:
        born, own = self.generation, self.ports[self.targets.index(target)]
        host, _, port = target.partition(":")
        server = socket.create_connection((host, int(port)))
        state = {"answered": False, "asked": 0}

        def there() -> None:
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    if born < self.generation:
                        continue
                    if state["answered"] and self.cut:
                        break
                    state["asked"] += data.count(b" HTTP/1.1\r\n")
                    server.sendall(data.replace(f"127.0.0.1:{own}".encode(), target.encode()))
            self.end(client, server)

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    if born < self.generation:
                        return
                    for old, own in zip(self.targets, self.ports, strict=True):
                        data = data.replace(old.encode(), f"127.0.0.1:{own}".encode())
                    client.sendall(data)
                    state["answered"] = True
                    if self.close_after and state["asked"] >= self.close_after:
                        server.settimeout(0.05)  # what is left of this answer
            if born == self.generation:
                self.end(client, server)

        threading.Thread(target=there, daemon=True).start()
        back()

    @staticmethod
    def end(*sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    eater = Eater(sys.argv[1:])
    eater.up()
    say(json.dumps([f"http://127.0.0.1:{port}" for port in eater.ports]))
    for line in sys.stdin:
        match line.split():
            case ["mute"]:
                eater.generation += 1
            case ["close", number]:
                eater.close_after = int(number)
            case ["cut", word]:
                eater.cut = word == "on"
            case ["down"]:
                eater.down()
            case ["up"]:
                eater.up()
        say(str(eater.opened))


if __name__ == "__main__":
    main()
