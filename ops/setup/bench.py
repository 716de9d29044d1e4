#!/usr/bin/env python3
"""Runs the benchmarks of ouzel and their peers alternately and prints one table of ratios.

Absolute figures depend on the machine, so every benchmark has a peer that does the same job on the same data: the bench
programs write their generated worlds to a temporary folder, and the peers of `tests/peers` read them there. Each round runs
ouzel and then the peer. The table shows the median ratio over the rounds, with the minimum and the maximum. Everything runs
on one thread; benchmarks on a real Kafka broker compare processor time, see `bench_streams.py`. A peer that cannot run is
skipped with a notice.
"""

import argparse
import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the two modules below are not in a package

import bench_streams
import kafka

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PEERS = REPOSITORY / "tests" / "peers"
LAYOUTS = ("idiomatic", "request-once")
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


class BenchError(Exception):
    """An error that the user can fix; its text is the whole message."""


say = functools.partial(print, "bench:", file=sys.stderr, flush=True)


class Row:
    """One benchmark of ouzel and the figure of the peer that it is compared with."""

    def __init__(self, section, name, program, ours, peer, theirs):
        self.section, self.name, self.program = section, name, program
        self.ours, self.peer, self.theirs = ours, peer, theirs
        self.figures = []

    def ratios(self):
        return [ours / theirs for ours, theirs in self.figures]


def rows():
    joined = "decode, join, histories and counters: events/s, one core"
    trained = "train: samples/s, one thread"
    scored = "score one request: candidates/s, one thread"
    both = "read live features and score: candidates/s, one thread (the peer only scores)"
    films, feed = "one film a slate", "slates of eight"
    for world, what in (("films", films), ("feed", feed)):
        yield Row(joined, what, "join", "decode_and_join/" + world, "plain Rust", "plain/" + world)
        yield Row(joined, what, "join", "decode_and_join/" + world, "plain Python", "join/" + world)
        yield Row(trained, what, "ranker", "train/" + world, "PyTorch", "train/" + world)
    for n in (100, 1000):
        what = "{} candidates".format(n)
        yield Row(scored, what, "ranker", "score/{}".format(n), "PyTorch", "score/{}".format(n))
        yield Row(both, what, "ranker", "read_and_score/{}".format(n), "PyTorch", "score/{}".format(n))
    for what, unit in (("train", "samples/s"), ("score", "candidates/s")):
        section = "em3-din, 64 requests of 8 candidates and 50 past actions, {}: {}, one thread".format(what, unit)
        for state in ("warm-up", "frozen", "warm-up, bf16", "frozen, bf16"):
            for layout in LAYOUTS:
                yield Row(section, state, "em3", "{}/{}".format(what, state), "PyTorch " + layout, what)


def build(is_only_kafka):
    """The bench programs by name."""
    command = ["cargo", "bench", "--no-run", "--message-format=json-render-diagnostics"]
    command += ["--package", "ouzel-ingest", "--bench", "kafka"]
    if not is_only_kafka:
        command += ["--bench", "join", "--package", "ouzel-learner", "--bench", "ranker", "--bench", "em3", "--bench", "backlog"]
    built = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        raise BenchError("the benchmarks do not build, see above")
    messages = (json.loads(line) for line in built.stdout.splitlines() if line.startswith("{"))
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable") and "bench" in m["target"]["kind"]}


def output_of(command, **environment):
    """The stdout of a program that runs on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise BenchError("{} failed:\n{}".format(" ".join(str(part) for part in command), done.stderr.strip()))
    return done.stdout


def medians(table):
    """Median rates by `benchmark/argument`, from the table of divan."""
    found, bench, argument = {}, None, None
    for line in table.splitlines():
        named = re.match(r"^([│ ]*)[├╰]─ (\S+)", line)
        if named and not named.group(1):
            bench = named.group(2)
        elif named:
            argument = named.group(2)
        rates = re.findall(r"([\d.]+) ([KMG]?)item/s", line)
        if rates:
            # fastest, slowest, median, mean
            number, unit = rates[2]
            found["{}/{}".format(bench, argument)] = float(number) * UNITS[unit]
    return found


class Peers:
    """The peers, and those that cannot run."""

    def __init__(self, folder, torch_python):
        self.folder, self.torch_python = folder, torch_python
        self.skipped = {}
        probe = subprocess.run([torch_python, "-c", "import torch"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if probe.returncode != 0:
            self.skip("PyTorch", "{} cannot import torch; name a Python that can with TORCH_PYTHON=...".format(torch_python))

    def skip(self, peer, why):
        self.skipped[peer] = why
        self.skipped.update({"{} {}".format(peer, layout): why for layout in LAYOUTS})
        say("*** SKIPPED: the {} peer: {} ***".format(peer, why))

    def run(self, peer, seconds):
        """The figures of one peer; empty if it is skipped."""
        if peer in self.skipped:
            return {}
        if peer.removeprefix("PyTorch ") in LAYOUTS:
            command = [self.torch_python, "-W", "ignore", PEERS / "em3_torch.py", pathlib.Path(self.folder) / "em3.safetensors"]
            return json.loads(output_of([*command, "--layout", peer.removeprefix("PyTorch "), "--seconds", str(seconds)]))
        if peer == "plain Python":
            return json.loads(output_of([sys.executable, PEERS / "plain_join.py", self.folder]))
        return json.loads(output_of([self.torch_python, PEERS / "recipe_torch.py", self.folder, "--seconds", str(seconds)]))


def em3(program, seconds, *arguments):
    """Figures of em3-din by job and state, in float and in bf16."""
    found = {}
    for model, suffix in (("em3-din", ""), ("em3-din-bf16", ", bf16")):
        command = [program, "--model", model, "--shape", "64x8x50", "--seconds", str(seconds), *arguments]
        for figures in map(json.loads, output_of(command).splitlines()):
            found.update({"{}/{}{}".format(job, figures["state"], suffix): figures[job] for job in ("train", "score")})
    return found


def measure(table, programs, peers, rounds, seconds):
    losses = {}
    for number in range(rounds):
        say("round {} of {}".format(number + 1, rounds))
        join = medians(output_of([programs["join"], "--bench", "--sample-count", "5", "::(decode_and_join|plain)::"]))
        python = peers.run("plain Python", seconds)
        ranker = medians(output_of([programs["ranker"], "--bench", "--min-time", str(seconds)]))
        torch = peers.run("PyTorch", seconds)
        losses.update({name: loss for name, loss in torch.items() if name.startswith("log_loss/")})
        ours = {"join": join, "ranker": ranker, "em3": em3(programs["em3"], seconds)}
        theirs = {"plain Rust": join, "plain Python": python, "PyTorch": torch}
        theirs.update({peer: peers.run(peer, seconds) for peer in ("PyTorch " + layout for layout in LAYOUTS)})
        for row in table:
            figure = ours[row.program].get(row.ours)
            if figure is None:
                raise BenchError("{} does not print {}".format(row.program, row.ours))
            row.figures.append((figure, theirs[row.peer].get(row.theirs)))
    return losses


def by_shape(program, seconds):
    """Figures of both models with content, by batch shape."""
    for model in ("em3-din", "em3-hstu"):
        for line in output_of([program, "--model", model, "--seconds", str(seconds)]).splitlines():
            yield json.loads(line)


def show_by_shape(figures):
    print("\nby history and slate, one thread: microseconds per sample; in brackets the operations that `model describe` counts,")
    print("as a share of the rate of a 1024^3 product in libtorch and of the largest product of the model")
    print("  {:<10}{:<9}{:>9}{:>12}{:>10}{:>18}{:>10}{:>18}".format("", "", "history", "candidates", "train", "", "score", ""))
    for row in figures:
        line = "  {model:<10}{state:<9}{history:>9}{candidates:>12}".format(**row)
        for job in ("train", "score"):
            shares = "({})".format(", ".join("{:.0%}".format(share) for share in row[job + "_share"]))
            line += "{:>10.1f}{:>18}".format(row[job + "_us"], shares)
        print(line)


def encoders(program):
    """Rates of the encoders, and the effect of a backlog on steps; empty without weights of encoders."""
    folder = REPOSITORY / ".encoders"
    if not folder.is_dir():
        say("*** SKIPPED: the encoders: make encoders downloads them ***")
        return []
    return [json.loads(line) for line in output_of([program, "--encoders", folder, "--items", "2000"]).splitlines()]


def show_encoders(figures):
    print("\nfrozen encoders, one thread: contents/s")
    for row in figures:
        if "encoder" in row:
            print("  {encoder:<20}{contents:<44}{a_second:>8,.0f}".format(**row))
        else:
            with_, without = row["step_ms_with"], row["step_ms_without"]
            line = "  step of the learner with a backlog of {:,} titles: median {:.2f} ms, without {:.2f} ms, ratio {:.2f}"
            print(line.format(row["backlog"], with_["median"], without["median"], row["ratio"]["median"]))


def from_kafka(program, rounds):
    """Figures of the join from a real broker; None if no broker can run."""
    try:
        return bench_streams.measure(program, rounds, say)
    except kafka.Unavailable as why:
        say("*** SKIPPED: the join from Kafka and its Kafka Streams peer: {} ***".format(why))
        return None
    except (kafka.SetupError, bench_streams.NotTheSame) as error:
        raise BenchError(str(error)) from error


def show_from_kafka(figures):
    print("\nfrom Kafka to joined pairs: events per core-second, all threads of the process")
    print("  {:<18}{:<28}{:>9}  {:<37}{:>8}{:>7}".format("", "ouzel", "", "Kafka Streams", "", "ratio"))
    if figures is None:
        print("  skipped")
        return
    for world, what, store in bench_streams.WORLDS:
        for how, ours in bench_streams.OURS:
            for peer, theirs in bench_streams.THEIRS:
                pairs = list(zip(figures[world, how], figures[world, peer]))
                ratios = [one / other for one, other in pairs]
                line = "  {:<18}{:<28}{:>9,.0f}".format(what, ours, statistics.median(one for one, _ in pairs))
                line += "  {:<37}{:>8,.0f}".format(theirs + ", " + store, statistics.median(other for _, other in pairs))
                print(line + "{:>6.1f}x  ({:.1f} to {:.1f})".format(statistics.median(ratios), min(ratios), max(ratios)))


def show(table, peers):
    section = None
    for row in sorted(table, key=lambda row: row.section):
        if row.section != section:
            section = row.section
            print("\n{}\n  {:<20}{:>12}  {:<21}{:>12}{:>8}".format(section, "", "ouzel", "peer", "", "ratio"))
        ours = statistics.median(ours for ours, _ in row.figures)
        line = "  {:<20}{:>12,.0f}  {:<21}".format(row.name, ours, row.peer)
        if row.peer in peers.skipped:
            print(line + "{:>12}".format("skipped"))
            continue
        theirs = statistics.median(theirs for _, theirs in row.figures)
        ratios = row.ratios()
        spread = "  ({:.1f} to {:.1f})".format(min(ratios), max(ratios))
        print(line + "{:>12,.0f}{:>7.1f}x".format(theirs, statistics.median(ratios)) + spread)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that can import torch, for the PyTorch peer")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, each of ouzel and the peers")
    parser.add_argument("--seconds", type=float, default=2.0, help="time to measure each short figure")
    parser.add_argument("--only-kafka", action="store_true", help="only the benchmarks that need a broker")
    args = parser.parse_args()
    programs = build(args.only_kafka)
    if args.only_kafka:
        show_from_kafka(from_kafka(programs["kafka"], args.rounds))
        return
    table = list(rows())
    with tempfile.TemporaryDirectory(prefix="ouzel-bench-") as folder:
        say("writing the worlds")
        for program in (programs["join"], programs["ranker"]):
            output_of([program], OUZEL_BENCH_DUMP=folder)
        output_of([programs["em3"], "--model", "em3-din", "--shape", "64x8x50", "--dump", pathlib.Path(folder) / "em3.safetensors"])
        peers = Peers(folder, args.torch_python)
        losses = measure(table, programs, peers, args.rounds, args.seconds)
        ours = [json.loads(line) for line in (pathlib.Path(folder) / "losses.jsonl").read_text().splitlines()]
    shapes = list(by_shape(programs["em3"], args.seconds / 2))
    encoded = encoders(programs["backlog"])
    streams = from_kafka(programs["kafka"], args.rounds)
    show(table, peers)
    show_by_shape(shapes)
    show_encoders(encoded)
    show_from_kafka(streams)
    if losses:
        print("\nlog-loss of one pass over the same batches: equal figures show that both learn the same model")
        for row in ours:
            world = row["world"]
            print("  {:<20}{:>12.4f}  {:<14}{:>12.4f}".format(world, row["log_loss"], "PyTorch", losses["log_loss/" + world]))
    load, cores = os.getloadavg()[0], os.cpu_count()
    print("\nmedians of {} rounds on {} cores; the ratio with its minimum and maximum".format(args.rounds, cores))
    if load > cores:
        print("the machine is busy (load {:.1f}): compare only the ratios".format(load))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
    except BenchError as error:
        say(str(error))
        sys.exit(1)
