"""`luthien-hooks init`: a LiteLLM config to begin with, and the commands that point agents at its proxy."""

import os
import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from luthien_litellm_hooks.cli.output import complain
from luthien_litellm_hooks.config.validation import did_you_mean
from luthien_litellm_hooks.errors import ConfigError

URL = "http://127.0.0.1:4000"
"""Address of a proxy that listens where LiteLLM does by default."""

_KEY = "api_key"
PROVIDERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "anthropic": {_KEY: "ANTHROPIC_API_KEY"},
        "openai": {_KEY: "OPENAI_API_KEY"},
        "azure": {_KEY: "AZURE_API_KEY", "api_base": "AZURE_API_BASE", "api_version": "AZURE_API_VERSION"},
        "cerebras": {_KEY: "CEREBRAS_API_KEY"},
        "cohere": {_KEY: "COHERE_API_KEY"},
        "deepseek": {_KEY: "DEEPSEEK_API_KEY"},
        "fireworks_ai": {_KEY: "FIREWORKS_AI_API_KEY"},
        "gemini": {_KEY: "GEMINI_API_KEY"},
        "groq": {_KEY: "GROQ_API_KEY"},
        "mistral": {_KEY: "MISTRAL_API_KEY"},
        "moonshot": {_KEY: "MOONSHOT_API_KEY"},
        "ollama": {"api_base": "OLLAMA_API_BASE"},
        "openrouter": {_KEY: "OPENROUTER_API_KEY"},
        "perplexity": {_KEY: "PERPLEXITYAI_API_KEY"},
        "together_ai": {_KEY: "TOGETHERAI_API_KEY"},
        "xai": {_KEY: "XAI_API_KEY"},
    }
)
"""Settings of LiteLLM for each provider, with the environment variables that hold them."""

_OWN_NAMES: Mapping[str, str] = MappingProxyType({"anthropic": "claude-*", "openai": "gpt-*", "gemini": "gemini-*"})
"""Models as agents call them, without their provider."""

_SCRIPTED = """\
  # Answered by the scripted provider that `luthien-hooks demo` starts.
  - model_name: scripted
    litellm_params:
      model: openai/scripted
      api_base: os.environ/SCRIPTED_PROVIDER_URL # ends in /v1
      api_key: not-a-secret
  - model_name: scripted-claude
    litellm_params:
      model: anthropic/scripted
      api_base: os.environ/SCRIPTED_PROVIDER_ANTHROPIC_URL # LiteLLM adds /v1/messages
      api_key: not-a-secret

  # Real models, such as openai/gpt-4o: they need the key in the environment.
"""
_PLUGIN = """
litellm_settings:
  # Loads the plugin.
  callbacks: ["luthien_litellm_hooks.luthien"]

callback_settings:
  # The plugin's settings: the policies that every request and response goes through.
  luthien:
    policy:
      class: serial
      config:
        policies:
          - class: block_dangerous_commands
          - class: secrets
"""


def run_init(file: Path, providers: Sequence[str], *, is_forced: bool) -> int:
    """Writes a config for `providers` with a new key, and prints how to go on. Returns 1 if the file exists and
    `is_forced` is False, 2 if it cannot be written or a provider is unknown."""
    key = f"sk-{secrets.token_hex(16)}"
    try:
        _write(file, config_text(providers, file.name, key), is_forced=is_forced)
    except FileExistsError:
        complain(f"{file} exists, and is left as it is. Name another file, or replace it with --force.")
        return 1
    except ConfigError as error:
        complain(str(error))
        return 2
    except OSError as error:
        complain(f"{file} cannot be written: {error.strerror}")
        return 2
    print(_next_steps(file, providers, key))
    return 0


def config_text(providers: Iterable[str], name: str, key: str) -> str:
    """Returns a LiteLLM config with these providers. Raises `ConfigError` for an unknown one."""
    return f"""\
# Written by `luthien-hooks init`. To serve it: litellm --config {name}

model_list:
{"".join(_models(providers))}
general_settings:
  # The proxy does not start without it. It opens the admin's routes, too: once there is a database, give each
  # agent a key of its own (POST /key/generate), and keep this one.
  master_key: {key}
{_PLUGIN}"""


def demo_text() -> str:
    """Returns the config of the demo: scripted models and, where their keys are set, real ones."""
    return f"""\
# Configuration of the stock LiteLLM proxy. `make run` serves it with a scripted model, which needs no key.
# `luthien-hooks init` writes one for a proxy of your own.

model_list:
{_SCRIPTED}{"".join(_models(("openai", "anthropic")))}{_PLUGIN}"""


def agent_commands(url: str, key: str, claude_model: str | None, codex_model: str | None) -> str:
    """Returns a shell command for Claude Code, and one for Codex, in lines for a narrow terminal. Without a model the
    agent asks for its own."""
    model = [f"ANTHROPIC_MODEL={claude_model}"] if claude_model else []
    claude = [f"ANTHROPIC_BASE_URL={url}", f'ANTHROPIC_AUTH_TOKEN="{key}"', " ".join([*model, "claude"])]
    provider = {"name": "luthien", "base_url": f"{url}/v1", "env_key": "LITELLM_KEY", "wire_api": "responses"}
    codex = [
        f'LITELLM_KEY="{key}"',
        " ".join(["codex", *(["-m", codex_model] if codex_model else []), "-c 'model_provider=\"luthien\"'"]),
        *(f"-c 'model_providers.luthien.{name}=\"{value}\"'" for name, value in provider.items()),
    ]
    return "\n\n".join(" \\\n  ".join(lines) for lines in (claude, codex))


def _models(providers: Iterable[str]) -> Iterator[str]:
    for provider in dict.fromkeys(providers):
        if provider not in PROVIDERS:
            hint = did_you_mean(provider, PROVIDERS)
            raise ConfigError(
                f"--provider: unknown provider {provider!r}{hint}; known are {', '.join(PROVIDERS)}. "
                "Add another to model_list by hand: https://docs.litellm.ai/docs/providers"
            )
        settings = "".join(f"      {name}: os.environ/{value}\n" for name, value in PROVIDERS[provider].items())
        yield f"  - model_name: {provider}/*\n    litellm_params:\n      model: {provider}/*\n{settings}"
        if provider in _OWN_NAMES:
            own = _OWN_NAMES[provider]
            yield f"  - model_name: {own}\n    litellm_params:\n      model: {provider}/{own}\n{settings}"


def _write(file: Path, text: str, *, is_forced: bool) -> None:
    """Writes a new file that only its owner can read. Raises `FileExistsError` unless `is_forced`."""
    if is_forced:
        file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as output:
        output.write(text)


def _next_steps(file: Path, providers: Sequence[str], key: str) -> str:
    variables = [variable for provider in dict.fromkeys(providers) for variable in PROVIDERS[provider].values()]
    shown = shlex.quote(str(file))
    claude, codex = (None if name in providers else f"{providers[0]}/MODEL" for name in ("anthropic", "openai"))
    return f"""\
Wrote {file}, with the providers {", ".join(dict.fromkeys(providers))} and a new key. Only you can read it.
It blocks dangerous commands and redacts secrets; `luthien-hooks policies list` has more policies.

Set {", ".join(variables)} in the proxy's environment, then check the file and serve it:

luthien-hooks check {shown}

litellm --config {shown} --host 127.0.0.1

Point Claude Code or Codex at it:

{agent_commands(URL, key, claude, codex)}

That key is the admin's. Once the proxy has a database (DATABASE_URL), give each agent one of its own:

curl -sS {URL}/key/generate \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer {key}" \\
  -d '{{"key_alias": "my-agent"}}'"""
