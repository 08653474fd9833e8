"""Page of the report: what the policies that only observe would have done, with buttons to label their examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.pages.cutting import cut
from luthien_litellm_hooks.monitor.pages.labels import LabelledCall, LabelsFile, labels_file
from luthien_litellm_hooks.monitor.report import TITLES, PolicyReport, Report
from luthien_litellm_hooks.monitor.rows import Position, in_thread
from luthien_litellm_hooks.monitor.site import Page, Site, render
from luthien_litellm_hooks.monitor.spend_logs import Filter, moment

MOST = 2_000
"""Records of the page; the command reads more."""
_AT_ONCE = 100
_SINCE = "7d"
_MOST_ERRORS = 10


@dataclass(frozen=True, slots=True)
class ExampleView:
    """A transaction with something that the policy would have done."""

    transaction_id: str
    verdict: str
    reason: str
    calls: Sequence[LabelledCall]


@dataclass(frozen=True, slots=True)
class PolicyView:
    """Numbers of one version of a policy: `cells` are their texts, `numbers` the JSON of the command
    without its examples."""

    policy: str
    version: str
    cells: Sequence[str]
    numbers: Mapping[str, object]
    not_judged: Sequence[tuple[str, int]]
    examples: Sequence[ExampleView]


@dataclass(frozen=True, slots=True)
class ReportView:
    """View of the page. It `is_cut` if there are older records since then; `labels` is the path of their file, and
    `problems` are those of the file."""

    since: str
    policy: str
    records: int
    is_cut: bool
    observed: int
    missing: Sequence[tuple[int, str, str]]
    titles: Sequence[str]
    policies: Sequence[PolicyView]
    labels: str
    can_label: bool
    problems: Sequence[str]


async def _report(site: Site, request: Request) -> Response:
    since = request.query_params.get("since") or _SINCE
    policy = request.query_params.get("policy") or None
    try:
        chosen = Filter(since=moment(since))
    except ConfigError as error:
        raise HTTPException(400, str(error)) from None
    report, records, is_cut = await _read(site, chosen, policy)
    labels = await labels_file(site)
    view = ReportView(
        since=since,
        policy=policy or "",
        records=records,
        is_cut=is_cut,
        observed=report.observed,
        missing=report.missing,
        titles=TITLES,
        policies=[_policy(one, labels) for one in report.policies],
        labels=labels.path,
        can_label=labels.problem is None,
        problems=[*labels.complaints, *([labels.problem] if labels.problem else [])],
    )
    return render(request, "report.html", view)


async def _read(site: Site, chosen: Filter, policy: str | None) -> tuple[Report, int, bool]:
    """Returns the report on the newest records, their number, and whether there are more."""
    report, records = Report(policy), 0
    before: Position | None = None
    while records < MOST:
        listing = await site.rows().whole(chosen, before, _AT_ONCE)
        await in_thread(report.add_all, listing.transactions)
        records, before = records + len(listing.transactions), listing.older
        if before is None:
            break
    return report, records, before is not None


def _policy(one: PolicyReport, labels: LabelsFile) -> PolicyView:
    return PolicyView(
        policy=one.policy,
        version=one.version,
        cells=one.cells(),
        numbers={name: value for name, value in one.as_json().items() if name != "examples"},
        not_judged=[(cut(error), count) for error, count in one.not_judged.most_common(_MOST_ERRORS)],
        examples=[
            ExampleView(
                example.transaction_id,
                cut(example.verdict),
                cut(example.reason),
                labels.calls([(call.number, call.name, call.arguments) for call in example.calls[:_MOST_ERRORS]]),
            )
            for example in one.examples
        ],
    )


PAGES = (Page("/report", _report, title="Report"),)
