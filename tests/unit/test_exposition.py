"""The two formats, read back by Prometheus's own parsers, and which one is wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from quotas import exposition
from quotas.exposition import Family, Format, Kind

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/html, */*;q=0.1", Format.TEXT),
        ("application/openmetrics-text; version=1.0.0", Format.OPENMETRICS),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("Application/OpenMetrics-Text ; Version=1.0.0", Format.OPENMETRICS),
        (PROMETHEUS, Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", Format.TEXT),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;q=0.1, text/plain", Format.TEXT),
        ("application/openmetrics-text;q=junk", Format.TEXT),
        (";;,=,;q", Format.TEXT),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept: str, form: Format) -> None:
    assert Format.asked_for(accept) is form


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=130))
def test_a_label_is_read_back_as_it_was(value: str) -> None:
    family = Family("things_total", Kind.COUNTER, "Things.", ("a", "b"))
    line = f"{family.labelled((value, 'x'))} 3.0\n"
    (text,) = parse_text(family.head(Format.TEXT) + line)
    assert text.samples[0].labels == {"a": value, "b": "x"}
    (om,) = parse_openmetrics(  # type: ignore[no-untyped-call] # As it ships.
        family.head(Format.OPENMETRICS) + line + exposition.END[Format.OPENMETRICS]
    )
    assert om.samples[0].labels == {"a": value, "b": "x"}
    assert (om.name, om.type, om.samples[0].value) == ("things", "counter", 3)


def test_a_histogram_is_cumulative() -> None:
    family = Family("waits_seconds", Kind.HISTOGRAM, "Waits.", ("kind",))
    lines = "".join(exposition.histogram(family, ("x",), (0.1, 0.5), [1.0, 2.0, 4.0, 9.5]))
    text = family.head(Format.OPENMETRICS) + lines + exposition.END[Format.OPENMETRICS]
    (found,) = parse_openmetrics(text)  # type: ignore[no-untyped-call] # As it ships.
    assert [(sample.name, sample.labels.get("le"), sample.value) for sample in found.samples] == [
        ("waits_seconds_bucket", "0.1", 1),
        ("waits_seconds_bucket", "0.5", 3),
        ("waits_seconds_bucket", "+Inf", 7),
        ("waits_seconds_count", None, 7),
        ("waits_seconds_sum", None, 9.5),
    ]
