"""Versions become durable and ordered, and reach the replicas that serve them."""

from headrace.publish.change import decode, encode, merge
from headrace.publish.change_log import ChangeLog
from headrace.publish.publisher import ChangeReader, LogPublisher, StagingPublisher, relay
from headrace.publish.replica import ChangeSource, Replica, ServingTable
from headrace.publish.snapshots import Snapshots

__all__ = [
    "ChangeLog",
    "ChangeReader",
    "ChangeSource",
    "LogPublisher",
    "Replica",
    "ServingTable",
    "Snapshots",
    "StagingPublisher",
    "decode",
    "encode",
    "merge",
    "relay",
]
