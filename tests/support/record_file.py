"""Rows for the file of records, without a proxy and without LiteLLM."""

import json
import sqlite3
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from luthien_litellm_hooks.recording.sqlite import RecordReader, timestamp
from luthien_litellm_hooks.telemetry.publisher import EventPublisher

NOW = datetime.now(UTC)


def row(number: int, *, text: str = "hello", age: timedelta = timedelta(0), **record: Any) -> dict[str, Any]:
    """A row as the proxy hands it over, a second older than the one of the number before."""
    texts = {"request": {"messages": [text]}, "answer": {"content": [], "finish_reason": None}}
    kept = {"transaction_id": str(uuid.uuid4()), "original": texts, "final": texts, **record}
    return {
        "request_id": f"response-{number}",
        "litellm_call_id": f"call-{number}",
        "call_type": "acompletion",
        "api_key": "",
        "model": "m",
        "model_group": "m",
        "startTime": timestamp(NOW - age - timedelta(seconds=number)),
        "metadata": {"user_api_key_team_alias": "red", "spend_logs_metadata": {"luthien": kept}},
    }


def line(of: dict[str, Any], *, max_days: float = 30, max_bytes: int = 10**9) -> str:
    return json.dumps({"row": of, "max_days": max_days, "max_bytes": max_bytes})


def ids(path: Path) -> list[str]:
    return [of["request_id"] for of in RecordReader(path).latest(None)]


def publish(publisher: EventPublisher, *numbers: int) -> None:
    for number in numbers:
        publisher.publish({"row": row(number), "max_days": 30, "max_bytes": 10**9})


def written(path: Path) -> set[str]:
    try:
        return set(ids(path))
    except sqlite3.Error:
        return set()
