"""What a broker of the embedded Kafka is configured with, as the text of its files.

The files name paths relative to the broker's folder, where it runs: no path needs escaping.
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
        node: its node id, from 1.
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
        # Voters by address, not recorded in the metadata log: ports may differ from one start to the next.
        "controller.quorum.voters": quorum,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": f"CLIENT://127.0.0.1:{ports[node - 1]},CONTROLLER://127.0.0.1:{controller_ports[node - 1]}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{ports[node - 1]}",
        "log.dirs": DATA_FOLDER,
        # A laptop's cores, shared with the workers; the defaults (3 and 8) are for a machine of the broker's own.
        "num.network.threads": "2",
        "num.io.threads": "2",
        "background.threads": "2",
        "auto.create.topics.enable": "false",
        "compression.type": "producer",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(min(2, replicas)),
        # Each partition of an internal topic costs files and time at every start; 50 are for thousands of groups.
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(min(2, replicas)),
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(min(2, replicas)),
        # No fleet is about to join: a lone worker should not wait 3 s for others.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        **({} if brokers > 1 else _ALONE),
        # A transaction of a killed worker holds its readers up until it is aborted.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "log.segment.bytes": str(128 * 1024 * 1024),
        "log.retention.hours": "24",
        "log.retention.check.interval.ms": "60000",
        # 128 MB by default, half of the initial heap; this much cleans 600,000 keys in one pass.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        **extra,
    }


def properties_text(properties: Mapping[str, str]) -> str:
    """Return properties as a Java properties file."""
    return "".join(f"{key}={value.translate(_ESCAPES)}\n" for key, value in properties.items())


# A killed broker may register again only when its last session is over, 9 s by default. That much patience keeps
# leaders from moving without need; alone, there is nobody to move to, and it would only be time to wait after a crash.
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
