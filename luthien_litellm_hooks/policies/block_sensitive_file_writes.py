"""`block_sensitive_file_writes`: keeps an agent from writing files with secrets, or files that others run."""

from luthien_litellm_hooks.policies.rules import PathText, ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import ToolRules

_SYSTEM = (
    "/etc/**",
    "/{bin,sbin,usr/bin,usr/sbin}/*",
    "/{lib,usr/lib}/systemd/**",
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
_STARTED = (  # run by a login, a session or a schedule
    "~/.{bashrc,bash_profile,bash_login,bash_logout,bash_aliases,profile,inputrc}",
    "~/.{zshrc,zshenv,zprofile,zlogin,zlogout}",
    "~/.config/fish/{config.fish,fish_variables}",
    "~/.config/fish/{conf.d,functions}/**",
    "~/.{xprofile,xinitrc,xsession,xsessionrc,pam_environment}",
    "~/.config/{systemd,autostart,environment.d}/**",
    "~/Library/{LaunchAgents,LaunchDaemons,Keychains}/**",
    "~/.git{config,-credentials}",
    "~/.config/git/**",
    ".git/hooks/**",
    ".git/config",
    ".husky/**",
    ".envrc",
)
_SECRETS = (
    "~/.{ssh,aws,gnupg,kube,azure}/**",
    "~/.config/{gcloud,gh}/**",
    "~/.docker/config.json",
    "~/.{netrc,pgpass,my.cnf,npmrc,pypirc}",
    "*.{pem,key,p12,pfx,ppk,jks,keystore}",
    "id_{rsa,dsa,ecdsa,ed25519}*",
    "authorized_keys",
    ".env",
    ".env.*",
    "!.env.{example,sample,template,dist}",
)
_AGENTS = (  # settings of agents: their rights and their proxy
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
    """Globs of more paths to block."""
    allow: tuple[PathText, ...] = ()
    """Globs of paths to leave out."""


class BlockSensitiveFileWrites(ToolRules):
    """Blocks writing, moving and deleting of sensitive files, by a file tool, a patch or a shell command."""

    Config = BlockSensitiveFileWritesConfig

    def __init__(self, config: BlockSensitiveFileWritesConfig | None = None) -> None:
        config = config or BlockSensitiveFileWritesConfig()
        paths = [*SENSITIVE_PATHS, *config.also, *(f"!{glob}" for glob in config.allow)]
        writes = {"kind": "file_write", "paths": paths}
        schedules = {"commands": ["crontab *", "crontab -e", "crontab -r"]}
        super().__init__(ToolRulesConfig.blocking(writes, schedules, reason="sensitive file", config=config))
