"""What the OpenAPI description says of bodies and errors that FastAPI cannot see in a signature."""

from __future__ import annotations

from typing import Any

# The scores of a run that are shown beside its answers.
SERVED = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1", "rows")

_FIELDS: dict[str, Any] = {
    "tasks": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Tasks to ask; for /v1/predict.",
    },
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "description": "How many classes an answer names.",
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
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
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

_REASONS = {
    401: "The bearer token is missing or wrong.",
    403: "The server was not started so that tasks can be changed.",
    404: "There is no such task.",
    408: "The request did not arrive in time.",
    413: "The body, a text or the number of inputs is too large.",
    415: "The content type is not read.",
    422: "The request cannot be used; a sentence says why.",
    429: "Too much waits already: try again in a moment.",
    503: "The server is stopping or too busy.",
}
ERRORS: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in _REASONS.items()}
