"""What the server does is what its description says: requests made from it bring no server error."""

import shutil
from urllib.parse import quote

import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from unfreeze.serving.app import Access, make_app
from unfreeze.serving.limits import Limits
from unfreeze.serving.meters import Meters
from unfreeze.serving.tasks import Registry

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TOKEN = "a-token-of-some-length"
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
MODES = {"valid": schemathesis.GenerationMode.POSITIVE, "damaged": schemathesis.GenerationMode.NEGATIVE}
# Requests for each operation and mode; the first few in every run, all of them in CI.
FEW, MANY = 6, 60
OPERATIONS = (
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/tasks/{task}/report"),
    ("POST", "/v1/tasks/{task}/predict"),
    ("POST", "/v1/tasks/{task}/explain"),
    ("POST", "/v1/tasks/{task}/nearest"),
    ("POST", "/v1/predict"),
    ("PUT", "/v1/tasks/{task}"),
    ("DELETE", "/v1/tasks/{task}"),
)
# What has neither a body nor fields beside the task's name cannot be asked wrongly.
ASKED = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in (MODES if method in ("POST", "PUT") else ["valid"])
]
ANY_NAME = st.text(min_size=1, max_size=40)
# Those that others ask about are never removed.
NAMES = {"PUT": st.just("new") | ANY_NAME, "DELETE": st.just("new") | ANY_NAME}
SERVED = st.sampled_from(["photos", "mails"]) | ANY_NAME


@pytest.fixture(scope="module")
def served(image_run, text_run, tmp_path_factory):
    """The description, and a client of the server that it is of."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(text_run.run.folder, folder / "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unfreeze.serving.network.available_executors", lambda device: ("torch-fp32",))
        # Explanations of few points: what is asked here is whether there is an answer.
        patch.setattr("unfreeze.explaining.STEPS", 2)
        registry = Registry(Limits(wait=0.0, body=50_000, text=2_000))
        registry.put("photos", image_run.run.folder)
        registry.put("mails", text_run.run.folder)
        app = make_app(registry, Meters(), Access(token=TOKEN, changes=folder))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield schemathesis.openapi.from_dict(client.get("/openapi.json").json()), client


def bounded(count):
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def ask(served, method, path, *, mode, count):
    """Requests from the description of one operation; the statuses of their answers."""
    schema, client = served
    operation = schema[path][method]
    statuses = set()

    @bounded(count)
    @given(case=operation.as_strategy(MODES[mode]), name=NAMES.get(method, SERVED))
    def one(case, name):
        if "{task}" in path:
            case.path_parameters = {"task": quote(name, safe="")}
        arguments = case.as_transport_kwargs(base_url="http://testserver", headers=ALLOWED)
        prepared = requests.Request(**arguments).prepare()
        found = client.request(
            prepared.method, prepared.url, content=prepared.body, headers=dict(prepared.headers)
        )
        statuses.add(found.status_code)
        case.validate_response(found, checks=CHECKS)

    one()
    return statuses


def test_every_operation_is_asked(served):
    paths = served[1].get("/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(
        OPERATIONS
    )


@pytest.mark.parametrize(("method", "path", "mode"), ASKED)
def test_a_few_requests_are_answered_as_described(served, method, path, mode):
    ask(served, method, path, mode=mode, count=FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "mode"), ASKED)
def test_many_requests_are_answered_as_described(served, method, path, mode):
    ask(served, method, path, mode=mode, count=MANY)
