"""Retries, deadlines and errors of the client."""

import socket
import threading

import pytest

from keras_gpt.export.client import GPTClient, ServingError, deadlines


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(deadlines, "FIRST_DELAY", 0.01)


@pytest.fixture
def client(target, backend):
    with GPTClient(target) as client:
        yield client


@pytest.fixture
def warm_client(client, backend):
    """A client that knows the signatures already."""
    client.generate("a")
    backend.requests.clear()
    return client


def test_what_is_unavailable_is_tried_again_with_the_same_seed(
    warm_client, backend, refusal
):
    backend.faults += [refusal("UNAVAILABLE", "busy")] * 2
    text = warm_client.generate("a", max_new_tokens=200)
    requests = backend.of("generate")
    seeds = [request.inputs["seed"].item() for request in requests]
    assert len(seeds) == 3
    assert len(set(seeds)) == 1
    assert str(seeds[0]) in text


def test_metadata_are_tried_again(client, backend, refusal):
    backend.faults += [refusal("UNAVAILABLE", "busy")] * 2
    assert client.score("a").token_ids.tolist() == [97]
    assert len(backend.of("metadata")) == 3


def test_retries_have_an_end(warm_client, backend, refusal):
    backend.faults += [refusal("UNAVAILABLE", "busy\nindeed")] * 10
    with pytest.raises(ServingError) as raised:
        warm_client.generate("a")
    assert len(backend.requests) == 4
    assert raised.value.code == "UNAVAILABLE"
    assert raised.value.message == "busy\nindeed"
    line = str(raised.value)
    assert line.startswith("model 'gpt' at ")
    assert line.endswith(": UNAVAILABLE: busy indeed")


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL"])
def test_other_errors_are_final(warm_client, backend, refusal, code):
    backend.faults.append(refusal(code, "no"))
    with pytest.raises(ServingError, match=f"{code}: no") as raised:
        warm_client.generate("a")
    assert raised.value.code == code
    assert len(backend.requests) == 1


def test_a_deadline_that_the_server_tells_is_final(warm_client, backend, refusal):
    backend.faults.append(refusal("DEADLINE_EXCEEDED", "late"))
    with pytest.raises(
        TimeoutError, match=r"^model 'gpt' at .* did not answer within "
    ):
        warm_client.generate("a")
    assert len(backend.requests) == 1


def test_slow_servers_are_left(warm_client, backend):
    done = threading.Event()
    backend.faults.append(lambda: done.wait(20))
    try:
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 s\.$"):
            warm_client.generate("a", timeout=0.3)
        assert len(backend.requests) == 1
    finally:
        done.set()


def test_retries_stay_within_the_deadline(warm_client, backend, refusal, monkeypatch):
    monkeypatch.setattr(deadlines, "FIRST_DELAY", 50.0)
    monkeypatch.setattr(deadlines, "LONGEST_DELAY", 50.0)
    backend.faults += [refusal("UNAVAILABLE", "busy")] * 2
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        warm_client.generate("a", timeout=20)  # a delay of 25 s would be too late
    assert len(backend.requests) == 1


def test_the_server_knows_the_deadline(grpc_target, backend, refusal, monkeypatch):
    monkeypatch.setattr(deadlines, "FIRST_DELAY", 0.8)  # at least half of it
    with GPTClient(grpc_target, timeout=5) as client:
        client.generate("a", timeout=60)
        backend.faults.append(refusal("UNAVAILABLE", "busy"))
        client.generate("a")
    lefts = [request.seconds_left for request in backend.of("generate")]
    # gRPC rounds times up, by three hundredths at most.
    assert 40 < lefts[0] < 62
    assert 3 < lefts[1] < 5.2
    assert lefts[2] < lefts[1] - 0.2


def test_servers_may_say_how_long_to_wait(rest_target, backend, refusal):
    with GPTClient(rest_target) as client:
        client.generate("a")
        backend.faults.append(refusal("UNAVAILABLE", "full", {"Retry-After": "100"}))
        with pytest.raises(ServingError, match="full") as raised:
            client.generate("a", timeout=50)
    assert raised.value.retry_after == 100.0
    assert len(backend.of("generate")) == 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_nobody_there(scheme):
    with GPTClient(f"{scheme}127.0.0.1:{free_port()}", retries=1) as client:
        with pytest.raises(ServingError, match="UNAVAILABLE: ") as raised:
            client.generate("a")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_server_that_comes_later_is_found(kind, backend, servers, monkeypatch):
    # The first try is refused; the second finds the server, which starts in between.
    port = free_port()
    started = []

    def start_instead_of_sleeping(delay):
        if not started:
            started.append(servers(backend, kind=kind, port=port))

    monkeypatch.setattr(deadlines.time, "sleep", start_instead_of_sleeping)
    target = f"{'http://' if kind == 'rest' else ''}127.0.0.1:{port}"
    monkeypatch.setattr(deadlines, "FIRST_DELAY", 0.0)
    with GPTClient(target, retries=10_000) as client:
        assert client.score("a").token_ids.tolist() == [97]
    assert started


class RawServer:
    """Answers each connection with the next of some bytes, and closes it."""

    def __init__(self, answers, *, reads=True):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.count = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._answers, self._reads = answers, reads
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        for answer in self._answers:
            connection, _ = self._socket.accept()
            self.count += 1
            with connection:
                if self._reads:
                    connection.recv(1 << 16)
                connection.sendall(answer)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._socket.close()


def test_connections_that_break_are_tried_again():
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with RawServer([b"", cut, b"HTTP/1.1 404 No\r\n\r\n"]) as server:
        with pytest.raises(ServingError, match="NOT_FOUND: No"):
            GPTClient(server.url).generate("a")
        assert server.count == 3


@pytest.mark.parametrize(
    "body", [b"hello", b"[]", b"{}", b'{"metadata": {"signature_def": 3}}']
)
def test_answers_of_other_servers_are_one_line(body):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
    with RawServer([head.encode() + body]) as server:
        with pytest.raises(ServingError, match="INTERNAL: the answer is not what TF"):
            GPTClient(server.url).generate("a")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 ",
    ],
)
def test_an_answer_that_trickles_is_left(head):
    listener = socket.create_server(("127.0.0.1", 0))
    done, has_all_come = threading.Event(), threading.Event()

    def trickle():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(head)
            for _ in range(600):  # each byte in time, the answer never
                try:
                    connection.sendall(b" ")
                except OSError:
                    return
                if done.wait(0.05):
                    return
        has_all_come.set()

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(TimeoutError, match=r"within 0\.5 s"):
            GPTClient(url, timeout=0.5).generate("a")
        assert not has_all_come.is_set()
    finally:
        done.set()
        thread.join(10)
        listener.close()


@pytest.mark.parametrize("timeout", [1e9, 1e300, 10**400], ids=["e9", "e300", "e400"])
def test_timeouts_may_be_longer_than_clocks_can_count(client, timeout):
    assert client.score("a", timeout=timeout).token_ids.tolist() == [97]


def test_a_new_version_s_inputs_are_asked_for(warm_client, backend, refusal):
    backend.faults.append(refusal("INVALID_ARGUMENT", "other inputs now"))
    with pytest.raises(ServingError):
        warm_client.generate("a")
    warm_client.generate("a")
    kinds = [request.kind for request in backend.requests]
    assert kinds == ["generate", "metadata", "generate"]


@pytest.fixture
def new_version(backend, monkeypatch):
    """Lets version 8 take over, whose temperature is another by default."""

    def take_over():
        backend.version = 8
        definition = type(backend.definitions["generate"])()
        definition.CopyFrom(backend.definitions["generate"])
        definition.defaults["temperature"].float_val[:] = [0.25]
        monkeypatch.setitem(backend.definitions, "generate", definition)

    return take_over


def test_a_new_version_s_defaults_are_its_own(warm_client, backend, new_version):
    new_version()
    warm_client.generate("a")
    told = [(request.kind, request.version) for request in backend.requests]
    assert told == [("generate", 7), ("metadata", None), ("generate", 8)]
    assert backend.requests[2].inputs["temperature"].tolist() == [0.25]


def test_a_version_that_was_asked_for_is_not_replaced(target, backend, new_version):
    with GPTClient(target, version=7) as client:
        client.generate("a")
        new_version()
        with pytest.raises(ServingError, match="NOT_FOUND"):
            client.generate("a")
    assert len(backend.requests) == 3


def test_what_stays_away_is_asked_for_twice(warm_client, backend, refusal):
    backend.faults += [refusal("NOT_FOUND", "no"), lambda: None] * 3
    with pytest.raises(ServingError, match="NOT_FOUND: no"):
        warm_client.generate("a")
    kinds = [request.kind for request in backend.requests]
    assert kinds == ["generate", "metadata", "generate"]


def test_unknown_models_and_versions_are_named(target, backend):
    with GPTClient(target, model_name="nope") as client:
        with pytest.raises(ServingError, match=r"^model 'nope' at .*NOT_FOUND: .*nope"):
            client.generate("a")
    with GPTClient(target, version=9) as client:
        with pytest.raises(ServingError, match="NOT_FOUND: .*gpt 9"):
            client.generate("a")


def test_threads_may_share_a_client(client, expected_text):
    answers = {}

    def ask(seed):
        answers[seed] = client.generate("a", seed=seed, max_new_tokens=200)

    threads = [threading.Thread(target=ask, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {seed: expected_text("a", seed=seed) for seed in range(8)}
