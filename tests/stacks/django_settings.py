"""Of the Django backend; `DJANGO_SETTINGS_MODULE` names it, as OpenTelemetry's instrumentation needs."""

ALLOWED_HOSTS = ["*"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "django_backend"
SECRET_KEY = "of no use"
