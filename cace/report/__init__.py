"""Pages: one HTML file each, which needs nothing beside it and no network."""

from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder. Text is escaped, also in `<script>` by `tojson`.

    template: file name in `templates/`; all of them extend `page.html`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cace.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(**values)
