"""Media types that schemathesis does not know, and the mode, which it must not leave."""

import json
import os
import urllib.request

import schemathesis

URL = os.environ["HEARTH_FUZZ_URL"]
TOKEN = os.environ["HEARTH_FUZZ_TOKEN"]


@schemathesis.hook
def after_call(ctx, case, response):
    """In another mode than normal nothing would be tried any more but refusals."""
    if case.method == "PUT" and case.path == "/v1/mode" and response.status_code < 300:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        back = urllib.request.Request(
            f"{URL}/v1/mode", b'{"mode": "normal"}', headers, method="PUT"
        )
        urllib.request.urlopen(back, timeout=20).close()


@schemathesis.deserializer("application/x-ndjson")
def lines(ctx, response):
    """The schema describes one line: the last one has the outcome."""
    return json.loads(response.content.strip().splitlines()[-1])


@schemathesis.deserializer("application/x-tar")
def archive(ctx, response):
    return response.content


@schemathesis.serializer("application/x-tar")
def bytes_of(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()
