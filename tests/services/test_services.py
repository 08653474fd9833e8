"""The real PostgreSQL and Redis of these tests, and a real proxy on that PostgreSQL."""

import hashlib

import redis

from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.postgres import spend_logs
from tests.support.proxy import KEEPS_PROMPTS, Proxies
from tests.support.selected import selected

GUARD = selected({"class": "block_dangerous_commands"})


def test_each_chat_request_leads_to_one_row_in_the_spend_logs(
    proxies: Proxies, provider: ScriptedProvider, postgres_url: str
) -> None:
    provider.answers["logged"] = Answer([Say("An answer.")])
    proxy = proxies.lab(GUARD, database_url=postgres_url, general_settings=KEEPS_PROMPTS)
    key = proxy.virtual_key()
    body = {"model": "openai/logged", "messages": [{"role": "user", "content": 'quoted "ü"\n'}]}
    bearer = {"Authorization": f"Bearer {key}"}
    answers = [proxy.http.post("/v1/chat/completions", headers=bearer, json=body).json() for _ in range(2)]

    rows = spend_logs(postgres_url, key, count=2)
    assert [row["request_id"] for row in rows] == [answer["id"] for answer in answers]
    for row in rows:
        assert row["status"] == "success"
        assert row["metadata"]["user_api_key"] == hashlib.sha256(key.encode()).hexdigest()
        assert row["proxy_server_request"]["messages"] == body["messages"]
        assert row["response"]["choices"][0]["message"]["content"] == "An answer."


def test_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
