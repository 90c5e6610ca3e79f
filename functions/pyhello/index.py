"""Turns HTTP requests into calls of function/handler.py, as the official python3-http template does.

The port is hard-coded like the template's: the platform has to cope with two of these in one network namespace.
"""

import os

from flask import Flask, Response, jsonify, request
from waitress import serve

from function import handler

PORT = 5000

app = Flask(__name__)


class Event:
    """What the caller sent."""

    def __init__(self):
        self.body = request.get_data()
        self.headers = request.headers
        self.method = request.method
        self.query = request.args
        self.path = request.path


class Context:
    """Where the function runs."""

    def __init__(self):
        self.hostname = os.getenv("HOSTNAME", "localhost")


def answer(result):
    """A Flask response from the handler's dict (statusCode, body, headers) or from a bare body."""
    if not isinstance(result, dict) or not {"statusCode", "body"} & result.keys():
        result = {"body": result}
    body = result.get("body", "")
    if isinstance(body, (dict, list)):
        response = jsonify(body)
    elif isinstance(body, (str, bytes)):
        response = Response(body, mimetype="text/plain" if isinstance(body, str) else "application/octet-stream")
    else:
        response = Response("" if body is None else str(body), mimetype="text/plain")
    response.status_code = int(result.get("statusCode", 200))
    for name, value in (result.get("headers") or {}).items():
        response.headers[name] = value
    return response


@app.route("/", defaults={"path": ""}, methods=["GET", "PUT", "POST", "PATCH", "DELETE"])
@app.route("/<path:path>", methods=["GET", "PUT", "POST", "PATCH", "DELETE"])
def call_handler(path):
    return answer(handler.handle(Event(), Context()))


if __name__ == "__main__":
    serve(app, host="0.0.0.0", port=PORT)
