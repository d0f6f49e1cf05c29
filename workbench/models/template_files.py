"""A chat template that was asked for: the base's, the RLVR model's, or a file. No torch."""

from pathlib import Path

from jinja2 import Environment, TemplateError

from workbench.errors import InputError, nearest

SIDES = ("base", "rlvr")
_CALL = 'load_pair(..., chat_template="rlvr")'


def template_in(wanted: str | Path) -> str | None:
    """The text of the file that ``wanted`` names; None where it names a side of the pair.

    Raises:
        InputError: neither, or a file that is no text or no Jinja template.
    """
    if wanted in SIDES:
        return None
    file = Path(wanted).expanduser() if isinstance(wanted, str | Path) else None
    if file is None or not file.is_file():
        raise InputError(
            f"`chat_template` is {str(wanted)!r}{nearest(str(wanted), SIDES)}; expected 'base', 'rlvr', or a file with a Jinja "
            f"template (chat_template.jinja): {_CALL}"
        )
    try:
        text = file.read_text(encoding="utf-8")
        # Tags of transformers alone (`generation`) are no tags of Jinja: they are left to it.
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
            text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`chat_template` {str(file)!r} can't be read as text ({error}); {_CALL}") from error
    except TemplateError as error:
        raise InputError(
            f"`chat_template` {str(file)!r} is no Jinja template that writes a question ({error}); {_CALL}"
        ) from error
    return text
