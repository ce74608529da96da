"""C++ source as a rule wants to see it: without comments and strings, line numbers kept."""

import re

_TOKEN = re.compile(
    r'//[^\n]*'
    r'|/\*.*?\*/'
    r'|R"(?P<tag>[^\s()\\]{0,16})\(.*?\)(?P=tag)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'",
    re.S)


def code_only(source):
    """Comments become blanks, strings and characters empty ones; newlines stay."""
    def blank(match):
        text = match.group()
        keep = "\n" * text.count("\n")
        return (keep or " ") if text[0] == "/" else '""' + keep
    return _TOKEN.sub(blank, source)


def line_of(text, position):
    return text.count("\n", 0, position) + 1
