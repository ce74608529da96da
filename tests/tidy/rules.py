"""The rules. Each takes the root of a tree and its files, and yields "path:line: what to do".

A rule's self-test gives it a tree that breaks it and one that does not (samples.py): a rule
that cannot fail is a defect of this suite.
"""

import concurrent.futures
import os
import re
import subprocess

from text import code_only, line_of

CPP = (".cpp", ".hpp")
HEAD_LIMIT = 60  # seconds a header; each needs one or two


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def product(paths):
    """What ships: C++ outside the tests."""
    return [p for p in paths if p.endswith(CPP) and not p.startswith("tests/")]


def matches(root, paths, pattern, advice, prepare=code_only):
    """A line that must differ says why, in a comment: "// tidy: WHY"."""
    for path in paths:
        source = read(root, path)
        text, lines = prepare(source), source.splitlines()
        for found in re.finditer(pattern, text, re.M):
            number = line_of(text, found.start())
            if "// tidy: " not in lines[number - 1]:
                yield f"{path}:{number}: {advice}"


def tool(command, **options):
    return subprocess.run(command, stdin=options.pop("stdin", subprocess.DEVNULL), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                          errors="replace", check=False, **options)


def clang_format(root, paths):
    files = [p for p in paths if p.endswith(CPP)]
    if not files:
        return
    style = os.path.join(os.path.dirname(__file__), "../../.clang-format")
    done = tool(["clang-format-14", f"--style=file:{os.path.abspath(style)}", "--dry-run",
                 "-Werror", *files], cwd=root)
    bad = sorted(set(re.findall(r"^([^:\n]+):\d+:\d+: error", done.stdout, re.M)))
    for path in bad:
        yield f"{path}:1: not formatted: clang-format-14 -i {path}"
    if done.returncode != 0 and not bad:
        yield f".clang-format:1: clang-format-14 failed: {done.stdout[-500:]}"


# DESIGN's arrows: what a folder may include. Frontends never include each other.
BELOW = {
    "proto/text": [],
    "proto/control": [],
    "proto/dump": ["proto/text"],
    "proto/iscsi": ["proto/text"],
    "proto/scsi": ["proto/text"],
    "server/base": ["proto/text"],
    "server/leg": ["server/base", "proto/iscsi", "proto/scsi"],
    "server/io": ["server/leg"],
    "server/target": ["server/io"],
    "server/device": ["server/target"],
    "server/iscsi": ["proto/iscsi", "proto/scsi", "server/device"],
    "server/control": ["proto/control", "server/device"],
    "server/dump": ["proto/dump", "proto/control", "server/device"],
    "server/daemon": ["server/control", "server/dump", "server/iscsi"],
    "plugins/nbdkit": ["server/daemon"],
    "clients": ["proto/control", "proto/dump", "server/base"],
}


def reachable(folder):
    seen, todo = set(), [folder]
    while todo:
        here = todo.pop()
        if here not in seen:
            seen.add(here)
            todo += BELOW[here]
    return seen


def folder_of(path):
    return next((f for f in BELOW if path.startswith(f + "/")), None)


def include_direction(root, paths):
    for path in (p for p in paths if p.endswith(CPP)):
        mine = folder_of(path)
        if mine is None and not path.startswith("tests/"):
            yield f"{path}:1: no folder of the architecture: add it to BELOW in tests/tidy/rules.py"
            continue
        allowed = reachable(mine) if mine else set(BELOW)
        for number, line in enumerate(read(root, path).splitlines(), 1):
            found = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if not found:
                continue
            other = found.group(1)
            theirs = folder_of(other)
            if theirs is None and not other.startswith("tests/"):
                yield f'{path}:{number}: "{other}": name it from the root of the tree'
            elif theirs is None and mine:
                yield f'{path}:{number}: "{other}": what ships includes nothing of the tests'
            elif theirs and theirs not in allowed:
                yield f'{path}:{number}: {mine} stands below {theirs}: it cannot include "{other}"'


def proto_is_bytes(root, paths):
    yield from matches(
        root, [p for p in paths if p.startswith("proto/") and p.endswith(CPP)],
        r"^\s*#\s*include\s*<(asio|boost|sys/|netinet/|arpa/|unistd|poll|fcntl|thread|mutex"
        r"|atomic|condition_variable|future)[^>]*>",
        "proto/ is bytes only: no sockets, files, threads or Asio")


HEAVY = r"^\s*#\s*include\s*<(nlohmann/json\.hpp|toml\+\+/|toml\.hpp|CLI/|asio|doctest/|regex|iostream)"


def light_headers(root, paths):
    headers = [p for p in product(paths) if p.endswith(".hpp")]
    yield from matches(root, headers, HEAVY,
                       "heavy headers stay in .cpp files (of JSON take <nlohmann/json_fwd.hpp>)")
    for path in headers:
        if not re.match(r"(//[^\n]*\n|\s)*#pragma once\n", read(root, path)):
            yield f"{path}:1: starts with #pragma once"


def header_alone(root, paths):
    def compile_alone(path):
        done = subprocess.run(
            ["g++", "-std=c++20", "-fsyntax-only", "-D_GNU_SOURCE", "-Wall", "-Werror",
             "-Wno-pragma-once-outside-header", "-I.", "-include", path, "-x", "c++", os.devnull],
            cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=HEAD_LIMIT, check=False)
        if done.returncode == 0:
            return None
        why = next((l for l in done.stderr.splitlines() if "error" in l), done.stderr[-300:])
        return f"{path}:1: does not compile by itself: {why}"
    headers = [p for p in paths if p.endswith(".hpp")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(compile_alone, headers))


def coroutine_trap(root, paths):
    """g++ 12 destroys a temporary twice when an aggregate or a capturing lambda is built in the
    arguments of a co_await."""
    for path in (p for p in paths if p.endswith(CPP)):
        text = code_only(read(root, path))
        for found in re.finditer(r"\bco_await\b", text):
            depth = 0
            for char in text[found.end():]:
                depth += (char in "([{") - (char in ")]}")
                if depth < 0 or (char in ";{" and depth <= (char == "{")):
                    break
                if char in "[{" and depth > 1:
                    yield (f"{path}:{line_of(text, found.start())}: name what is built in a "
                           "co_await's arguments first, and move it in (g++ 12 bug)")
                    break


# Pattern, what to use. Everywhere in C++; see also ENGINE.
BANNED = [
    (r"\b(sprintf|vsprintf|strcpy|strcat|gets)\s*\(", "unbounded: fmt::format"),
    (r"\bato(i|l|ll|f)\s*\(|\bstrto(u?l|u?ll)\s*\([^,;]*,\s*(nullptr|NULL|0)\b",
     "takes trailing text and loses errors: parse_number() or std::from_chars"),
    (r"(?<![\w:.])(rand|srand)\s*\(|std::rand\b", "std::mt19937_64 with a printed seed"),
    (r"\b(localtime|gmtime|ctime|asctime)\s*\(", "shares a buffer: the _r form"),
    (r"(?<![\w.])signal\s*\([^,;]*,(?!\s*SIG_(IGN|DFL))", "sigaction"),
    (r"(?<![\w.:])(system|popen)\s*\(", "no shell: posix_spawn with a list of arguments"),
    (r"\bdetach\s*\(\s*\)", "every thread is owned and joined"),
    (r"\bstd::endl\b", "'\\n'"),
]
# In server/, proto/ and plugins/ besides.
ENGINE = [
    (r"\bstrerror\s*\(", "strerror shares a buffer: system_error() of server/base/error.hpp"),
    (r"\bstd::async\b", "a named thread with an owner"),
    (r"\bstd::regex\b", "recursion as deep as the input: a small parser"),
    (r"\bthrow\b(?!\s*\()", "errors travel as Result<T>"),
    (r"\bstd::(cout|cerr|clog)\b|(?<![\w:.])(printf|puts)\s*\(", "log() of server/base/log.hpp"),
    (r"\bsleep_for\b|(?<![\w:.])(sleep|usleep)\s*\(", "wait for the event, with a deadline"),
    (r"(?<!\w)(::|std::|_)exit\s*\(|(?<![\w.>])exit\s*\((EXIT_|\d)",
     "return an Error: the engine is a guest in its process"),
]


def banned_calls(root, paths):
    sources = [p for p in paths if p.endswith(CPP)]
    engine = [p for p in product(paths) if p.startswith(("server/", "proto/", "plugins/"))]
    # The one place that parts with a thread which cannot be joined says when that may be.
    for pattern, advice in BANNED:
        where = [p for p in sources if "detach" not in pattern or p != "server/base/leave_alone.hpp"]
        yield from matches(root, where, pattern, advice)
    for pattern, advice in ENGINE:
        yield from matches(root, [p for p in engine if "launch" not in p], pattern, advice)
    yield from matches(root, [p for p in sources if p.endswith(".hpp")], r"^\s*using namespace\b",
                       "no using namespace in a header: it leaks into everyone")


def length(root, paths):
    """Files of 400 lines (scripts 500), functions of 80: the aims are 300 and 70."""
    for path in (p for p in paths if p.endswith(CPP + (".py",))):
        lines = read(root, path).count("\n")
        if lines > (500 if path.endswith(".py") else 400):
            yield f"{path}:1: {lines} lines: split it"
    for path in product(paths):
        opened = None
        for number, line in enumerate(read(root, path).splitlines(), 1):
            if re.match(r"[A-Za-z~].*\{$", line) and not re.match(
                    r"(namespace|class|struct|enum|union|extern|constexpr|const)\b", line):
                opened = number
            elif re.match(r"\S.*\)$|\s+.*\) .*\{$", line) and opened is None:
                opened = number
            elif line == "}" and opened:
                if number - opened > 80:
                    yield f"{path}:{opened}: a function of {number - opened} lines: split it"
                opened = None
            elif line.startswith("}"):
                opened = None


def manual_pages(root, paths):
    for path in (p for p in paths if p.endswith(".scd")):
        text = read(root, path)
        name, section = os.path.basename(path)[:-len(".scd")].rsplit(".", 1)
        if not text.startswith(f"{name}({section})"):
            yield f"{path}:1: begins with the preamble {name}({section})"
        done = subprocess.run(["scdoc"], input=text, capture_output=True, text=True, timeout=60,
                              check=False)
        if done.returncode != 0:
            yield f"{path}:1: scdoc: {done.stderr.strip()}"
            continue
        lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning"], input=done.stdout, text=True,
                              capture_output=True, timeout=60, check=False)
        for line in (lint.stdout + lint.stderr).splitlines():
            if "skipping paragraph macro" not in line:  # scdoc writes too many .P
                yield f"{path}:1: mandoc, of scdoc's output: {line}"


def leftovers(root, paths):
    """Nothing of one machine, and nothing put off."""
    for path in paths:
        if path.endswith((".gz", ".zst", ".png")) or "/corpus/" in path:
            continue
        text = read(root, path)
        for pattern, advice in (
                (r"(?<![\w.~-])/(work|root|home/[a-z]\w*)/", "a path of one machine"),
                (r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b", "do it now, or file an issue"),
                (r"^(<<<<<<<|>>>>>>>) ", "a merge conflict")):
            for found in re.finditer(pattern, text, re.M):
                yield f"{path}:{line_of(text, found.start())}: {found.group().strip()}: {advice}"


def is_shell(root, path):
    if path.endswith((".sh", ".bash")):
        return True
    full = os.path.join(root, path)
    if "." in os.path.basename(path) or not os.access(full, os.X_OK):
        return False
    with open(full, "rb") as file:
        return re.match(rb"#!.*\b(ba|da)?sh\b", file.readline(100)) is not None


def shell(root, paths):
    scripts = [p for p in paths if is_shell(root, p)]
    if scripts:
        done = tool(["shellcheck", "-f", "gcc", "-S", "info", *scripts], cwd=root)
        yield from done.stdout.splitlines()


def python(root, paths):
    for path in paths:
        text = read(root, path) if path.endswith(".py") or os.access(
            os.path.join(root, path), os.X_OK) else ""
        if path.endswith(".py") or re.match(r"#!.*\bpython3?\b", text):
            try:
                compile(text, path, "exec")
            except SyntaxError as wrong:
                yield f"{path}:{wrong.lineno}: {wrong.msg}"
            first = text.split("\n", 1)[0]
            if first.startswith("#!") and first != "#!/usr/bin/python3":
                yield f"{path}:1: #!/usr/bin/python3: another python3 in PATH has no nbd module"


def folder_list(root, paths):
    """server/README has a line for each folder."""
    folders = sorted({p.split("/")[1] for p in paths if re.match(r"server/[^/]+/[^/]+\.", p)})
    if not folders:
        return
    text = read(root, "server/README") if "server/README" in paths else ""
    for folder in folders:
        if not re.search(rf"^{folder}/\s", text, re.M):
            yield f"server/README:1: {folder}/ has no line"


RULES = [clang_format, include_direction, proto_is_bytes, light_headers, header_alone,
         coroutine_trap, banned_calls, length, manual_pages, leftovers, shell, python,
         folder_list]
