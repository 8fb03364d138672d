"""Checks settings, and explains what is wrong with them."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cace.settings.methods import BeceParams, GuidanceParams
from cace.settings.schema import LocalizerParams, WeakParams, method_params
from cace.settings.values import Section
from cace.system.errors import UserError, shown

S = TypeVar("S", bound=Section)
MOST_NAMED = 5  # wrong values of a file, which may have any number


def check_section(section: type[S], values: object, where: str) -> S:
    """Settings from elsewhere, such as a checkpoint, checked as those of the files are.

    Raises: UserError that names `where` and each wrong key.
    """
    return checked(section, values, lambda _: f"{where}: ")


def check_some(section: type[Section], values: object, where: str) -> None:
    """Checks some of a section's settings; others may be missing, and no value is converted.

    Raises: UserError as `check_section`.
    """
    try:
        section.model_validate(values, strict=True)
    except ValidationError as error:
        wrong = [problem for problem in error.errors() if problem["type"] != "missing"]
        if wrong:
            lines = [f"{where}: {_explain(problem)}" for problem in wrong[:MOST_NAMED]]
            more = [f"and {len(wrong) - MOST_NAMED} more"] if len(wrong) > MOST_NAMED else []
            raise UserError("\n  ".join([*lines, *more])) from None


def check_method(name: str, settings: dict[str, Any], where: str) -> None:
    """Checks arguments of a method's constructor, by the names that `Params.method` gives them.

    Raises: UserError as `check_section`.
    """
    sections: dict[type[Section], dict[str, Any]] = {}
    own = method_params(name)
    for key, value in settings.items():
        section: type[Section] = own
        field = key
        if key == "weak_form":
            section, field = WeakParams, "form"
        elif name == "cace_net" and key not in own.model_fields:
            if key.startswith("bece_"):
                section, field = BeceParams, key.removeprefix("bece_")
            elif key in LocalizerParams.model_fields:
                section = LocalizerParams
            else:
                section, field = GuidanceParams, "mode" if key == "guidance" else key
        sections.setdefault(section, {})[field] = value
    for section, values in sections.items():
        check_some(section, values, where)


def checked(section: type[S], values: object, place: Callable[[ErrorDetails], str]) -> S:
    """The section made of `values`.

    place: of a problem, the beginning of its message, such as "params.yaml, ".
    Raises: UserError with one line for each wrong key.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [f"{place(problem)}{_explain(problem)}" for problem in error.errors()]
        raise UserError("\n  ".join(lines)) from None


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(printed_key(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    got = "" if problem["type"] == "missing" else f", got {shown(problem['input'])}"
    if problem["type"] == "extra_forbidden":
        text = "no such key"
    return f"{name}: {text[0].lower()}{text[1:]}{got}"


def printed_key(name: object) -> str:
    """A key in a message, unquoted; keys of users may contain anything."""
    return shown(name).strip("'")
