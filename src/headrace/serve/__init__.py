"""Answers requests from published versions, logs what it answered, and takes feedback."""

from headrace.serve.access import AccessConfig
from headrace.serve.audit import AuditLog
from headrace.serve.client import Client
from headrace.serve.client_async import AsyncClient
from headrace.serve.client_calls import ClientConfig, Ranked
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.flow_predictor import FlowPredictor
from headrace.serve.follow import Follower
from headrace.serve.generate import Completions, GenerateConfig, generate
from headrace.serve.http import create_app
from headrace.serve.language import LanguagePredictor
from headrace.serve.predictor import RankPredictor
from headrace.serve.question_pool import QuestionPool
from headrace.serve.questions import Answer, Asking, QuestionConfig, QuestionDesk
from headrace.serve.samplers import Drawn, SamplerConfig, sample, walk
from headrace.serve.server import bind, run_server
from headrace.serve.service import RankService
from headrace.serve.settings import ServeConfig
from headrace.serve.solver_steps import METHODS, Move, OneNoise, RowNoise, Step
from headrace.serve.tokens import Token, TokenBook, make_token

__all__ = [
    "METHODS",
    "AccessConfig",
    "Answer",
    "Asking",
    "AsyncClient",
    "AuditLog",
    "Client",
    "ClientConfig",
    "Completions",
    "Drawn",
    "EventWriter",
    "FlowPredictor",
    "Follower",
    "GenerateConfig",
    "LanguagePredictor",
    "Move",
    "OneNoise",
    "QuestionConfig",
    "QuestionDesk",
    "QuestionPool",
    "RankPredictor",
    "RankService",
    "Ranked",
    "RowNoise",
    "SamplerConfig",
    "ServeConfig",
    "Step",
    "Token",
    "TokenBook",
    "Written",
    "bind",
    "create_app",
    "generate",
    "make_token",
    "run_server",
    "sample",
    "walk",
]
