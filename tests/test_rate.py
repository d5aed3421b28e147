"""The buckets of tokens: who is refused, who is not, and what is believed of a request's origin."""

import threading

import pytest

from steering.ui import rate as rate_module
from steering.ui.limits import Limits
from steering.ui.rate import Rate, address_of

LIMITS = Limits(session_requests=30, session_burst=5, address_requests=120, address_burst=20)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> Rate:
    return Rate(LIMITS, clock)


def test_twenty_a_second_from_one_session_are_refused_and_others_are_not(rate: Rate, clock: Clock) -> None:
    answers, others = [], []
    for step in range(210):  # more than ten seconds
        clock.now += 0.05
        answers.append(rate.allow("fast", "1.1.1.1"))
        if step % 50 == 0:
            others.append(rate.allow("calm", "1.1.1.1"))
    assert answers[:5] == [""] * 5
    assert answers.count("") == 5 + 5  # the burst, and one every two seconds
    assert all(answer == "" or answer.startswith("You ask faster than the model can be shared.") for answer in answers)
    assert others == [""] * 5


def test_the_sentence_names_the_time_after_which_it_goes_on(rate: Rate, clock: Clock) -> None:
    while not (sentence := rate.allow("one", "1.1.1.1")):
        pass
    assert sentence.endswith("Ask again in 2 seconds.")
    clock.now += 1.0
    assert rate.allow("one", "1.1.1.1").endswith("Ask again in a second.")
    clock.now += 1.0
    assert rate.allow("one", "1.1.1.1") == ""


def test_an_address_with_many_sessions_is_refused_and_another_is_not(rate: Rate) -> None:
    answers = [rate.allow(f"session {number}", "1.1.1.1") for number in range(30)]
    assert answers.count("") == 20
    assert answers[-1].startswith("Too much is asked from your network's address")
    assert rate.allow("elsewhere", "2.2.2.2") == ""
    assert rate.allow("", "1.1.1.1") != ""


def test_a_refused_request_costs_the_address_nothing(rate: Rate) -> None:
    for _ in range(50):
        rate.allow("fast", "1.1.1.1")
    assert [rate.allow(f"session {number}", "1.1.1.1") for number in range(15)] == [""] * 15


def test_events_have_a_bucket_of_their_own(rate: Rate, clock: Clock) -> None:
    answers = [rate.allow_event("one") for _ in range(300)]
    assert answers.count("") == LIMITS.session_events // 6
    assert answers[-1].startswith("This page sends more")
    assert rate.allow_event("other") == ""
    assert rate.allow("one", "1.1.1.1") == ""
    clock.now += 60
    assert rate.allow_event("one") == ""


def test_memory_is_bounded(rate: Rate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_module, "BUCKETS_KEPT", 100)
    for number in range(1000):
        rate.allow(f"session {number}", f"address {number}")
    assert rate.kept == (100, 100)


def test_threads_share_one_bucket(rate: Rate) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(rate.allow("one", "1.1.1.1") for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count("") == 5


@pytest.mark.parametrize(
    ("forwarded", "behind_proxy", "expected"),
    [
        ("8.8.8.8", False, "9.9.9.9"),
        ("8.8.8.8", True, "8.8.8.8"),
        ("1.2.3.4, 8.8.8.8", True, "8.8.8.8"),  # what stands on the left may be the visitor's own invention
        ("1.2.3.4, 8.8.8.8, 10.0.0.7, 172.16.0.1", True, "8.8.8.8"),  # proxies behind the first one
        ("192.168.1.20", True, "192.168.1.20"),
        ("nonsense, <b>", True, "9.9.9.9"),
        ("", True, "9.9.9.9"),
        ("2001:4860:4860::8888", True, "2001:4860:4860::8888"),
    ],
)
def test_the_address_that_is_believed(forwarded: str, behind_proxy: bool, expected: str) -> None:
    assert address_of("9.9.9.9", {"x-forwarded-for": forwarded}, behind_proxy=behind_proxy) == expected
    assert address_of(None, {}, behind_proxy=behind_proxy) == "unknown"
