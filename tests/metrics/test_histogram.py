from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from appliance.metrics.histogram import MAX_LATENCY_US, PERCENTILES, Histogram, merged

latencies = st.one_of(
    st.integers(0, 2000), st.integers(0, MAX_LATENCY_US), st.sampled_from([255, 256, 511, 512])
)


@given(st.lists(latencies, min_size=1))
def test_agrees_with_hdrh(values: list[int]) -> None:
    ours, theirs = Histogram(), HdrHistogram(1, MAX_LATENCY_US, 2)
    for value in values:
        ours.record(value)
        assert theirs.record_value(value)
    summary = ours.read()
    assert summary.count == theirs.get_total_count() == len(values)
    assert summary.total == sum(values)
    assert summary.max == max(values)
    expected = [
        min(theirs.get_value_at_percentile(percentile), max(values)) for percentile in PERCENTILES
    ]
    assert list(summary.percentiles) == expected


@given(st.lists(latencies, min_size=1))
def test_percentiles_are_within_one_percent(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    median = sorted(values)[max(1, int(50 * len(values) / 100 + 0.5)) - 1]
    assert median <= histogram.read().percentiles[0] <= median * 1.01


@given(st.lists(st.lists(latencies), min_size=1, max_size=4))
def test_merging_is_recording_into_one(groups: list[list[int]]) -> None:
    parts = []
    whole = Histogram()
    for values in groups:
        part = Histogram()
        parts.append(part)
        for value in values:
            part.record(value)
            whole.record(value)
    assert merged(parts) == whole.read()


def test_outside_the_range_is_clamped_and_counted() -> None:
    histogram = Histogram()
    for value in (-1, 0, MAX_LATENCY_US, MAX_LATENCY_US + 1, 1 << 80):
        histogram.record(value)
    assert histogram.clamped == 3
    summary = histogram.read()
    assert (summary.count, summary.max) == (5, MAX_LATENCY_US)
    assert summary.total == 3 * MAX_LATENCY_US
    assert summary.percentiles[0] == summary.percentiles[-1] == MAX_LATENCY_US


def test_nothing_recorded_reads_as_zeros() -> None:
    assert Histogram().read().document() == {
        "count": 0,
        "p50": 0,
        "p90": 0,
        "p99": 0,
        "p99_9": 0,
        "max": 0,
    }


def test_the_document_names_the_percentiles() -> None:
    histogram = Histogram()
    for value in range(1, 101):
        histogram.record(value)
    assert histogram.read().document() == {
        "count": 100,
        "p50": 50,
        "p90": 90,
        "p99": 99,
        "p99_9": 100,
        "max": 100,
    }


def test_reading_does_not_stop_recording() -> None:
    histogram = Histogram()
    histogram.record(7)
    first = histogram.read()
    histogram.record(9)
    assert (first.count, histogram.read().count) == (1, 2)
