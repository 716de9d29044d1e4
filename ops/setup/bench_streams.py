"""The part of `make bench` that needs a broker: from Kafka to joined samples, beside the same join by Kafka Streams.

Both read the same topics of the same broker, one after the other, and what is compared is not how long that takes but how
much of the processor: events in the log by seconds of the process's user and system time. The broker's own work is in
neither. All of our process counts, its start included; of the peer only the second half of the log, when its compiler is
warm. Both must have joined the same number of pairs, or the run fails; negatives may differ by the windows open at the end.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import kafka

PEER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "peers" / "StreamsJoin.java"
# Each with the store of the peer that does better there.
WORLDS = (("films", "one film a slate", "memory"), ("feed", "slates of eight", "rocksdb"))
OURS = (("unit", "join"), ("stage", "join, histories, counters"))
THEIRS = (("left", "left join"), ("inner", "inner join, positives alone"))


class NotTheSame(Exception):
    """Two sides that should have done the same job have not; its text is the whole message."""


def spent(command, log):
    """What a program says as JSON, and its CPU time in seconds."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        said = process.stdout.read()
    except BaseException:
        process.kill()
        raise
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status != 0:
        log.seek(0)
        raise NotTheSame("{} failed:\n{}".format(" ".join(map(str, command)), log.read()[-4000:]))
    return json.loads(said.splitlines()[-1]), usage.ru_utime + usage.ru_stime


class Bench:
    """The topics of one run and the programs that read them."""

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
                raise kafka.NotHere("there is no javac beside java; install a JDK, not only a runtime")
            compiler = found
        command = [compiler, "-d", self.folder, "-cp", str(kafka.STREAMS / "*"), PEER]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise NotTheSame("the Kafka Streams peer does not compile:\n" + done.stdout)

    def topics(self, world):
        return "{}-{}".format(self.prefix, world)

    def feed(self, world):
        said, _ = spent([self.program, "feed", world, self.address, self.topics(world)], self.log)
        return said

    def ours(self, how, world):
        said, seconds = spent([self.program, how, world, self.address, self.topics(world)], self.log)
        return said, said["events"] / seconds

    def theirs(self, how, store, world, fed):
        state = self.folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        # One thread does the work; the collector that costs least processor time on one.
        command = [kafka.java(), "-Xmx1g", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        command += ["-cp", os.pathsep.join([str(self.folder), str(kafka.STREAMS / "*")]), "StreamsJoin"]
        n_joined = fed["actions"] + (fed["shown"] if how == "left" else fed["impressions"])
        n_events = fed["impressions"] + fed["actions"]
        said, _ = spent(command + [self.address, self.topics(world), n_events, n_joined, how, store, state], self.log)
        return said, said["per_core_second"]


def check(world, fed, told):
    """Raises NotTheSame unless all joined what was fed, with the same outcome."""
    pairs = {who: said["pairs"] for who, said in told.items()}
    read = {told[how]["events"] for how, _ in OURS}
    if len(set(pairs.values())) != 1 or pairs["unit"] == 0 or read != {fed["impressions"] + fed["actions"]}:
        raise NotTheSame("{}: not the same job: {} of {}".format(world, told, fed))
    ours, theirs = told["unit"]["negatives"], told["left"]["negatives"]
    if abs(ours - theirs) > 0.1 * fed["shown"]:
        raise NotTheSame("{}: not the same job: {} negatives, the peer {}".format(world, ours, theirs))


def measure(program, rounds, say):
    """Figures by (world, who): events a core-second, one a round. Raises kafka.NotHere where it cannot run."""
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
                for turn in range(rounds):
                    say("{} from Kafka, round {} of {}".format(world, turn + 1, rounds))
                    found = {how: bench.ours(how, world) for how, _ in OURS}
                    found.update((how, bench.theirs(how, store, world, fed)) for how, _ in THEIRS)
                    check(world, fed, {who: said for who, (said, _) in found.items()})
                    for who, (_, rate) in found.items():
                        figures.setdefault((world, who), []).append(rate)
            kafka.tool(["TopicCommand", "--delete", "--topic", bench.prefix + ".*"])
    finally:
        if is_ours:
            kafka.stop()
    return figures
