"""`protect_work`: keeps an agent from destroying the work of its user: a repository, its data, its cloud."""

import re
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from luthien_litellm_hooks.policies.rules import ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.rules.conditions import Check, Outcome, by_text, unless_unclear
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import Catalogue, Command, deletes_project, readings_of
from luthien_litellm_hooks.policies.tool_rules import CompiledRule, ToolRules
from luthien_litellm_hooks.policy.patterns import compile_pattern

LossKind = Literal[
    "uncommitted",
    "history",
    "remote",
    "force_with_lease",
    "project",
    "databases",
    "volumes",
    "clusters",
    "infrastructure",
    "cloud",
]


def _spelt(names: str, *forms: str) -> str:
    """Returns each of `names` in each of the forms, as alternatives of the catalogue."""
    return "|".join(form.format(name) for name in names.split() for form in forms)


_FILES = _spelt(
    "c cc cfg clj conf cpp cs css csv cts dart env erl ex exs go gradle h hpp hs htm html ini ipynb java js json "
    "jsx kt less lock lua m md mdx mjs mod mts php pl properties proto py pyi r rb rs rst sass scala scss sh snap "
    "sql sum svelte svg swift tf toml ts tsx txt vue xml yaml yml zig",
    "*.{}",
)
"""Names of files, for `git checkout NAME`: it else takes the name of a branch."""
_RESOURCES = _spelt(
    "ns namespace namespaces pvc persistentvolumeclaim persistentvolumeclaims pv persistentvolume persistentvolumes "
    "crd crds customresourcedefinition customresourcedefinitions sts statefulset statefulsets storageclass "
    "volumesnapshot volumesnapshots",
    *("{}", "{}.*", "{}/*", "{},*", "*,{}", "*,{},*"),
)
"""Resources that hold data, in the spellings of `kubectl`."""
_LOCAL = "!--generate-cli-skeleton !--endpoint-url=*localhost* !--endpoint-url=*127.0.0.1*"
_CATALOGUE: Mapping[str, str] = {
    "uncommitted": f"""
        git reset --hard|--merge
        git clean -f|--force !-n !--dry-run
        git checkout -f|--force|--pathspec-from-file
        git checkout ... -- ?* !-p !--patch !-b !-B
        git checkout ... .|./|./*|../*|:/|:/*|*/|*[*]* !-p !--patch !-b !-B !--ours !--theirs
        git checkout ?* ?* !-p !--patch !-b !-B !--orphan !--ours !--theirs
        git checkout {_FILES} !-p !--patch !-b !-B !--orphan !--ours !--theirs
        git restore ?* !-S !--staged !-p !--patch
        git restore -S|--staged -W|--worktree
        git restore --pathspec-from-file
        git switch -f|--force|--discard-changes
        git stash drop|clear
        git read-tree --reset
        git checkout-index -f|--force
        git worktree remove -f|--force
        git submodule deinit -f|--force
        hg update|up|checkout|co -C|--clean
        hg purge|clean !-p !--print
        hg revert --all|-a !-n !--dry-run
        svn revert -R|--recursive
        svn cleanup --remove-unversioned
    """,
    "history": """
        git branch -D
        git branch -d|--delete -f|--force
        git branch -f|--force
        git reflog expire|delete !-n !--dry-run
        git gc --prune=now|--prune=all
        git prune !-n !--dry-run
        git update-ref -d
        git filter-branch|filter-repo !-n !--dry-run
        git-filter-repo|git-filter-branch !--dry-run !--analyze
        bfg --delete-*|--strip-*|--replace-text|-b|-D|-d
        hg strip
    """,
    "remote": """
        git push -f|--force|--mirror|--prune|-d|--delete !-n !--dry-run
        git push ... +?*|:?* !-n !--dry-run
        gh repo|release|project|codespace delete
        gh release delete-asset
        gh api -X=DELETE|--method=DELETE
        glab repo|release delete
        glab api -X=DELETE|--method=DELETE
        npm|pnpm|yarn ... unpublish !--dry-run
    """,
    "force_with_lease": """
        git push --force-with-lease|--force-if-includes !-n !--dry-run
    """,
    "databases": """
        prisma migrate reset
        prisma db push --accept-data-loss|--force-reset
        drizzle-kit push|push:* --force
        drizzle-kit drop
        rails|rake ... db:drop|db:drop:*|db:reset|db:reset:*|db:migrate:reset|db:purge|db:purge:* !-T !--tasks !-n
        rails|rake ... db:schema:load|db:structure:load|db:truncate_all|db:seed:replant !-T !--tasks !-n
        hanami db drop|reset
        manage.py|django-admin|django flush|reset_db|reset_schema
        manage.py|django-admin|django migrate ... zero
        alembic downgrade base !--sql
        flask db downgrade base !--sql
        typeorm|typeorm-ts-node-commonjs|typeorm-ts-node-esm ... schema:drop
        mikro-orm ... schema:drop|schema:fresh|migration:fresh|database:drop
        sequelize|sequelize-cli db:drop|db:migrate:undo:all|db:seed:undo:all
        knex migrate:rollback --all
        flyway ... clean
        liquibase drop-all|dropall
        gradle|gradlew ... flywayclean|*:flywayclean|dropall|*:dropall
        mvn|mvnw ... flyway:clean|liquibase:dropall|*flyway-maven-plugin*:clean
        artisan migrate:fresh|migrate:reset|migrate:refresh|db:wipe
        ace migration:fresh|migration:reset|migration:refresh|db:wipe|db:truncate
        console doctrine:database:drop|doctrine:schema:drop|doctrine:mongodb:schema:drop|d:d:d|d:s:d
        console doctrine:fixtures:load|d:f:l !--append
        doctrine orm:schema-tool:drop
        mix ... ecto.drop*|ecto.reset*
        ef|dotnet-ef database drop !--dry-run
        ef|dotnet-ef database update 0
        hasura migrate apply --down=all
        supabase db reset
        supabase stop --no-backup
        goose ... reset|down-to
        migrate drop
        migrate down -all|--all
        dbmate drop
        atlas schema clean !--dry-run
        sqlx database|db drop|reset
        diesel database|db|migration drop|reset
        diesel migration redo|revert -a|--all
        sea-orm-cli migrate fresh|reset|refresh
        sea migrate fresh|reset|refresh
        phinx rollback -t=0|--target=0
        yii migrate/fresh
        wp db reset|drop|clean
        drush sql-drop|sql:drop|site:install|site-install|si
        payload migrate:fresh|migrate:reset|migrate:refresh
        firebase firestore:delete|database:remove
        dropdb
        pg_dropcluster
        mysqladmin|mariadb-admin drop
        redis-cli|valkey-cli|keydb-cli|iredis flushall|flushdb
        rabbitmqctl reset|force_reset|delete_vhost|purge_queue|delete_queue
        kafka-topics|kafka-topics.sh --delete
        etcdctl del --prefix|--from-key
        consul kv delete --recurse|-recurse
        vault kv destroy
        vault kv metadata delete
        vault secrets disable
        bq rm
        influx bucket delete
        influx delete
        turso db destroy
        neonctl|neon|neondatabase projects|branches|databases delete
        pscale database|branch|db delete
    """,
    "volumes": """
        docker|podman|nerdctl volume rm|remove|prune
        docker|podman|nerdctl system prune --volumes
        docker|podman|nerdctl compose down -v|--volumes !--dry-run
        docker-compose|podman-compose down -v|--volumes !--dry-run
        podman system reset
        podman machine rm|reset
        colima delete
        vagrant destroy
        multipass delete|purge
        limactl|lima delete
        lxc|incus delete
        virsh vol-delete|vol-wipe|pool-delete
        virsh undefine --remove-all-storage|--storage
        ddev delete
        ddev stop -R|--remove-data
        lando destroy
        zfs destroy !-n
        btrfs subvolume delete
        lvremove|vgremove|pvremove
    """,
    "clusters": f"""
        kubectl|oc delete {_RESOURCES} !--dry-run
        kubectl|oc delete --all|--all-namespaces !--dry-run
        oc delete project|projects !--dry-run
        helm uninstall|delete|un|del !--dry-run
        helmfile destroy|delete
        flux uninstall !--dry-run
        argocd app|appset|proj|cluster delete
        velero backup|schedule delete
        eksctl delete cluster|nodegroup !--dry-run
        kops delete
        kubeadm|talosctl|k0s reset
        istioctl ... uninstall
        minikube|kind delete
        k3d cluster delete
        k3s-uninstall.sh|k3s-agent-uninstall.sh
    """,
    "infrastructure": """
        terraform|tofu|cdktf destroy
        terragrunt|terramate ... destroy
        terraform|tofu|terragrunt ... apply -destroy|--destroy
        terraform|tofu|terragrunt state rm !-dry-run
        terraform|tofu|terragrunt workspace delete
        pulumi destroy|down|dn !--preview-only
        pulumi stack rm
        pulumi state delete
        cdk destroy
        sst remove
        serverless|sls|osls remove
        sam delete
        copilot app|svc|env|job|pipeline delete
        eb terminate
        amplify delete
        chalice delete
        zappa undeploy
        cf delete|delete-*
    """,
    "cloud": f"""
        aws s3 rm --recursive !--dryrun {_LOCAL}
        aws s3 rb {_LOCAL}
        aws ... terminate-*|batch-delete-*|purge-*|schedule-key-deletion !--dry-run {_LOCAL}
        aws ... delete-* !delete-message* !delete-object !delete-item !*-tags !--dry-run {_LOCAL}
        gcloud ... delete|destroy|purge !config
        gcloud storage rm -r|-R|--recursive
        gcloud storage rm ... *[*]*
        gsutil rm -r|-R|-a
        gsutil rm ... *[*]*
        gsutil rb
        az ... delete|delete-batch|purge|destroy !cache !blob
        az storage blob delete-batch !--dryrun
        az storage container delete
        doctl ... delete|destroy|rm|d !auth
        heroku apps:destroy|*:destroy|destroy|pg:reset|repo:reset
        heroku pg|apps|addons|pipelines|spaces ... reset|destroy
        vercel|vc remove|rm
        vercel|vc project|projects|env|domains|dns|blob|integration|certs remove|rm|del|delete|empty-store
        netlify|ntl sites:delete|env:unset
        netlify|ntl api deletesite
        fly|flyctl ... destroy|delete
        railway down|delete
        railway volume|environment|service delete|rm
        supabase projects|branches|functions|storage|secrets|domains|sso|ssl delete|rm|remove|unset
        firebase functions:delete|*:*:delete|hosting:disable|apps:remove
        wrangler delete
        wrangler ... delete !secret
        ibmcloud ... delete|rm|*-delete
        oci ... delete|terminate|bulk-delete
        linode-cli|hcloud|scw|vultr-cli|exo|civo|equinix|upctl|ovhcloud ... delete|rm|remove|destroy
        s3cmd del|rm -r|--recursive !-n !--dry-run
        s3cmd rb
        s5cmd rm ... *[*]*
        s5cmd rb
        mc rm -r|--recursive !--dry-run
        mc rb
        rclone delete|purge|rmdirs !-n !--dry-run
        azcopy remove|rm !--dry-run
        b2 rm -r|--recursive !--dry-run
        b2 delete-bucket
        b2 bucket delete
    """,
}

_STATEMENTS: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(
        ("mongosh", "mongo"),
        re.compile(
            r"\bdropDatabase\s*+\("
            r"|\bdb\.(?!test|te?mp)[\w.]{1,100}\.drop\s*+\(\s*+\)"
            r"|\b(?:deleteMany|remove)\s*+\(\s*+(?:\{\s*+\}\s*+)?\)"
        ),
    ),
    **dict.fromkeys(("redis-cli", "valkey-cli", "keydb-cli"), re.compile(r"(?im)^[ \t]*+flush(?:all|db)\b")),
    "manage.py": re.compile(r"\.objects\.all\(\)\.(?:_raw_)?delete\(|\bDROP\s++(?:DATABASE|SCHEMA)\b"),
    "cypher-shell": re.compile(r"(?i)\bdetach\s++delete\b"),
    "influx": re.compile(r"(?i)\bdrop\s++(?:database|bucket)\b"),
}
"""Statements for clients without SQL, in their words or on their input."""

_LOSSES = Catalogue(_CATALOGUE)
_REASON = "work that cannot be brought back"
_DROPPED = compile_pattern(r"(?i)\bdrop\s+(?:database|schema|keyspace)\b")

LossAction = Literal["allow", "ask", "block"]
"""Action on the loss of one kind of work. Ordered by severity."""


class ProtectWorkConfig(ToolPolicyConfig):
    """Settings of `protect_work`: the action for each kind of loss."""

    uncommitted: LossAction = "block"
    """Changes without a commit: `git reset --hard`, `git clean -f`, `git checkout .`, `git stash drop`."""
    history: LossAction = "block"
    """Commits and branches of the local repository: `git branch -D`, `git reflog expire`, `git filter-branch`."""
    remote: LossAction = "block"
    """Content of a server of repositories or packages: `git push --force`, `git push --delete`, `gh repo delete`."""
    force_with_lease: LossAction = "allow"
    """`git push --force-with-lease`, which overwrites only known commits."""
    project: LossAction = "block"
    """The project itself, its `.git`, the working directory: `rm -rf .`."""
    databases: LossAction = "block"
    """All data of a database: `prisma migrate reset`, `rails db:drop`, `dropdb`, `redis-cli FLUSHALL`."""
    volumes: LossAction = "block"
    """Volumes of containers, virtual machines: `docker volume rm`, `docker compose down -v`, `vagrant destroy`."""
    clusters: LossAction = "block"
    """Namespaces, volumes, releases of a cluster: `kubectl delete namespace`, `helm uninstall`."""
    infrastructure: LossAction = "block"
    """Resources that code describes: `terraform destroy`, `pulumi destroy`, `cdk destroy`."""
    cloud: LossAction = "block"
    """Resources and storage of a cloud: `aws s3 rm --recursive`, `gcloud ... delete`."""


class ProtectWork(ToolRules):
    """Blocks commands that destroy work for good, or asks a person. The action of each kind is a setting."""

    Config = ProtectWorkConfig

    def __init__(self, config: ProtectWorkConfig | None = None) -> None:
        config = config or ProtectWorkConfig()
        super().__init__(ToolRulesConfig.blocking(reason=_REASON, config=config))
        asked, blocked = (
            frozenset(kind for kind in get_args(LossKind) if getattr(config, kind) == action)
            for action in ("ask", "block")
        )
        if blocked or not asked:  # unreadable commands are blocked
            self._rules += (CompiledRule(_REASON, _loses(blocked)),)
        if asked:
            self._rules += (CompiledRule(_REASON, _loses(asked), "ask"),)


def losses_of(command: Command, directory: str = "") -> Iterator[str]:
    """Yields the kinds of work that a command destroys in a script that runs in `directory`."""
    yield from _LOSSES.kinds_of(command)
    inputs = (" ".join(command.texts), *([command.stdin.text] if command.stdin else ()))
    patterns = (_STATEMENTS[name] for name, _ in readings_of(command) if name in _STATEMENTS)
    if any(pattern.search(text) for pattern in patterns for text in inputs):
        yield "databases"
    if deletes_project(command, directory):
        yield "project"


def _loses(kinds: frozenset[str]) -> Check:
    def check(use: ToolUse) -> Outcome:
        for command in use.commands:
            kind = next((kind for kind in losses_of(command, use.directory) if kind in kinds), None)
            if kind is not None:
                return by_text(kind, iter([" ".join((command.program, *command.texts))]))
        dropped = (text for text in use.sql if "databases" in kinds and _DROPPED.search(text))
        return by_text("databases", dropped, unless_unclear(use))

    return check
