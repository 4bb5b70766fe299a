"""Flask, behind gunicorn."""

from answers import answer
from flask import Flask, Response, request
from wsgi import asked

app = Flask(__name__, static_folder=None)


@app.route("/", defaults={"path": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@app.route("/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def every(path: str) -> Response:
    status, fields, pieces, is_streamed = answer(*asked(request.environ), request.get_data())
    reply = Response(iter(pieces) if is_streamed else b"".join(pieces), status)
    reply.headers.clear()
    for name, value in fields:
        reply.headers.add(name, value)
    return reply
