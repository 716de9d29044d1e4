"""The part of `make bench` that needs a broker: the join from Kafka, beside the same join by Kafka Streams.

Both read the same topics of the same broker, one after the other. The figure is events in the log per second of user and
system time of the process, without the work of the broker. The whole process of ouzel counts, its start included; of the
peer only the second half of the log, when the JIT compiler is warm. Both must join the same number of pairs, or the run
fails; negatives may differ by the windows open at the end.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import kafka

PEER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "peers" / "StreamsJoin.java"
# Each with the store of the peer that is faster on it.
WORLDS = (("films", "one film a slate", "memory"), ("feed", "slates of eight", "rocksdb"))
OURS = (("unit", "join"), ("stage", "join, histories, counters"))
THEIRS = (("left", "left join"), ("inner", "inner join, positives alone"))


class NotTheSame(Exception):
    """The two sides did not do the same job; its text is the whole message."""


def measured(command, log):
    """The last line of a program's stdout as JSON, and its CPU time in seconds."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        output = process.stdout.read()
    except BaseException:
        process.kill()
        raise
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status != 0:
        log.seek(0)
        raise NotTheSame("{} failed:\n{}".format(" ".join(map(str, command)), log.read()[-4000:]))
    return json.loads(output.splitlines()[-1]), usage.ru_utime + usage.ru_stime


class Bench:
    """The topics of one run, and the programs that read them."""

    def __init__(self, program, address, folder):
        self.program, self.address, self.folder = program, address, pathlib.Path(folder)
        self.prefix = "bench-{}".format(os.getpid())
        self.log = (self.folder / "stderr").open("w+")

    def compile(self):
        """Compiles the peer."""
        compiler = pathlib.Path(kafka.java()).with_name("javac")
        if not compiler.is_file():
            found = shutil.which("javac")
            if found is None:
                raise kafka.Unavailable("there is no javac beside java; install a JDK, not only a runtime")
            compiler = found
        command = [compiler, "-d", self.folder, "-cp", str(kafka.STREAMS / "*"), PEER]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise NotTheSame("the Kafka Streams peer does not compile:\n" + done.stdout)

    def topics(self, world):
        return "{}-{}".format(self.prefix, world)

    def feed(self, world):
        return measured([self.program, "feed", world, self.address, self.topics(world)], self.log)[0]

    def ours(self, how, world):
        result, seconds = measured([self.program, how, world, self.address, self.topics(world)], self.log)
        return result, result["events"] / seconds

    def theirs(self, how, store, world, fed):
        state = self.folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        # One thread does the work, so the serial collector takes least processor time.
        command = [kafka.java(), "-Xmx1g", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        command += ["-cp", os.pathsep.join([str(self.folder), str(kafka.STREAMS / "*")]), "StreamsJoin"]
        n_joined = fed["actions"] + (fed["shown"] if how == "left" else fed["impressions"])
        n_events = fed["impressions"] + fed["actions"]
        result, _ = measured(command + [self.address, self.topics(world), n_events, n_joined, how, store, state], self.log)
        return result, result["per_core_second"]


def check(world, fed, results):
    """Raises NotTheSame unless all sides joined all events to the same outcome."""
    pairs = {side: result["pairs"] for side, result in results.items()}
    read = {results[how]["events"] for how, _ in OURS}
    if len(set(pairs.values())) != 1 or pairs["unit"] == 0 or read != {fed["impressions"] + fed["actions"]}:
        raise NotTheSame("{}: not the same job: {} of {}".format(world, results, fed))
    ours, theirs = results["unit"]["negatives"], results["left"]["negatives"]
    if abs(ours - theirs) > 0.1 * fed["shown"]:
        raise NotTheSame("{}: not the same job: {} negatives, the peer {}".format(world, ours, theirs))


def measure(program, rounds, say):
    """Events per core-second of each round, by (world, side). Raises kafka.Unavailable if no broker can run."""
    kafka.fetch()
    kafka.fetch_streams()
    address, is_ours = kafka.start()
    figures = {}
    try:
        with tempfile.TemporaryDirectory(prefix="ouzel-bench-streams-") as folder:
            bench = Bench(program, address, folder)
            bench.compile()
            for world, _, store in WORLDS:
                say("writing {} to Kafka".format(world))
                fed = bench.feed(world)
                for number in range(rounds):
                    say("{} from Kafka, round {} of {}".format(world, number + 1, rounds))
                    found = {how: bench.ours(how, world) for how, _ in OURS}
                    found.update((how, bench.theirs(how, store, world, fed)) for how, _ in THEIRS)
                    check(world, fed, {side: result for side, (result, _) in found.items()})
                    for side, (_, rate) in found.items():
                        figures.setdefault((world, side), []).append(rate)
            kafka.tool(["TopicCommand", "--delete", "--topic", bench.prefix + ".*"])
    finally:
        if is_ours:
            kafka.stop()
    return figures
