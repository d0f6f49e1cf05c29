"""Units of measure and money: what a word after a number means, and how two of them compare.

A table of our own, because a library of units takes more words for units than people write ("ab" is an attobarn, "5pm" five
picometres), and an answer must rather be refused than misread.
"""

import re
from fractions import Fraction

# dimension: unit with its factor, and its names
_TABLE: dict[str, dict[str, str | int]] = {
    "length": {
        "m meter metre 米": 1,
        "cm centimeter centimetre 厘米 公分": "1/100",
        "mm millimeter millimetre 毫米": "1/1000",
        "dm decimeter decimetre 分米": "1/10",
        "km kilometer kilometre 千米 公里": 1000,
        "μm um micrometer micron": "1/1000000",
        "nm nanometer nanometre": "1/1000000000",
        "in inch inche": "127/5000",
        "ft foot feet": "381/1250",
        "yd yard": "1143/1250",
        "mi mile": "201168/125",
    },
    "mass": {
        "kg kilogram kilo 千克 公斤": 1,
        "g gram gm 克": "1/1000",
        "mg milligram": "1/1000000",
        "lb lbs pound": "45359237/100000000",
        "oz ounce": "45359237/1600000000",
        "tonne ton 吨": 1000,
    },
    "time": {
        "s sec second 秒": 1,
        "ms millisecond": "1/1000",
        "min minute 分钟": 60,
        "h hr hour 小时": 3600,
        "day 天": 86400,
        "week 周": 604800,
    },
    "month": {"month 个月": 1},
    "year": {"year yr 年": 1},
    "angle": {"° deg degree 度": 1, "rad radian": "57295779513/1000000000"},
    "celsius": {"°c degc celsius 摄氏度 ℃": 1},
    "fahrenheit": {"°f degf fahrenheit": 1},
    "kelvin": {"K kelvin": 1},
    "force": {"N newton": 1, "kN": 1000},
    "energy": {
        "J joule": 1,
        "kJ kilojoule": 1000,
        "cal calorie": "4184/1000",
        "kcal kilocalorie": 4184,
        "kWh": 3600000,
    },
    "power": {"W watt": 1, "kW kilowatt": 1000, "MW megawatt": 1000000},
    "voltage": {"V volt": 1, "mV millivolt": "1/1000", "kV kilovolt": 1000},
    "current": {"amp ampere": 1, "mA milliamp": "1/1000"},
    "resistance": {"Ω ohm": 1},
    "frequency": {"Hz hertz": 1, "kHz": 1000, "MHz": 1000000, "GHz": 1000000000},
    "pressure": {"Pa pascal": 1, "kPa": 1000, "atm atmosphere": 101325},
    "amount": {"mol mole": 1},
    "dollar": {"$ usd dollar us$ buck": 1, "¢ cent": "1/100"},
    "euro": {"€ eur euro": 1},
    "sterling": {"£ gbp": 1},
    "yen": {"jpy yen": 1},
    "yuan": {"cny rmb yuan 元": 1},
    "rupee": {"₹ rs inr rupee": 1},
}
_COMPOUND = {
    "mph": "mile/hour",
    "kmh": "km/h",
    "kph": "km/h",
    "kmph": "km/h",
    "fps": "ft/s",
    "cc": "cm^3",
    "sqm": "m^2",
}
_LITRES = {
    "l": 1,
    "liter": 1,
    "litre": 1,
    "升": 1,
    "ml": 1000,
    "milliliter": 1000,
    "millilitre": 1000,
    "毫升": 1000,
    "cl": 100,
}
_UNITS = {
    name: (dimension, Fraction(factor))
    for dimension, row in _TABLE.items()
    for names, factor in row.items()
    for name in names.split()
}
_FOLDED = {name.casefold(): unit for name, unit in _UNITS.items() if len(name) > 1}
_PREFIXED = (
    (r"\b(?:square|sq\.?)\s+([a-z]+)", r"\1^2"),
    (r"\bcubic\s+([a-z]+)", r"\1^3"),
    (r"平方(\S+)", r"\1^2"),
)
_PREFIXED += (
    (r"立方(\S+)", r"\1^3"),
    (r"\s+squared\b", "^2"),
    (r"\s+cubed\b", "^3"),
    (r"\s+per\s+", "/"),
    (r"\s*/\s*", "/"),
)
MONEY = "$€£₹¥"

Unit = tuple[tuple[tuple[str, int], ...], Fraction]
"""Powers of dimensions, and the factor to their first unit."""


def unit_of(text: str) -> Unit | None:
    """What a text that is one unit means ("cm^2", "square metres", "km/h", "dollars"); None for anything else."""
    text = text.strip().rstrip(".")
    for pattern, plainly in _PREFIXED:
        text = re.sub(pattern, plainly, text, flags=re.IGNORECASE)
    text = _COMPOUND.get(text.lower(), text)
    powers: dict[str, int] = {}
    total = Fraction(1)
    for side, part in enumerate(text.split("/")):
        for token in re.split(r"\s*[·*×]\s*", part):
            match = re.fullmatch(r"(.+?)(?:\^?\{?(-?[1-4])\}?)?", token.strip())
            named = match and _one(match[1])
            if match is None or named is None:
                return None
            dimension, factor, power = named
            times = power * int(match[2] or 1) * (-1 if side else 1)
            powers[dimension] = powers.get(dimension, 0) + times
            total *= factor ** (times // power)
    return tuple(sorted((name, power) for name, power in powers.items() if power)), total


def _one(name: str) -> tuple[str, Fraction, int] | None:
    """Dimension, factor and power of a single unit's name."""
    for form in (name, name.casefold().removesuffix("s")):
        if form.casefold() in _LITRES:
            return "length", Fraction(1, 1000 * _LITRES[form.casefold()]), 3
        if len(name) == 1 and form != name and name not in "LS":
            continue
        if unit := _UNITS.get(form) or _FOLDED.get(form.casefold()):
            return *unit, 1
    return None


def ratio(unit: str, other: str) -> Fraction | None:
    """How many of the other unit one unit is; None where they measure different things. Unknown ones are compared as words."""
    one, two = unit_of(unit), unit_of(other)
    if one is not None and two is not None:
        return one[1] / two[1] if one[0] == two[0] else None
    same = [" ".join(re.sub(r"(?<=\w\w)s\b", "", text.casefold()).split()) for text in (unit, other)]
    return Fraction(1) if same[0] == same[1] else None
