#!/usr/bin/env python3
"""A TLS listener in front of a plain server on loopback, for tests.

tls_front.py BACKEND FOLDER makes an authority and a certificate for 127.0.0.1 in FOLDER by the command `openssl`, prints
the port it listens on, and forwards each connection to BACKEND (host:port) until its standard input ends.
"""

import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path


def make_certificate(folder: Path) -> None:
    """Writes authority.pem, server.pem and server.key."""

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-subj", "/CN=test authority", "-days", "2",
            "-keyout", "authority.key", "-out", "authority.pem")
    openssl("req", *key, "-subj", "/CN=registry", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", "server.pem")


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until `source` ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client: socket.socket, context: ssl.SSLContext, backend: tuple[str, int]) -> None:
    """Forwards one connection; a client that refuses the certificate is dropped."""
    try:
        with context.wrap_socket(client, server_side=True) as secure, socket.create_connection(backend) as plain:
            request = threading.Thread(target=copy, args=(secure, plain), daemon=True)
            request.start()
            copy(plain, secure)
    except OSError:
        client.close()


def main() -> None:
    host, port = sys.argv[1].rsplit(":", 1)
    folder = Path(sys.argv[2])
    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, context, (host, int(port))), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
