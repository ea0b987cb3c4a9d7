"""GroupMember: in whose name the offsets of a transaction are committed."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupMember:
    """Who writes: the broker refuses a transaction of a member whose generation has passed. By default, no member."""

    group: str
    generation: int = -1
    member_id: str = ""
    instance_id: str | None = None

    def metadata(self) -> bytes:
        """Return librdkafka's serialised consumer group metadata: a private layout, pinned and tested at start."""
        head = b"CGMDv2:" + struct.pack("=i", self.generation)
        tail = b"\1" if self.instance_id is None else b"\0" + self.instance_id.encode() + b"\0"
        return head + self.group.encode() + b"\0" + self.member_id.encode() + b"\0" + tail
