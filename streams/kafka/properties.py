"""Configuration files of a broker of the embedded Kafka.

Paths are relative to the broker's folder, its working directory: no path needs escaping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SERVER_PROPERTIES = "server.properties"
LOG4J_PROPERTIES = "log4j2.properties"
DATA_FOLDER = "data"
SERVER_LOG = "server.log"


def server_properties(
    node: int, ports: Sequence[int], controller_ports: Sequence[int], extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the server properties of one broker, which is a controller too.

    Args:
        node: node id of the broker, from 1.
        ports: client port of each broker, in order of node ids.
        controller_ports: controller port of each, in the same order.
        extra: properties that win over those below.
    """
    brokers = len(ports)
    replicas = min(3, brokers)
    quorum = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controller_ports, 1))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        # Voters by address, not in the metadata log: ports may change from one start to the next.
        "controller.quorum.voters": quorum,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": f"CLIENT://127.0.0.1:{ports[node - 1]},CONTROLLER://127.0.0.1:{controller_ports[node - 1]}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{ports[node - 1]}",
        "log.dirs": DATA_FOLDER,
        # The broker shares a laptop's cores with the workers; the defaults (3 and 8) suit a dedicated machine.
        "num.network.threads": "2",
        "num.io.threads": "2",
        "background.threads": "2",
        "auto.create.topics.enable": "false",
        "compression.type": "producer",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(min(2, replicas)),
        # Each partition of an internal topic costs files and time at every start; the default of 50 suits thousands of groups.
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(min(2, replicas)),
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(min(2, replicas)),
        # A lone worker should not wait the default 3 s for others to join.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        **({} if brokers > 1 else _ALONE),
        # Readers of a topic wait until the transaction of a killed worker is aborted; the default checks every 10 s.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "log.segment.bytes": str(128 * 1024 * 1024),
        "log.retention.hours": "24",
        "log.retention.check.interval.ms": "60000",
        # The default, 128 MB, is half of the initial heap; 16 MB clean 600,000 keys in one pass.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        **extra,
    }


def properties_text(properties: Mapping[str, str]) -> str:
    """Return properties as a Java properties file."""
    return "".join(f"{key}={value.translate(_ESCAPES)}\n" for key, value in properties.items())


# A killed broker can register again only when its last session has expired, after 9 s by default. Long sessions keep
# leaders from moving without need; a lone broker has no other to move to, and would only start later after a crash.
_ALONE = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})

LOG4J_TEXT = f"""\
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={SERVER_LOG}
appender.file.filePattern={SERVER_LOG}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %c{{1}} %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
rootLogger.level=warn
rootLogger.appenderRef.file.ref=file
logger.server.name=kafka.server
logger.server.level=info
"""
