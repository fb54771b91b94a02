"""The command in a process of its own: it answers, drains when it is told to stop, and its page works in a browser."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest

from unfreeze.serving import run as module

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(port, *more, **runs):
    """The command that serves these runs, ready to answer."""
    named = [f"{name}={folder}" for name, folder in runs.items()]
    command = [sys.executable, "-m", "unfreeze", "serve", *named, "--port", str(port), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        process.address = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{process.address}/readyz", timeout=5).read()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None, process.stdout.read()
                    assert time.monotonic() < until
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running(image_run, text_run):
    """Gives the server that all share, started again on its port where a test has ended it."""
    port, started = free_port(), []
    with ExitStack() as stack:

        def server():
            if not started or started[-1].poll() is not None:
                runs = {"photos": image_run.run.folder, "mails": text_run.run.folder}
                started.append(stack.enter_context(serving(port, **runs)))
            return started[-1]

        yield server


@pytest.fixture
def server(running):
    return running()


def get(server, path):
    with urllib.request.urlopen(server.address + path, timeout=60) as answer:
        return json.load(answer)


def ask(server, texts):
    request = urllib.request.Request(
        f"{server.address}/v1/tasks/mails/predict",
        data=json.dumps({"texts": texts}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("look", ["wide", "phone"])
def test_a_person_walks_through_the_page(server, photos, tmp_path, look):
    from playwright.sync_api import expect, sync_playwright

    options = (
        {"viewport": {"width": 1100, "height": 900}}
        if look == "wide"
        else {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}
    )
    photo = sorted((photos / "green").iterdir())[0]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(**options).new_page()
        wrong, elsewhere = [], []
        page.on("pageerror", lambda problem: wrong.append(str(problem)))
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url)
                if not request.url.startswith((server.address, "data:", "blob:"))
                else None
            ),
        )
        page.goto(server.address)
        expect(page.locator("#about")).to_contain_text("of its test rows right")
        page.set_input_files("#files", [photo, tmp_path / "broken.png"])
        cards = page.locator("#answers > li")
        expect(cards).to_have_count(2)
        expect(cards.nth(0).locator(".label")).to_have_text("green")
        expect(cards.nth(1)).to_contain_text("No answer: its content is not an image")
        near = cards.nth(0).locator(".near li")
        expect(near).to_have_count(4)
        expect(near.nth(0).locator("b")).to_have_text("green")
        assert near.nth(0).locator("img").evaluate("image => image.naturalWidth") == 40
        expect(cards.nth(1).locator(".near")).to_have_count(0)
        # By the keyboard alone.
        page.get_by_role("button", name="Why?").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".shot img")).to_have_count(2, timeout=60_000)
        assert page.locator(".shot img").nth(1).evaluate("image => image.naturalWidth") == 64
        page.select_option("#task", "mails")
        page.fill("#text", "claim your prize")
        page.keyboard.press("Control+Enter")
        expect(cards.locator(".label")).to_have_text(["spam"])
        page.get_by_role("button", name="Why?").click()
        expect(page.locator("mark").first).to_be_visible(timeout=60_000)
        assert page.locator(".quote").inner_text() == "claim your prize"
        expect(cards.locator(".near li q")).to_have_count(4)
        assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="its report").click()
        expect(opened.value.locator("h1")).to_be_visible()
        page.get_by_role("link", name="the interface").click()
        expect(page.locator("section")).to_have_count(11)
        page.get_by_role("button", name="Copy").first.click()
        expect(page.get_by_role("button", name=re.compile("Copied|Marked"))).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        browser.close()
    assert not wrong
    assert not elsewhere


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_needs_no_mouse(server, photos):
    """From the top with Tab, arrows, Enter and Escape alone: a text, why it was answered so, then a photograph."""
    from playwright.sync_api import expect, sync_playwright

    def tab_to(page, selector):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        # The browser hands over the files' window only while somebody listens. Listening from the start, not from
        # the key's moment: told together, the two reach the page by different ways, and now and then the key is first.
        page.on("filechooser", lambda chooser: None)
        page.goto(server.address)
        expect(page.locator("#about")).to_contain_text("test rows right")
        tab_to(page, "#task")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#texts")).to_be_visible()
        tab_to(page, "#text")
        page.keyboard.type("claim your prize")
        tab_to(page, "#texts button")
        page.keyboard.press("Enter")
        expect(page.locator("#answers .label")).to_have_text("spam")
        expect(page.locator("#answers .near li")).to_have_count(4)
        tab_to(page, "#answers button")
        page.keyboard.press("Enter")
        expect(page.locator("mark").first).to_be_visible(timeout=60_000)
        # What had the focus is gone: the next Tab goes on from there, not from the top.
        assert page.evaluate("document.activeElement.closest('#answers') !== null")
        page.reload()
        expect(page.locator("#about")).to_contain_text("test rows right")
        tab_to(page, "#files")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(sorted((photos / "red").iterdir())[0])
        expect(page.locator("#answers .label")).to_have_text("red")
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_report_behind_a_token_runs_no_script(text_run, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    shutil.copytree(text_run.run.folder, tmp_path / "run")
    script = "<script>document.querySelector('h1').textContent = 'changed'</script>"
    (tmp_path / "run" / "report.html").write_text(
        f"<!doctype html><html><body><h1>Report</h1>{script}</body></html>"
    )
    token = "a-token-of-some-length"
    (tmp_path / "token").write_text(token)
    with (
        serving(free_port(), "--token-file", str(tmp_path / "token"), mails=tmp_path / "run") as server,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(server.address)
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Use it").click()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="its report").click()
        opened.value.wait_for_load_state()
        assert opened.value.url.startswith("blob:")
        expect(opened.value.locator("h1")).to_have_text("Report")
        browser.close()


def test_a_server_that_was_killed_comes_back_as_it_was(running):
    server, texts = running(), ["claim your prize", "the minister on Monday"]
    tasks, before = get(server, "/v1/tasks"), ask(server, texts)
    # In the middle of an answer.
    lost = []
    thread = threading.Thread(target=lambda: lost.append(died(server)))
    thread.start()
    server.kill()
    thread.join(60)
    assert server.wait(60) == -signal.SIGKILL
    again = running()
    assert again is not server
    assert get(again, "/v1/tasks") == tasks
    after = ask(again, texts)
    assert [row["label"] for row in after] == [row["label"] for row in before]
    assert [row["probability"] for row in after] == pytest.approx([row["probability"] for row in before])


def died(server):
    """Whether the connection broke; an answer that was quicker than the signal is one too."""
    try:
        ask(server, ["claim your prize"] * 64)
    except (OSError, http.client.HTTPException):
        return True
    return False


def test_a_server_told_to_stop_answers_what_is_under_way(server):
    wanted = ask(server, ["claim your prize"])
    found = []
    texts = ["claim your prize"] * 64
    thread = threading.Thread(target=lambda: found.extend(ask(server, texts)))
    thread.start()
    waiting = ""
    until = time.monotonic() + 60
    while "unfreeze_waiting 0.0" in (waiting or "unfreeze_waiting 0.0") and thread.is_alive():
        with urllib.request.urlopen(f"{server.address}/metrics", timeout=30) as answer:
            waiting = answer.read().decode()
        assert time.monotonic() < until
    server.send_signal(signal.SIGTERM)
    thread.join(60)
    assert [row["label"] for row in found] == [wanted[0]["label"]] * 64
    assert server.wait(60) in (0, -signal.SIGTERM)
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        ask(server, ["x"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RUN", "--allow-changes", "DIR"], "give --token-file too"),
        (["RUN", "--token-file", "DIR/short"], "at least 16"),
        (["RUN", "--token-file", "DIR/missing"], "cannot be read"),
        (["DIR"], "no finished run"),
        (["RUN", "RUN"], "Two runs are named"),
        (["a b=RUN"], "no run folder"),
    ],
)
def test_a_wrong_command_is_a_sentence(command, text_run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: pytest.fail("it serves"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "short").write_text("short")
    given = [part.replace("RUN", str(text_run.run.folder)).replace("DIR", str(folder)) for part in arguments]
    found = command("serve", *given)
    assert found.status == 2
    assert says in found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize("arguments", [["--port", "BUSY"], ["--host", "999.1.1.1"]])
def test_an_address_that_cannot_be_had_is_a_sentence_before_anything_is_loaded(
    command, text_run, monkeypatch, arguments
):
    monkeypatch.setattr(module, "named_runs", lambda runs: pytest.fail("it loads"))
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        given = [part.replace("BUSY", str(busy.getsockname()[1])) for part in arguments]
        found = command("serve", text_run.run.folder, *given)
    assert found.status == 2
    assert "cannot be listened on" in found.err
    assert "Traceback" not in found.err


def test_an_address_that_is_taken_while_runs_are_loaded_is_a_sentence(command, text_run, monkeypatch):
    port, named_runs = free_port(), module.named_runs
    with socket.socket() as other:

        def meanwhile(runs):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            return named_runs(runs)

        monkeypatch.setattr(module, "named_runs", meanwhile)
        found = command("serve", text_run.run.folder, "--port", str(port))
    assert found.status == 2
    assert "cannot be listened on" in found.err
    assert "Traceback" not in found.err


def test_it_says_when_everyone_on_the_network_is_answered(text_run, monkeypatch, recorder):
    served = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: served.append(server.config.host))
    limits = module.Limits()
    settings = {
        "port": free_port(),
        "limits": limits,
        "token_file": None,
        "changes": None,
        "progress": recorder,
    }
    module.serve([str(text_run.run.folder)], host="0.0.0.0", **settings)
    assert any("everyone is answered" in sentence for sentence in recorder.said)
    recorder.said.clear()
    module.serve([str(text_run.run.folder)], host="127.0.0.1", **settings)
    assert not any("everyone is answered" in sentence for sentence in recorder.said)
    assert served == ["0.0.0.0", "127.0.0.1"]
