#!/usr/bin/env bash
# Starts an Apache Kafka broker to compare with: one node in KRaft mode on the loopback, its data
# and programs below DIR. The programs come from Maven Central, once. Prints the broker's pid when
# it answers; `kill PID` stops it.
#
#   kafka-peer.sh DIR [PORT]          the controller listens on PORT + 1
#
# KAFKA_VERSION (4.1.1), KAFKA_HEAP (4g), KAFKA_CPUS (a list for taskset; unpinned without),
# KAFKA_PROPERTIES (more lines for server.properties), KAFKA_DATA (DIR/data; used again if it is
# there).
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
home=$(cd "$1" && pwd)
port=${2:-9092}
version=${KAFKA_VERSION:-4.1.1}
heap=${KAFKA_HEAP:-4g}
libs=$home/libs-$version
data=${KAFKA_DATA:-$home/data}

fetch() {
  local dependencies='' of
  for of in org.apache.kafka:kafka_2.13:"$version" org.apache.kafka:kafka-tools:"$version" \
    org.apache.logging.log4j:log4j-slf4j-impl:2.24.3 org.apache.logging.log4j:log4j-core:2.24.3; do
    IFS=: read -r group artifact number <<< "$of"
    dependencies+="<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId>"
    dependencies+="<version>$number</version></dependency>"
  done
  cat > "$home/pom.xml" <<X
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kariz</groupId><artifactId>kafka-peer</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>$dependencies</dependencies>
</project>
X
  mvn --quiet --batch-mode --file "$home/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$libs.part" >&2
  mv "$libs.part" "$libs"
}
[ -d "$libs" ] || fetch

# Kafka's own defaults but for what one node needs; no topic is made by itself.
cat > "$home/server.properties" <<X
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
${KAFKA_PROPERTIES:-}
X
cat > "$home/log4j2.yaml" <<'X'
Configuration:
  Appenders: { Console: { name: out, PatternLayout: { pattern: "[%d] %p %m (%c)%n" } } }
  Loggers: { Root: { level: INFO, AppenderRef: { ref: out } } }
X

java=(java "-Dlog4j2.configurationFile=$home/log4j2.yaml" -cp "$libs/*")
if [ ! -e "$data/meta.properties" ]; then
  cluster=$("${java[@]}" kafka.tools.StorageTool random-uuid 2> /dev/null | tail -n 1)
  "${java[@]}" kafka.tools.StorageTool format --cluster-id "$cluster" \
    --config "$home/server.properties" > "$home/format.log" 2>&1
fi

# The flags are those of Kafka's kafka-run-class.sh; the heap is larger than its 1 GiB.
flags=("-Xmx$heap" "-Xms$heap" -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20
  -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true)
pin=()
[ -z "${KAFKA_CPUS:-}" ] || pin=(taskset --cpu-list "$KAFKA_CPUS")
nohup "${pin[@]}" "${java[@]}" "${flags[@]}" kafka.Kafka "$home/server.properties" \
  > "$home/server.log" 2>&1 < /dev/null &
pid=$!

# ApiVersions 0 with correlation id 1 and no client id: any answer will do.
answers() {
  exec 3<> "/dev/tcp/127.0.0.1/$port" || return 1
  printf '\0\0\0\012\0\022\0\0\0\0\0\1\377\377' >&3
  [ "$(head -c 4 <&3 | wc -c)" = 4 ]
}
for _ in {1..600}; do
  if ! kill -0 "$pid" 2> /dev/null; then
    tail -n 20 "$home/server.log" >&2
    exit 1
  fi
  if (answers) 2> /dev/null; then
    echo "$pid"
    exit 0
  fi
  sleep 0.1
done
echo "no answer within a minute; see $home/server.log" >&2
kill "$pid"
exit 1
