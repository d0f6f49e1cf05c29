r"""A process that compares LaTeX expressions: ``python -m workbench.problems.math_worker``, a line of JSON in, one out.

Expressions are read by latex2sympy2-extended, whole or not at all. They are equal where they are the same number, exactly
for rational values and to 100 digits of their own size for others, at every one of a few values of their variables;
equations and inequalities where they are multiples of each other. math-verify's own comparison, which rounds at 15
digits (1/2006! is 1/2004! then), is asked only about what this one has no rule for, and told to round at 50.

In: ``{"op": "equal" | "value", "left": ..., "right": ...}``. Out: ``{"result": true | false | "3.1415..." | null}``; null stands
for what can't be read.
"""

import contextlib
import functools
import json
import random
import re
import sys
from typing import Any

MEMORY = 4 * 2**30
"""Bytes of address space: an expression that wants more ends its own process."""
SURE = 9
"""Digits of a decimal that may stand for the number that it is rounded from."""
_DIGITS, _CLOSE, _POINTS, _LARGE = 130, -100, 6, 20_000


@functools.lru_cache(maxsize=256)
def read(latex: str, real: bool) -> Any:
    """The sympy object of a LaTeX text.

    Raises:
        Exception: whatever the parser raises about a text that it can't read to its end.
    """
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
    from sympy import Basic, Float, Rational

    config = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
    )
    expression: Any = latex2sympy(
        normalize_latex(latex, config), is_real=real, convert_degrees=False, normalization_config=None
    )
    if isinstance(expression, Basic):  # 0.1 is one tenth, not the nearest binary number
        expression = expression.xreplace(
            {number: Rational(str(number)) for number in expression.atoms(Float)}
        )
    return expression


def equal(left: str, right: str) -> bool | None:
    """Whether two expressions, equations or inequalities are equal; None where one can't be read."""
    from math_verify.grader import should_treat_as_complex, sympy_expr_eq
    from sympy import Expr
    from sympy.core.relational import Relational

    real = not (should_treat_as_complex(left) or should_treat_as_complex(right))
    try:
        one, two = read(left, real), read(right, real)
    except Exception:
        return None
    if isinstance(one, Expr) and isinstance(two, Expr):
        return _equal(one, two) or _rounded(left, two) or _rounded(right, one)
    if isinstance(one, Relational) and isinstance(two, Relational):
        return _same_relation(one, two)
    if isinstance(one, Expr | Relational) or isinstance(two, Expr | Relational):
        return False
    return bool(sympy_expr_eq(one, two, 15, 50))


def _rounded(text: str, exact: Any) -> bool:
    """Whether a text is a decimal of 9 digits or more that an irrational number is rounded (or cut) to."""
    from sympy import Rational

    match = re.fullmatch(r"-?(\d*)\.(\d+)", text.strip())
    if (
        match is None
        or len((match[1] + match[2]).lstrip("0")) < SURE
        or exact.free_symbols
        or _is_large(exact)
    ):
        return False
    near = exact.evalf(_DIGITS)
    return bool(near.is_Float and abs(near - Rational(text.strip())) <= Rational(1, 10 ** len(match[2])))


def value(latex: str) -> str | None:
    """The real number that an expression without variables is, with 40 digits."""
    try:
        expression = read(latex, True)
        number = None if expression.free_symbols or _is_large(expression) else expression.evalf(40)
    except Exception:
        return None
    return (
        str(number)
        if number is not None and number.is_Float | number.is_Rational and number.is_finite
        else None
    )


def _points(*expressions: Any) -> list[dict[Any, Any]]:
    """Rational values for every variable; half of the points are positive throughout."""
    from sympy import Rational

    names = sorted({symbol for expression in expressions for symbol in expression.free_symbols}, key=str)
    if not names:
        return [{}]
    draw = random.Random(0)
    return [
        {
            name: Rational(draw.randint(1, 97), draw.randint(7, 43))
            * (1 if point < _POINTS // 2 else draw.choice((1, -1)))
            for name in names
        }
        for point in range(_POINTS)
    ]


def _is_large(expression: Any) -> bool:
    """Whether a power or factorial has too many digits to be written out."""
    from sympy import Pow, factorial

    for part in expression.atoms(Pow, factorial):
        size = part.args[-1]
        if size.is_number and (not (near := size.evalf(5)).is_Float | near.is_Integer or abs(near) > _LARGE):
            return True
    return False


def _at(expression: Any, point: dict[Any, Any], *, large: bool) -> Any:
    """The value at a point, rational where it is exact; None where it is no number."""
    if large:
        number = expression.evalf(_DIGITS) if not point else None
    else:
        number = expression.subs(point).doit()
        number = number if number.is_Rational else number.evalf(_DIGITS, maxn=2000)
    return number if number is not None and number.is_number and number.is_finite else None


def _equal(one: Any, two: Any) -> bool:
    from sympy import Float, simplify

    if one == two:
        return True
    large = _is_large(one) or _is_large(two)
    compared = 0
    for point in _points(one, two):
        a, b = _at(one, point, large=large), _at(two, point, large=large)
        if a is None or b is None:
            if (a is None) is not (b is None):
                return False
            continue
        if a.is_Rational and b.is_Rational:
            if a != b:
                return False
        else:
            size = max(abs(a), abs(b))
            if abs(a - b) > size * Float(10, _DIGITS) ** _CLOSE:
                negative = any(v < 0 for v in point.values())
                if not (negative and (a.is_real is not True or b.is_real is not True)):
                    return False
                continue  # roots and logarithms of negative numbers: their branches are nobody's answer
            if size < Float(10, _DIGITS) ** _CLOSE and simplify(one - two) != 0:
                return False
        compared += 1
    if compared:
        return True
    return not large and bool(simplify(one - two) == 0)


def _same_relation(one: Any, two: Any) -> bool:
    """Whether two equations or inequalities are multiples of each other."""
    from sympy import Eq, Ge, Gt, Le, Lt, Ne

    turned = {Ge: Le, Gt: Lt, Le: Ge, Lt: Gt, Eq: Eq, Ne: Ne}
    kinds = type(one), type(two)
    if kinds[1] not in (kinds[0], turned[kinds[0]]):
        return False
    a, b = one.lhs - one.rhs, two.lhs - two.rhs
    ratios = []
    for point in _points(a, b):
        above, below = (_at(side, point, large=False) for side in (a, b))
        if above is None or below is None or below == 0 or above == 0:
            if (above == 0) is not (below == 0):
                return False
            continue
        ratios.append(above / below)
    if len(ratios) < 2 and (a.free_symbols or not ratios):
        return False
    sign = 1 if kinds[0] is kinds[1] or kinds[0] in (Eq, Ne) else -1
    same = all(abs(ratio - ratios[0]) <= abs(ratios[0]) * 10.0**-30 for ratio in ratios)
    return same and (kinds[0] in (Eq, Ne) or ratios[0] * sign > 0)


def serve() -> None:
    """Answer questions from standard input until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not stand among the answers
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    import math_verify.grader  # noqa: F401  (both, so that the first question does not wait for them)

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            result = (
                value(question["left"])
                if question["op"] == "value"
                else equal(question["left"], question["right"])
            )
        except Exception:  # sympy raises anything from TypeError to RecursionError on what it can't do
            result = None
        print(json.dumps({"result": result}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
