"""Commands that speak of flags: what the library says of an argument is said of the option, and a call becomes a command.

1. A name in backticks becomes the flag of that name, where the command has one.
2. A call of Python becomes the command that does the same, as far as its arguments are options:
   ``load_problems('shapes', limit=64)`` is ``workbench study --problems shapes --limit 64``.
3. ``tau=0.4`` becomes ``--tau 0.4``.
4. What names a flag and shows no command ends with one that works.

Options that several commands share are dataclasses (`options`): a parameter of such a type stands for all its fields.
"""

import ast
import inspect
import itertools
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from workbench.errors import InputError, nearest

UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")
"""What the parser raises; typer brings its own copy of click, or has click's."""
EXAMPLES = {
    "base": "--base runs/base --rlvr runs/rlvr",
    "rlvr": "--base runs/base --rlvr runs/rlvr",
    "pair": "--pair shapes",
    "problems": "--problems shapes",
    "split": "--split test",
    "device": "--device cpu",
    "dtype": "--dtype bfloat16",
    "attn_implementation": "--attn-implementation sdpa",
    "processor": "--base runs/base --rlvr runs/rlvr --processor runs/base",
    "chat_template": "--base runs/base --rlvr runs/rlvr --chat-template rlvr",
    "out": "--out my-run",
    "engine": "",
    "tau": "--tau 0.4",
    "null_draws": "--null-draws 3",
    "answers": "--answers 24",
    "alpha": "--alpha 10",
    "layers": "--layers 5",
    "threshold": "--threshold quantile",
    "batch_size": "--batch-size 8",
    "max_new_tokens": "--max-new-tokens 256",
    "relative_to": "--relative-to 1000",
    "tokens": "--pair shapes --tokens 800",
    "image": "--pair shapes --image 1000x800",
    "placement": "--pair shapes --placement sequential",
    "workers": "--workers 2",
    "share": "--share runs/other",
    "run": "--run runs/study",
    "pairs": "--pairs shapes,smol",
    "names": "runs/shapes runs/smol --names a,b",
    "tables": "runs/shapes runs/smol --tables my-tables",
    "recipe": "--recipe recipe.yaml",
    "folder": "--folder organism-run",
    "throughput": "--throughput 300",
}
"""A value that works, of options whose default says none."""
_ALIASES = {
    "source": ("problems",),
    "problems": ("source",),
    "name": ("pair",),
    "pair": ("name",),
    "out": ("folder",),
}
"""Arguments of the library that commands call otherwise."""
_POSITIONS = {"load_problems": "problems", "load_pair": "pair", "forecast_pair": "pair"}
"""What the first argument of a function is."""
_MANY = {"compare": "runs"}
"""What all arguments of a function are, of one that takes any number."""
_EXPECTED = (
    (r".*range x>=(\S+)", "at least {}"),
    (r".*range (\S+)<=x<=(\S+)", "{} to {}"),
    (r"Input should be greater than or equal to (\S+)", "at least {}"),
    (r"Input should be less than or equal to (\S+)", "at most {}"),
    (r"Input should be a valid (\w+).*", "a valid {}"),
    (r".*is not a valid (\w+).*", "a valid {}"),
    (r".*is not one of (.+)", "one of {}"),
)
"""What the parser says, and what it means: of click and of typer's own copy."""
_SHOWN = re.compile(
    r"\bworkbench (study|compare|ablate|figures|agent|conform|doctor|organism|pairs|problems|rejudge|sweep)\b|`(hf|pip) "
)
"""A command in a message."""
_CALL = re.compile(r"\b[A-Za-z_][\w.]*\(")
_VALUE = r"\"[^\"]*\"|'[^']*'|-?[\w./][\w./:-]*"


@dataclass(frozen=True)
class Spoken:
    """How one command is typed: its words, and the flags of its options by the name that Python has for them."""

    words: str
    flags: Mapping[str, str]
    switches: frozenset[str]
    """Options that take no value."""
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, command: Any, path: list[str]) -> "Spoken":
        """Of a command that is called by ``path``."""
        options = {p.name: max(p.opts, key=len) for p in command.params if p.param_type_name == "option"}
        named = [p for p in command.params if p.param_type_name == "argument"]
        arguments = {p.name: str(p.name).upper() for p in named}
        words = " ".join(["workbench", *path, *(arguments[p.name] for p in named if p.required)])
        switches = frozenset(p.name for p in command.params if getattr(p, "is_flag", False))
        return cls(words, options | arguments, switches, {p.name: p.default for p in command.params})

    def command(self, name: str = "") -> str:
        """The command, with a value that works for one of its options."""
        default = self.defaults.get(name)
        example = (
            f"{self.flags[name]} {default}"
            if isinstance(default, str | int | float) and name in self.flags
            else ""
        )
        if name in self.switches or (name in self.flags and not self.flags[name].startswith("-")):
            example = ""
        named = EXAMPLES.get(name, example)
        own = not named or any(part in self.flags.values() for part in named.split())
        return f"{self.words} {named if own else example}".strip()

    def flag(self, name: str) -> str | None:
        """The flag of an argument."""
        return next((self.flags[n] for n in (name, *_ALIASES.get(name, ())) if n in self.flags), None)


STUDY = Spoken(
    "workbench study", {n: f"--{n}" for n in ("pair", "base", "rlvr", "problems")}, frozenset(), {}
)
"""What a call is where the command itself has no such options."""


class Command(TyperCommand):
    """A command that refuses bad input in its own words, and always with InputError."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Parse; numbers must be finite."""
        spoken = Spoken.of(self, [*_path(parent), str(info_name)])
        typed = [*args]
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                raise
            raise InputError(_misused(error, spoken, typed)) from error
        for name, value in context.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(
                    f"`{spoken.flags[name]}` is {value}; expected a finite number: {spoken.command(name)}"
                )
        return context

    def invoke(self, ctx: Any) -> Any:
        """Run; what the library refuses is said in flags."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise InputError(in_flags(str(error), Spoken.of(self, _path(ctx)))) from error


class Group(TyperGroup):
    """A group of commands that refuses an unknown one in the same way."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            names = self.list_commands(ctx)
            words = " ".join(["workbench", *_path(ctx)])
            raise InputError(
                f"No such command: {words} {args[0]}{nearest(args[0], names)}; there are {', '.join(names)}: {words} --help"
            ) from error


class Commands(typer.Typer):
    """Commands whose parameters may be dataclasses of options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, no_args_is_help=True, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """A decorator: the function becomes a command."""
        register = super().command(name, cls=Command, **settings)

        def decorate(function: Any) -> Any:
            register(spread(function))
            return function

        return decorate


def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with every parameter that is a dataclass replaced by its fields, their defaults those of its default."""
    flat: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, tuple[str, ...]]] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        default = kind() if parameter.default is parameter.empty else parameter.default
        hints = get_type_hints(kind, include_extras=True)
        names = tuple(f.name for f in fields(kind))
        groups[parameter.name] = kind, names
        flat += [
            inspect.Parameter(
                n, inspect.Parameter.KEYWORD_ONLY, default=getattr(default, n), annotation=hints[n]
            )
            for n in names
        ]

    def run(**given: Any) -> Any:
        values = {name: kind(**{n: given.pop(n) for n in names}) for name, (kind, names) in groups.items()}
        return function(**values, **given)

    run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return run


def in_flags(text: str, spoken: Spoken) -> str:
    """A message of the library as one of the command line; what stands in a file of presets keeps the file's names."""
    if text.startswith("preset "):
        return text
    parts, end = list[str](), 0
    for start, stop, call in _calls(text):
        parts += [_names(text[end:start], spoken), _typed(call, spoken) or text[start:stop]]
        end = stop
    text = "".join([*parts, _names(text[end:], spoken)])
    if hint := re.search(r": (--[a-z][\w-]*(?: [^\s-]\S*)?)$", text):
        return f"{text[: hint.start()]}: {spoken.words} {hint[1]}"
    named = re.search(r"`(--[a-z][\w-]*|[A-Z]+)`", text)
    if named is None or _SHOWN.search(text):
        return text
    return f"{text}: {spoken.command(next(n for n, flag in spoken.flags.items() if flag == named[1]))}"


def _names(text: str, spoken: Spoken) -> str:
    """Text between calls: names in backticks, and ``name=value``."""

    def quoted(match: re.Match[str]) -> str:
        flag = spoken.flag(match[1])
        return f"`{flag}`" if flag else match[0]

    def given(match: re.Match[str]) -> str:
        flag = spoken.flag(match[1])
        if flag is None or match[2] == "None":
            return match[0]
        value = match[2].strip("\"'")
        return flag if match[1] in spoken.switches else f"{flag} {shlex.quote(value)}"

    def mapped(match: re.Match[str]) -> str:
        mapping = ast.literal_eval(match[1])
        named = {
            field: ",".join([column] if isinstance(column, str) else column)
            for field, column in mapping.items()
        }
        return " ".join(f"--columns {shlex.quote(f'{field}={column}')}" for field, column in named.items())

    if spoken.flag("columns"):
        text = re.sub(r"\bcolumns=(\{(?:'[^']*'|[\[\]:, ])*\})", mapped, text)
    return re.sub(rf"(?<![\w.-])(\w+)=({_VALUE})", given, re.sub(r"`(\w+)`", quoted, text))


def _calls(text: str) -> Iterator[tuple[int, int, ast.Call]]:
    """Calls in a text that do not lie in one another: where each begins and ends, and what it is."""
    end_of_last = 0
    for match in _CALL.finditer(text):
        if match.start() < end_of_last:
            continue
        for close in (i for i in range(match.end(), len(text)) if text[i] == ")"):
            try:
                node = ast.parse(text[match.start() : close + 1], mode="eval").body
            except (SyntaxError, ValueError):
                continue
            if isinstance(node, ast.Call):
                end_of_last = close + 1
                yield match.start(), end_of_last, node
            break


def _typed(call: ast.Call, spoken: Spoken) -> str | None:
    """The command that a call stands for, with its arguments as options; None where none of them is one."""
    named = [(keyword.arg or "", keyword.value) for keyword in call.keywords]
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    for argument in call.args:
        if isinstance(argument, ast.Call):
            named += [(keyword.arg or "", keyword.value) for keyword in argument.keywords]
    if call.args:
        named.insert(0, (_POSITIONS.get(function, ""), call.args[0]))
    words, typed = spoken.words, dict[str, str]()
    if function in _MANY and _MANY[function] in spoken.flags:
        values = [str(ast.literal_eval(argument)) for argument in call.args]
        words = " ".join([words.partition(f" {spoken.flags[_MANY[function]]}")[0], *map(shlex.quote, values)])
        typed[""] = ""
    for name, value in named:
        flag = spoken.flag(name)
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            continue
        literal = ",".join(map(str, literal)) if isinstance(literal, list) else literal
        if flag is None or not isinstance(literal, str | int | float) or literal is False:
            continue
        if flag.startswith("-"):
            typed[flag] = flag if literal is True else f"{flag} {shlex.quote(str(literal))}"
        else:
            words, typed[flag] = words.replace(flag, shlex.quote(str(literal))), ""
    if not typed and spoken is not STUDY and function in ("load_pair", "load_problems"):
        return _typed(call, STUDY)
    return " ".join([words, *filter(None, typed.values())]) if typed else None


def _misused(error: Any, spoken: Spoken, args: list[str]) -> str:
    """What the parser refused, in the words that the library has for such things."""
    wrong = getattr(error, "param", None)
    if wrong is None:
        option = getattr(error, "option_name", None)
        names = {flag: name for name, flag in spoken.flags.items() if flag.startswith("--")}
        if option and option not in names:
            return f"No such option: `{option}`{nearest(option, names)}: {spoken.words} --help"
        return f"{error.format_message().rstrip('.')}: {spoken.command(names.get(str(option), ''))}"
    flag, message = spoken.flags[wrong.name], (getattr(error, "message", "") or "").rstrip(".")
    if type(error).__name__ == "MissingParameter":
        return f"`{flag}` is missing: {spoken.command(wrong.name)}"
    expected = next(
        (worded for pattern, words in _EXPECTED if (worded := _worded(pattern, words, message))), message
    )
    return f"`{flag}` is {_given(flag, args)!r}; expected {expected}: {spoken.command(wrong.name)}"


def _worded(pattern: str, words: str, said: str) -> str | None:
    match = re.fullmatch(pattern, said, re.DOTALL)
    return words.format(*match.groups()) if match else None


def _given(flag: str, args: list[str]) -> str:
    """What was typed after a flag, the last time that it was."""
    typed = [value.partition("=")[2] for value in args if value.startswith(f"{flag}=")]
    typed += [after for before, after in itertools.pairwise(args) if before == flag]
    return typed[-1] if typed else " ".join(args)


def _path(context: Any) -> list[str]:
    """The words after ``workbench`` that lead to a context."""
    words = []
    while context is not None and context.parent is not None:
        words.insert(0, str(context.info_name))
        context = context.parent
    return words
