"""Django, behind gunicorn."""

from answers import answer
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import re_path
from wsgi import asked

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no use",
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)


def every(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    status, fields, pieces, is_streamed = answer(*asked(request.META), request.body)
    reply: HttpResponse | StreamingHttpResponse = (
        StreamingHttpResponse(iter(pieces), status=status)
        if is_streamed
        else HttpResponse(b"".join(pieces), status=status)
    )
    for name, value in fields:
        if name == "set-cookie":
            key, _, rest = value.partition("=")
            reply.set_cookie(key, rest.partition(";")[0], httponly="HttpOnly" in value)
        else:
            reply[name] = value
    return reply


urlpatterns = [re_path("", every)]
app = get_wsgi_application()
