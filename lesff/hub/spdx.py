"""SPDX licence expressions: whether one allows any use; what is not understood does not."""

from __future__ import annotations

import re

PERMISSIVE_LICENSES = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-4.0", "CC0-1.0",
        "ISC", "MIT", "MIT-0", "Unlicense", "Zlib",
    }
)  # fmt: skip
"""SPDX ids that allow any use, commercial use included, for at most a mention of the authors."""

PERMISSIVE_EXCEPTIONS = frozenset({"LLVM-exception", "Swift-exception"})
"""SPDX ids that may follow ``WITH``: they take away conditions and add none."""

_WORD = re.compile(r"[^\s()]+")
_OPERATORS = frozenset({"and", "or", "with"})


def is_permissive_license(expression: str, *, ignore_case: bool = False) -> bool:
    """Whether an SPDX expression allows any use.

    An expression that has an id which SPDX does not know, or that cannot be parsed, does not.

    Args:
        expression: E.g. ``"MIT OR Apache-2.0"``.
        ignore_case: Whether ``"mit"`` will do, as cards on hubs have it.
    """
    if _WORD.fullmatch(expression):  # nothing to parse
        known = {name.lower() if ignore_case else name for name in PERMISSIVE_LICENSES}
        return (expression.lower() if ignore_case else expression) in known
    # 0.1 s that names of single licences need not spend
    from boolean import ParseError
    from license_expression import ExpressionError, get_spdx_licensing

    try:
        parsed = get_spdx_licensing().parse(expression, validate=True, strict=True)
    except (ExpressionError, ParseError, ValueError, TypeError):
        return False
    if parsed is None:  # no text
        return False
    # the library also takes names that others use for a licence: only ids of SPDX count here
    written = {word for word in _WORD.findall(expression) if word.lower() not in _OPERATORS}
    ids = {_key(part) for symbol in parsed.get_symbols() for part in _parts(symbol)}
    if ignore_case:
        written, ids = {word.lower() for word in written}, {key.lower() for key in ids}
    return written <= ids and _is_free(parsed)


def _parts(symbol: object) -> tuple[object, ...]:
    """A licence, or a licence and its exception."""
    from license_expression import LicenseWithExceptionSymbol

    if isinstance(symbol, LicenseWithExceptionSymbol):
        return symbol.license_symbol, symbol.exception_symbol
    return (symbol,)


def _key(symbol: object) -> str:
    return str(getattr(symbol, "key", ""))


def _is_free(node: object) -> bool:
    from license_expression import AND, OR

    if isinstance(node, (AND, OR)):
        parts = [_is_free(part) for part in node.args]
        return all(parts) if isinstance(node, AND) else any(parts)
    base, *exceptions = (_key(part) for part in _parts(node))
    return base in PERMISSIVE_LICENSES and PERMISSIVE_EXCEPTIONS.issuperset(exceptions)
