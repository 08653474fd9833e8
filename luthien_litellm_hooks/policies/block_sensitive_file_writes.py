"""`block_sensitive_file_writes`: an agent cannot write files that hold secrets, or that others run."""

from luthien_litellm_hooks.policies.rule_config import PathText, ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import ToolRules

_SYSTEM = (
    "/etc/**",
    "/usr/**",
    "/bin/**",
    "/sbin/**",
    "/lib/**",
    "/lib64/**",
    "/boot/**",
    "/sys/**",
    "/proc/sys/**",
    "/proc/sysrq-trigger",
    "/dev/{sd,hd,vd,xvd,nvme,mmcblk,disk,mapper}*/**",
    "/dev/mem",
    "/var/spool/cron/**",
    "/System/**",
    "/Library/**",
    "[A-Z]:/Windows/**",
    "sudoers",
)
_STARTED = (  # what a login, a session or a schedule runs
    "~/.{bashrc,bash_profile,bash_login,bash_logout,bash_aliases,profile,inputrc}",
    "~/.{zshrc,zshenv,zprofile,zlogin,zlogout}",
    "~/.config/fish/**",
    "~/.{xprofile,xinitrc,xsession,xsessionrc,pam_environment}",
    "~/.config/{systemd,autostart,environment.d}/**",
    "~/Library/{LaunchAgents,LaunchDaemons,Keychains}/**",
    "~/.local/bin/**",
    "~/bin/**",
    "~/.git{config,-credentials}",
    "~/.config/git/**",
    ".git/hooks/**",
    ".git/config",
)
_SECRETS = (
    "~/.{ssh,aws,gnupg,kube,azure}/**",
    "~/.config/{gcloud,gh}/**",
    "~/.docker/config.json",
    "~/.{netrc,pgpass,my.cnf,npmrc,pypirc}",
    "*.{pem,p12,pfx,ppk}",
    "id_{rsa,dsa,ecdsa,ed25519}*",
    "authorized_keys",
    ".env",
    ".env.*",
    "!.env.{example,sample,template,dist}",
)
_AGENTS = (  # what agents may do, and through whom, is set here
    ".claude/settings*.json",
    ".claude/hooks/**",
    "~/.claude.json",
    ".mcp.json",
    "~/.codex/**",
    ".cursor/mcp.json",
)
SENSITIVE_PATHS = (*_SYSTEM, *_STARTED, *_SECRETS, *_AGENTS)


class BlockSensitiveFileWritesConfig(ToolPolicyConfig):
    """Settings of `block_sensitive_file_writes`."""

    also: tuple[PathText, ...] = ()
    """Globs of more paths that are blocked."""
    allow: tuple[PathText, ...] = ()
    """Globs of paths that are not blocked after all."""


class BlockSensitiveFileWrites(ToolRules):
    """Blocks writing, moving and deleting such files, by a file tool, a patch or a shell command."""

    Config = BlockSensitiveFileWritesConfig

    def __init__(self, config: BlockSensitiveFileWritesConfig | None = None) -> None:
        config = config or BlockSensitiveFileWritesConfig()
        paths = [*SENSITIVE_PATHS, *config.also, *(f"!{glob}" for glob in config.allow)]
        writes = {"kind": "file_write", "paths": paths}
        schedules = {"commands": ["crontab *", "crontab -e", "crontab -r"]}
        super().__init__(ToolRulesConfig.blocking(writes, schedules, reason="sensitive file", config=config))
