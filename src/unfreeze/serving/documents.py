"""What the OpenAPI description says of bodies, answers and errors; answers are built without passing through it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unfreeze.serving.inputs import MOST_CLASSES

# The scores of a run that are shown beside its answers.
SERVED = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1", "rows")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewTask(_Strict):
    """The run to serve under a name."""

    run: str = Field(description="Its folder, below the one that --allow-changes names.")


class Problem(_Strict):
    """Why a request was not answered."""

    detail: str = Field(description="One or two sentences.")


class Status(_Strict):
    """The state of the server."""

    status: str


class _Head(_Strict):
    task: str
    run: str = Field(description="SHA-256 of the run's bundle.json.")
    base: str = Field(description="Hash of the network's weights.")


class TaskInfo(_Head):
    """A task that is served, and from what."""

    modality: str = Field(description="image or text.")
    labels: list[str]
    backbone: str
    strategy: str
    executor: str
    threshold: float | None = Field(
        description="Below this probability it abstains; null where it never does."
    )
    examples: bool = Field(description="Whether the run carries training rows to compare with.")
    report: bool = Field(description="Whether there is a report of its training.")
    test: dict[str, float] = Field(description="Scores on the test rows of its training.")


class Tasks(_Strict):
    """What is served."""

    tasks: list[TaskInfo]


class Chance(_Strict):
    """A class and its calibrated probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class Answer(_Strict):
    """The answer about one input; one that cannot be read has an ``error`` and no label."""

    input: str
    label: str | None
    probability: float | None = Field(ge=0, le=1)
    abstain: bool | None
    error: str | None
    cut: bool = Field(description="Whether it is a text longer than the run reads, and was cut.")
    top: list[Chance]


class Predictions(_Head):
    """The answers of one task, in the order of the inputs."""

    predictions: list[Answer]


class SeveralPredictions(_Strict):
    """The answers of several tasks."""

    answers: list[Predictions]


class Word(_Strict):
    """A piece of a text, and how much it speaks for the class."""

    text: str
    weight: float = Field(ge=-1, le=1)


class Explanation(_Head):
    """An answer, and what speaks for it: words, or a picture with a heat map to lay over it, as data URLs."""

    prediction: Answer
    words: list[Word] | None = None
    picture: str | None = None
    heat: str | None = None


class Example(_Strict):
    """A training row, with the cosine between its features and the input's."""

    label: str
    similarity: float = Field(ge=-1, le=1)
    name: str
    picture: str | None = Field(description="A small JPEG as a data URL.")
    text: str | None = Field(description="The beginning of the text.")


class Neighbours(_Strict):
    """The training rows most like one input, the nearest first."""

    input: str
    error: str | None
    examples: list[Example]


class Nearest(_Head):
    """The training rows most like each input."""

    nearest: list[Neighbours]


_FIELDS: dict[str, Any] = {
    "tasks": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Tasks to ask; for /v1/predict.",
    },
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_CLASSES,
        "description": "How many classes an answer names, or how many training rows; 5 where it is left out.",
    },
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "Image files.",
                        },
                        "texts": {"type": "array", "items": {"type": "string"}},
                    }
                    | _FIELDS,
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {"type": "string", "format": "byte"},
                            "description": "Image files as base64.",
                        },
                        "texts": {"type": "array", "items": {"type": "string"}},
                    }
                    | _FIELDS,
                }
            },
        },
    }
}
NEW_TASK: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": NewTask.model_json_schema()}},
    }
}

_REASONS = {
    400: "The request cannot be read, or calls the server by a name that is not its own.",
    401: "The bearer token is missing or wrong.",
    403: "The server was not started so that tasks can be changed.",
    404: "There is no such task, or it has not what was asked for.",
    408: "The request did not arrive in time.",
    413: "The body, a text or the number of inputs is too large.",
    415: "The content type is not read.",
    422: "The request cannot be used; a sentence says why.",
    429: "Too much waits already: try again in a moment.",
    503: "The server is stopping or too busy.",
}
# Where a body is read everything can go wrong; elsewhere little.
ANY, TASK, REMOVE = tuple(_REASONS), (400, 401, 404, 422), (400, 401, 403, 404, 422)


def answers_with(
    model: type[BaseModel] | str | None, errors: tuple[int, ...]
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of an operation: what it answers with (text, where a content type is named), and its errors."""
    found: dict[int | str, dict[str, Any]] = {}
    if isinstance(model, str):
        found[200] = {"description": f"Text, {model}.", "content": {model: {"schema": {"type": "string"}}}}
    elif model is not None:
        found[200] = {"description": (model.__doc__ or "").partition("\n")[0], "model": model}
    # Not as a model, which would have the content type of what the operation answers with.
    content = {"application/json": {"schema": Problem.model_json_schema()}}
    return found | {status: {"description": _REASONS[status], "content": content} for status in errors}
