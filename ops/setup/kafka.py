#!/usr/bin/env python3
"""A real Apache Kafka broker for tests and trials: one KRaft node on free loopback ports, in `.kafka/`.

    kafka.py fetch            download the jars through Maven, once
    kafka.py start [again]    fetch if needed, start, wait until the broker replies, print the address; `again`: at its
                              previous address, which its clients know
    kafka.py start secure     a new broker with a second listener, SASL_SSL: prints that address too, and the certificate
                              that it trusts is `tls/broker.pem`. SCRAM-SHA-512 knows the user `ouzel`, password
                              `ouzel-secret`; OAUTHBEARER takes unsigned tokens, for tests alone
    kafka.py status           print its address; exit with 0 if the broker replies, 1 otherwise
    kafka.py stop [--force]   stop it, unless a `run` uses it; `--force`: in any case
    kafka.py wipe [--force]   stop, then delete the data of the broker (the jars stay)
    kafka.py run -- COMMAND   run COMMAND with OUZEL_KAFKA_BOOTSTRAP set to a broker; the last `run` stops the broker that
                              a `run` started; without Java 17 or Maven, print a notice and run COMMAND without it
    kafka.py tool NAME ...    run a command-line tool of Kafka on the running broker: TopicCommand --list,
                              ConsoleProducer --topic T, consumer.ConsoleConsumer --topic T --from-beginning

The address is also in `.kafka/bootstrap` while the broker runs. Data survives a stop and a start. OUZEL_KAFKA_DIR names
another folder than `.kafka`, for a separate broker; OUZEL_KAFKA_JARS, which `run` sets, names a folder with the jars.
"""

import argparse
import functools
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

VERSION = "4.3.1"
SCALA = "2.13"
SLF4J = "1.7.36"  # the release of slf4j-api that this Kafka brings
JACKSON = "2.21.2"  # likewise
DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
OLDEST_JAVA = 17

HOME = pathlib.Path(os.environ.get("OUZEL_KAFKA_DIR") or pathlib.Path(__file__).resolve().parents[2] / ".kafka").resolve()
JARS = pathlib.Path(os.environ.get("OUZEL_KAFKA_JARS") or HOME / ("libs-" + VERSION)).resolve()
STREAMS = HOME / ("streams-" + VERSION)
DATA = HOME / "data"
PROPERTIES = HOME / "server.properties"
LOG = HOME / "broker.log"
PID = HOME / "pid"
BOOTSTRAP = HOME / "bootstrap"
TLS = HOME / "tls"
RUNS = HOME / "runs"  # a file for each `run` under way, named by its process
STARTED_BY_RUN = HOME / "started-by-run"

CLUSTER_ID = "b3V6ZWwtbG9vcGJhY2stMQ"  # sixteen bytes in URL-safe base64, as StorageTool wants them
SCRAM_USER = 'SCRAM-SHA-512=[name="ouzel",password="ouzel-secret"]'
STORE_PASSWORD = "loopback-only"
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 30


class SetupError(Exception):
    """An error that the user can fix; its text is the whole message."""


class Unavailable(SetupError):
    """This machine cannot run a broker, so tests that need one are skipped."""


say = functools.partial(print, "kafka:", file=sys.stderr, flush=True)


def java():
    home = os.environ.get("JAVA_HOME")
    tool = shutil.which("java", path=os.path.join(home, "bin")) if home else shutil.which("java")
    if tool is None:
        where = "JAVA_HOME" if home else "PATH"
        raise Unavailable("there is no java in {}; install Java {} or newer".format(where, OLDEST_JAVA))
    text = subprocess.run([tool, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout.decode()
    found = re.search(r'version "(\d+)', text)
    if found is None or int(found.group(1)) < OLDEST_JAVA:
        raise Unavailable("{} is not Java {} or newer".format(tool, OLDEST_JAVA))
    return tool


def pom(wanted):
    entry = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>ouzel</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>"
        "<dependencies>{}</dependencies></project>\n".format("".join(entry.format(*one) for one in wanted))
    )


def fetch():
    """Downloads the jars of the broker and its tools."""
    wanted = [("org.apache.kafka", "kafka_" + SCALA, VERSION), ("org.apache.kafka", "kafka-tools", VERSION)]
    wanted.append(("org.slf4j", "slf4j-simple", SLF4J))
    fetch_jars(JARS, "Apache Kafka {} through Maven (about 60 MB)".format(VERSION), wanted)


def fetch_streams():
    """Downloads the jars of Kafka Streams, for the peer of `make bench`."""
    wanted = [("org.apache.kafka", "kafka-streams", VERSION), ("com.fasterxml.jackson.core", "jackson-databind", JACKSON)]
    wanted.append(("org.slf4j", "slf4j-simple", SLF4J))
    fetch_jars(STREAMS, "Kafka Streams {} through Maven (about 90 MB)".format(VERSION), wanted)


def fetch_jars(into, what, wanted):
    if into.is_dir():
        return
    java()
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("there is no mvn; install Maven 3")
    HOME.mkdir(parents=True, exist_ok=True)
    say("fetching " + what)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=HOME) as temporary:
        work = pathlib.Path(temporary)
        (work / "pom.xml").write_text(pom(wanted))
        command = [maven, "--batch-mode", "--quiet", "--file", str(work / "pom.xml"), DEPENDENCY_PLUGIN]
        try:
            subprocess.run(command + ["-DoutputDirectory=" + str(work / "libs")], stdout=sys.stderr, check=True)
        except subprocess.CalledProcessError as failure:
            raise Unavailable("Maven failed at fetching {} (see above)".format(what)) from failure
        try:
            (work / "libs").rename(into)
        except OSError:
            if not into.is_dir():  # otherwise another process has downloaded the same jars
                raise


def storage_tool():
    """The class of StorageTool, whose package changes within 4.x."""
    for jar in sorted(JARS.glob("kafka*.jar")):
        with zipfile.ZipFile(jar) as archive:
            names = set(archive.namelist())
        for entry in ("org/apache/kafka/tools/StorageTool.class", "kafka/tools/StorageTool.class"):
            if entry in names:
                return entry[: -len(".class")].replace("/", ".")
    raise SetupError("{} holds no StorageTool; delete it and run `make kafka` again".format(JARS))


def run_class(name, heap):
    return [java(), "-Xmx" + heap, "-XX:+UseSerialGC", "-Djava.awt.headless=true", "-cp", str(JARS / "*"), name]


def free_ports(count):
    """Free loopback ports, all bound at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def write_properties(broker, controller):
    PROPERTIES.write_text(
        """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
# One node: every internal topic has one replica and, to start quickly, one partition.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
# Tests that kill a member of a group do not wait longer than they must.
group.min.session.timeout.ms=1000
# A missing topic is an error to report, as on most production clusters.
auto.create.topics.enable=false
# Logs of years ago are fed with their own times: retention by time would delete them at once.
log.retention.ms=-1
# Room for the oversized records that the tests send.
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
num.network.threads=2
num.io.threads=4
""".format(broker=broker, controller=controller, data=DATA)
    )


def make_certificate():
    """A key pair of the broker, and its self-signed certificate as PEM, by the keytool that comes with Java."""
    if (TLS / "broker.pem").is_file():
        return
    TLS.mkdir(parents=True, exist_ok=True)
    tool = shutil.which("keytool", path=str(pathlib.Path(java()).parent)) or shutil.which("keytool")
    if tool is None:
        raise Unavailable("there is no keytool beside {}".format(java()))
    store = ["-alias", "broker", "-keystore", str(TLS / "broker.p12"), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
    pair = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "30", "-dname", "CN=127.0.0.1"]
    pair += ["-ext", "san=ip:127.0.0.1,dns:localhost"]
    for command in ([tool] + pair + store, [tool, "-exportcert", "-rfc", "-file", str(TLS / "broker.pem")] + store):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise SetupError("keytool failed:\n{}".format(done.stdout.decode(errors="replace")))


def add_secure_listener(port):
    """Adds the listener SASL_SSL to the properties of the broker."""
    text = PROPERTIES.read_text()
    address = ",SASL_SSL://127.0.0.1:{}".format(port)
    for key in ("listeners", "advertised.listeners"):
        text = re.sub("^({}=.*)$".format(re.escape(key)), lambda line: line.group(1) + address, text, flags=re.M)
    text = text.replace("CONTROLLER:PLAINTEXT\n", "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n")
    login = "org.apache.kafka.common.security."
    PROPERTIES.write_text(
        text
        + """\
sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={login}scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={login}oauthbearer.OAuthBearerLoginModule required \\
  unsecuredLoginStringClaim_sub="broker";
ssl.keystore.type=PKCS12
ssl.keystore.location={store}
ssl.keystore.password={password}
ssl.key.password={password}
""".format(login=login, store=TLS / "broker.p12", password=STORE_PASSWORD)
    )


def ports_before():
    """The ports of the last broker."""
    found = re.search(r"^listeners=PLAINTEXT://127.0.0.1:(\d+),CONTROLLER://127.0.0.1:(\d+)$", last_lines(PROPERTIES, 99), re.M)
    if found is None:
        raise SetupError("no broker ran in {} before".format(HOME))
    return [int(port) for port in found.groups()]


def format_storage(secure=False):
    if (DATA / "meta.properties").is_file():
        return
    command = run_class(storage_tool(), "256m")
    command += ["format", "--ignore-formatted", "--cluster-id", CLUSTER_ID, "--config", str(PROPERTIES)]
    if secure:
        command += ["--add-scram", SCRAM_USER]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise SetupError("could not format {}:\n{}".format(DATA, done.stdout.decode(errors="replace")))


def running_pid():
    """The process id of the broker, or None if that process is gone or another program."""
    try:
        pid = int(PID.read_text())
        command = pathlib.Path("/proc/{}/cmdline".format(pid)).read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return None
    return pid if str(PROPERTIES) in command else None


def answers(port):
    """Whether a broker on this port replies to an ApiVersions request; the port is open before that."""
    client = b"ouzel-setup"
    body = struct.pack(">hhih", 18, 0, 1, len(client)) + client
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
            link.sendall(struct.pack(">i", len(body)) + body)
            reply = link.makefile("rb").read(10)
    except OSError:
        return False
    # length, correlation id, error code
    return len(reply) == 10 and struct.unpack(">iih", reply)[1:] == (1, 0)


def bootstrap():
    """The address of the running broker that replies, or None."""
    if running_pid() is None or not BOOTSTRAP.is_file():
        return None
    address = BOOTSTRAP.read_text().strip()
    return address if answers(int(address.rpartition(":")[2])) else None


def last_lines(path, count):
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:]) if path.is_file() else ""


def wait_until_ready(process, port):
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            end = last_lines(LOG, 15)
            raise SetupError("the broker ended with code {}; the end of {}:\n{}".format(process.returncode, LOG, end))
        if answers(port):
            return
        time.sleep(0.2)
    raise SetupError("the broker did not reply within {} s; see {}".format(START_TIMEOUT_S, LOG))


def start(again=False, secure=False):
    """Starts the broker unless it runs. Returns its address, two with `secure`, and whether this call started it."""
    address = bootstrap() if not secure else None
    if address:
        return address, False
    fetch()
    stop()
    broker, controller, secure_port = ports_before() + [0] if again else free_ports(3)
    write_properties(broker, controller)
    if secure:
        shutil.rmtree(DATA, ignore_errors=True)
        make_certificate()
        add_secure_listener(secure_port)
    format_storage(secure)
    command = run_class("kafka.Kafka", "512m") + [str(PROPERTIES)]
    with LOG.open("wb") as log:
        # In a new session, so that Ctrl-C in the terminal does not reach the broker.
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = subprocess.Popen(command, cwd=HOME, start_new_session=True, **streams)
    PID.write_text(str(process.pid))
    try:
        wait_until_ready(process, broker)
    except BaseException:
        stop()
        raise
    address = "127.0.0.1:{}".format(broker)
    BOOTSTRAP.write_text(address + "\n")
    if secure:
        address += " 127.0.0.1:{}".format(secure_port)
    return address, True


def is_alive(pid):
    try:
        state = pathlib.Path("/proc/{}/stat".format(pid)).read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def stop():
    """Stops the broker, by SIGTERM first. Returns whether it ran."""
    BOOTSTRAP.unlink(missing_ok=True)
    pid = running_pid()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    PID.unlink(missing_ok=True)
    return pid is not None


def runs_under_way():
    """The processes of every `run` that uses the broker."""
    alive = []
    for mark in RUNS.glob("*") if RUNS.is_dir() else []:
        if mark.name.isdigit() and is_alive(int(mark.name)):
            alive.append(int(mark.name))
        else:
            mark.unlink(missing_ok=True)
    return sorted(alive)


def stop_unless_used(is_forced):
    users = runs_under_way()
    if users and bootstrap() and not is_forced:
        who = ", ".join(str(pid) for pid in users)
        raise SetupError("`kafka.py run` (process {}) uses the broker; wait until it ends, or add --force".format(who))
    STARTED_BY_RUN.unlink(missing_ok=True)
    return stop()


def run(command):
    if not command:
        raise SetupError("run needs a command, as in: kafka.py run -- cargo test")
    environment, mark = dict(os.environ), RUNS / str(os.getpid())
    try:
        if not environment.get("OUZEL_KAFKA_BOOTSTRAP"):
            try:
                RUNS.mkdir(parents=True, exist_ok=True)
                mark.touch()
                environment["OUZEL_KAFKA_BOOTSTRAP"], started = start()
                if started:
                    STARTED_BY_RUN.touch()
                # For tests that start and stop a separate broker.
                environment["OUZEL_KAFKA_JARS"] = str(JARS)
                say("the tests use the broker on " + environment["OUZEL_KAFKA_BOOTSTRAP"])
            except Unavailable as reason:
                bar = "!" * 100
                say("\n{}\n!! SKIPPED: the tests against a real Kafka broker do not run: {}\n{}".format(bar, reason, bar))
        return subprocess.run(command, env=environment, check=False).returncode
    except FileNotFoundError as error:
        raise SetupError("cannot run {}: {}".format(command[0], error)) from error
    finally:
        if mark.exists():
            mark.unlink()
            if STARTED_BY_RUN.exists() and not runs_under_way():
                STARTED_BY_RUN.unlink()
                stop()


def tool(command):
    if not command:
        raise SetupError("tool needs the name of a class in org.apache.kafka.tools, such as TopicCommand")
    address = bootstrap()
    if address is None:
        raise SetupError("no broker runs; start one with `make kafka`")
    line = run_class("org.apache.kafka.tools." + command[0], "256m")
    line.insert(1, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
    return subprocess.run(line + command[1:] + ["--bootstrap-server", address], check=False).returncode


def main():
    parser = argparse.ArgumentParser(description="one Apache Kafka {} node on loopback".format(VERSION))
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name, text):
        return actions.add_parser(name, help=text, description=text)

    action("fetch", "download the jars through Maven, once")
    how = action("start", "start the broker unless it runs, wait until it replies, print its address").add_argument
    how("how", nargs="?", choices=["again", "secure"], help="again: at its previous address; secure: new, with SASL_SSL")
    action("status", "print the address of the broker; exit with 1 if none replies")
    for name, text in (("stop", "stop the broker"), ("wipe", "stop the broker and delete its data; the jars stay")):
        action(name, text).add_argument("--force", action="store_true", help="even if a `run` uses it")
    run_or_tool = {"run": "run a command with OUZEL_KAFKA_BOOTSTRAP set", "tool": "run a tool of Kafka on the broker"}
    for name, text in run_or_tool.items():
        action(name, text).add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ... or NAME ...")
    options = parser.parse_args()
    if options.action == "run":
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        return run(command)
    if options.action == "tool":
        return tool(options.command)
    if options.action == "fetch":
        fetch()
        say("jars in " + str(JARS))
    elif options.action == "start":
        address, started = start(options.how == "again", options.how == "secure")
        say("{}; stop it with `make kafka-stop`".format("started" if started else "runs already"))
        print(address)
    elif options.action == "status":
        address = bootstrap()
        print(address or "not running")
        return 0 if address else 1
    else:
        say("stopped" if stop_unless_used(options.force) else "was not running")
        if options.action == "wipe":
            shutil.rmtree(DATA, ignore_errors=True)
    return 0


if __name__ == "__main__":
    # SIGTERM unwinds like Ctrl-C, so that `run` stops the broker that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except SetupError as error:
        sys.exit("kafka: " + str(error))
    except KeyboardInterrupt:
        sys.exit("kafka: interrupted")
