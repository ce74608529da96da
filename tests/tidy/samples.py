"""For each rule, trees that break it and trees that do not: {path: text}."""

SHEBANG = "#!/bin/bash\n"
HPP = "#pragma once\n"
LONG = "void f() {\n" + "  g();\n" * 90 + "}\n"
LATER = "TO" "DO"
HOME = "/home" "/ann/blockloom"

BAD = {
    "clang_format": [{"server/base/a.cpp": "int   f( ) { return 1;}\n"}],
    "include_direction": [
        {"server/base/a.cpp": '#include "server/leg/leg.hpp"\n'},
        {"server/device/a.hpp": '#include "plugins/nbdkit/plugin.hpp"\n'},
        {"plugins/nbdkit/a.cpp": '#include "clients/blockloom/a.hpp"\n'},
        {"server/leg/a.cpp": '#include "leg.hpp"\n'},
        {"server/leg/a.cpp": '#include "tests/unit/fake.hpp"\n'},
        {"server/newfolder/a.cpp": ""}],
    "proto_is_bytes": [{"proto/control/a.cpp": "#include <sys/socket.h>\n"},
                       {"proto/control/a.hpp": HPP + "#include <asio/buffer.hpp>\n"}],
    "light_headers": [{"server/control/a.hpp": HPP + "#include <nlohmann/json.hpp>\n"},
                      {"server/base/a.hpp": "int f();\n"}],
    "header_alone": [{"server/base/a.hpp": HPP + "std::string f();\n"}],
    "coroutine_trap": [
        {"server/iscsi/a.cpp": "co_await send(Pdu{1, 2});\n"},
        {"server/iscsi/a.cpp": "auto x = co_await post(ex, [copy] { use(copy); });\n"},
        {"server/iscsi/a.cpp": "if (co_await f(\n      {1, 2})) {\n}\n"}],
    "banned_calls": [
        {"server/leg/a.cpp": "log(strerror(errno));\n"},
        {"tests/unit/a.cpp": "int x = rand();\n"},
        {"server/leg/a.cpp": "int x = atoi(word);\n"},
        {"server/leg/a.cpp": "long x = strtol(word, nullptr, 10);\n"},
        {"server/leg/a.cpp": "std::thread(f).detach();\n"},
        {"server/leg/a.cpp": "throw std::runtime_error(\"x\");\n"},
        {"plugins/nbdkit/a.cpp": "exit(1);\n"},
        {"clients/blockloom/a.cpp": "signal(SIGINT, stop);\n"},
        {"server/leg/a.cpp": "std::this_thread::sleep_for(delay);\n"},
        {"tests/unit/a.hpp": HPP + "using namespace blockloom;\n"}],
    "length": [{"server/base/a.cpp": "int x;\n" * 401}, {"server/base/a.cpp": LONG}],
    "manual_pages": [{"docs/a.1.scd": "a\n\nno preamble\n"},
                     {"docs/a.1.scd": "b(1)\n\n# NAME\n\nb - does it\n"}],
    "leftovers": [{"server/base/a.cpp": f"// {LATER}: bounds\n"},
                  {"docs/guide.md": f"cd {HOME}\n"},
                  {"docs/guide.md": "<<<<<<< main\n"}],
    "shell": [{"scripts/a.sh": SHEBANG + 'rm $1/*\ncd x\n'}],
    "python": [{"tests/a.py": "def f(:\n"}, {"tests/a.py": "#!/usr/bin/env python3\n"}],
    "folder_list": [{"server/leg/a.cpp": "", "server/README": "base/  errors\n"},
                    {"server/leg/a.cpp": ""}],
}

GOOD = {
    "clang_format": [{"server/base/a.cpp": "int f() {\n  return 1;\n}\n"}],
    "include_direction": [
        {"server/device/a.cpp": '#include <map>\n#include "server/base/error.hpp"\n',
         "tests/unit/device/a.cpp": '#include "server/device/device.hpp"\n'}],
    "proto_is_bytes": [{"proto/control/a.cpp": "#include <string>\n"}],
    "light_headers": [{"server/control/a.hpp": HPP + "#include <nlohmann/json_fwd.hpp>\n",
                       "server/control/a.cpp": "#include <nlohmann/json.hpp>\n"}],
    "header_alone": [{"server/base/a.hpp": HPP + "#include <string>\nstd::string f();\n",
                      "server/leg/a.hpp": HPP + '#include "server/base/a.hpp"\n'}],
    "coroutine_trap": [
        {"server/iscsi/a.cpp": "// co_await f({1});\nPdu pdu{1};\nco_await send(std::move(pdu));\n"
                               "auto x = g({1});\nwhile (co_await more()) {\n  list[0] = 1;\n}\n"}],
    "banned_calls": [
        {"server/leg/a.cpp": "// never strerror(3)\nlog(\"rand()\");\ncatch (...) { throw(); }\n"
                             "throw Stop{};  // tidy: caught here\noperand(1);\nself.rand();\nstrtol(word, &end, 10);\n",
         "tests/unit/a.cpp": "using namespace blockloom;\nexit(0);\n"}],
    "length": [{"server/base/a.cpp": ("void f() {\n" + "  g();\n" * 60 + "}\n") * 4,
                "tests/unit/a.cpp": LONG}],
    "manual_pages": [{"docs/a.1.scd": 'a(1)\n\n# NAME\n\na - does it\n\n# SYNOPSIS\n\n*a* _FILE_\n'}],
    "leftovers": [{"docs/guide.md": "a.b/work/x, https://example.org/home/, mkstemp XXXXXX\n"}],
    "shell": [{"scripts/a.sh": SHEBANG + 'rm -- "$1"/x\n'}],
    "python": [{"tests/a.py": "#!/usr/bin/python3\nx = 1\n"}],
    "folder_list": [{"server/leg/a.cpp": "", "server/README": "leg/   backends\n"}],
}
