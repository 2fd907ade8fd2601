"""Answers requests from published versions, logs what it answered, and takes feedback."""

from headrace.serve.client import Client, Ranked
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.follow import Follower
from headrace.serve.http import create_app
from headrace.serve.predictor import RankPredictor
from headrace.serve.server import bind, run_server
from headrace.serve.service import RankService
from headrace.serve.settings import ServeConfig

__all__ = [
    "Client",
    "EventWriter",
    "Follower",
    "RankPredictor",
    "RankService",
    "Ranked",
    "ServeConfig",
    "Written",
    "bind",
    "create_app",
    "run_server",
]
