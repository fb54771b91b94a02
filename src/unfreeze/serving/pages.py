"""The pages of the server: to try its tasks, and to read how programs ask them. Neither fetches anything elsewhere."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from unfreeze.report.page import make_environment

# Nothing on a page may come from elsewhere; styles and scripts stand in the pages themselves.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report holds names from the data: no script of it may run with the server's address.
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# What an example request sends for a field that is no list of inputs.
SENT = {"run": "cells-2", "tasks": ["TASK"]}
INPUTS = {"texts": ["some text"]}


def front_page() -> str:
    """The page to try the tasks with."""
    style = (resources.files("unfreeze.report") / "templates" / "style.css").read_text(encoding="utf-8")
    return _read("page.html").replace("/*style*/", style)


def documentation(description: Mapping[str, Any], address: str, *, token: bool) -> str:
    """The OpenAPI ``description`` as a page: each operation with its fields, its answers and a command that asks it.

    ``address``: how the server is reached, without a slash at its end. ``token``: whether requests must name one.
    """
    operations = [
        _operation(description, path, method, entry, address, token)
        # What programs come for, before what watches over the server.
        for path, methods in sorted(description["paths"].items(), key=lambda entry: "/v1/" not in entry[0])
        for method, entry in methods.items()
    ]
    template = make_environment().from_string(_read("documents.html"))
    return template.render(title=description["info"]["title"], operations=operations, token=token)


def _read(name: str) -> str:
    return (resources.files("unfreeze.serving") / name).read_text(encoding="utf-8")


def _operation(
    whole: Mapping[str, Any], path: str, method: str, entry: Mapping[str, Any], address: str, token: bool
) -> dict[str, Any]:
    bodies = [
        {"kind": kind, "fields": list(_fields(whole, body["schema"]))}
        for kind, body in entry.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        {"status": status, "told": answer["description"], "shape": _shape_of(whole, answer)}
        for status, answer in entry["responses"].items()
    ]
    guarded = token and "401" in entry["responses"]
    return {
        "id": entry["operationId"],
        "method": method.upper(),
        "path": path,
        "told": entry.get("description", ""),
        "parameters": [
            {
                "name": given["name"],
                "kind": given["schema"].get("type", ""),
                "told": given.get("description", ""),
            }
            for given in entry.get("parameters", ())
        ],
        "bodies": bodies,
        "good": [answer for answer in answers if answer["status"].startswith("2")],
        "bad": [answer for answer in answers if not answer["status"].startswith("2")],
        "command": _command(path, method, bodies, address, guarded),
    }


def _command(path: str, method: str, bodies: list[dict[str, Any]], address: str, guarded: bool) -> str:
    """A command line that asks the operation."""
    parts = ["curl"]
    if method not in ("get", "post"):
        parts += ["-X", method.upper()]
    if guarded:
        parts += ["-H", "authorization: Bearer TOKEN"]
    names = next(
        (
            {field["name"] for field in body["fields"]}
            for body in bodies
            if body["kind"] == "application/json"
        ),
        set(),
    )
    if names:
        sent = {
            name: value
            for name, value in SENT.items()
            if name in names and (name != "tasks" or "{" not in path)
        }
        sent |= {name: value for name, value in INPUTS.items() if name in names}
        parts += ["-H", "content-type: application/json", "-d", json.dumps(sent)]
    return shlex.join([*parts, address + path.replace("{task}", "TASK")])


def _fields(whole: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = _resolved(whole, schema)
    for name, field in found.get("properties", {}).items():
        yield {
            "name": name,
            "kind": _shape(whole, field),
            "told": _resolved(whole, field).get("description", ""),
        }


def _shape_of(whole: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    content = answer.get("content", {}).get("application/json")
    return "" if content is None else _shape(whole, content["schema"])


def _shape(whole: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> str:
    """A schema as a person writes it down: names in braces, lists in brackets, kinds as words."""
    found = _resolved(whole, schema)
    if "anyOf" in found:
        return " or ".join(_shape(whole, one, depth) for one in found["anyOf"])
    kind = str(found.get("type", "anything"))
    if kind == "array":
        return f"[{_shape(whole, found['items'], depth)}, …]"
    if kind == "object" and "properties" in found:
        inner = "  " * (depth + 1)
        lines = [
            f'{inner}"{name}": {_shape(whole, one, depth + 1)}' for name, one in found["properties"].items()
        ]
        return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"
    if kind == "object":
        return f'{{"name": {_shape(whole, found["additionalProperties"], depth)}, …}}'
    return str(found["format"]) if found.get("format") in ("binary", "byte") else kind


def _resolved(whole: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref")
    if name is None:
        return schema
    found: Mapping[str, Any] = whole["components"]["schemas"][name.rpartition("/")[2]]
    return found
