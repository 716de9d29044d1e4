// A peer of the join from Kafka: Kafka Streams joins the same impressions and actions within the same window, as in its
// documentation. Compiled and run by ops/setup/bench_streams.py.
//
//     StreamsJoin BOOTSTRAP PREFIX N_EVENTS N_JOINED left|inner memory|rocksdb STATE_DIR
//
// `left` makes a positive or a negative of each shown item, as ouzel does. Slates are flattened and both streams keyed by
// request and item, so Kafka Streams sends them through a topic. `inner` is a cheaper job that makes positives only: both
// streams stay keyed by request, and a slate is searched when it meets an action. N_JOINED is the number of records that
// reach the join. Neither removes duplicates, sends dead letters or stores histories, and neither has a changelog, so
// nothing survives a crash. The two stores suit different logs: the one on the heap scans all records in the window, RocksDB
// opens new files for every few minutes of event time. The first half of the log warms up the JIT compiler and is not
// counted.

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;

public final class StreamsJoin {
    public record Shown(String item_id) {}

    public record Impression(String request_id, String user_id, long ts_ms, List<Shown> items) {
        boolean shows(String item) {
            for (Shown shown : items) {
                if (shown.item_id().equals(item)) {
                    return true;
                }
            }
            return false;
        }
    }

    public record Action(String request_id, String item_id, String user_id, long ts_ms, String action) {}

    public record ShownTo(String user_id, long ts_ms) {}

    public record Pair<T>(T shown, Action action) {}

    private static final Duration WINDOW = Duration.ofMinutes(10);
    private static final Duration LATENESS = Duration.ofMinutes(1);
    private static final int PATIENCE_MINUTES = 10;
    private static final ObjectMapper JSON =
            new ObjectMapper().configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);

    private final OperatingSystemMXBean system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    private final long nEvents;
    private final long nJoined;
    private final AtomicLong joined = new AtomicLong();
    private final AtomicLong pairs = new AtomicLong();
    private final AtomicLong negatives = new AtomicLong();
    private final CountDownLatch done = new CountDownLatch(1);
    private volatile long halfWayNanos;
    private volatile long endNanos;

    private StreamsJoin(long nEvents, long nJoined) {
        this.nEvents = nEvents;
        this.nJoined = nJoined;
    }

    private static <T> Serde<T> json(Class<T> of) {
        var reader = JSON.readerFor(of);
        var writer = JSON.writerFor(of);
        return Serdes.serdeFrom(
                (topic, value) -> {
                    try {
                        return value == null ? null : writer.writeValueAsBytes(value);
                    } catch (IOException error) {
                        throw new SerializationException(error);
                    }
                },
                (topic, bytes) -> {
                    try {
                        return bytes == null ? null : reader.readValue(bytes);
                    } catch (IOException error) {
                        throw new SerializationException(error);
                    }
                });
    }

    /** Counts a record before it is joined. After the last record, only its own pair is missing. */
    private void count() {
        long number = joined.incrementAndGet();
        if (number == nJoined / 2) {
            halfWayNanos = system.getProcessCpuTime();
        } else if (number == nJoined) {
            endNanos = system.getProcessCpuTime();
            done.countDown();
        }
    }

    private static <T> StreamJoined<String, T, Action> joined(Serde<T> shown, Serde<Action> action, boolean isInMemory) {
        return StreamJoined.with(Serdes.String(), shown, action)
                .withDslStoreSuppliers(
                        isInMemory ? BuiltInDslStoreSuppliers.IN_MEMORY : BuiltInDslStoreSuppliers.ROCKS_DB)
                .withLoggingDisabled();
    }

    private static KeyValue<String, ShownTo> one(Impression impression, Shown shown) {
        String key = impression.request_id() + "/" + shown.item_id();
        return KeyValue.pair(key, new ShownTo(impression.user_id(), impression.ts_ms()));
    }

    private StreamsBuilder topology(String prefix, boolean isLeft, boolean isInMemory) {
        Serde<Impression> impressionSerde = json(Impression.class);
        Serde<Action> actionSerde = json(Action.class);
        Serde<ShownTo> shownSerde = json(ShownTo.class);
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, Impression> impressions =
                builder.stream(prefix + "-impressions", Consumed.with(Serdes.String(), impressionSerde));
        KStream<String, Action> actions =
                builder.stream(prefix + "-actions", Consumed.with(Serdes.String(), actionSerde));
        JoinWindows windows = JoinWindows.ofTimeDifferenceAndGrace(WINDOW, LATENESS).before(Duration.ZERO);
        if (isLeft) {
            KStream<String, ShownTo> shown = impressions
                    .flatMap((key, slate) -> slate.items().stream().map(item -> one(slate, item)).toList())
                    .repartition(Repartitioned.with(Serdes.String(), shownSerde).withNumberOfPartitions(1))
                    .peek((key, value) -> count());
            KStream<String, Action> acted = actions
                    .selectKey((key, action) -> action.request_id() + "/" + action.item_id())
                    .repartition(Repartitioned.with(Serdes.String(), actionSerde).withNumberOfPartitions(1))
                    .peek((key, value) -> count());
            shown.leftJoin(acted, Pair::new, windows, joined(shownSerde, actionSerde, isInMemory))
                    .foreach((key, pair) -> (pair.action() == null ? negatives : pairs).incrementAndGet());
            return builder;
        }
        impressions
                .peek((key, value) -> count())
                .join(
                        actions.peek((key, value) -> count()),
                        (impression, action) ->
                                impression.shows(action.item_id()) ? new Pair<>(impression, action) : null,
                        windows,
                        joined(impressionSerde, actionSerde, isInMemory))
                .filter((key, pair) -> pair != null)
                .foreach((key, pair) -> pairs.incrementAndGet());
        return builder;
    }

    public static void main(String[] args) throws Exception {
        String prefix = args[1];
        StreamsJoin join = new StreamsJoin(Long.parseLong(args[2]), Long.parseLong(args[3]));
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix + "-" + args[4] + "-" + ProcessHandle.current().pid());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, args[6]);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        // Without this wait for the slower input, records of that input are dropped as late.
        settings.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, 10_000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        KafkaStreams streams = new KafkaStreams(
                join.topology(prefix, args[4].equals("left"), args[5].equals("memory")).build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            System.exit(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        boolean isDone = join.done.await(PATIENCE_MINUTES, TimeUnit.MINUTES);
        streams.close(Duration.ofSeconds(30));
        if (!isDone) {
            System.err.println(join.joined + " of " + join.nJoined + " records came in " + PATIENCE_MINUTES + " minutes");
            System.exit(1);
        }
        double seconds = (join.endNanos - join.halfWayNanos) / 1e9;
        System.out.printf(
                Locale.ROOT,
                "{\"pairs\": %d, \"negatives\": %d, \"per_core_second\": %f}%n",
                join.pairs.get(), join.negatives.get(), join.nEvents / 2.0 / seconds);
    }
}
