"""Names of all spans, their attributes and events, and metrics.

`gen_ai.*` and `error.type` are OpenTelemetry's: https://github.com/open-telemetry/semantic-conventions-genai

| Span | One for each |
| --- | --- |
| `luthien.transaction` | transaction; below LiteLLM's span, if there is one |
| `luthien.hook {policy}.{hook}` | deciding call of a policy's hook; below its transaction's |

| Attribute | Of | Meaning |
| --- | --- | --- |
| `luthien.transaction.id` | transaction | |
| `luthien.route` | transaction | name of the wire format, `mcp` or `images` |
| `luthien.outcome` | transaction | how it ended |
| `error.type` | transaction | the outcome, if it is one of `FAILED_OUTCOMES` |
| `gen_ai.operation.name` | transaction | that of the wire format |
| `gen_ai.request.model` | transaction | |
| `gen_ai.request.stream` | transaction | |
| `gen_ai.response.id` | transaction | |
| `gen_ai.response.model` | transaction | |
| `gen_ai.response.finish_reasons` | transaction | a list |
| `gen_ai.usage.input_tokens` | transaction | the provider's count |
| `gen_ai.usage.output_tokens` | transaction | the provider's count |
| `luthien.policy`, `luthien.hook` | hook | |

| Event of a hook's span | Attributes |
| --- | --- |
| `gen_ai.evaluation.result`: a decision with a score | `gen_ai.evaluation.name` (the policy), |
| | `gen_ai.evaluation.score.value`, `gen_ai.evaluation.score.label` (the action), |
| | `gen_ai.evaluation.explanation` (the reason) |
| `luthien.decision`: a decision without a score | `luthien.policy`, `luthien.action`, `luthien.reason` |
| both, for a decision about a block | `luthien.block.kind`, `gen_ai.tool.name`, `gen_ai.tool.call.id` |

Unknown values are omitted. No text of a prompt or a response is included, except in a policy's reason.
"""

from dataclasses import dataclass

SCOPE = "luthien_litellm_hooks"
"""Instrumentation scope of every span and metric."""

TRANSACTION_SPAN = "luthien.transaction"
HOOK_SPAN = "luthien.hook"
EVALUATION_EVENT = "gen_ai.evaluation.result"
DECISION_EVENT = "luthien.decision"
APPROVAL_ASKED = "transaction.approval_asked"
"""Event for sinks: a tool call waits for a person."""
APPROVAL_DECIDED = "transaction.approval_decided"
"""Event for sinks: a person's decision has reached the call, or a grant covers it."""
ASKED_AGAIN = "transaction.asked_again"
"""Event for sinks: the model was asked once more, after all tool calls of its response were withheld."""

TRANSACTION_ID = "luthien.transaction.id"
ROUTE = "luthien.route"
OUTCOME = "luthien.outcome"
POLICY = "luthien.policy"
HOOK = "luthien.hook"
ACTION = "luthien.action"
REASON = "luthien.reason"
BLOCK_KIND = "luthien.block.kind"

ERROR_TYPE = "error.type"
OPERATION_NAME = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
EVALUATION_NAME = "gen_ai.evaluation.name"
SCORE_VALUE = "gen_ai.evaluation.score.value"
SCORE_LABEL = "gen_ai.evaluation.score.label"
EXPLANATION = "gen_ai.evaluation.explanation"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"

FAILED_OUTCOMES = frozenset({"policy_error", "provider_error", "timeout"})
"""Outcomes that give the transaction's span the status of an error; a block is a policy's success."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter, or, with `buckets`, a histogram."""

    name: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    unit: str = "1"


_HOOK_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

_PEOPLE_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

ENFORCED, OBSERVED = "enforced", "observed"
"""Modes of a policy."""
TRANSACTIONS = Metric("luthien_transactions_total", "Transactions that ended.", ("route", "outcome"))
DECISIONS = Metric("luthien_decisions_total", "Decisions of policies.", ("policy", "action", "mode"))
POLICY_SECONDS = Metric(
    "luthien_policy_seconds", "Duration of a policy's hook.", ("policy", "hook"), _HOOK_BUCKETS, "s"
)
ADDED_LATENCY = Metric("luthien_added_latency_seconds", "Delay of responses in the plugin.", (), _LATENCY_BUCKETS, "s")
INGRESS_CHUNKS = Metric("response.chunks.ingress", "Chunks received from providers.")
EGRESS_CHUNKS = Metric("response.chunks.egress", "Chunks sent to clients.")
EVENTS_DROPPED = Metric("luthien_events_dropped_total", "Events dropped for a sink.", ("sink",))
READINGS = Metric("luthien_settings_readings_total", "Readings of the settings while the proxy runs.", ("result",))
OBSERVED_DROPPED = Metric("luthien_observed_dropped_total", "Responses that no policy observed.", ("reason",))
APPROVALS = Metric("luthien_approvals_total", "Tool calls for which a person was asked.", ("state",))
APPROVAL_SECONDS = Metric(
    "luthien_approval_seconds", "Time from a question to a person's decision.", ("state",), _PEOPLE_BUCKETS, "s"
)
AGAIN = Metric("luthien_asked_again_total", "Second calls of the model after a block.", ("result",))
OBSERVER_FAILURES = Metric("luthien_observer_failures_total", "Failures of telemetry.")

METRICS = (
    TRANSACTIONS,
    DECISIONS,
    POLICY_SECONDS,
    ADDED_LATENCY,
    INGRESS_CHUNKS,
    EGRESS_CHUNKS,
    EVENTS_DROPPED,
    READINGS,
    OBSERVED_DROPPED,
    APPROVALS,
    APPROVAL_SECONDS,
    AGAIN,
    OBSERVER_FAILURES,
)
