"""The option that says where a file's fields are."""

from typing import Annotated, Any

import typer

from workbench.errors import InputError

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns", help="Where a file's fields are: FIELD=COLUMN or FIELD=COLUMN,COLUMN; may be repeated."
    ),
]


def column_mapping(columns: list[str] | None) -> dict[str, Any] | None:
    """``FIELD=COLUMN`` options as `load_problems` takes them.

    Raises:
        InputError: an option of another form.
    """
    mapping: dict[str, Any] = {}
    for option in columns or ():
        field, equals, names = option.partition("=")
        if not equals or not field:
            raise InputError(
                f"`columns` is {option!r}; expected FIELD=COLUMN: --columns question=query --columns image=img1,img2"
            )
        mapping[field] = names.split(",") if "," in names else names
    return mapping or None
