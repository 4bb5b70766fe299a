"""The caller's own account, under three paths, and the profile."""

from typing import Any

from examples.clinic.bodies import Profile
from examples.clinic.endpoint import Call, route
from examples.clinic.store import users


def show_me(call: Call) -> Any:
    return call.user


def verify(call: Call) -> Any:
    user = {key: call.user[key] for key in ("id", "email", "name")}
    return {"valid": True, "user": user, "auth_provider": "supabase"}


def show_id(call: Call) -> Any:
    return {"user_id": call.user["id"]}


def change_profile(call: Call) -> Any:
    return users.update(call.db, call.user, call.body.model_dump(exclude_unset=True))


def show_statistics(call: Call) -> Any:
    return users.statistics(call.db, call.user["id"])


ROUTES = [
    route("/api/auth/me", "GET", show_me),
    route("/api/auth/verify", "POST", verify),
    route("/api/auth/user-id", "GET", show_id),
    # `users` twice, as in the app this stands for: its own frontend asks /api/users/me and gets 404.
    route("/api/users/users/me", "GET", show_me),
    route("/api/users/users/me", "PUT", change_profile, body=Profile),
    route("/api/users/users/me/stats", "GET", show_statistics),
]
