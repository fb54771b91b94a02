"""The interface: the run's own answers, a sentence for everything that is wrong, and never another model's answer."""

import base64
import html
import json
import re
import shlex
import shutil
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient

from unfreeze.bundle.examples import read_examples, unit
from unfreeze.bundle.loading import read_bundle
from unfreeze.explaining import explain_text
from unfreeze.serving.app import Access, make_app
from unfreeze.serving.hosting import Observer
from unfreeze.serving.limits import Limits
from unfreeze.serving.meters import Meters
from unfreeze.serving.tasks import Registry

TEXTS = ["claim your prize", "the minister on Monday"]
TOKEN = "a-token-of-some-length"


def client_for(runs, *, limits=None, access=None):
    meters = Meters()
    registry = Registry(limits or Limits(wait=0.0), Observer(computed=meters.computed))
    for name, folder in runs.items():
        registry.put(name, folder)
    client = TestClient(make_app(registry, meters, access or Access()), raise_server_exceptions=False)
    client.registry = registry
    return client


@pytest.fixture(scope="module")
def client(image_run, text_run, other_mails):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unfreeze.serving.network.available_executors", lambda device: ("torch-fp32",))
        runs = {"photos": image_run.run.folder, "mails": text_run.run.folder, "other": other_mails.folder}
        with client_for(runs) as made:
            yield made


@pytest.fixture(scope="module")
def photo(photos):
    return sorted(photos.glob("*/*.png"))[0]


def same(rows, wanted):
    for row, one in zip(rows, wanted, strict=True):
        assert (row["label"], row["abstain"], row["error"]) == (one.label, one.abstain, one.error)
        assert row["probability"] == pytest.approx(one.probability, abs=1e-5)


def test_texts_are_answered_as_by_the_run_and_hashes_are_named(client, text_run):
    found = client.post("/v1/tasks/mails/predict", json={"texts": TEXTS})
    assert found.status_code == 200
    body = found.json()
    same(body["predictions"], text_run.run.model().predict(TEXTS))
    task = next(task for task in client.get("/v1/tasks").json()["tasks"] if task["task"] == "mails")
    assert (body["run"], body["base"]) == (task["run"], task["base"])
    assert len(body["run"]) == 64
    form = client.post(
        "/v1/tasks/mails/predict",
        files=[("texts", (None, text)) for text in TEXTS] + [("top_k", (None, "1"))],
    )
    same(form.json()["predictions"], text_run.run.model().predict(TEXTS))
    assert all(len(row["top"]) == 1 for row in form.json()["predictions"])


def test_photographs_come_as_files_or_base64_and_a_bad_one_is_a_row_with_an_error(client, image_run, photo):
    data = photo.read_bytes()
    files = [("files", ("a.png", data)), ("files", ("b.png", b"no image")), ("files", ("c.png", data[:-40]))]
    found = client.post("/v1/tasks/photos/predict", files=files).json()["predictions"]
    assert [row["input"] for row in found] == ["a.png", "b.png", "c.png"]
    same(found[:1], image_run.run.model().predict([str(photo)]))
    assert found[1]["label"] is None
    assert "not an image" in found[1]["error"]
    assert "cannot be decoded" in found[2]["error"]
    encoded = base64.b64encode(data).decode()
    for image in (encoded, f"data:image/png;base64,{encoded}"):
        again = client.post("/v1/tasks/photos/predict", json={"images": [image]}).json()["predictions"]
        assert again[0]["top"] == found[0]["top"]


def test_a_text_of_white_space_is_a_row_with_an_error(client):
    found = client.post("/v1/tasks/mails/predict", json={"texts": [" \n", "claim your prize"]})
    blank, other = found.json()["predictions"]
    assert (blank["label"], blank["error"]) == (None, "the text is empty")
    assert (other["label"], other["error"]) == ("spam", None)
    none = client.post("/v1/tasks/mails/predict", json={"texts": [""]})
    assert none.status_code == 422
    assert "None of the inputs can be read: text 1 the text is empty" in none.text


def test_a_text_longer_than_the_run_reads_is_told_in_its_row(client, photo):
    # The run reads 16 tokens, two of which stand for the beginning and the end.
    texts = [" ".join(["prize"] * count) for count in (14, 15)] + [""]
    found = client.post("/v1/tasks/mails/predict", json={"texts": texts}).json()["predictions"]
    assert [row["cut"] for row in found] == [False, True, False]
    assert found[0]["probability"] == found[1]["probability"]
    told = client.post("/v1/tasks/mails/explain", json={"texts": texts[1:]}).json()
    assert told["prediction"]["cut"] is True
    files = {"files": photo.read_bytes()}
    found = client.post("/v1/tasks/photos/predict", files=files).json()["predictions"]
    assert [row["cut"] for row in found] == [False]


def test_several_tasks_are_asked_at_once_and_a_shared_network_computes_once(client, text_run, other_mails):
    host = client.registry.tasks["mails"].host
    sizes, compute = [], host._compute

    def counting(rows):
        sizes.append(len(rows))
        return compute(rows)

    host._batcher._compute = counting
    found = client.post("/v1/predict", json={"tasks": ["mails", "other", "mails"], "texts": TEXTS})
    host._batcher._compute = compute
    answers = found.json()["answers"]
    assert [answer["task"] for answer in answers] == ["mails", "other"]
    same(answers[0]["predictions"], text_run.run.model().predict(TEXTS))
    same(answers[1]["predictions"], other_mails.model().predict(TEXTS))
    assert sum(sizes) == len(TEXTS)


def test_concurrent_requests_of_different_tasks_each_get_their_own_answers(client, text_run, other_mails):
    runs = {"mails": text_run.run.model(), "other": other_mails.model()}
    texts = [f"{word} {count}" for count in range(8) for word in ("prize", "storm", "agenda")]
    wanted = {name: model.predict(texts) for name, model in runs.items()}
    problems = []

    def ask(place):
        name = ("mails", "other")[place % 2]
        try:
            found = client.post(f"/v1/tasks/{name}/predict", json={"texts": [texts[place]]}).json()
            same(found["predictions"], [wanted[name][place]])
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


@pytest.mark.parametrize(
    ("path", "call", "status", "says"),
    [
        ("/v1/tasks/nope/predict", {"json": {"texts": ["x"]}}, 404, "no task 'nope'; served are: photos"),
        ("/v1/tasks/..%2Fmails/predict", {"json": {"texts": ["x"]}}, 404, ""),
        ("/v1/tasks/mails/predict", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ("/v1/tasks/mails/predict", {"content": b"{", "headers": {"content-type": "application/json"}}, 422, "no JSON"),
        ("/v1/tasks/mails/predict", {"json": []}, 422, "JSON object"),
        ("/v1/tasks/mails/predict", {"json": {}}, 422, "list of images"),
        ("/v1/tasks/mails/predict", {"json": {"texts": "x"}}, 422, "list of strings"),
        ("/v1/tasks/mails/predict", {"json": {"texts": ["x"], "images": ["eA=="]}}, 422, "list of images"),
        ("/v1/tasks/mails/predict", {"json": {"texts": ["x"], "txets": 1}}, 422, "unknown field 'txets'"),
        ("/v1/tasks/mails/predict", {"json": {"texts": ["x"], "top_k": 0}}, 422, "top_k"),
        ("/v1/tasks/mails/predict", {"json": {"texts": ["x"], "top_k": True}}, 422, "top_k"),
        ("/v1/tasks/mails/predict", {"json": {"images": ["eA=="]}}, 422, "reads texts"),
        ("/v1/tasks/photos/predict", {"json": {"texts": ["x"]}}, 422, "reads images"),
        ("/v1/tasks/photos/predict", {"json": {"images": ["???"]}}, 422, "not base64"),
        ("/v1/tasks/photos/predict", {"json": {"images": ["eA=="]}}, 422, "None of the inputs"),
        ("/v1/tasks/photos/predict", {"files": {"other": b"x"}, "data": {"odd": "1"}}, 422, "unknown field 'odd'"),
        ("/v1/tasks/mails/predict", {"json": {"texts": ["x"] * 65}}, 413, "65 inputs"),
        ("/v1/tasks/mails/predict", {"json": {"texts": ["x" * 100_001]}}, 413, "100,001 characters"),
        ("/v1/tasks/photos/predict", {"files": [("files", b"x")] * 65}, 413, "64 inputs may be sent at once"),
        ("/v1/tasks/mails/predict", {"files": [("texts", (None, "x"))] * 65}, 413, "65 inputs"),
        ("/v1/tasks/mails/predict", {"files": [("texts", (None, "x"))] * 1_100}, 413, "64 inputs may be sent at once"),
        ("/v1/tasks/mails/predict", {"files": {"texts": (None, "x" * 450_000)}}, 413, "450,000 characters"),
        ("/v1/tasks/mails/predict", {"files": {"texts": (None, "x" * 2**21)}}, 413, "2,097,152 characters"),
        ("/v1/predict", {"json": {"texts": ["x"]}}, 422, "at least one task"),
        ("/v1/predict", {"json": {"texts": ["x"], "tasks": ["mails", "nope"]}}, 404, "no task 'nope'"),
        ("/v1/predict", {"json": {"texts": ["x"], "tasks": ["photos"]}}, 422, "reads images"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_a_status_and_a_sentence(client, path, call, status, says):
    found = client.post(path, **call)
    assert found.status_code == status
    assert says in str(found.json()["detail"])


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["json", "form"])
def test_a_body_past_the_limit_is_refused_whether_or_not_it_says_so(text_run, declared, kind):
    with client_for({"mails": text_run.run.folder}, limits=Limits(body=2000)) as client:
        if kind == "json":
            body = json.dumps({"texts": ["x" * 5000]}).encode()
            headers = {"content-type": "application/json"}
        else:
            body = (
                b'--b\r\ncontent-disposition: form-data; name="texts"\r\n\r\n'
                + b"x" * 5000
                + b"\r\n--b--\r\n"
            )
            headers = {"content-type": "multipart/form-data; boundary=b"}
        content = body if declared else iter([body[:1000], body[1000:]])
        found = client.post("/v1/tasks/mails/predict", content=content, headers=headers)
    assert found.status_code == 413
    assert "larger than" in found.json()["detail"]


def test_too_much_at_once_is_refused_with_429_and_nothing_is_lost(text_run):
    limits = Limits(wait=0.0, queue=3, batch=1)
    with client_for({"mails": text_run.run.folder}, limits=limits) as client:
        host = client.registry.tasks["mails"].host
        found = client.post("/v1/tasks/mails/predict", json={"texts": ["x"] * 4})
        assert found.status_code == 429
        assert found.headers["retry-after"] == "1"
        # What is refused is not even read.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "prepare", lambda raw: pytest.fail("decoded"))
            assert client.post("/v1/tasks/mails/predict", json={"texts": ["x"] * 4}).status_code == 429
        for _ in range(3):
            assert client.post("/v1/tasks/mails/predict", json={"texts": ["x"] * 3}).status_code == 200
        assert host.waiting == 0


def test_an_answer_that_takes_too_long_is_503(text_run):
    limits = Limits(wait=0.0, seconds=0.5, batch=1)
    with client_for({"mails": text_run.run.folder}, limits=limits) as client:
        host = client.registry.tasks["mails"].host
        found = []

        def ask():
            found.append(client.post("/v1/tasks/mails/predict", json={"texts": ["x"]}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        # One of the two is being computed and has no end in sight; the other waits for its turn.
        with host._network._lock:
            for thread in threads:
                thread.start()
            threads[0].join(1.5)
        for thread in threads:
            thread.join(30)
    assert sorted(found) == [200, 503]


def test_with_a_token_nobody_else_is_answered_but_health_is_open(text_run):
    with client_for({"mails": text_run.run.folder}, access=Access(token=TOKEN)) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        for path in ("/v1/tasks", "/metrics", "/v1/tasks/mails/report"):
            for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"}):
                assert client.get(path, headers=headers).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.post("/v1/tasks/mails/predict", json={"texts": ["x"]}).status_code == 401


def test_a_name_that_only_seems_to_be_this_machine_is_refused(text_run):
    access = Access(hosts=("127.0.0.1", "localhost"))
    with client_for({"mails": text_run.run.folder}, access=access) as client:
        assert client.get("/v1/tasks", headers={"host": "evil.example:8000"}).status_code == 400
        assert client.get("/v1/tasks", headers={"host": "localhost:8000"}).status_code == 200


def test_tasks_are_loaded_and_unloaded_only_where_that_was_allowed(text_run, other_mails, tmp_path):
    shutil.copytree(other_mails.folder, tmp_path / "runs" / "new")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with client_for({"mails": text_run.run.folder}) as client:
        assert client.put("/v1/tasks/new", json={"run": "new"}).status_code == 403
        assert client.delete("/v1/tasks/mails").status_code == 403
    access = Access(token=TOKEN, changes=tmp_path / "runs")
    with client_for({"mails": text_run.run.folder}, access=access) as client:
        assert client.put("/v1/tasks/new", json={"run": "new"}).status_code == 401
        client.headers = headers
        for run in ("..", "../..", str(text_run.run.folder), "new/../..", "a\0b"):
            assert client.put("/v1/tasks/new", json={"run": run}).status_code == 403
        for name, run in (("new", "missing"), ("a b", "new")):
            assert client.put(f"/v1/tasks/{name}", json={"run": run}).status_code == 422
        assert client.put("/v1/tasks/new", json={"run": "new"}).json()["task"] == "new"
        assert len(client.registry.hosts) == 1
        found = client.post("/v1/tasks/new/predict", json={"texts": TEXTS}).json()
        same(found["predictions"], other_mails.model().predict(TEXTS))
        assert client.delete("/v1/tasks/new").status_code == 204
        assert client.delete("/v1/tasks/new").status_code == 404
        assert client.post("/v1/tasks/new/predict", json={"texts": TEXTS}).status_code == 404
        assert client.delete("/v1/tasks/mails").status_code == 204
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200


def test_explanations_are_those_of_the_library(client, text_run, photo):
    found = client.post("/v1/tasks/mails/explain", json={"texts": TEXTS[:1]}).json()
    classifier = text_run.run.model().classifier
    label = found["prediction"]["label"]
    wanted = explain_text(classifier, TEXTS[0], classifier.labels.index(label))
    assert [(word["text"], pytest.approx(word["weight"], abs=1e-3)) for word in found["words"]] == wanted
    found = client.post("/v1/tasks/photos/explain", files={"files": photo.read_bytes()}).json()
    for name in ("picture", "heat"):
        head, _, data = found[name].partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert client.post("/v1/tasks/photos/explain", json={"images": ["eA=="]}).status_code == 422


def test_nearest_are_training_rows_with_their_classes(client, image_run, text_run, photos):
    names = {str(path.relative_to(photos)) for path in photos.glob("*/*.png")} - set(image_run.run.test_names)
    near = client.post(
        "/v1/tasks/photos/nearest",
        files=[("files", ("a.png", (photos / name).read_bytes())) for name in sorted(names)[:2]]
        + [("files", ("b.png", b"no image")), ("top_k", (None, "3"))],
    ).json()
    assert [row["input"] for row in near["nearest"]] == ["a.png", "a.png", "b.png"]
    assert near["nearest"][2]["examples"] == []
    assert "not an image" in near["nearest"][2]["error"]
    for name, row in zip(sorted(names)[:2], near["nearest"], strict=False):
        assert len(row["examples"]) == 3
        for one in row["examples"]:
            assert one["name"] in names
            assert one["label"] == one["name"].split("/")[0]
            assert one["text"] is None
            assert base64.b64decode(one["picture"].partition(",")[2]).startswith(b"\xff\xd8")
        if name == row["examples"][0]["name"]:
            assert row["examples"][0]["similarity"] == pytest.approx(1.0, abs=1e-2)
    found = client.post("/v1/tasks/mails/nearest", json={"texts": ["claim your prize"], "top_k": 2}).json()
    (row,) = found["nearest"]
    assert all(one["picture"] is None and one["text"] for one in row["examples"])
    # What is called most alike is so by the features of the run's own model.
    model = text_run.run.model()
    examples = read_examples(text_run.run.folder, read_bundle(text_run.run.folder))
    query, *_ = unit(model.features(["claim your prize"]))
    wanted = np.sort(unit(model.features(list(examples.shown))) @ query)[::-1][:2]
    assert [one["similarity"] for one in row["examples"]] == pytest.approx(wanted, abs=2e-3)


def test_a_run_without_training_rows_says_so_and_its_answers_stay(text_run, tmp_path):
    shutil.copytree(text_run.run.folder, tmp_path / "run")
    (tmp_path / "run" / "examples.safetensors").unlink()
    with client_for({"mails": tmp_path / "run"}) as client:
        (task,) = client.get("/v1/tasks").json()["tasks"]
        assert task["examples"] is False
        found = client.post("/v1/tasks/mails/nearest", json={"texts": ["x"]})
        assert found.status_code == 404
        assert "carries no training rows" in found.json()["detail"]
        assert client.post("/v1/tasks/mails/predict", json={"texts": ["x"]}).status_code == 200


def test_training_rows_changed_while_served_are_not_shown(text_run, tmp_path):
    shutil.copytree(text_run.run.folder, tmp_path / "run")
    with client_for({"mails": tmp_path / "run"}) as client:
        assert client.get("/v1/tasks").json()["tasks"][0]["examples"] is True
        (tmp_path / "run" / "examples.safetensors").write_bytes(b"other")
        found = client.post("/v1/tasks/mails/nearest", json={"texts": ["x"]})
        assert found.status_code == 404
        assert "hash does not match" in found.json()["detail"]
        assert str(tmp_path) not in found.json()["detail"]


def test_metrics_count_requests_by_task_and_know_no_other_names(client):
    client.post("/v1/tasks/mails/predict", json={"texts": TEXTS})
    client.post("/v1/tasks/unheard-of/predict", json={"texts": TEXTS})
    text = client.get("/metrics").text
    assert 'unfreeze_requests_total{status="200",task="mails"}' in text
    assert "unfreeze_batch_rows_count" in text
    assert "unfreeze_waiting 0.0" in text
    assert "unfreeze_tasks 3.0" in text
    assert "unheard-of" not in text


def test_metrics_count_inputs_that_cannot_be_read(client, photo):
    counted = 'unfreeze_input_errors_total{task="photos"} '

    def count():
        found = re.search(re.escape(counted) + r"(\S+)", client.get("/metrics").text)
        return 0.0 if found is None else float(found[1])

    before = count()
    files = [("files", ("a.png", photo.read_bytes())), ("files", ("b.png", b"none"))]
    assert client.post("/v1/tasks/photos/predict", files=files).status_code == 200
    assert client.post("/v1/predict", files=files, data={"tasks": "photos"}).status_code == 200
    assert count() == before + 2


def outside(page):
    """Addresses with a host in everything of a page that a browser loads or follows."""
    found = re.findall(
        r"""(?:src|href|action|srcset|poster|data)\s*=\s*["']?([^"'\s>]+)""", page, re.IGNORECASE
    )
    found += re.findall(r"""(?:url\(|@import|fetch\(|import\()\s*["']?([^"')]+)""", page)
    return [address for address in found if re.match(r"(?:[a-z]+:)?//", address, re.IGNORECASE)]


def test_what_a_page_loads_from_elsewhere_is_seen():
    for bad in ('<script src="https://x.y/z.js">', "<link href=//x.y/z.css>", "url('http://x.y/z')"):
        assert outside(f"<p>{bad}</p>")
    assert not outside('<a href="docs">x</a> curl http://127.0.0.1/ <img src="data:image/png;base64,//9k=">')


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/tasks/mails/report", "/v1/tasks/photos/report"])
def test_no_page_loads_anything_from_elsewhere(client, path):
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not outside(page.text)
    assert "/*style*/" not in page.text


def test_there_is_no_other_page(client):
    """A path that FastAPI serves by itself would load its script from a public server."""
    paths = {route.path for route in client.app.routes if "GET" in getattr(route, "methods", ())}
    pages = {
        path for path in paths if client.get(path).headers.get("content-type", "").startswith("text/html")
    }
    assert pages == {"/", "/docs"}


def test_the_interface_is_described_with_a_command_for_each_operation(client):
    page = client.get("/docs").text
    description = client.get("/openapi.json").json()
    for path, methods in description["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
    assert "curl http://testserver/livez" in page
    assert "-X DELETE http://testserver/v1/tasks/TASK" in page
    assert "{&#34;texts&#34;: [&#34;some text&#34;]}" in page
    assert "&#34;similarity&#34;: number" in page
    assert "TOKEN" not in page


def test_the_commands_of_the_description_work(client, text_run):
    page = html.unescape(client.get("/docs").text)
    commands = [shlex.split(found) for found in re.findall(r">(curl [^<]+)</pre>", page)]
    assert len(commands) > 8
    for command in commands:
        method = command[command.index("-X") + 1] if "-X" in command else "POST" if "-d" in command else "GET"
        url = command[-1].replace("TASK", "mails")
        data = command[command.index("-d") + 1].replace("TASK", "mails") if "-d" in command else None
        headers = dict(
            part.split(": ", 1) for place, part in enumerate(command) if command[place - 1] == "-H"
        )
        found = client.request(method, url, content=data, headers=headers)
        assert found.status_code == (403 if method in ("PUT", "DELETE") else 200), command


def test_reports_run_no_scripts(client):
    report = client.get("/v1/tasks/mails/report")
    assert report.status_code == 200
    assert report.headers["content-security-policy"].startswith("sandbox;")
    assert report.headers["x-content-type-options"] == "nosniff"


def test_the_description_names_every_path_and_its_errors(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) >= {
        "/v1/tasks",
        "/v1/predict",
        "/v1/tasks/{task}/predict",
        "/livez",
        "/readyz",
        "/metrics",
    }
    predict = paths["/v1/tasks/{task}/predict"]["post"]
    assert {"404", "413", "415", "422", "429"} <= set(predict["responses"])
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
