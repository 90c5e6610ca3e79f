"""Counts the words of the request body: the answer is JSON, the log line goes to `faas-cli logs pyhello`."""

import sys
from collections import Counter

MOST_COMMON = 3


def handle(event, context):
    try:
        text = event.body.decode("utf-8")
    except UnicodeDecodeError as error:
        return {"statusCode": 400, "body": f"the body is not UTF-8: {error.reason} at byte {error.start}\n"}
    words = Counter(text.lower().split())
    print(f"{event.method} {event.path}: {words.total()} words", file=sys.stderr)
    return {
        "statusCode": 200,
        "body": {
            "method": event.method,
            "path": event.path,
            "text": text,
            "words": words.total(),
            "most_common": words.most_common(MOST_COMMON),
            "python": sys.version.split()[0],
        },
    }
