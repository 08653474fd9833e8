"""Requests and answers with which a hostile client, or a hostile model, keeps a proxy busy."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Step
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName

MANY = 100_000
BLOCKS = DEFAULT_LIMITS.max_judged_blocks * 6 // 5
"""More than are judged."""
SCRIPT_CHARACTERS = 120_000
TEXT_CHARACTERS = 2_000_000
SECRET = f"ghp_{'a1B2c3D4' * 4}a1B2"

TEXTS: Mapping[str, Callable[[], str]] = {
    "names of secrets": lambda: "password=" * (1_800_000 // 9),
    "combining characters": lambda: "e\u0301" * (TEXT_CHARACTERS // 2),
    "a wall of base64": lambda: "QUJD" * (500_000 // 4),
    "beginnings of private keys": lambda: "-----BEGIN PRIVATE KEY-----\nMIIEvAIBADANBgkqhkiG9w0BAQ\n" * 10_000,
    "beginnings of URLs": lambda: "https://a:" * (TEXT_CHARACTERS // 10),
    "beginnings of apologies": lambda: "I'm sorry for the " * (TEXT_CHARACTERS // 18),
    "random values after names": lambda: "password=aB3dE6gH9kL2 " * (TEXT_CHARACTERS // 22),
    "dashes": lambda: "\u2014" * (TEXT_CHARACTERS // 2),
    "surrogates": lambda: "\ud800" * (TEXT_CHARACTERS // 2),
    "spaces": lambda: " " * TEXT_CHARACTERS,
    "notices": lambda: "[luthien] a\n\n" * (TEXT_CHARACTERS // 13),
    "line ends": lambda: "\n" * TEXT_CHARACTERS,
    "pips": lambda: "python -m pip install a " * (TEXT_CHARACTERS // 24),
}
"""What a text may say: a message's or an answer's."""

SCRIPTS: Mapping[str, Callable[[], str]] = {
    "single quotes": lambda: "'" * SCRIPT_CHARACTERS,
    "quotes": lambda: "\"'" * (SCRIPT_CHARACTERS // 2),
    "words in quotes": lambda: "'a' " * (SCRIPT_CHARACTERS // 4),
    "substitutions": lambda: "$(a " * (SCRIPT_CHARACTERS // 4),
    "backquotes": lambda: "`a` " * (SCRIPT_CHARACTERS // 4),
    "commands": lambda: "ls;" * (1_000_000 // 3),
    "removals": lambda: "rm -rf a;" * (1_000_000 // 9),
    "words": lambda: "echo " + "a " * 450_000,
    "a word": lambda: "echo " + "a" * 900_000,
    "pipes": lambda: "cat a|" * (SCRIPT_CHARACTERS // 6),
    "a heredoc": lambda: "cat > a.txt <<EOF\n" + "some line of text in a file\n" * 34_000 + "EOF\n",
    "heredocs": lambda: "cat <<E\na\nE\n" * (SCRIPT_CHARACTERS // 12),
    "paths": lambda: "touch " + "../a/b/" * (SCRIPT_CHARACTERS // 7),
    "globs": lambda: "rm " + "[a-z]*?" * (SCRIPT_CHARACTERS // 7),
    "braces": lambda: "echo " + "{a,b}" * (SCRIPT_CHARACTERS // 5),
    "Python": lambda: "python3 -c '" + 'import os; os.system("a"); ' * (SCRIPT_CHARACTERS // 27) + "'",
    **{
        f"JavaScript: {part}": lambda part=part: f"node <<'E'\n{part * (SCRIPT_CHARACTERS // len(part))}\nE\n"
        for part in ("a of ", "a:b ", "}catch{", "static{typeof /*try{", "a`b`", "({a,b})=>")
    },
    "arrays that do not end": lambda: "a=(" * (SCRIPT_CHARACTERS // 3),
    "heredocs that do not end": lambda: "<<E\n" * (SCRIPT_CHARACTERS // 4),
    "cases without their heads": lambda: "a) b;;" * (SCRIPT_CHARACTERS // 6),
    "Perl": lambda: "perl -e '" + 'system("a"); ' * (SCRIPT_CHARACTERS // 13) + "'",
    "assignments": lambda: "a=$a$a;" * (SCRIPT_CHARACTERS // 7),
    "wrappers": lambda: "sudo " * (SCRIPT_CHARACTERS // 5) + "ls",
    "combining characters": lambda: "e\u0301 " * (SCRIPT_CHARACTERS // 3),
    "redirections": lambda: "> a " * (SCRIPT_CHARACTERS // 4),
    "kills": lambda: "pkill abc;" * (SCRIPT_CHARACTERS // 10),
    "SQL for a client": lambda: 'psql -c "SELECT 1; DROP TABLE a";' * (SCRIPT_CHARACTERS // 33),
    "URLs": lambda: "curl https://a.example/b;" * (SCRIPT_CHARACTERS // 25),
}
"""What a shell may be given."""

ARGUMENTS: Mapping[str, Callable[[], tuple[str, str]]] = {
    **{f"shell: {name}": lambda made=made: ("Bash", json.dumps({"command": made()})) for name, made in SCRIPTS.items()},
    **{
        f"text: {name}": lambda made=made: ("Write", json.dumps({"file_path": "a.txt", "content": made()[:950_000]}))
        for name, made in TEXTS.items()
    },
    "SQL": lambda: ("execute_sql", json.dumps({"sql": "SELECT a FROM b WHERE c = 1; " * (500_000 // 29)})),
    "SQL in brackets": lambda: ("execute_sql", json.dumps({"sql": "SELECT " + "(" * 2_400 + "1" + ")" * 2_400})),
    "SQL with a harmful word": lambda: ("execute_sql", json.dumps({"sql": "DROP " * (500_000 // 5)})),
    "SQL that is parsed": lambda: ("execute_sql", json.dumps({"sql": ("DELETE FROM a WHERE b IN (1);" * 170)[:4_990]})),
    "nested JSON": lambda: ("Bash", '{"command": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "nested JSON that is read": lambda: ("Bash", '{"a": [' + ("[" * 90 + "]" * 90 + ",") * 1_000 + "1]}"),
    "many keys": lambda: ("Write", json.dumps({f"path{number}": "a" for number in range(60_000)})),
    "many long keys": lambda: ("Write", json.dumps({f"{number}_" + "aB" * 60: "a" for number in range(7_000)})),
    "a key twice": lambda: ("Bash", "{" + ", ".join(['"command": "ls"'] * 50_000) + "}"),
    "a long key": lambda: ("Write", json.dumps({"aB_" * 300_000: "a"})),
    "many paths": lambda: ("Write", json.dumps({"paths": ["../a/../b/c"] * 50_000})),
    "many commands": lambda: ("Bash", json.dumps({"commands": ["ls -la"] * 90_000})),
    "words of one command": lambda: ("Bash", json.dumps({"command": ["ls"] * 100_000})),
    "commands with arguments": lambda: (
        "Bash",
        json.dumps([{"command": "a", "cmd": "b", "args": ["x"], "argv": ["y"]}] * 10_000),
    ),
    "code": lambda: ("python", json.dumps({"code": "import os\nos.system('ls')\n" * 18_000})),
    "a patch": lambda: ("apply_patch", json.dumps({"input": "*** Update File: a\n--- a/b\n" * 30_000})),
    "URLs": lambda: ("WebFetch", json.dumps({"urls": ["https://a.example/b"] * 40_000})),
    "JSON in JSON": lambda: ("Bash", json.dumps(json.dumps({"command": "ls " * 150_000}))),
    "escapes": lambda: ("Bash", '{"command": "' + "\\u0061" * 160_000 + '"}'),
    "numbers": lambda: ("Bash", '{"a": [' + "1," * 450_000 + "1]}"),
    "a long number": lambda: ("Bash", '{"a": ' + "9" * 900_000 + "}"),
    "text that is no JSON": lambda: ("Bash", "{" + "a" * 900_000),
    "too much": lambda: ("Bash", json.dumps({"command": "ls " * 4_000_000})),
}
"""One tool call: its name and its arguments."""


def _with(route: RouteName, **fields: object) -> dict[str, Any]:
    return {"model": "scripted", **ROUTES[route].body, **fields}


def said(route: RouteName, texts: list[str]) -> dict[str, Any]:
    """A request of so many messages."""
    roles = ("user", "assistant")
    if route == "gemini":
        parts = [
            {"role": ("user", "model")[number % 2], "parts": [{"text": text}]} for number, text in enumerate(texts)
        ]
        return _with(route, contents=parts)
    if route == "completions":
        return _with(route, prompt=texts)
    said = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return _with(route, **{"input" if route == "responses" else "messages": said})


def _parts(route: RouteName, texts: list[str]) -> dict[str, Any]:
    """A request of one message in several parts."""
    if route == "completions":
        return _with(route, prompt=texts)
    if route == "gemini":
        return _with(route, contents=[{"role": "user", "parts": [{"text": text} for text in texts]}])
    kind, key = ("input_text", "input") if route == "responses" else ("text", "messages")
    return _with(route, **{key: [{"role": "user", "content": [{"type": kind, "text": text} for text in texts]}]})


def _tools(route: RouteName, count: int) -> dict[str, Any]:
    names = [f"tool_{number}" for number in range(count)]
    if route == "messages":
        return _with(route, tools=[{"name": name, "input_schema": {"type": "object"}} for name in names])
    if route == "gemini":
        return _with(route, tools=[{"functionDeclarations": [{"name": name} for name in names]}])
    if route == "responses":
        return _with(route, tools=[{"type": "function", "name": name} for name in names])
    return _with(route, tools=[{"type": "function", "function": {"name": name}} for name in names])


def _nested(depth: int) -> Any:
    value: Any = "a"
    for _ in range(depth):
        value = [value]
    return value


REQUESTS: Mapping[str, Callable[[RouteName], dict[str, Any]]] = {
    "many messages": lambda route: said(route, ["a"] * MANY),
    "many parts": lambda route: _parts(route, ["a"] * MANY),
    "many tools": lambda route: _tools(route, MANY),
    "many fields": lambda route: _with(route, **{f"field_{number}": number for number in range(MANY)}),
    "a long message": lambda route: said(route, ["word " * 4_000_000]),
    "nested parts": lambda route: _with(route, **{"contents" if route == "gemini" else "messages": _nested(900)}),
    "nested schemas": lambda route: _with(route, tools=[{"name": "a", "parameters": _nested(400)}] * 500),
    "many metadata": lambda route: _with(route, metadata={f"field_{number}": "a" for number in range(MANY)}),
    "many secrets": lambda route: said(route, [SECRET] * 20_000),
    **{f"text: {name}": lambda route, made=made: said(route, [made()]) for name, made in TEXTS.items()},
}
"""What a client may send, on each route."""

ANSWERS: Mapping[str, Callable[[], Answer]] = {
    "many calls": lambda: Answer(
        [Call("Bash", f'{{"command": "ls {number}"}}') for number in range(BLOCKS)], piece=1_000
    ),
    "many equal calls": lambda: Answer([Call("Bash", '{"command": "ls"}')] * BLOCKS, piece=1_000),
    "many blocked calls": lambda: Answer([Call("Bash", '{"command": "rm -rf /"}')] * 5_000, piece=1_000),
    "many blocks": lambda: Answer(_blocks(BLOCKS // 2), piece=1_000),
    "many pieces": lambda: Answer([Say("a" * MANY)], piece=1),
    "many pieces of a call": lambda: Answer([Call("Bash", json.dumps({"command": "a" * MANY}))], piece=1),
    "many pieces of a wall": lambda: Answer([Say("QUJD" * 20_000)], piece=10),
    "many pieces of a key": lambda: Answer([Say("-----BEGIN PRIVATE KEY-----\n" + "QUJD" * 20_000)], piece=10),
    **{f"text: {name}": lambda made=made: Answer([Say(made())], piece=10**8) for name, made in TEXTS.items()},
    **{f"call: {name}": lambda made=made: Answer([Call(*made())], piece=10**8) for name, made in ARGUMENTS.items()},
}
"""What a model may say."""


def _blocks(count: int) -> list[Step]:
    return [step for _ in range(count) for step in (Say("a"), Call("x", "{}"))]
