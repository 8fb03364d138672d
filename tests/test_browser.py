"""The browser that opens pages notices what a page must not do."""

import pytest


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("console.error('ouch')", "ouch"),
        ("missing()", "missing is not defined"),
        ("new Image().src = 'http://example.org/dot.png'", "http://example.org/dot.png"),
    ],
)
def test_a_page_that_misbehaves_is_noticed(visit, tmp_path, script, complaint):
    path = tmp_path / "page.html"
    path.write_text(f"<link rel=icon href='data:,'><script>{script}</script>")
    visit(path).wait_for_timeout(300)
    assert complaint in visit.complaints[0]
    visit.complaints.clear()
