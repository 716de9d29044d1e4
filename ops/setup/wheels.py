"""Downloads pinned wheels from the Python package index, for the scripts beside this file."""

import subprocess
import sys


class SetupError(Exception):
    """An error that the user can fix; its text is the whole message."""


def pip_download(arguments, folder, names, advice=""):
    """Runs `pip download` for wheels into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--dest", str(folder), "--only-binary=:all:", *arguments]
    try:
        subprocess.run(command, stdout=sys.stderr, check=True)
    except subprocess.CalledProcessError as failure:
        reason = "(see above; `{} -m pip --version` must work and the package index be reachable)".format(sys.executable)
        raise SetupError("pip could not download {} {}{}".format(names, reason, advice)) from failure


def download(wheels, folder, options, advice=""):
    """Downloads wheels, each a name, a version and a sha256, into a folder."""
    pinned = folder / "pinned.txt"
    pinned.write_text("".join("{}=={} --hash=sha256:{}\n".format(*wheel) for wheel in wheels))
    names = " and ".join(name for name, *_ in wheels)
    pip_download([*options, "--no-deps", "--require-hashes", "--requirement", str(pinned)], folder, names, advice)


def download_pure(wheels, folder, advice=""):
    """Downloads pure-Python wheels. With a named Python version, pip ignores the versions that they allow."""
    download(wheels, folder, ["--quiet", "--python-version", "311"], advice)


def replace(destination, built, work):
    """Makes a built folder visible by one rename. An older folder moves to the work folder, which is deleted."""
    if destination.exists():
        destination.rename(work / "previous")
    built.rename(destination)


def run(name, main):
    """Runs the main function of a script and prints its error as one line."""
    try:
        main()
    except SetupError as error:
        sys.exit("{}: {}".format(name, error))
    except KeyboardInterrupt:
        sys.exit(name + ": interrupted, nothing was changed")
