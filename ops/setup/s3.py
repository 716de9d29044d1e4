#!/usr/bin/env python3
"""Runs a command beside an S3-compatible server on loopback: moto, from the Python package index, in `.s3/`.

    python3 ops/setup/s3.py run -- cargo test -p ouzel-snapshot --features s3 --test s3

The command finds the address in OUZEL_S3_URL and the settings of the client in the AWS_ variables. Without pip or the index
the command runs all the same, and the tests print that they were skipped.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv

DIR = pathlib.Path(__file__).resolve().parents[2] / ".s3"
PACKAGE = "moto[s3,server]==5.2.5"
BUCKET = "ouzel"
SECONDS = 60


def install():
    """Returns the server's program, installed once; None if it cannot be."""
    program = DIR / "bin" / "moto_server"
    if program.exists():
        return program
    try:
        venv.create(DIR, with_pip=True, clear=True)
        subprocess.run([DIR / "bin" / "pip", "install", "--quiet", PACKAGE], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"s3: no server, its tests are SKIPPED: {error}", file=sys.stderr)
        return None
    return program


def start(program):
    """Starts the server on a free port with an empty bucket. Returns the process and the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = open(DIR / "server.log", "w")
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request, timeout=SECONDS).close()
            return server, port
        except (OSError, urllib.error.URLError):
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                sys.exit(f"s3: the server does not answer; see {DIR / 'server.log'}")
            time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    command = parser.parse_args().command
    command = command[1:] if command[:1] == ["--"] else command
    program = install()
    if program is None:
        sys.exit(subprocess.run(command).returncode)
    server, port = start(program)
    settings = {
        "OUZEL_S3_URL": f"s3://{BUCKET}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
    }
    try:
        code = subprocess.run(command, env=os.environ | settings).returncode
    finally:
        server.terminate()
        server.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()
