"""Media types that schemathesis does not know."""

import json

import schemathesis


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
