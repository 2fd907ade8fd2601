"""`DELETE /v1/users/{id}` erases a user, `PUT /v1/users/{id}` takes them back, `GET /v1/erasures/{number}` tells."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import ConfigError, DataError
from headrace.serve.door import ADMIN, Door, Refusal
from headrace.serve.erasures import Answer, ErasureDesk
from headrace.serve.openapi import Json, Operation

_TIME: Json = {"type": "integer", "minimum": 0, "description": "Microseconds since the epoch (UTC); 0: not yet."}
_ANSWER: Json = {
    "type": "object",
    "required": ["number", "subject", "state", "requested", "finished", "due", "version"],
    "additionalProperties": False,
    "properties": {
        "number": {"type": "integer", "minimum": 1},
        "subject": {"type": "string", "description": "Keyed hash of the user's id, for records that may be kept."},
        "state": {"type": "string", "enum": ["asked", "removed", "finished", "lifted"]},
        "requested": _TIME, "finished": _TIME, "due": _TIME,
        "version": {"type": "integer", "minimum": -1, "description": "The version that removed the user's rows."},
    },
}  # fmt: skip
_USER: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    "description": "The user's id, as requests name it.",
}
ERASE = Operation(
    summary="Forget a user.", path={"id": _USER}, answers={202: _ANSWER},
    description="Tables that answer forget at once; logs, states, snapshots and copies are rewritten until `due`. "
    "Until consent is given anew, the user is answered like an unknown one, and nothing of them is logged. Asked "
    "again, it tells how far it is.",
)  # fmt: skip
CONSENT = Operation(
    summary="Take an erased user as a new one.", path={"id": _USER}, answers={200: _ANSWER},
    description="From now on they are logged and learned from again; nothing of before comes back.",
    errors={404: "This user was not erased, or is back already.", 409: "The erasure is not finished yet."},
)  # fmt: skip
TELL = Operation(
    summary="How far an erasure is.", path={"number": {"type": "integer", "minimum": 1}}, answers={200: _ANSWER},
    errors={404: "There is no erasure of this number."},
)  # fmt: skip


def routes(door: Door, desk: ErasureDesk) -> list[Route]:
    """Return the addresses by which users are erased.

    Args:
        door: Of the server.
        desk: Takes erasures.
    """
    at = _EraseRoutes(door, desk)
    return [
        Route("/v1/users/{id:path}", door.counted("erase", at.erase, ADMIN, ERASE), methods=["DELETE"]),
        Route("/v1/users/{id:path}", door.counted("consent", at.consent, ADMIN, CONSENT), methods=["PUT"]),
        Route("/v1/erasures/{number}", door.counted("erasure", at.tell, ADMIN, TELL), methods=["GET"]),
    ]


class _EraseRoutes:
    """The endpoints of one desk. Whatever they say or write, a user's id is not in it."""

    def __init__(self, door: Door, desk: ErasureDesk) -> None:
        self.door, self.desk = door, desk

    async def erase(self, request: Request) -> Response:
        """Forget a user."""
        name = self._name(request)
        answer = await self.door.work(lambda: self.desk.erase(name))
        return JSONResponse(_plain(answer), 202)

    async def consent(self, request: Request) -> Response:
        """Take a user as a new one."""
        name = self._name(request)
        try:
            answer = await self.door.work(lambda: self.desk.consent(name))
        except Refusal as refusal:
            if isinstance(refusal.error, ConfigError):
                raise Refusal(409, refusal.error) from refusal
            raise
        if answer is None:
            raise Refusal(404, DataError("User", got="a user who is not erased", expected="an erased one"))
        return JSONResponse(_plain(answer))

    async def tell(self, request: Request) -> Response:
        """Tell how far an erasure is."""
        text = str(request.path_params["number"])
        known = text.isascii() and text.isdigit() and len(text) < 19
        answer = await self.door.work(lambda: self.desk.find(int(text))) if known else None
        if answer is None:
            raise Refusal(404, DataError("Erasure", got=repr(text[:30]), expected="the number of one"))
        return JSONResponse(_plain(answer))

    def _name(self, request: Request) -> str:
        name = str(request.path_params["id"])
        if not name or len(name.encode(errors="replace")) > 1024 or "\udc80" <= max(name) <= "\udfff":
            raise Refusal(400, DataError("User id", got=f"{len(name)} characters", expected="1 to 1024 bytes of text"))
        self.door.note(request, {"subject": self.desk.subject(name)})
        return name


def _plain(answer: Answer) -> dict[str, object]:
    return asdict(answer)
