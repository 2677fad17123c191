"""What a process has not yet, against a model: a dictionary from page to the page of the image."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.criu.missing import Missing

PAGES = 60
Model = dict[int, int]

place = st.integers(0, PAGES)
length = st.integers(1, 20)
operation = st.one_of(
    st.tuples(st.just("drop"), place, length, st.just(0)),
    st.tuples(st.just("move"), place, length, place),
    st.tuples(st.just("copy"), st.just(0), st.just(0), st.just(0)),
)


def _stretches(pages: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for page in sorted(pages):
        if found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + 1)
        else:
            found.append((page, page + 1))
    return found


@settings(max_examples=300, deadline=None)
@given(pages=st.sets(place), operations=st.lists(operation, max_size=12))
def test_pages_are_where_the_process_has_them_now(
    pages: set[int], operations: list[tuple[str, int, int, int]]
) -> None:
    missing = Missing(_stretches(pages))
    model: Model = {page: page for page in pages}
    forked: list[tuple[Missing, Model]] = []
    for what, start, count, to in operations:
        span = range(start, start + count)
        if what == "drop":
            missing.drop(start, start + count)
            model = {page: image for page, image in model.items() if page not in span}
        elif what == "move" and not set(span) & set(range(to, to + count)):
            missing.move(start, start + count, to)
            moved = {page - start + to: model[page] for page in span if page in model}
            gone = {*span, *range(to, to + count)}
            model = {page: image for page, image in model.items() if page not in gone} | moved
        elif what == "copy":
            forked.append((missing.copy(), dict(model)))
    for one, expected in [(missing, model), *forked]:
        assert bool(one) == bool(expected)
        everywhere = range(2 * PAGES + 20)
        assert {
            page: image for page in everywhere if (image := one.image_page(page)) is not None
        } == expected
        for first, count in [(0, 2 * PAGES), (7, 13), (30, 1)]:
            pieces = one.pieces(first, count)
            assert {
                page + n: image + n for page, image, length in pieces for n in range(length)
            } == {page: image for page, image in expected.items() if first <= image < first + count}
