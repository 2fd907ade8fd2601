"""Versions become durable and ordered, and reach the replicas that serve them."""

from headrace.publish.acknowledgements import (
    Acknowledgement,
    AcknowledgementFolder,
    Acknowledgements,
    Acknowledger,
    ReplicaLag,
    lags,
)
from headrace.publish.change import decode, encode, merge
from headrace.publish.change_folder import ChangeFolder, ChangeFolderWriter
from headrace.publish.change_log import ChangeLog
from headrace.publish.change_topic import AcknowledgementTopic, ChangeTopic, ChangeTopicWriter
from headrace.publish.compaction import Compactor
from headrace.publish.drain import relay
from headrace.publish.guard import Check, Guard, GuardConfig, Shadow, ShadowGuard, Verdict
from headrace.publish.mirror import ChangeTarget, Mirror, run_id
from headrace.publish.orders import Order, place, publishing
from headrace.publish.publisher import ChangeReader, LogPublisher, StagingPublisher
from headrace.publish.replica import ChangeSource, Replica, ServingTable
from headrace.publish.retention import Retention
from headrace.publish.sluice import Sluice
from headrace.publish.snapshots import Snapshots
from headrace.publish.standing import Standing, read_standing
from headrace.publish.versions import VersionRecord, VersionRecords, reachable

__all__ = [
    "Acknowledgement",
    "AcknowledgementFolder",
    "AcknowledgementTopic",
    "Acknowledgements",
    "Acknowledger",
    "ChangeFolder",
    "ChangeFolderWriter",
    "ChangeLog",
    "ChangeReader",
    "ChangeSource",
    "ChangeTarget",
    "ChangeTopic",
    "ChangeTopicWriter",
    "Check",
    "Compactor",
    "Guard",
    "GuardConfig",
    "LogPublisher",
    "Mirror",
    "Order",
    "Replica",
    "ReplicaLag",
    "Retention",
    "ServingTable",
    "Shadow",
    "ShadowGuard",
    "Sluice",
    "Snapshots",
    "StagingPublisher",
    "Standing",
    "Verdict",
    "VersionRecord",
    "VersionRecords",
    "decode",
    "encode",
    "lags",
    "merge",
    "place",
    "publishing",
    "reachable",
    "read_standing",
    "relay",
    "run_id",
]
