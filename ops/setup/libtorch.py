#!/usr/bin/env python3
"""Installs libtorch 2.13.0 in `.libtorch/`, where the build finds it, from the wheels on the Python package index.

With `LIBTORCH` set, that installation is checked and nothing is downloaded. Otherwise pip downloads the torch wheel to a
temporary folder beside the destination, the headers and shared libraries that a Rust program needs are unpacked, and one
rename moves the result into place, so an interrupted run changes nothing. A stamp file describes the contents of the folder;
a second run with the same stamp returns at once.

Without a GPU only the CPU libraries are installed (0.5 GB of the 1 GB in the wheel). With a GPU (`nvidia-smi -L` lists one)
the whole wheel and the CUDA libraries that it requires are installed.
"""

import argparse
import functools
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile

sys.dont_write_bytecode = True  # wheels.py is not in a package

import wheels

VERSION = "2.13.0"
DEFAULT = pathlib.Path(__file__).resolve().parents[2] / ".libtorch"

# The C++ part of the wheel is the same for every Python; one version is named, so that one digest applies everywhere.
PYTHON_VERSION, ABI = "311", "cp311"
TORCH = ("torch", VERSION, "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7")
# libtorch_cpu.so is linked against these two even where there is no GPU.
CUDA_STUBS = [
    ("nvidia-cuda-runtime", "13.0.96", "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
    ("nvidia-cuda-cupti", "13.0.85", "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"),
]
CPU_LIBRARIES = {
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
}
PYTHON_LIBRARY = "torch/lib/libtorch_python.so"
# This linker script replaces the libtorch.so of the wheel, which needs CUDA.
LINKER_SCRIPT = "INPUT(libtorch_cpu.so libc10.so)\n"


say = functools.partial(print, "libtorch:", file=sys.stderr, flush=True)


def version_of(torch):
    """The version in the headers of an installation with `include/` and `lib/`, or None."""
    for header in ("torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"):
        path = torch / "include" / header
        found = path.is_file() and re.search(r'#define TORCH_VERSION\s*\\?\s*"([^"+]+)', path.read_text())
        if found:
            return found.group(1)
    return None


def problem_with(torch):
    """Why this folder cannot be built against, or None."""
    for needed in ("include/torch/csrc/api/include/torch/torch.h", "lib/libtorch.so", "lib/libtorch_cpu.so"):
        if not (torch / needed).exists():
            return "it has no " + needed
    version = version_of(torch)
    if version != VERSION:
        return "its headers say version {}, ouzel needs {}".format(version or "unknown", VERSION)
    return None


def has_gpu():
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listing = subprocess.run([tool, "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return listing.returncode == 0 and b"GPU" in listing.stdout


def stamp_text(gpu):
    lines = ["torch {} {}".format(VERSION, "with CUDA" if gpu else "CPU only")]
    lines += ["{}=={} sha256:{}".format(*wheel) for wheel in [TORCH] + ([] if gpu else CUDA_STUBS)]
    return "\n".join(lines) + "\n"


def download(gpu, folder):
    options = ["--implementation", "cp", "--python-version", PYTHON_VERSION, "--abi", ABI]
    # Every glibc up to that of the torch wheel, because pip does not widen a named platform.
    for platform_tag in ["manylinux_2_{}".format(minor) for minor in range(28, 16, -1)] + ["manylinux2014"]:
        options += ["--platform", platform_tag + "_x86_64"]
    advice = ", or set LIBTORCH to a libtorch {} of your own".format(VERSION)
    wheels.download([TORCH] + ([] if gpu else CUDA_STUBS), folder, options, advice)
    if gpu:
        wheels.pip_download(options + cuda_requirements(next(folder.glob("torch-*.whl"))), folder, "the CUDA libraries", advice)


def cuda_requirements(wheel):
    """The CUDA libraries that the wheel requires, with their exact versions."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("torch-{}.dist-info/METADATA".format(VERSION)).decode()
    required = re.findall(r"^Requires-Dist: ([^;\n]+)", metadata, re.MULTILINE)
    return [name.strip() for name in required if name.startswith(("nvidia-", "cuda-toolkit"))]


def is_wanted(member, gpu):
    if member.endswith("/"):
        return False
    if member.startswith("torch/include/") or member in CPU_LIBRARIES:
        return True
    is_library = ".so" in pathlib.PurePosixPath(member).name
    return gpu and is_library and member.startswith(("torch/lib/", "nvidia/")) and member != PYTHON_LIBRARY


def unpack(packed, gpu, root):
    for wheel in packed:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if is_wanted(member, gpu):
                    archive.extract(member, root)
    if not gpu:
        (root / "torch/lib/libtorch.so").write_text(LINKER_SCRIPT)
    fault = problem_with(root / "torch")
    if fault:
        raise wheels.SetupError("the wheels did not unpack to a usable libtorch: " + fault)


def fetch(destination, gpu):
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise wheels.SetupError(
            "ready-made wheels are pinned for Linux on x86_64 only; set LIBTORCH to a libtorch {} for {} on {}".format(
                VERSION, platform.system(), platform.machine()
            )
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    needed = 12_000_000_000 if gpu else 1_500_000_000
    if free < needed:
        room = "{:.1f} GB free, {:.1f} GB are needed".format(free / 1e9, needed / 1e9)
        raise wheels.SetupError("{} has {}".format(destination.parent, room))
    size = "with CUDA, several GB" if gpu else "530 MB"
    say("downloading torch {} ({}) from the Python package index".format(VERSION, size))
    with tempfile.TemporaryDirectory(prefix=".libtorch-", dir=destination.parent) as temporary:
        work = pathlib.Path(temporary)
        packed, built = work / "wheels", work / "built"
        packed.mkdir()
        built.mkdir()
        download(gpu, packed)
        say("unpacking")
        unpack(sorted(packed.glob("*.whl")), gpu, built)
        (built / "stamp").write_text(stamp_text(gpu))
        wheels.replace(destination, built, work)
    elsewhere = "" if destination == DEFAULT else "; build with LIBTORCH={}/torch".format(destination)
    say("ready in {}{}".format(destination, elsewhere))


def is_done(destination, gpu):
    stamp = destination / "stamp"
    return stamp.is_file() and stamp.read_text() == stamp_text(gpu) and problem_with(destination / "torch") is None


def main():
    parser = argparse.ArgumentParser(description="download libtorch {} for the build".format(VERSION))
    parser.add_argument("destination", nargs="?", type=pathlib.Path, default=DEFAULT, help="default: .libtorch")
    destination = parser.parse_args().destination.resolve()
    given = os.environ.get("LIBTORCH")
    if given:
        fault = problem_with(pathlib.Path(given))
        if fault:
            advice = "unset it or point it to libtorch " + VERSION
            raise wheels.SetupError("LIBTORCH={} cannot be used: {}; {}".format(given, fault, advice))
        say("using LIBTORCH=" + given)
        return
    gpu = has_gpu()
    if is_done(destination, gpu):
        say("{} is in place in {}".format(VERSION, destination))
    else:
        fetch(destination, gpu)


if __name__ == "__main__":
    # SIGTERM unwinds like Ctrl-C, so that the temporary folder is deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wheels.run("libtorch", main)
