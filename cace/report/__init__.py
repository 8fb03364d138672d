"""Pages: each is one HTML file that needs no other file and no network."""

from typing import Any

import jinja2


def render(template: str, package: str = "cace.report", **values: Any) -> str:
    """A page from a template. Text is escaped, also in `<script>` by `tojson`.

    template: file name in `templates/` of the package; all of them extend `page.html` of this one.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "cace.report"))]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(**values)
