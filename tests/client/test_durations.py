import pytest

from task_server.client.durations import duration, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00012, "0.12 ms"),
        (0.0031, "3.1 ms"),
        (0.042, "42 ms"),
        (0.84, "0.8 s"),
        (42.4, "42 s"),
        (125, "2 min 5 s"),
        (600, "10 min"),
        (11_400, "3 h 10 min"),
        (-1, "0 ms"),
    ],
)
def test_durations_are_rounded_to_what_people_read(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_span_names_its_unit_once() -> None:
    assert span(0.001, 0.003) == "1-3 ms"
    assert span(0.05, 1.2) == "50 ms - 1.2 s"
    assert span(2, 2) == "2.0 s"
