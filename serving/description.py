"""The OpenAPI description of each path: request bodies, answers and refusals."""

from typing import Any

from .options import ServeOptions

_SENTENCE = {
    "type": "object",
    "properties": {"detail": {"type": "string", "description": "One sentence."}},
    "required": ["detail"],
    "additionalProperties": False,
}
_REFUSALS = {
    400: "The form is malformed.",
    401: "The token is missing or wrong.",
    403: "The server was called by an unknown name, or by a page of another origin.",
    404: "There is no such speaker.",
    408: "The audio took too long to arrive.",
    413: "The audio is too large.",
    415: "The content-type is wrong.",
    422: "The audio cannot be used, or is too long; the query is invalid.",
    429: "Too many requests are in progress; Retry-After says when to try again.",
    503: "The wait was too long, or memory is short; Retry-After says when to try again.",
    504: "The model took too long.",
}
_WITH_RETRY_AFTER = (429, 503)

_NUMBER = {"type": ["number", "null"]}
_NAMES = {"type": "array", "items": {"type": "string"}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_SECONDS = {"type": "number", "minimum": 0, "description": "Seconds."}
_SCORES = {
    "type": "object",
    "additionalProperties": _NUMBER,
    "description": "Score of each label, or value of each rating.",
}
_ANSWER = _object(
    source=_text("File name sent by the client, sanitised."),
    sha256={
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "Hash of the upload.",
    },
    seconds=_SECONDS,
    label=_text("The most likely label; empty for ratings, or if the server abstains."),
    scores=_SCORES,
    trained_on={
        "type": ["boolean", "null"],
        "description": "Whether the model was trained on this very recording; null if unknown.",
    },
    unlike_training={
        "type": ["boolean", "null"],
        "description": "Whether the audio is unlike all training clips; null if unknown.",
    },
    distance={
        "type": ["number", "null"],
        "description": "Distance from the training clips; above 1 it is unlike them.",
    },
    timeline={
        "type": "array",
        "items": _object(
            start=_SECONDS,
            end=_SECONDS,
            label=_text("The most likely label; empty for ratings and for silent windows."),
            scores=_SCORES,
        ),
        "description": "The windows; empty without a window, unless the audio had to be split.",
    },
    model=_object(
        name={"type": "string"},
        target=_text("What it predicts, such as emotion."),
        score=_text("Its score on held-out speakers."),
        probabilities=_text("Whether they are calibrated, and how; empty for ratings."),
        result={"type": "object", "description": "The score as numbers."},
        warnings=_NAMES,
    ),
    note=_text("How not to read the answer."),
)
_MODEL = _object(
    name={"type": "string"},
    target={"type": "string"},
    labels=_NAMES,
    sampling_rate={"type": "integer"},
    card={
        "type": "object",
        "description": "Corpus, licence, score, probabilities, warnings and more.",
    },
    note={"type": "string"},
    limits=_object(
        bytes={"type": "integer"}, seconds={"type": "number"}, windows={"type": "integer"}
    ),
    logged={"type": "boolean", "description": "Whether answers are logged, without the audio."},
)
_HEALTH = _object(
    status={"type": "string"},
    in_work={"type": "integer", "minimum": 0},
    waiting={"type": "integer", "minimum": 0},
    version={"type": "string"},
)
_CSV = _text("A row for the whole clip (part: whole), then one for each window.")
_AUDIO = {"type": "string", "format": "binary"}
_KINDS = ("audio/*", "video/*", "application/octet-stream", "application/ogg")
#: Refusals of paths that take audio.
_UPLOAD_REFUSALS = (400, 408, 413, 415, 422, 429, 503, 504)
#: Paths that use the model, or reveal how much it is used, need the token if there is one.
_SECRET = ("/recognize", "/invocations", "/metrics", "/model", "/speakers")
#: The path of a profile.
SPEAKER = "/speakers/{speaker}"

_BODIES = {
    "/recognize": {"multipart/form-data": _object(audio=_AUDIO)},
    "/invocations": dict.fromkeys(_KINDS, _AUDIO),
    "/speakers": {"multipart/form-data": _object(audio={"type": "array", "items": _AUDIO})},
}
_ANSWERS: dict[str, dict[str, Any]] = {
    "/recognize": {"application/json": _ANSWER, "text/csv": _CSV},
    "/invocations": {"application/json": _ANSWER, "text/csv": _CSV},
    "/speakers": {
        "application/json": _object(
            speaker=_text("The id of the profile, a secret: for /recognize?speaker=ID."),
            clips={"type": "integer", "minimum": 1, "description": "Enrolled clips."},
            adapted={
                "type": "boolean",
                "description": "Whether they are enough; otherwise nothing is adapted.",
            },
            fewest={"type": "integer", "minimum": 1, "description": "How many are enough."},
            seconds={
                "type": "number",
                "description": "Seconds after its last use when the profile is deleted.",
            },
        )
    },
    SPEAKER: {"application/json": _object(deleted={"type": "boolean"})},
    "/ping": {},
    "/healthz": {"application/json": _HEALTH},
    "/metrics": {"text/plain": {"type": "string"}},
    "/model": {"application/json": _MODEL},
}


def is_secret(path: str) -> bool:
    """Whether a path needs the token, if there is one."""
    return path in _SECRET or path.startswith("/speakers/")


def describe(path: str, options: ServeOptions) -> dict[str, Any]:
    """Return ``responses`` and ``openapi_extra`` of a path, as FastAPI takes them."""
    needs_token = options.token is not None and is_secret(path)
    statuses = [*(_UPLOAD_REFUSALS if path in _BODIES else ()), 403]
    statuses += [401] if needs_token else []
    statuses += [404] if path in ("/recognize", SPEAKER) else []
    statuses += [422] if path == SPEAKER else []
    responses: dict[int | str, Any] = {
        200: {"description": "The answer.", "content": _contents(_ANSWERS[path])}
    }
    responses |= {status: _refusal(status) for status in sorted(statuses)}
    if path in ("/ping", "/healthz"):
        responses[503] = {
            "description": "The model does not respond.",
            "content": _contents(_ANSWERS[path]),
        }
    extra: dict[str, Any] = {}
    if path in _BODIES:
        extra["requestBody"] = {"required": True, "content": _contents(_BODIES[path])}
    if needs_token:
        extra["security"] = [{"token": []}]
    return {"responses": responses, "openapi_extra": extra}


def security(options: ServeOptions) -> dict[str, Any]:
    """Return the components of OpenAPI: how the token is sent, if there is one."""
    if options.token is None:
        return {}
    return {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}


def _contents(schemas: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


def _refusal(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _REFUSALS[status],
        "content": _contents({"application/json": _SENTENCE}),
    }
    if status in _WITH_RETRY_AFTER:
        response["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer"}}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return response
