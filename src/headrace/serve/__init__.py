"""Answers requests from published versions, logs what it answered, and takes feedback."""

from headrace.serve.access import AccessConfig
from headrace.serve.audit import AuditLog
from headrace.serve.catalogue import Catalogue
from headrace.serve.client import Client
from headrace.serve.client_async import AsyncClient
from headrace.serve.client_calls import ClientConfig, Ranked
from headrace.serve.erasures import ErasureDesk
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.explore import EpsilonGreedy, Greedy, Thompson
from headrace.serve.flow_predictor import FlowPredictor
from headrace.serve.follow import Follower
from headrace.serve.generate import Completions, GenerateConfig, generate
from headrace.serve.http import create_app, create_language_app
from headrace.serve.language import LanguagePredictor
from headrace.serve.language_service import LanguageService, Offer
from headrace.serve.language_settings import LanguageSettings
from headrace.serve.near_index import ListIndex
from headrace.serve.popularity import Popularity
from headrace.serve.predictor import RankPredictor
from headrace.serve.question_pool import QuestionPool
from headrace.serve.questions import Answer, Asking, QuestionConfig, QuestionDesk
from headrace.serve.recommend import Recommended, Recommender, Stage
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.retrieve import Retriever
from headrace.serve.samplers import Drawn, SamplerConfig, sample, walk
from headrace.serve.seen import SeenLimits, SeenMemory
from headrace.serve.server import bind, run_server
from headrace.serve.service import RankService
from headrace.serve.settings import ServeConfig
from headrace.serve.solver_steps import METHODS, Move, OneNoise, RowNoise, Step
from headrace.serve.tokens import Token, TokenBook, make_token
from headrace.serve.wishes import Wish
from headrace.serve.writing_desk import Task, WritingDesk

__all__ = [
    "METHODS",
    "AccessConfig",
    "Answer",
    "Asking",
    "AsyncClient",
    "AuditLog",
    "Catalogue",
    "Client",
    "ClientConfig",
    "Completions",
    "Drawn",
    "EpsilonGreedy",
    "ErasureDesk",
    "EventWriter",
    "FlowPredictor",
    "Follower",
    "GenerateConfig",
    "Greedy",
    "LanguagePredictor",
    "LanguageService",
    "LanguageSettings",
    "ListIndex",
    "Move",
    "Offer",
    "OneNoise",
    "Popularity",
    "QuestionConfig",
    "QuestionDesk",
    "QuestionPool",
    "RankPredictor",
    "RankService",
    "Ranked",
    "RecommendConfig",
    "Recommended",
    "Recommender",
    "Retriever",
    "RowNoise",
    "SamplerConfig",
    "SeenLimits",
    "SeenMemory",
    "ServeConfig",
    "Stage",
    "Step",
    "Task",
    "Thompson",
    "Token",
    "TokenBook",
    "Wish",
    "WritingDesk",
    "Written",
    "bind",
    "create_app",
    "create_language_app",
    "generate",
    "make_token",
    "run_server",
    "sample",
    "walk",
]
