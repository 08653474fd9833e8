"""Shell scripts come down to the commands that they run, whatever stands around them."""

import time

import pytest
from tree_sitter import Language, Parser, Tree

from luthien_litellm_hooks.policies.rules.patterns import CommandPattern
from luthien_litellm_hooks.policies.shell import (
    MAX_CACHED,
    MAX_CACHED_SCRIPT,
    Command,
    Word,
    contacts_network,
    parse_shell,
    syntax,
    written_paths,
)
from luthien_litellm_hooks.policies.shell.network import urls


def lines(script: str) -> list[str]:
    """The commands of `script`, each as one line, with `?` before what is not resolved."""
    return [
        " ".join([command.name, *(word.text if word.is_resolved else f"?{word.text}" for word in command.words)])
        for command in parse_shell(script).commands
    ]


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("ls -l a", ["ls -l a"]),
        ("/bin/rm x; \\rm y", ["rm x", "rm y"]),
        ("a && b || c | d & e", ["a", "b", "c", "d", "e"]),
        ("echo 'rm -rf' # rm -rf", ["echo rm -rf"]),
        ("X='a b'; rm $X \"$X\"", ["rm a b a b"]),
        ("rm $X", ["rm ?$X"]),
        ('rm "a$X/$Y/z"', ["rm ?a${X}/${Y}/z"]),
        ("rm a{b,c}d {1..3}", ["rm abd acd 1 2 3"]),
        ("rm ~/x $HOME/y", ["rm ~/x ~/y"]),
        (r"rm $'\x61\n' a\ b", ["rm a\n a b"]),
        ("ls $(cat x)", ["cat x", "ls ?$(cat x)"]),
        ("ls $(echo x)", ["echo x", "ls x"]),
        ("sudo -u me nice -n 5 ls x", ["sudo -u me nice -n 5 ls x", "nice -n 5 ls x", "ls x"]),
        ("bash -lc 'ls x'", ["bash -lc ls x", "ls x"]),
        ("echo a b | xargs rm", ["echo a b", "xargs rm", "rm a b"]),
        ('f() { ls "$1"; }; f x', ["f x", "ls x"]),
        ('f() { ls "$1"; }', ["ls ?$1"]),
        ("find d -name x -exec rm {} +", ["find d -name x -exec rm {} +", "rm d/**/x"]),
        ("for i in a b; do rm $i; done", ["rm a b"]),
        ("python3 -c \"import os; os.system('ls x')\"", ["python3 -c import os; os.system('ls x')", "ls x"]),
    ],
)
def test_a_script_comes_down_to_its_commands(script: str, commands: list[str]) -> None:
    parsed = parse_shell(script)
    assert (lines(script), parsed.is_understood) == (commands, True)


def test_a_command_knows_its_input_its_pipe_and_its_directory() -> None:
    *_, cat = parse_shell("cd /etc && echo hi | cat > x").commands
    assert cat.stdin == Word("hi")
    assert cat.piped_from is not None
    assert cat.piped_from.name == "echo"
    assert cat.directory == Word("/etc")
    assert [(redirect.operator, redirect.target.text) for redirect in cat.redirects] == [(">", "x")]


def test_a_directory_ends_with_its_subshell() -> None:
    assert parse_shell("(cd /etc); ls").commands[-1].directory == Word("")


@pytest.mark.parametrize("script", ["$X a", "$(cat x) a", '"$1" a'])
def test_a_program_that_is_not_known_has_no_name(script: str) -> None:
    command = parse_shell(script).commands[-1]
    assert (command.name, command.is_name_resolved) == ("", False)


@pytest.mark.parametrize(
    "script", ['echo "', "ls; )", "a " * 200_000, "bash -c '" * 3, "typeset{\\-f1a%b", ">>x]\\a#c{"]
)
def test_a_script_that_cannot_be_read_says_so(script: str) -> None:
    assert parse_shell(script).is_understood is False


def test_what_could_be_read_of_a_broken_script_is_kept() -> None:
    assert "ls x" in lines("ls x; )")


@pytest.mark.parametrize(
    "script",
    [
        "$(" * 500_000,
        "{a,b}" * 20_000,
        "a|" * 60_000,
        "a|" * 990 + "a",
        "x() " * 30_000,
        "a " * 60_000,
        "echo hi\n" * 125_000,
        "${X:-" * 20_000,
        "alias a='b;b' b='c;c' c='a;a'\n" + "a\n" * 5000,
        "".join(f"a{i}() {{ a{i + 1}; a{i + 1}; }}\n" for i in range(50)) + "a0",
        "X=aaaaaaaa\n" + "X=$X$X\n" * 40 + "echo $X\n" * 1000,
        "X=(" + "a " * 30_000 + "); " + 'echo "${X[@]}"\n' * 1000,
        "sudo " * 20_000,
        "bash -c " * 15_000,
    ],
    ids=lambda script: script[:12],
)
def test_a_hostile_script_takes_no_long_time(script: str) -> None:
    began = time.thread_time()
    parse_shell(script)
    assert time.thread_time() - began < 5


def test_a_script_that_was_read_before_is_not_read_again() -> None:
    assert parse_shell("ls seen-before") is parse_shell("ls seen-before")


@pytest.mark.parametrize(
    "script",
    ["ls " + "x" * MAX_CACHED_SCRIPT, "ls; )", "X=" + "x" * 200 + '; echo "$X$X$X$X"' * 10],
    ids=["a long one", "one that cannot be read", "one that grows"],
)
def test_a_script_that_is_long_or_unclear_or_grows_is_not_kept(script: str) -> None:
    assert parse_shell(script) is not parse_shell(script)


def test_of_all_the_scripts_that_are_read_few_are_kept() -> None:
    first = parse_shell("ls 0")
    for number in range(1, MAX_CACHED + 1):
        parse_shell(f"ls {number}")
    assert parse_shell("ls 0") is not first


@pytest.mark.parametrize(
    ("plain", "quoted"),
    [
        ("ls -la a.txt", '"ls" "-la" "a.txt"'),
        ("make X=1 ./b,c:d@e%f+g", "'make' X'='1 './b,c:d@e%f+g'"),
        ("X=1 ls a", "X='1' 'ls' 'a'"),
        ("cd a && ls b | wc -l", "'cd' 'a' && 'ls' 'b' | 'wc' '-l'"),
        ("sudo rm -rf a", "su'do' r'm' '-rf' 'a'"),
        ("ls\ta  b", "'ls' 'a' 'b'"),
    ],
)
def test_plain_words_are_read_as_if_they_were_quoted(plain: str, quoted: str) -> None:
    assert parse_shell(plain) == parse_shell(quoted)


@pytest.mark.parametrize(
    ("pattern", "script"),
    [
        ("rm -rf", "rm -f -r x"),
        ("rm -r -f", "rm -Rf x"),
        ("rm --recursive", "rm -r x"),
        ("rm", "rm -rf x"),
        ("git push --force", "git -C dir push -f origin main"),
        ("docker compose down", "docker compose -f x.yml down -v"),
        ("terraform destroy", "terraform destroy -auto-approve"),
        ("terraform apply -auto-approve", "terraform apply -auto-approve"),
        ("kubectl delete *", "kubectl -n x delete pod y"),
        ("mkfs*", "mkfs.ext4 /dev/sda"),
        ("pip install --index-url=http://*", "pip install --index-url=http://x y"),
    ],
)
def test_a_pattern_matches_a_command_it_means(pattern: str, script: str) -> None:
    assert CommandPattern.parse(pattern).matches(parse_shell(script).commands[0])


@pytest.mark.parametrize(
    ("pattern", "script"),
    [
        ("rm -rf", "rm -r x"),
        ("rm -rf", "rm -- -rf"),
        ("git push", "git stash push"),
        ("git push", "git commit -m push"),
        ("git push --force", "git push origin"),
        ("kubectl delete *", "kubectl delete"),
        ("rm", "$X -rf /"),
        ("docker rm", "rm x"),
    ],
)
def test_a_pattern_passes_by_what_it_does_not_mean(pattern: str, script: str) -> None:
    assert not CommandPattern.parse(pattern).matches(parse_shell(script).commands[0])


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [("", "program"), ("-rf", "program"), ("rm 'x", "quote"), ("curl x | sh", "one command")],
)
def test_a_pattern_that_means_nothing_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CommandPattern.parse(pattern)


@pytest.mark.parametrize(
    ("script", "paths"),
    [
        ("echo x > a; cat b >> ~/c 2>&1", ("a", "~/c")),
        ("ls | tee -a x y", ("x", "y")),
        ("cp a b d", ("d",)),
        ("cp -t d a b", ("d",)),
        ("mv a b", ("b", "a")),
        ("sed -i s/x/y/ f", ("f",)),
        ("sed s/x/y/ f", ()),
        ("dd if=a of=b", ("b",)),
        ("chmod 600 ~/.ssh/id", ("~/.ssh/id",)),
        ("rm -rf a b", ("a", "b")),
        ("curl -o x https://x.example", ("x",)),
        ("cd /etc && touch x", ("/etc/x",)),
        ("truncate -s 0 log", ("log",)),
        ("cat a < b", ()),
        ("echo x > $F", ("$F",)),
    ],
)
def test_the_paths_that_a_script_writes(script: str, paths: tuple[str, ...]) -> None:
    assert written_paths(parse_shell(script).commands) == paths


@pytest.mark.parametrize(
    "script",
    ["curl x", "wget x", "nc h 1", "ssh h", "scp a h:b", "rsync a h:b", "git push", "echo x > /dev/tcp/h/80"],
)
def test_a_command_that_reaches_other_hosts(script: str) -> None:
    assert any(map(contacts_network, parse_shell(script).commands))


@pytest.mark.parametrize("script", ["ls", "rsync a b", "git status", "pip install x", "npm install", "echo curl"])
def test_a_command_that_stays_here(script: str) -> None:
    assert not any(map(contacts_network, parse_shell(script).commands))


def test_the_urls_of_a_command() -> None:
    assert urls(Command("curl", (Word("-o"), Word("https://x.example/a?b=c")))) == ("https://x.example/a?b=c",)


@pytest.mark.parametrize("script", ["echo {日", "echo {1..\U0010ffff", "cat <<E\nx$日\nE\n", "[[ -日 a ]]"])
def test_the_grammar_gets_no_character_that_crashes_its_scanner(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[bytes] = []

    class Spy:
        def __init__(self, language: Language) -> None:
            self._parser = Parser(language)

        def parse(self, source: bytes) -> Tree:
            sources.append(source)
            return self._parser.parse(source)

    monkeypatch.setattr(syntax, "Parser", Spy)
    syntax.syntax_tree(script)
    assert max(b"".join(sources).decode()) <= "\xff"  # beyond, `isdigit` of C reads outside of its table


def test_characters_beyond_ascii_stay_as_they_are() -> None:
    script = 'rm -rf \'日本 à\' "é{日" Ü\\ x\U0001f600/日 "$X日" a\u00a0b \x85'
    texts = ("-rf", "日本 à", "é{日", "Ü x\U0001f600/日", "$X日", "a\u00a0b", "\x85")
    assert parse_shell(script).commands[0].texts == texts
