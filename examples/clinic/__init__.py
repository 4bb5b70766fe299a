"""The sample upstream: the batch API of a clinical diagnosis app, with its habits and its faults.

It knows nothing of Headgate, and all its text is synthetic. What it does badly (it blocks its event loop,
reports a failed model as HTTP 200, ignores that a client has left) is what the app it stands for does.
"""
