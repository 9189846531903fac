"""The web page in a browser: it writes Keras' texts, and tells what is wrong."""

import contextlib
import functools
import http.server
import itertools
import json
import os
import shutil
import threading

import pytest

from keras_gpt import GPTCausalLM
from keras_gpt.export import ExportError, export_web
from keras_gpt.export.web import litert_js
from keras_gpt.export.web.static_server import TYPES, StaticServer
from keras_gpt.generation import SETTINGS

CONTEXT = 64
SECONDS = 60  # that the page has for anything; it takes less than one
KNOBS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 2**40 + 3},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": -5},
    {"temperature": 1.5, "min_p": 0.01, "repetition_penalty": 1.3, "seed": 9},
    {"typical_p": 0.7, "no_repeat_ngram_size": 2, "presence_penalty": 0.5, "seed": 3},
]
PROMPTS = [
    *("The king", "", "O my\n\nlord", "caf\u00e9 \u4e2d\u6587", "a" * 15, " ", "Say:"),
    *("The queen hath said that you are not the man you were;", "1 2 3", "\U0001f600"),
    *("You'll know we're poor, my lord: they've the king's men", "x\ty", "  two"),
    *("<|endoftext|>", "First Citizen: We are", "'s", "long live the king! " * 3),
    *("What say you?", "\u00bd \u2167", "live\n"),
]


@pytest.fixture(scope="module")
def folder(causal_lm, tmp_path_factory):
    """The folder of an export with the real LiteRT.js, or a skip."""
    path = tmp_path_factory.mktemp("web") / "page"
    try:
        with litert_js.packages(None) as packages:
            lengths = [16, 32]
            export_web(causal_lm, path, prefill_lengths=lengths, node_modules=packages)
    except ExportError as error:
        pytest.skip(f"LiteRT.js could not be fetched: {error}")
    return path


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, that of the system, or a skip."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed, in which the page is tested.")
    sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        yield started
        started.close()


@contextlib.contextmanager
def running(server):
    """Runs a server in a thread of its own."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join(timeout=SECONDS)


@pytest.fixture(scope="module")
def url(folder):
    with running(StaticServer(folder, port=0)) as found:
        yield found


@contextlib.contextmanager
def opened(browser, url, *, errors=False, **options):
    """Opens the page, and checks that it fetches all from its own server."""
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * SECONDS)
    requests, failures = [], []
    context.on("request", lambda request: requests.append(request.url))
    page = context.new_page()
    page.on("pageerror", lambda error: failures.append(error))
    try:
        page.goto(url)
        page.wait_for_selector(
            "#problem:visible" if errors else "#generate:enabled",
        )
        yield page
        assert not failures
        assert all(one.startswith((url, "blob:", "data:")) for one in requests)
    finally:
        context.close()


@pytest.fixture(scope="module")
def page(browser, url):
    """The page, ready; tests leave it so."""
    with opened(browser, url) as found:
        yield found


def fill(page, prompt, knobs):
    page.fill("#prompt", prompt)
    page.evaluate("document.querySelector('details').open = true")
    for name, setting in SETTINGS.items():
        page.fill(f"#{name}", str(knobs.get(name, setting.default)))


def wait(page):
    page.wait_for_selector("#generate:enabled")


def tokens(page):
    """Returns the ids of the new tokens."""
    return page.eval_on_selector_all(
        ".token", "all => all.map((one) => Number(one.dataset.token))"
    )


def keras_tokens(lm, prompts, **knobs):
    """Returns the ids that Keras generates for strings; knobs may be lists."""
    tokenizer = lm.preprocessor.tokenizer
    ids = [
        row or [tokenizer.end_token_id] for row in tokenizer.tokenize(prompts).to_list()
    ]
    size = max(map(len, ids))
    rows = {
        "token_ids": [row + [0] * (size - len(row)) for row in ids],
        "padding_mask": [[1] * len(row) + [0] * (size - len(row)) for row in ids],
    }
    found = GPTCausalLM(lm.backbone).generate(
        rows,
        max_length=CONTEXT,
        stop_token_ids=[tokenizer.end_token_id],
        strip_prompt=True,
        **knobs,
    )
    pairs = zip(found["token_ids"], found["padding_mask"], strict=True)
    return [row[mask].tolist() for row, mask in pairs]


def test_the_page_writes_what_keras_generates(causal_lm, page):
    count = len(PROMPTS)
    assert count == 20
    each = [{"max_new_tokens": 40, **KNOBS[n % len(KNOBS)]} for n in range(count)]
    knobs = {
        name: [one.get(name, setting.default) for one in each]
        for name, setting in SETTINGS.items()
    }
    ids = keras_tokens(causal_lm, PROMPTS, **knobs)
    texts = causal_lm.generate(PROMPTS, max_length=64, strip_prompt=True, **knobs)
    for prompt, one, want, text in zip(PROMPTS, each, ids, texts, strict=True):
        fill(page, prompt, one)
        page.click("#generate")
        wait(page)
        assert tokens(page) == want, (prompt, one)
        assert page.text_content("#new_text") == text
        assert page.text_content("#announcement") == text
        assert page.text_content("#old_text") == prompt
    assert len({*map(len, ids)}) > 1  # some fill the context


def test_probabilities_and_alternatives(causal_lm, page):
    fill(page, "The king", {"temperature": 0.0, "max_new_tokens": 3})
    page.click("#generate")
    wait(page)
    page.locator(".token").nth(0).hover()
    rows = page.locator("#alternatives tr")
    assert rows.count() == 8
    assert "(chosen)" in rows.nth(0).inner_text()  # greedily, the likeliest
    ids = causal_lm.preprocessor.tokenizer.tokenize("The king").numpy()
    hidden = causal_lm.backbone.forward(ids[None], training=False).hidden
    logits = causal_lm.backbone.logits(hidden[0, -1:]).numpy()[0].astype("float64")
    shares = sorted(100 * 2.718281828459045 ** (logits - logits.max()), reverse=True)
    total = sum(shares) / 100
    for rank in range(8):
        want = f"{shares[rank] / total:.1f} %"
        assert rows.nth(rank).locator("td").inner_text() == want
    page.mouse.move(0, 0)
    assert not page.is_visible("#alternatives")
    speed = page.inner_text("#speed")
    assert "3 tokens" in speed and "first after" in speed and "tokens/s" in speed


def test_by_keyboard_alone(browser, url):
    with opened(browser, url) as page:
        keyboard = page.keyboard
        keyboard.press("Tab")
        keyboard.type("The king")
        assert page.input_value("#prompt") == "The king"
        keyboard.press("Tab")
        keyboard.press("Enter")
        wait(page)
        # Not on a button, where an Enter meant to stop would start anew.
        focused = "document.activeElement.id || document.activeElement.dataset.index"
        assert page.evaluate(focused) == "result_title"
        assert page.locator("[aria-describedby=alternatives]").count() == 0
        keyboard.press("Tab")
        assert page.evaluate(focused) == "0"
        first = page.inner_text("#alternatives p")
        described = page.locator("[aria-describedby=alternatives]")
        assert described.get_attribute("data-index") == "0"
        keyboard.press("ArrowRight")
        assert page.evaluate(focused) == "1"
        assert page.inner_text("#alternatives p") != first
        keyboard.press("Escape")
        assert not page.is_visible("#alternatives")
        keyboard.press("End")
        assert page.evaluate(focused) == str(len(tokens(page)) - 1)
        keyboard.press("Tab")  # once leaves all tokens
        assert page.evaluate(focused) == "max_new_tokens"
        keyboard.press("Control+A")
        keyboard.type("2")
        keyboard.press("Enter")  # in any field
        wait(page)
        assert len(tokens(page)) == 2
        # Everything that takes input has a name.
        unnamed = (
            "[...document.querySelectorAll('input, textarea')]"
            ".filter((one) => !one.labels.length).length"
        )
        assert page.evaluate(unnamed) == 0


def test_the_last_tokens_alternatives_on_a_phone(browser, url):
    with opened(browser, url, viewport={"width": 375, "height": 500}) as page:
        fill(page, "m", {"seed": 1, "max_new_tokens": 60, "temperature": 2.0})
        page.click("#generate")
        wait(page)
        # Longer than the context of the tests lets the model write.
        page.evaluate("""
            const list = document.getElementById("new_text");
            list.prepend(...Array(40).fill("words and words\\n"));
        """)
        page.locator(".token").first.focus()
        page.evaluate("scrollTo(0, 0)")
        page.keyboard.press("End")
        # Two frames, in which the scrolling that goes with the focus is told of.
        page.evaluate("""
            new Promise((done) =>
                requestAnimationFrame(() => requestAnimationFrame(done)))
        """)
        assert page.evaluate("scrollY") > 0
        assert page.is_visible("#alternatives")
        box = page.locator("#alternatives").bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= 500
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_selector("#alternatives", state="hidden")
        page.evaluate("document.activeElement.scrollIntoView()")
        page.wait_for_selector("#alternatives")


def test_an_enter_that_is_held(browser, url):
    with opened(browser, url) as page:
        fill(page, "The king", {"max_new_tokens": 40, "temperature": 0.0})
        page.evaluate("""
            window.clicks = [];
            document.addEventListener("click", ({ target }) => clicks.push(target.id));
        """)
        page.focus("#generate")
        for _ in range(20):  # all but the first say that they are repeats
            page.keyboard.down("Enter")
        wait(page)
        status = "The text has all the tokens that were asked for."
        assert page.inner_text("#status") == status
        page.keyboard.up("Enter")
        assert page.evaluate("clicks") == ["generate"]


def test_the_way_to_the_alternatives(page):
    fill(page, "The king", {"seed": 3, "max_new_tokens": 5})
    page.click("#generate")
    wait(page)
    token = page.locator(".token").first.bounding_box()
    page.mouse.move(token["x"] + 4, token["y"] + token["height"] / 2)
    box = page.locator("#alternatives").bounding_box()
    is_below = box["y"] > token["y"]
    start = token["y"] + token["height"] / 2
    end = box["y"] + 10 if is_below else box["y"] + box["height"] - 10
    for step in range(1, 101):
        y = start + (end - start) * step / 100
        page.mouse.move(token["x"] + 4, y)
        assert page.is_visible("#alternatives"), y
    page.mouse.move(0, 0)
    assert not page.is_visible("#alternatives")


def test_sizes_and_colours(page, tmp_path):
    fill(page, "m" * 30, {"seed": 1, "max_new_tokens": 30})
    page.click("#generate")
    wait(page)
    for width, scheme in itertools.product((320, 375, 1200), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.mouse.move(0, 0)
        page.locator(".token").last.hover()
        box = page.locator("#alternatives").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") == width
        path = tmp_path / f"{width}_{scheme}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 10_000
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground[4:-1].split(","))
        assert (brightness > 600) == (scheme == "light")


def test_without_headers_there_is_one_thread(browser, folder, url):
    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = TYPES

        def log_message(self, *_):
            pass

    class Plain:
        def __init__(self):
            handler = functools.partial(Handler, directory=os.fspath(folder))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            self.run, self.stop = server.serve_forever, server.shutdown
            self.url = f"http://127.0.0.1:{server.server_port}/"

    found = {}
    with running(Plain()) as plain:
        for name, where in {"plain": plain, "served": url}.items():
            with opened(browser, where) as page:
                fill(page, "O my lord", {"seed": 4})
                page.click("#generate")
                wait(page)
                found[name] = (tokens(page), page.inner_text("#facts"))
    assert found["plain"][0] == found["served"][0]
    assert "one thread" in found["plain"][1]
    if os.cpu_count() > 1:
        assert "one thread" not in found["served"][1]


def test_stopping(page):
    fill(page, "The king", {"seed": 2, "max_new_tokens": 1000})
    # In one turn, so that the text cannot be over before.
    page.evaluate("""
        document.getElementById("generate").click();
        document.getElementById("stop").click();
    """)
    wait(page)
    assert page.inner_text("#status") == "Stopped."
    assert len(tokens(page)) < CONTEXT - 3
    page.click("#generate")
    wait(page)
    assert page.inner_text("#status") == "The text fills the model's context."


def test_bad_prompts_and_knobs(causal_lm, page):
    tokenizer = causal_lm.preprocessor.tokenizer
    words = "zq" * 31 + "z"
    assert len(tokenizer.tokenize(words)) == CONTEXT - 1
    for prompt, knobs, field, message in [
        (words + "q", {}, "prompt", "prompt must have at most 63 tokens.* got 64."),
        (words * 9, {}, "prompt", "got 567."),
        ("x", {"top_p": 2}, "top_p", "Top-p (top_p) must be a number, in (0, 1], got"),
        ("x", {"top_p": 1e-60}, "top_p", "got 1e-60."),
        ("x", {"temperature": "warm"}, "temperature", "at least 0, got warm."),
        ("x", {"top_k": "1.5"}, "top_k", "(top_k) must be a whole number, at least"),
        ("x", {"max_new_tokens": ""}, "max_new_tokens", "got nothing."),
        ("x", {"eta_cutoff": 1}, "eta_cutoff", "in [0, 1), got 1."),
        ("x", {"seed": 2**63}, "seed", "seed must be a whole number in"),
    ]:
        fill(page, prompt, knobs)
        page.click("#generate")
        for part in message.split(".*"):
            assert part in page.inner_text("#problem")
        assert page.evaluate("document.activeElement.id") == field
        assert page.get_attribute(f"#{field}", "aria-invalid") == "true"
        # Beside it, until it is mended.
        assert page.get_attribute(f"#{field}", "aria-errormessage") == "problem"
        assert page.locator(f"#{field} + #problem").is_visible()
        assert page.inner_text("#status") == ""
        page.fill(f"#{field}", "1")
        assert not page.is_visible("#problem")
        assert page.get_attribute(f"#{field}", "aria-invalid") is None
    # The longest prompt that leaves room for a token.
    fill(page, words, {"temperature": 0.0})
    page.wait_for_selector("#count:text-is('63 of at most 63 tokens')")
    page.click("#generate")
    wait(page)
    assert not page.is_visible("#problem")
    assert [tokens(page)] == keras_tokens(causal_lm, [words], temperature=0.0)
    fill(page, "x", {"max_new_tokens": 0})
    page.click("#generate")
    wait(page)
    assert tokens(page) == []


def other_merges(text):
    content = json.loads(text)
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "model.tflite",
            lambda data: data[:1000],
            "bytes, as it was exported, got 1000",
        ),
        ("model.tflite", lambda data: data + b"x", "copy it again"),
        (
            "model.tflite",
            lambda data: b"x" * len(data),
            "model.tflite must be a TFLite",
        ),
        ("model.tflite", None, "model.tflite must be beside the page, got 404"),
        ("tokenizer.json", lambda data: data[:-99], "tokenizer.json must be whole"),
        ("tokenizer.json", lambda data: b"{}", "must hold a byte-level BPE"),
        ("tokenizer.json", other_merges, "tokenizer.json must be the model's own"),
        ("tokenizer.json", None, "tokenizer.json must be beside the page, got 404"),
        (
            "litert/core/dist/index.js",
            lambda data: data[:999],
            "LiteRT.js must be whole",
        ),
    ],
)
def test_files_that_are_broken(browser, folder, tmp_path, name, change, message):
    other = tmp_path / "page"
    shutil.copytree(folder, other, copy_function=os.link)
    with running(StaticServer(other, port=0)) as where:
        data = (other / name).read_bytes()
        (other / name).unlink()
        if change is not None:
            changed = change(data)
            changed = changed.encode() if isinstance(changed, str) else changed
            (other / name).write_bytes(changed)
        with opened(browser, where, errors=True) as page:
            assert message in page.inner_text("#problem")
            assert page.inner_text("#status") == "Not loaded."
            assert not page.is_enabled("#generate")


@contextlib.contextmanager
def changed(folder, name, old, new):
    """Serves a folder's copy, in which a file reads otherwise."""
    other = folder.with_name(f"{folder.name}_{name}")
    shutil.copytree(folder, other, copy_function=os.link)
    text = (other / name).read_text()
    assert text.count(old) == 1
    (other / name).unlink()
    (other / name).write_text(text.replace(old, new))
    try:
        with running(StaticServer(other, port=0)) as where:
            yield where
    finally:
        shutil.rmtree(other)


def test_a_run_that_fails_midway(browser, folder):
    begin = "async sample(logits, tokens, request) {"
    fails = """
        if (this.before && !this.before.deleted) throw new Error("not deleted");
        if (tokens.length === request.numPromptTokens + 5) {
          this.before = logits;
          throw new Error("out of luck");
        }
    """
    with changed(folder, "network.js", begin, begin + fails) as where:
        with opened(browser, where) as page:
            for _ in range(2):
                fill(page, "The king", {"temperature": 0.0, "max_new_tokens": 9})
                page.click("#generate")
                wait(page)
                assert page.inner_text("#problem") == "out of luck"
                assert page.inner_text("#status") == "Failed."
                assert len(tokens(page)) == 5
                assert "5 tokens" in page.inner_text("#speed")
                text = page.text_content("#new_text")
                assert text and page.text_content("#announcement") == text
                page.fill("#max_new_tokens", "5")  # which ends before it
                page.click("#generate")
                wait(page)
                assert not page.is_visible("#problem")
                assert page.text_content("#new_text") == text


def test_a_thread_that_is_lost(browser, folder):
    begin = "isStopped = false;\n  const"
    lost = "setTimeout(() => { throw new Error('lost'); });\n" + begin
    with changed(folder, "worker.js", begin, lost) as where:
        with opened(browser, where) as page:
            fill(page, "The king", {"max_new_tokens": 50})
            page.click("#generate")
            page.wait_for_selector("#problem:visible")
            assert "lost. Reload the page." in page.inner_text("#problem")
            assert page.inner_text("#status") == "Failed."
            assert not page.is_enabled("#generate") and not page.is_enabled("#stop")


def test_a_server_that_has_gone(browser, url):
    for name in ("tokenizer.json", "model.tflite"):
        context = browser.new_context()
        page = context.new_page()
        context.route(f"**/{name}", lambda route: route.abort())
        page.goto(url)
        page.wait_for_selector("#problem:visible")
        words = f"{name} could not be fetched: is the server still running?"
        assert words in page.inner_text("#problem")
        context.close()


def test_why_there_is_one_thread(browser, folder):
    begin = "if (!self.crossOriginIsolated) return 1;"
    script = "Object.defineProperty(window, 'isSecureContext', { value: false });"
    with changed(folder, "worker.js", begin, "return 1;") as where:
        with opened(browser, where) as page:
            assert page.inner_text("#facts").endswith("one thread")
            page.add_init_script(script)
            page.reload()
            wait(page)
            facts = page.inner_text("#facts")
            assert facts.endswith("one thread (several need HTTPS)")


def test_characters_that_show_nothing(page):
    found = page.evaluate("""
        (async () => {
            const { TextView } = await import("./text_view.js");
            const [list, tip] = [0, 0].map(() => document.createElement("div"));
            const view = new TextView({ list, tip });
            for (const text of ["a", "", " ", "\\n", "\\u200b", "\\u200d", "\\x07"]) {
                view.add({ token: 0, logProb: -1, alternatives: [] }, text);
            }
            return Array.from(list.children, (one) =>
                [one.className, one.getAttribute("aria-label")]);
        })()
    """)
    assert found == [
        ["token", None],
        ["token part", "part of a character"],
        ["token", "space"],
        ["token break", "line break"],
        ["token part", "U+200B"],
        ["token", "U+200D"],  # which joins what is beside it
        ["token", "U+0007"],
    ]


def test_colours_tell_small_shares_apart(page):
    fill(page, "The king", {"seed": 3, "max_new_tokens": 9, "temperature": 2.0})
    page.click("#generate")
    wait(page)
    colours = "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    found = page.eval_on_selector_all(".token", colours)
    assert len(set(found)) > 3


def test_memory_that_is_short(browser, folder):
    begin = "return new Uint8Array(numBytes);"
    more = "return new Uint8Array(2 ** 60);"
    with changed(folder, "worker.js", begin, more) as where:
        with opened(browser, where, errors=True) as page:
            problem = page.inner_text("#problem")
    assert "model.tflite must find room in the browser's memory" in problem
    assert "--quantization=int8" in problem
