import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Apache Kafka's own client: create TOPIC PARTITIONS | write TOPIC CODEC FILE | read TOPIC FROM
 *
 * <p>The broker is $BOOTSTRAP. FILE holds `key TAB value` lines; `read` assigns every partition
 * at offset FROM and prints `partition TAB offset TAB key TAB value`.
 */
public final class Client {
  private static final String BOOTSTRAP = System.getenv("BOOTSTRAP");

  public static void main(String[] args) throws Exception {
    switch (args[0]) {
      case "create" -> create(args[1], Integer.parseInt(args[2]));
      case "write" -> write(args[1], args[2], Path.of(args[3]));
      case "read" -> read(args[1], Long.parseLong(args[2]));
      default -> throw new IllegalArgumentException("no such verb: " + args[0]);
    }
  }

  private static void create(String topic, int partitions) throws Exception {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP))) {
      admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }
  }

  /** Produces with the client's defaults: idempotent, acks=all, five requests in flight. */
  private static void write(String topic, String codec, Path file) throws Exception {
    Map<String, Object> config =
        Map.of("bootstrap.servers", BOOTSTRAP, "compression.type", codec, "linger.ms", 5);
    AtomicReference<Exception> failure = new AtomicReference<>();
    var text = new StringSerializer();
    try (var producer = new KafkaProducer<>(config, text, text);
        var lines = Files.lines(file)) {
      for (String line : (Iterable<String>) lines::iterator) {
        String[] record = line.split("\t");
        producer.send(
            new ProducerRecord<>(topic, record[0], record[1]),
            (metadata, error) -> {
              if (error != null) failure.compareAndSet(null, error);
            });
      }
      producer.flush();
    }
    if (failure.get() != null) throw failure.get();
  }

  private static void read(String topic, long from) {
    Map<String, Object> config =
        Map.of("bootstrap.servers", BOOTSTRAP, "isolation.level", "read_committed");
    var text = new StringDeserializer();
    try (var consumer = new KafkaConsumer<>(config, text, text);
        var out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16))) {
      List<TopicPartition> partitions =
          consumer.partitionsFor(topic).stream()
              .map(info -> new TopicPartition(topic, info.partition()))
              .toList();
      Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
      consumer.assign(partitions);
      partitions.forEach(partition -> consumer.seek(partition, from));
      while (ends.entrySet().stream().anyMatch(e -> consumer.position(e.getKey()) < e.getValue())) {
        for (var r : consumer.poll(Duration.ofMillis(500))) {
          String key = r.key() == null ? "NULL" : r.key();
          out.print(r.partition() + "\t" + r.offset() + "\t" + key + "\t" + r.value() + "\n");
        }
      }
    }
  }
}
